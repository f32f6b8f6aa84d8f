"""Ways to spoil images: normal noise, masked pixels, salt and pepper. Vincent et al. 2010, https://jmlr.org/papers/v11/vincent10a.html.

Images are (B, C, H, W) in [-1, 1], black being -1. Noise comes from torch's global generator.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal

import torch
from annotated_types import Gt, Lt
from pydantic import PositiveFloat
from torch import Tensor

from fourfold.core.parts import Part
from fourfold.core.shares import drawn

Share = Annotated[float, Gt(0), Lt(1)]


class Spoiling(Part):
    """A way to spoil images."""

    @abstractmethod
    def spoil(self, images: Tensor) -> Tensor:
        """Spoiled images, (B, C, H, W), of images of that shape in [-1, 1]."""


class GaussianNoise(Spoiling):
    """Normal noise on every channel of every pixel; values may leave [-1, 1]."""

    kind: Literal["gaussian"] = "gaussian"
    deviation: PositiveFloat = 0.5
    """Standard deviation, black being -1 and white 1."""

    def spoil(self, images: Tensor) -> Tensor:
        """See `Spoiling.spoil`."""
        shape, like = images.shape[1:], images
        noise = drawn(len(images), lambda n: torch.randn(n, *shape, dtype=like.dtype, device=like.device))  # fmt: skip
        return images + self.deviation * noise


class Masking(Spoiling):
    """A share of the pixels made black, in all channels."""

    kind: Literal["masking"] = "masking"
    share: Share = 0.5
    """Of the pixels."""

    def spoil(self, images: Tensor) -> Tensor:
        """See `Spoiling.spoil`."""
        return torch.where(_chance(images) < self.share, -torch.ones_like(images), images)


class SaltAndPepper(Spoiling):
    """A share of the pixels made black or white, by lot, in all channels."""

    kind: Literal["salt-and-pepper"] = "salt-and-pepper"
    share: Share = 0.25
    """Of the pixels; half of them become white."""

    def spoil(self, images: Tensor) -> Tensor:
        """See `Spoiling.spoil`."""
        chance = _chance(images)
        value = torch.where(chance < self.share / 2, 1.0, -1.0).to(images.dtype)
        return torch.where(chance < self.share, value, images)


def _chance(images: Tensor) -> Tensor:
    """A number in [0, 1) for each pixel, (B, 1, H, W)."""
    size, like = images.shape[2:], images
    return drawn(len(images), lambda n: torch.rand(n, 1, *size, dtype=like.dtype, device=like.device))  # fmt: skip
