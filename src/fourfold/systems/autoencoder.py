"""Autoencoder: Hinton and Salakhutdinov 2006; sparse: Ng 2011; a linear one spans the principal components: Baldi and Hornik 1989.

    fourfold fit autoencoder photos/ --latents 32
    fourfold fit autoencoder mnist --network dense --hidden "" --latents 16     # linear: the space of PCA
    fourfold encode runs/autoencoder-1 photos/ --out z.parquet ; fourfold decode runs/autoencoder-1 z.parquet --out back/
    fourfold traverse runs/autoencoder-1 --out traversal.png

Without a source, the embedded 8 x 8 digits.

Result: held-out 8 x 8 digits come back at 22.4 dB from 16 latents, of a linear one at 19.3 dB (dense, 1,500 steps, 5 seconds
of processor time): `python -m benchmarks.latent digits`, benchmarks/results/latent.json.
"""

from __future__ import annotations

from typing import Any, ClassVar

from fourfold.core.parts import Data
from fourfold.core.system import system
from fourfold.data.changed_images import ChangedImages
from fourfold.models.autoencoder import Autoencoder
from fourfold.objectives.reconstruction import Reconstruction
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.image_latents import ImageLatents


@system("autoencoder", reads="images")
class AutoencoderSystem(ImageLatents):
    """Images as a few numbers each, from which they come back."""

    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "demo": {},
        "small": {"latents": 64, "width": 64, "hidden": (512,)},
    }

    objective: Reconstruction = Reconstruction()
    optimizer: Gradient = Gradient(lr=2e-3, steps=2000, warmup=0.02)

    def build(self, data: Data) -> Autoencoder:
        """Encoder and decoder for images of this shape.

        Raises:
            UserError: the images are smaller than the network's stride.
        """
        return Autoencoder(*self._networks(data, self.latents))

    @classmethod
    def toy(cls) -> tuple[AutoencoderSystem, Any]:
        """Small networks on the embedded digits."""
        return cls(
            data=ChangedImages(batch=32), latents=4, width=4, hidden=(16,), optimizer=Gradient(lr=3e-3, steps=12)
        ), None  # fmt: skip
