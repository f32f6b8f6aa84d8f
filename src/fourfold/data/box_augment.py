"""Augmentation of images with boxes: flip, crop, scale and colour on a batch of tensors; boxes follow.

What is drawn for an example depends on (seed, epoch, its number) alone. Shapes: B images, C channels, H and W pixels,
M boxes of an image at most.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from fourfold.core.parts import Part

GREY = 114 / 127.5 - 1
"""What stands where an image ends, in [-1, 1]."""
LEAST_SIDE = 2.0  # pixels that a box must keep


class BoxAugment(Part):
    """What happens to training images and their boxes."""

    flip: bool | None = None
    """Mirror half of the images left to right; None does so with colour images and not with grey ones, which may be
    letters or digits."""
    flip_vertical: bool = False
    """Mirror half of the images top to bottom, where up and down mean nothing, as under a microscope."""
    scale: Annotated[float, Ge(0), Lt(1)] = 0.3
    """Enlarge or shrink by a factor between 1 - scale and 1 + scale, at a place drawn at random."""
    colour: Annotated[float, Ge(0), Le(1)] = 0.2
    """Change brightness, contrast and saturation by up to this share."""
    keep: Annotated[float, Gt(0), Le(1)] = 0.35
    """A box of which less than this share is left by a cut is dropped."""


def augment(
    images: Tensor, boxes: Tensor, labels: Tensor, options: BoxAugment, keys: list[list[int]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Change each image in its own way, and its boxes with it.

    Args:
        images: (B, C, H, W) float in [-1, 1].
        boxes: (B, M, 4) float, left, top, right, bottom in pixels.
        labels: (B, M) int64, -1 where there is no box.
        options: what may happen.
        keys: seeds of each image's draws, B of them.

    Returns:
        Images and boxes changed, of the same shapes, and labels with -1 where a box is gone.
    """
    draws = torch.from_numpy(
        np.stack([np.random.default_rng(key).random(8) for key in keys])
    ).float()
    images, matrix = _moved(images, options, draws)
    moved, labels = follow(boxes, labels, matrix, images.shape[-2:], options.keep)
    return _coloured(images, options.colour, draws[:, 5:]), moved, labels


def _moved(images: Tensor, options: BoxAugment, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Images under x' = a x + b in each direction, and (B, 4) of a_x, a_y, b_x, b_y in pixels."""
    height, width = images.shape[-2:]
    size = torch.tensor([width, height], dtype=torch.float32)
    factor = 1 + options.scale * (2 * draws[:, :1] - 1)  # (B, 1)
    if options.scale == 0:
        factor = torch.ones_like(factor)
    slack = size * (1 - factor)  # (B, 2), negative where the image is larger than its frame
    offset = slack * draws[:, 1:3]
    sign = torch.ones(len(images), 2)
    flips = images.shape[1] == 3 if options.flip is None else options.flip
    sign[:, 0] -= 2 * ((draws[:, 3] < 0.5) & flips)
    sign[:, 1] -= 2 * ((draws[:, 4] < 0.5) & options.flip_vertical)
    a = sign * factor
    b = torch.where(sign > 0, offset, size - offset)
    # grid_sample asks where each new pixel comes from, in [-1, 1] over the frame
    inverse = 1 / a
    shift = (2 * -b / a + size / a) / size - 1
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = inverse[:, 0], inverse[:, 1], shift
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    # zeros outside, hence the shift of grey to 0 and back
    moved = F.grid_sample(images - GREY, grid, align_corners=False) + GREY
    return moved, torch.cat([a, b], dim=1)


def follow(
    boxes: Tensor, labels: Tensor, matrix: Tensor, size: tuple[int, ...] | torch.Size, keep: float
) -> tuple[Tensor, Tensor]:
    """Boxes under x' = a x + b, cut at the frame; those of which too little is left lose their label.

    Args:
        boxes: (B, M, 4).
        labels: (B, M), -1 where there is no box.
        matrix: (B, 4) of a_x, a_y, b_x, b_y.
        size: (H, W) of the frame.
        keep: the least share of its area that a box must keep.
    """
    a, b = matrix[:, None, :2], matrix[:, None, 2:]
    ends = torch.stack([boxes[..., :2] * a + b, boxes[..., 2:] * a + b])
    low, high = ends.amin(0), ends.amax(0)
    frame = torch.tensor([size[1], size[0]], dtype=boxes.dtype)
    cut_low, cut_high = low.clamp(min=0).minimum(frame), high.clamp(min=0).minimum(frame)
    sides = cut_high - cut_low
    share = sides.prod(-1) / (high - low).prod(-1).clamp(min=1e-9)
    gone = (share < keep) | (sides.amin(-1) < LEAST_SIDE) | (labels < 0)
    moved = torch.cat([cut_low, cut_high], dim=-1).masked_fill(gone[..., None], 0.0)
    return moved, labels.masked_fill(gone, -1)


def _coloured(images: Tensor, amount: float, draws: Tensor) -> Tensor:
    """Brightness, contrast and saturation changed, each by a factor of its own."""
    if amount == 0:
        return images
    bright, contrast, saturation = (1 + amount * (2 * draws - 1))[:, :, None, None, None].unbind(1)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = (images - mean) * contrast + mean
    grey = images.mean(dim=1, keepdim=True)
    images = (images - grey) * saturation + grey
    return ((images + 1) * bright - 1).clamp(-1, 1)
