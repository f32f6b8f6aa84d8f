"""What is drawn for each image of an epoch, and the batch augmented by it.

Numbers are drawn for the whole epoch at once, from (seed, epoch): what happens to an image does not depend on
which others are in its batch, nor on how a batch is cut. Only its partner in mixup and cutmix is of its batch.
Shapes: N images of the split, B of a batch, C channels, H and W pixels.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Le, Lt
from pydantic import NonNegativeFloat, NonNegativeInt
from torch import Tensor

from fourfold.core.parts import Part
from fourfold.data import augment
from fourfold.data.rand_augment import CHANGES, rand_augment

Chance = Annotated[float, Ge(0), Le(1)]

COLUMNS = 16
"""Uniform numbers of an image before those of RandAugment, of which each operation takes two."""


class Unchanged(Part):
    """Training images as they are."""

    kind: Literal["none"] = "none"


class Augmentation(Part):
    """Training images changed by lot in ways that leave what they show."""

    kind: Literal["random"] = "random"
    flip: bool | None = None
    """Mirror every other image left and right; None does so with colour images and not with grey ones, which may be
    letters or digits."""
    shift: NonNegativeInt | None = None
    """Move by so many whole pixels at most, what comes in being mirrored (a crop of the padded image); None is an
    eighth of the smaller side."""
    rotate: NonNegativeFloat = 0.0
    """Turn by so many degrees at most."""
    zoom: Annotated[float, Ge(0), Lt(10)] = 0.0
    """Enlarge or reduce by factors of 1 + zoom at most."""
    colour: Annotated[float, Ge(0), Lt(10)] = 0.0
    """Change contrast and saturation by factors of 1 + colour at most, brightness by this share of white at most."""
    rand: NonNegativeInt = 0
    """Operations of RandAugment for each image."""
    magnitude: Chance = 0.3
    """Of RandAugment: how strong its operations are at most."""
    erase: Chance = 0.0
    """Chance that a box of 2 to 33% of the image is painted grey."""
    mixup: NonNegativeFloat = 0.0
    """Blend images in pairs with shares from Beta(mixup, mixup), and their targets alike; 0 does not."""
    cutmix: NonNegativeFloat = 0.0
    """Paste a box of one image into another, its area from Beta(cutmix, cutmix); with mixup, every other batch."""


class Changed(NamedTuple):
    """An augmented batch."""

    images: Tensor
    """(B, C, H, W) float in [-1, 1]."""
    affine: Tensor
    """(B, 2, 3), where boxes and masks went."""
    share: Tensor | None
    """(B,) of each target that is the image's own; the rest is that of the image at its place from the end."""


class Draws:
    """The numbers of one epoch."""

    def __init__(self, how: Augmentation, count: int, seed: int, epoch: int) -> None:
        self.how = how
        random = np.random.default_rng([seed, epoch, 0xA06])
        columns = COLUMNS + 2 * how.rand
        self.uniform = torch.from_numpy(random.random((count, columns), dtype=np.float32))
        self.mixup, self.cutmix = (
            torch.from_numpy(random.beta(a, a, count).astype(np.float32)) if a else None
            for a in (how.mixup, how.cutmix)
        )

    def apply(self, images: Tensor, index: Tensor) -> Changed:
        """Augment a batch.

        Args:
            images: (B, C, H, W) uint8.
            index: (B,) int64, each image's number in the epoch's split.
        """
        how, u = self.how, self.uniform[index]
        affine = augment.still(len(images))
        flips = images.shape[1] == 3 if how.flip is None else how.flip
        if flips:
            images, affine = augment.flip(images, u[:, 0] < 0.5)
        if most := reach(how, (images.shape[2], images.shape[3])):
            right, down = ((u[:, i] * (2 * most + 1)).long() - most for i in (1, 2))
            images, moved = augment.shift(images, right, down)
            affine = augment.chained(affine, moved)
        floats = scaled(images)
        if how.rotate or how.zoom:
            size = (images.shape[2], images.shape[3])
            angle, scale = augment.ways(how.rotate, u[:, 3]), augment.factors(how.zoom, u[:, 4])
            turned = augment.turned(size, angle, scale)
            floats, affine = augment.warp(floats, turned), augment.chained(affine, turned)
        if how.rand:
            drawn = (u[:, COLUMNS::2] * len(CHANGES)).long()
            strength = augment.ways(how.magnitude, u[:, COLUMNS + 1 :: 2])
            floats, moved = rand_augment(floats, drawn, strength)
            affine = augment.chained(affine, moved)
        if how.colour:
            brightness = augment.ways(2 * how.colour, u[:, 5])
            changes = (augment.factors(how.colour, u[:, i]) for i in (6, 7))
            floats = augment.colour(floats, brightness, *changes)
        if how.erase:
            area = (0.02 + 0.31 * u[:, 9]) * (u[:, 8] < how.erase)
            floats = augment.erase(floats, _box(area, u[:, 10:13], floats))
        mixed, share = self._mixed(floats, u, index)
        return Changed(mixed, affine, share)

    def _mixed(self, images: Tensor, u: Tensor, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images mixed in pairs, and the shares of their own."""
        paste = self.cutmix is not None and (self.mixup is None or bool(u[0, 13] < 0.5))
        if paste and self.cutmix is not None:
            area = 1 - self.cutmix[index]
            square = torch.full_like(u[:, :3], 0.5)
            square[:, 1:] = u[:, 14:16]
            return augment.cutmix(images, _box(area, square, images))
        if self.mixup is not None:
            share = self.mixup[index]
            return augment.mixup(images, share), share
        return images, None


def reach(how: Augmentation, size: tuple[int, int]) -> int:
    """Pixels by which images of a size are moved at most."""
    chosen = min(size) // 8 if how.shift is None else how.shift
    return min(chosen, min(size) - 1)


def _box(area: Tensor, u: Tensor, images: Tensor) -> Tensor:
    aspect = augment.factors(2.3, u[:, 0])
    return augment.box_of(area, aspect, u[:, 1], u[:, 2], (images.shape[2], images.shape[3]))


def scaled(images: Tensor) -> Tensor:
    """uint8 as float in [-1, 1], -1 being black."""
    return images.float().mul_(2 / 255).sub_(1)
