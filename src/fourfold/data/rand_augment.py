"""RandAugment: a few of many changes drawn for each image. Cubuk et al. 2020, https://arxiv.org/abs/1909.13719.

Changes are made group by group: the images of a batch for which the same one was drawn are changed
together. Shapes: B images, C channels, H and W pixels; floats in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from fourfold.data.augment import chained, colour, still, turned, warp

Change = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""Of images (B, C, H, W) and strengths (B,) in [-1, 1]: the images, and the map where pixels moved."""


def rand_augment(images: Tensor, drawn: Tensor, strengths: Tensor) -> tuple[Tensor, Tensor]:
    """Each image changed by the operations drawn for it, one after the other.

    Args:
        images: (B, C, H, W) float.
        drawn: (B, K) int64 numbers of `CHANGES`, for each image K of them.
        strengths: (B, K) in [-1, 1]; the sign is the direction, where a change has one.

    Returns:
        The images, and the maps (B, 2, 3).
    """
    affine = still(len(images))
    for step in range(drawn.shape[1]):
        changed = images.clone()
        for number in drawn[:, step].unique().tolist():
            rows = (drawn[:, step] == number).nonzero()[:, 0]
            some, moved = CHANGES[number](images[rows], strengths[rows, step])
            changed[rows] = some
            if moved is not None:
                affine[rows] = chained(affine[rows], moved)
        images = changed
    return images, affine


def _moved(images: Tensor, affine: Tensor) -> tuple[Tensor, Tensor]:
    return warp(images, affine), affine


def leave(images: Tensor, strength: Tensor) -> tuple[Tensor, None]:
    """Nothing."""
    return images, None


def rotate(images: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
    """Up to 30 degrees."""
    return _moved(images, turned(_size(images), 30 * strength, torch.ones_like(strength)))


def shear_x(images: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
    """Up to 0.3 pixels to the side for each pixel down."""
    one, none = torch.ones_like(strength), torch.zeros_like(strength)
    return _moved(images, turned(_size(images), none, one, 0.3 * strength))


def shear_y(images: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
    """Up to 0.3 pixels down for each pixel to the side."""
    affine = still(len(images))
    affine[:, 1, 0] = 0.3 * strength
    affine[:, 1, 2] = -0.3 * strength * images.shape[3] / 2
    return _moved(images, affine)


def translate_x(images: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
    """Up to a third of the width."""
    affine = still(len(images))
    affine[:, 0, 2] = strength * images.shape[3] / 3
    return _moved(images, affine)


def translate_y(images: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
    """Up to a third of the height."""
    affine = still(len(images))
    affine[:, 1, 2] = strength * images.shape[2] / 3
    return _moved(images, affine)


def brightness(images: Tensor, strength: Tensor) -> tuple[Tensor, None]:
    """Up to 0.9 of the way to black or white added."""
    one = torch.ones_like(strength)
    return colour(images, 0.9 * strength, one, one), None


def contrast(images: Tensor, strength: Tensor) -> tuple[Tensor, None]:
    """Factors 0.1 to 1.9."""
    one = torch.ones_like(strength)
    return colour(images, 0 * one, 1 + 0.9 * strength, one), None


def saturation(images: Tensor, strength: Tensor) -> tuple[Tensor, None]:
    """Factors 0.1 to 1.9; of grey images nothing."""
    one = torch.ones_like(strength)
    return colour(images, 0 * one, one, 1 + 0.9 * strength), None


def sharpness(images: Tensor, strength: Tensor) -> tuple[Tensor, None]:
    """Away from or towards the image blurred by a 3 x 3 kernel, as Pillow's SMOOTH; the edge stays."""
    kernel = images.new_full((1, 1, 3, 3), 1 / 13)
    kernel[0, 0, 1, 1] = 5 / 13
    channels = images.shape[1]
    blurred = images.clone()
    if min(images.shape[2:]) > 2:
        blurred[:, :, 1:-1, 1:-1] = F.conv2d(
            images, kernel.expand(channels, 1, 3, 3), groups=channels
        )
    factor = (1 + 0.9 * strength).view(-1, 1, 1, 1)
    return torch.lerp(blurred, images, factor).clamp_(-1, 1), None


def posterize(images: Tensor, strength: Tensor) -> tuple[Tensor, None]:
    """Down to 16 levels of each channel at full strength, 256 at none."""
    bits = 8 - (4 * strength.abs()).round()
    step = (2 ** (8 - bits)).view(-1, 1, 1, 1)
    levels = ((images + 1) * 127.5).round()
    return torch.floor(levels / step) * step / 127.5 - 1, None


def solarize(images: Tensor, strength: Tensor) -> tuple[Tensor, None]:
    """What is brighter than a threshold is turned round: none at strength 0, everything at 1."""
    threshold = (1 - 2 * strength.abs()).view(-1, 1, 1, 1)
    return torch.where(images > threshold, -images, images), None


def stretch(images: Tensor, strength: Tensor) -> tuple[Tensor, None]:
    """Each channel stretched to the whole range from black to white (Pillow's autocontrast)."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    wide = high - low
    scaled = (images - low) * (2 / wide.clamp_min(1e-6)) - 1
    return torch.where(wide > 0, scaled, images), None


def equalize(images: Tensor, strength: Tensor) -> tuple[Tensor, None]:
    """Each channel's 256 levels spread by how many pixels are as dark; the darkest stay black."""
    levels = ((images + 1) * 127.5).round().long().flatten(2)  # (B, C, H W)
    counts = torch.zeros(*levels.shape[:2], 256).scatter_add_(2, levels, torch.ones(levels.shape))
    as_dark = counts.cumsum(2)
    first = as_dark.gather(2, levels.amin(2, keepdim=True))
    rest = levels.shape[2] - first
    table = ((as_dark - first) / rest.clamp_min(1)).clamp_min(0) * 2 - 1
    spread = table.gather(2, levels).view_as(images)
    return torch.where(rest[..., None] > 0, spread, images), None


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[2], images.shape[3]


CHANGES: tuple[Change, ...] = (
    leave, rotate, shear_x, shear_y, translate_x, translate_y, brightness, contrast, saturation,
    sharpness, posterize, solarize, stretch, equalize,
)  # fmt: skip
"""The paper's operations, by number."""
