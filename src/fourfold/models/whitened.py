"""Whitened convolutional network: the fastest known to learn CIFAR-10, after Jordan 2024, https://arxiv.org/abs/2404.00498.

A fixed first layer whitens patches of 2 x 2 pixels by the training images' own covariance (Page 2018; Shah 2022), so
that learning begins with inputs of one scale and no correlation. Stages pool after their first convolution, where
others pool after their last, so that most of the work is done at half the size. Convolutions begin near the identity.
Shapes: B batch, C channels, H and W pixels, K outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourfold.models.cnn import Staged

PATCH = 2
"""Side of the patches that are whitened."""
SAMPLE, PIXELS = 5_000, 5_000 * 32 * 32
"""Images whose patches tell the covariance, and places of theirs, at most."""
TOGETHER = 32 * 32 * 64
"""Places whose patches are laid out at once: each takes 8 bytes for every number of a patch."""
WIDER = 4
"""Channels of the stages after the first, as multiples of the first's."""
FLOOR = 5e-4
"""Added to the variances, in units of images in [-1, 1]: directions that hardly vary are not blown up to noise."""


def sampled(shape: tuple[int, int, int]) -> int:
    """How many images (C, H, W) tell the covariance."""
    return max(1, min(SAMPLE, PIXELS // (shape[1] * shape[2])))


def whitening(images: Tensor) -> Tensor:
    """Filters (2 C k k, C, k, k) that whiten patches: the covariance's eigenvectors over its deviations, and their negatives.

    Args:
        images: (N, C, H, W) float in [-1, 1].
    """
    channels = images.shape[1]
    covariance, count = torch.zeros((), dtype=torch.float64), 0
    for some in images.split(max(1, TOGETHER // images[0, 0].numel())):
        patches = F.unfold(some, PATCH).transpose(1, 2).flatten(0, 1).double()
        covariance, count = covariance + patches.T @ patches, count + len(patches)
    covariance = covariance / count
    variances, vectors = torch.linalg.eigh(covariance)
    filters = vectors.T / (variances[:, None] + FLOOR).sqrt()
    filters = filters.reshape(-1, channels, PATCH, PATCH).float()
    # GELU keeps one side of what it is given: the negatives keep the other
    return torch.cat([filters, -filters])


class WhitenedStage(nn.Sequential):
    """Two convolutions with half the size from the first on."""

    def __init__(self, channels: int, width: int) -> None:
        first, second = (
            nn.Conv2d(before, width, 3, padding=1, bias=False) for before in (channels, width)
        )
        for layer in (first, second):  # the first channels pass what comes in
            nn.init.dirac_(layer.weight[: layer.in_channels])
        super().__init__(
            first,
            nn.MaxPool2d(2),
            nn.BatchNorm2d(width),
            nn.GELU(),
            second,
            nn.BatchNorm2d(width),
            nn.GELU(),
        )


class WhitenedNet(Staged):
    """A whitening layer, stages, and one dense layer of the largest value of each last map.

    With three stages of 64, 256 and 256 channels it is the paper's, but for the paddings of its poolings and its scale
    of 1/9 at the end, for which the learning rate stands.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        *,
        width: int = 64,
        stages: int = 3,
        images: Tensor | None = None,
        dropout: float = 0.0,
    ) -> None:
        """Build it.

        Args:
            shape: (C, H, W) of the images.
            outputs: K.
            width: channels of the first stage; each further one has four times as many.
            stages: how often the size is halved.
            images: (N, C, H, W) float in [-1, 1], which the first layer whitens; None leaves its weights to be loaded.
            dropout: chance that a number before the dense layer is left out.

        Raises:
            ValueError: the images are too small for so many stages.
        """
        super().__init__()
        channels, height, wide = shape
        widths = [width, *[WIDER * width] * (stages - 1)]
        self.width = widths[-1]
        """Channels of the last maps."""
        least = 2**stages + PATCH - 1
        if min(height, wide) < least:
            raise ValueError(
                f"images of {height} x {wide} pixels cannot be whitened and halved {stages} times; "
                f"expected at least {least} x {least}"
            )
        directions = 2 * channels * PATCH**2
        first = nn.Conv2d(channels, directions, PATCH)
        first.weight.requires_grad = False
        if images is not None:
            first.weight.data.copy_(whitening(images))
        first.bias = nn.Parameter(torch.zeros(directions))
        self.stages = nn.ModuleList(
            [
                nn.Sequential(first, nn.GELU()),
                *(
                    WhitenedStage(before, after)
                    for before, after in zip((directions, *widths), widths, strict=False)
                ),
            ]
        )
        self.grid = (1, 1)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Dropout(dropout), nn.Linear(self.width, outputs, bias=False)
        )

    def classify(self, maps: Tensor) -> Tensor:
        """Outputs (B, K) of the last feature maps."""
        outputs: Tensor = self.head(F.adaptive_max_pool2d(maps, 1))
        return outputs
