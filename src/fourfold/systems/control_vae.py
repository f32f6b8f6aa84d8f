"""ControlVAE: Shao et al. 2020, a controller moves the weight of the KL so that the KL comes to what was set.

    fourfold fit control-vae mnist --goal 25
    fourfold fit control-vae shapes --goal 16 --latents 10 --optimizer.control.least 1 --optimizer.control.most 100
    fourfold sample runs/control-vae-1 --count 64 --out sheet.png

The same controller moves any number of any objective, or the learning rate, towards any value that is logged:
`--optimizer.control.moves`, `.measure`, `.setpoint`. Without a source, the embedded 8 x 8 digits.

Result: set to 10 nats, the KL of held-out 8 x 8 digits comes to 9.8 (dense, 16 latents, 1,500 steps, 3 seconds of processor
time): `python -m benchmarks.latent digits`, benchmarks/results/latent.json.
"""

from __future__ import annotations

from typing import Any, ClassVar

from fourfold.core.system import system
from fourfold.data.changed_images import ChangedImages
from fourfold.objectives.elbo import Control as ControlledBound
from fourfold.optimizers.control import Control
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.variational import VariationalLatents


@system("control-vae", reads="images")
class ControlVAE(VariationalLatents):
    """A variational autoencoder whose KL is set, instead of the KL's weight."""

    exempt: ClassVar[dict[str, str]] = {
        "accumulation": "latents are drawn for every micro-batch by itself",
        "weightless": "the controller looks for its number in the objective before any step",
    }

    objective: ControlledBound = ControlledBound()
    optimizer: Gradient = Gradient(lr=1e-3, steps=3000, warmup=0.02, control=Control())

    @classmethod
    def toy(cls) -> tuple[ControlVAE, Any]:
        """Small networks on the embedded digits."""
        control = Control(integral=0.01, proportional=0.1)
        return cls(
            data=ChangedImages(batch=32), latents=4, width=4, hidden=(16,),
            objective=ControlledBound(goal=2.0), optimizer=Gradient(lr=3e-3, steps=12, control=control),
        ), None  # fmt: skip
