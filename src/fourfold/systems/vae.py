"""Variational autoencoder: Kingma and Welling 2014; beta: Higgins et al. 2017; factor: Kim and Mnih 2018; beta-tc: Chen et al. 2018.

    fourfold fit vae photos/ --likelihood discretised-logistic --latents 64
    fourfold fit vae mnist --binarize stochastic --network dense --hidden 512,256
    fourfold fit vae shapes --objective beta-tc --latents 10 --out runs/dis ; fourfold evaluate runs/dis
    fourfold sample runs/vae-1 --count 64 --out sheet.png ; fourfold traverse runs/vae-1 --out traversal.png
    fourfold encode runs/vae-1 photos/ --out z.parquet ; fourfold decode runs/vae-1 z.parquet --out back/

The objective beta weighs the KL, beta-tc takes it apart and weighs the total correlation of the latents, factor lets a
discriminator find it; each can have free bits (Kingma et al. 2016). shapes are sprites that the project renders, with
known factors. Without a source, the embedded 8 x 8 digits.

Result: held-out 8 x 8 digits take 3.70 bits a pixel by the importance-weighted bound and 3.75 by the bound with a discretised
logistic, 4.05 and 4.23 with a Gaussian (dense, 16 latents, 1,500 steps, 4 seconds of processor time):
`python -m benchmarks.latent digits`, benchmarks/results/latent.json.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from fourfold.core.system import system
from fourfold.data.changed_images import ChangedImages
from fourfold.objectives.elbo import Beta, BetaTC, Elbo, Factor
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.variational import VariationalLatents


@system("vae", reads="images")
class VAE(VariationalLatents):
    """Images as normal distributions over latents: reconstructed, sampled, measured in bits, taken apart."""

    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "demo": {},
        "small": {"latents": 64, "width": 64, "hidden": (512,)},
    }
    exempt: ClassVar[dict[str, str]] = {
        "accumulation": "latents are drawn for every micro-batch by itself"
    }

    objective: Annotated[Elbo | Beta | BetaTC | Factor, Field(discriminator="kind")] = Elbo()
    """What is bounded, and what more the latents pay for."""
    optimizer: Gradient = Gradient(lr=1e-3, steps=3000, warmup=0.02)

    @classmethod
    def toy(cls) -> tuple[VAE, Any]:
        """Small networks on the embedded digits."""
        return cls(
            data=ChangedImages(batch=32), latents=4, width=4, hidden=(16,), optimizer=Gradient(lr=3e-3, steps=12)
        ), None  # fmt: skip
