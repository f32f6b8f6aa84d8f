"""Reconstruction of images from a code, of whole images or of spoiled ones.

Autoencoder: Hinton and Salakhutdinov 2006, https://doi.org/10.1126/science.1127647; denoising: Vincent et al. 2008,
https://doi.org/10.1145/1390156.1390294; sparse codes: Ng 2011 (kl) and Olshausen and Field 1996 (l1). Batches hold
"image", (B, C, H, W) in [-1, 1]; the model has `encode` and `decode`. Shapes: B batch, Z latents.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

import torch
from annotated_types import Gt, Lt
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from fourfold.core.parts import Batch, Move, Objective
from fourfold.core.run import Run
from fourfold.objectives.corruption import GaussianNoise, Masking, SaltAndPepper

Corruption = Annotated[GaussianNoise | Masking | SaltAndPepper, Field(discriminator="kind")]


class Reconstruction(Objective):
    """The mean error of a pixel's channel, and what a code pays for being dense."""

    error: Literal["squared", "absolute"] = "squared"
    """Error of a pixel's channel, black being -1 and white 1."""
    sparsity: NonNegativeFloat = 0.0
    """Weight of the penalty on codes that are not sparse; 0 for none."""
    penalty: Literal["kl", "l1"] = "kl"
    """kl: of the mean over the batch of each latent's sigmoid from `active`, summed; l1: the sum of absolute values."""
    active: Annotated[float, Gt(0), Lt(1)] = 0.05
    """With kl, how much a latent is to be on: rho of the source."""

    def prepare(self, run: Run) -> Self:
        """See `Objective.prepare`: how much a latent is on is a mean over the batch, so that its rows stay together."""
        mine = self.model_copy()
        mine.__dict__["compares"] = self.sparsity > 0 and self.penalty == "kl"
        return mine

    def given(self, images: Tensor) -> Tensor:
        """What the encoder gets to see."""
        return images

    def errors(self, output: Tensor, images: Tensor) -> Tensor:
        """The mean error over each image, (B,)."""
        difference = output.to(images.dtype) - images
        each = difference.square() if self.error == "squared" else difference.abs()
        return each.flatten(1).mean(1)

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """See `Objective.losses`."""
        networks: Any = model
        images = batch["image"]
        code = networks.encode(self.given(images))
        loss = self.errors(networks.decode(code), images).sum()
        logs = {}
        if self.sparsity:
            dense = density(code, self.penalty, self.active)
            logs = {"density": dense.detach()}
            loss = loss + self.sparsity * dense * len(images)
        yield Move("model", loss, len(images), logs)

    def measure(
        self, model: nn.Module, batch: Batch
    ) -> Mapping[str, tuple[Tensor, Tensor | float]]:
        """The loss, and the mean squared error with black at 0 and white at 1."""
        networks: Any = model
        images = batch["image"]
        code = networks.encode(self.given(images))
        output = networks.decode(code)
        loss = self.errors(output, images).sum()
        if self.sparsity:
            loss = loss + self.sparsity * density(code, self.penalty, self.active) * len(images)
        squared = (output.clamp(-1, 1) - images).square().flatten(1).mean(1).sum() / 4
        return {"loss": (loss, len(images)), "squared_error": (squared, len(images))}


class Denoising(Reconstruction):
    """The error of what comes back of a spoiled image, against the image before it was spoiled."""

    noise: Corruption = GaussianNoise()
    """How images are spoiled, anew each time."""

    def given(self, images: Tensor) -> Tensor:
        """See `Reconstruction.given`."""
        return self.noise.spoil(images)


def density(code: Tensor, penalty: Literal["kl", "l1"], active: float) -> Tensor:
    """How far codes (B, Z) are from being sparse, ().

    Args:
        code: of a batch.
        penalty: see `Reconstruction`.
        active: with kl, the mean that each latent's sigmoid is to have.
    """
    if penalty == "l1":
        return code.float().abs().sum(1).mean()
    mean = torch.sigmoid(code.float()).mean(0).clamp(1e-6, 1 - 1e-6)
    on, off = active * torch.log(active / mean), (1 - active) * torch.log((1 - active) / (1 - mean))
    return (on + off).sum()
