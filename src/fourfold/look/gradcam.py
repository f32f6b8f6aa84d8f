"""Which places of an image speak for a class: Grad-CAM, Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391.

Shapes: B images, C channels of the image, M of the last feature maps, H and W pixels, K outputs.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


class Mapped(Protocol):
    """A network in two parts."""

    def features(self, images: Tensor) -> Tensor:
        """The last feature maps (B, M, H', W') of images (B, C, H, W)."""

    def classify(self, maps: Tensor) -> Tensor:
        """Outputs (B, K) of the maps."""


def grad_cam(model: Mapped, images: Tensor, wanted: Tensor) -> Tensor:
    """How much each place speaks for a class: the maps, weighted by their mean gradient, where that is positive.

    Args:
        model: in evaluation mode.
        images: (B, C, H, W).
        wanted: (B,) numbers of classes; with one output, 0 is its opposite and 1 itself.

    Returns:
        (B, H, W) in [0, 1], each image by its largest; all zero where nothing speaks for the class.
    """
    with torch.enable_grad():
        maps = model.features(images).detach().requires_grad_(True)
        outputs = model.classify(maps)
        if outputs.shape[1] == 1:
            outputs = torch.cat([-outputs, outputs], dim=1)
        chosen = outputs.gather(1, wanted[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, maps)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    raw = F.relu((weights * maps.detach()).sum(1, keepdim=True)).float()
    large = F.interpolate(raw, images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    most = large.amax(dim=(1, 2), keepdim=True)
    return torch.where(most > 0, large / most.clamp_min(1e-12), torch.zeros_like(large))


def overlaid(images: Tensor, places: Tensor) -> np.ndarray:
    """Images with places painted over them, from nothing (grey) to most (red).

    Args:
        images: (B, C, H, W) in [0, 1].
        places: (B, H, W) in [0, 1].

    Returns:
        (B, 3, H, W) float in [0, 1].
    """
    import matplotlib

    grey = images.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1).numpy()
    colours = matplotlib.colormaps["turbo"](places.numpy())[..., :3].transpose(0, 3, 1, 2)
    strength = 0.65 * places.numpy()[:, None]
    return (1 - strength) * grey + strength * np.asarray(colours)
