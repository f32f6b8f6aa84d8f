"""Augmentation of whole batches: pure functions of images and of the numbers drawn for them.

What moves pixels returns beside the images the affine map that boxes and masks follow with
`move_boxes` and `move_masks`. A map is (B, 2, 3): it takes a point (x, y, 1) of the old image, in
pixels from the upper left corner (the first pixel's middle is 0.5), to its place in the new one.
Shapes: B images of a batch, C channels, H and W pixels. Floats are in [-1, 1], -1 being black.

Mixup: Zhang et al. 2018, https://arxiv.org/abs/1710.09412; CutMix: Yun et al. 2019,
https://arxiv.org/abs/1905.04899; random erasing: Zhong et al. 2020, https://arxiv.org/abs/1708.04896.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def still(count: int) -> Tensor:
    """Maps that leave everything where it is, (count, 2, 3)."""
    return torch.eye(2, 3).repeat(count, 1, 1)


def chained(first: Tensor, then: Tensor) -> Tensor:
    """The map of doing one and then the other, (B, 2, 3)."""
    linear = then[:, :, :2] @ first[:, :, :2]
    offset = then[:, :, :2] @ first[:, :, 2:] + then[:, :, 2:]
    return torch.cat([linear, offset], dim=2)


# --- moving pixels -----------------------------------------------------------------------------------


def flip(images: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror left and right those images that are chosen.

    Args:
        images: (B, C, H, W), any dtype.
        chosen: (B,) bool.

    Returns:
        The images, and the maps.
    """
    affine = still(len(images))
    affine[chosen, 0, 0], affine[chosen, 0, 2] = -1.0, float(images.shape[3])
    return torch.where(chosen[:, None, None, None], images.flip(3), images), affine


def shift(images: Tensor, right: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Move each image by whole pixels; what comes in at the edges is the image mirrored.

    The same as a crop of the image padded by reflection, as CIFAR-10 is usually augmented.

    Args:
        images: (B, C, H, W), any dtype.
        right, down: (B,) int64, at most H - 1 and W - 1 either way.

    Raises:
        ValueError: a shift that mirroring does not reach.
    """
    count, _, height, width = images.shape
    if int(right.abs().max()) >= width or int(down.abs().max()) >= height:
        raise ValueError(f"shift expects less than the size ({height} x {width})")
    rows = _mirrored(torch.arange(height)[None] - down[:, None], height)  # (B, H)
    columns = _mirrored(torch.arange(width)[None] - right[:, None], width)  # (B, W)
    places = (rows[:, :, None] * width + columns[:, None, :]).view(count, 1, -1)
    moved = images.flatten(2).gather(2, places.expand(-1, images.shape[1], -1))
    affine = still(count)
    affine[:, 0, 2], affine[:, 1, 2] = right.float(), down.float()
    return moved.view_as(images), affine


def _mirrored(places: Tensor, size: int) -> Tensor:
    """Indices reflected at the edges, the edge pixel itself not repeated."""
    return (size - 1) - (places.abs() - (size - 1)).abs()


def turned(
    size: tuple[int, int], degrees: Tensor, scale: Tensor, shear: Tensor | None = None
) -> Tensor:
    """Maps that turn, enlarge and shear about the middle of the image.

    Args:
        size: (H, W).
        degrees: (B,) clockwise as seen.
        scale: (B,) above 1 enlarges.
        shear: (B,) pixels to the right for each pixel down.
    """
    angle = torch.deg2rad(degrees)
    sideways = torch.zeros_like(angle) if shear is None else shear
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = torch.stack([cos, cos * sideways - sin, sin, sin * sideways + cos], dim=1)
    linear = rows.view(-1, 2, 2)
    middle = linear.new_tensor([size[1] / 2, size[0] / 2]).view(1, 2, 1)
    return torch.cat([linear, middle - linear @ middle], dim=2)


def warp(images: Tensor, affine: Tensor, *, nearest: bool = False) -> Tensor:
    """Images under their maps; pixels in between are interpolated, the edge goes on outside.

    Args:
        images: (B, C, H, W) float.
        affine: (B, 2, 3).
        nearest: take the nearest pixel, as masks need.
    """
    height, width = images.shape[2:]
    size = torch.tensor([width, height], dtype=affine.dtype)
    back = _inverse(affine)
    # grid_sample counts from -1 to 1 between the outer edges
    linear = back[:, :, :2] * size[None, None, :] / size[None, :, None]
    offset = (back[:, :, :2] @ (size / 2) + back[:, :, 2]) * 2 / size - 1
    theta = torch.cat([linear, offset[:, :, None]], dim=2)
    grid = F.affine_grid(theta.to(images.dtype), list(images.shape), align_corners=False)
    mode = "nearest" if nearest else "bilinear"
    return F.grid_sample(images, grid, mode, padding_mode="border", align_corners=False)


def _inverse(affine: Tensor) -> Tensor:
    linear = torch.linalg.inv(affine[:, :, :2])
    return torch.cat([linear, -linear @ affine[:, :, 2:]], dim=2)


def move_boxes(boxes: Tensor, affine: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Boxes where their images' maps take them: the upright box round the moved corners, cut at the edge.

    Args:
        boxes: (N, 4) float, left, top, right, bottom in pixels.
        affine: (N, 2, 3), the map of each box's image, or (2, 3) for all.
        size: (H, W) of the image.

    Returns:
        The boxes (N, 4), and (N,) what share of each is still in the image.
    """
    left, top, right, bottom = boxes.unbind(1)
    xs, ys = torch.stack([left, right, right, left], 1), torch.stack([top, top, bottom, bottom], 1)
    corners = torch.stack([xs, ys, torch.ones_like(xs)], 1)  # (N, 3, 4)
    moved = affine.to(boxes.dtype) @ corners  # (N, 2, 4)
    whole = torch.cat([moved.amin(2), moved.amax(2)], 1)
    limit = boxes.new_tensor([size[1], size[0], size[1], size[0]])
    cut = torch.minimum(whole.clamp_min(0), limit)
    return cut, _area(cut) / _area(whole).clamp_min(1e-9)


def _area(boxes: Tensor) -> Tensor:
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp_min(0)
    return sides[:, 0] * sides[:, 1]


def move_masks(masks: Tensor, affine: Tensor) -> Tensor:
    """Masks (B, C, H, W) of any dtype where their images' maps take them; the nearest pixel is taken."""
    return warp(masks.float(), affine, nearest=True).to(masks.dtype)


# --- changing values ---------------------------------------------------------------------------------


def colour(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Brightness added, contrast about the image's own mean, saturation about its own grey.

    Args:
        images: (B, C, H, W) float.
        brightness: (B,) added to every pixel; 2 is from black to white.
        contrast, saturation: (B,) factors; 1 changes nothing. Grey images have no saturation.
    """
    if images.shape[1] == 3:
        grey = luma(images)
        images = grey + (images - grey) * _each(saturation)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (mean + (images - mean) * _each(contrast) + _each(brightness)).clamp_(-1, 1)


def luma(images: Tensor) -> Tensor:
    """Grey of rgb by ITU-R BT.601, (B, 1, H, W)."""
    weights = images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def erase(images: Tensor, places: Tensor, value: float = 0.0) -> Tensor:
    """Paint over a box of each image.

    Args:
        images: (B, C, H, W).
        places: (B, 4) int64 left, top, right, bottom (the last two not included); equal ones leave it whole.
        value: the colour; 0 is the middle grey.
    """
    return images.masked_fill(_within(places, images.shape[2:])[:, None], value)


def _within(places: Tensor, size: torch.Size) -> Tensor:
    """(B, H, W) bool: which pixels lie in each box."""
    left, top, right, bottom = (places[:, i, None] for i in range(4))
    y, x = torch.arange(size[0])[None], torch.arange(size[1])[None]
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
    return rows[:, :, None] & columns[:, None, :]


def box_of(area: Tensor, aspect: Tensor, x: Tensor, y: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (B, 4) int64 of a share of the image, cut at its edge.

    Args:
        area: (B,) share of the image's area before the cut.
        aspect: (B,) width / height, of an image that was square.
        x, y: (B,) of the middle, from 0 to 1.
        size: (H, W).
    """
    height, width = size
    high, wide = (area / aspect).sqrt() * height, (area * aspect).sqrt() * width
    left, top = x * width - wide / 2, y * height - high / 2
    edges = torch.stack([left, top, left + wide, top + high], 1).round().long()
    limit = torch.tensor([width, height, width, height])
    return torch.minimum(edges.clamp_min(0), limit)


# --- mixing two images -------------------------------------------------------------------------------


def mixup(images: Tensor, share: Tensor) -> Tensor:
    """Each image blended with the one at its place from the end: share of its own, the rest of that one.

    The target is mixed as the image is; a share of 1 leaves it alone.

    Args:
        images: (B, C, H, W) float.
        share: (B,) in [0, 1].
    """
    return torch.lerp(images.flip(0), images, _each(share))


def cutmix(images: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """A box of each image comes from the one at its place from the end.

    Args:
        images: (B, C, H, W).
        places: (B, 4) int64 boxes as of `erase`.

    Returns:
        The images, and (B,) the share of each that is its own.
    """
    inside = _within(places, images.shape[2:])
    mixed = torch.where(inside[:, None], images.flip(0), images)
    return mixed, 1 - inside.float().mean(dim=(1, 2))


def _each(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def ways(maximum: float, uniform: Tensor) -> Tensor:
    """Numbers in [-maximum, maximum] from numbers in [0, 1)."""
    return (2 * uniform - 1) * maximum


def factors(maximum: float, uniform: Tensor) -> Tensor:
    """Factors from 1 / (1 + maximum) to 1 + maximum, as often below 1 as above, from numbers in [0, 1)."""
    return torch.exp(ways(math.log1p(maximum), uniform))
