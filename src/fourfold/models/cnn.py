"""Plain convolutional network: stages of 3 x 3 convolutions, ReLU and down-sampling, then a dense classifier.

After Simonyan and Zisserman 2015, https://arxiv.org/abs/1409.1556, with batch normalization (Ioffe and Szegedy
2015), as networks of this form have it since. Shapes: B batch, C channels, H and W pixels, K outputs.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

Pooling = Literal["max", "mean", "stride"]
Norm = Literal["batch", "layer", "group", "none"]


GRID = 3
"""Pixels of the smaller side of the last maps at least, where the number of stages is left to the images."""


def fitting_stages(shape: tuple[int, int, int]) -> int:
    """How often images (C, H, W) are halved where nobody says it: until below 3 pixels, 4 times at most."""
    fitting = [n for n in range(1, 5) if min(shape[1:]) // 2**n >= GRID]
    return max(fitting, default=1)


def normalization(kind: Norm, channels: int) -> nn.Module:
    """A normalization of (B, C, H, W) by its name.

    batch: over the batch, each channel; layer: over all channels and pixels of an image (Ba et al. 2016); group:
    over an image's pixels and up to 32 groups of at least 8 channels (Wu and He 2018).
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "none":
        return nn.Identity()
    groups = 1
    if kind == "group":
        fitting = [g for g in range(1, 33) if channels % g == 0 and channels // g >= 8]
        groups = max(fitting, default=1)
    return nn.GroupNorm(groups, channels)


class Stage(nn.Sequential):
    """Convolutions of one size, then half the size."""

    def __init__(
        self, channels: int, width: int, convolutions: int, norm: Norm, pooling: Pooling
    ) -> None:
        layers: list[nn.Module] = []
        for number in range(convolutions):
            last = number == convolutions - 1
            stride = 2 if last and pooling == "stride" else 1
            layers += [
                nn.Conv2d(channels, width, 3, stride, padding=1, bias=norm == "none"),
                normalization(norm, width),
                nn.ReLU(),
            ]
            channels = width
        if pooling != "stride":
            layers.append(nn.MaxPool2d(2) if pooling == "max" else nn.AvgPool2d(2))
        super().__init__(*layers)


class Staged(nn.Module):
    """Base of networks of stages, whose last maps a head of dense layers reads."""

    stages: nn.ModuleList
    grid: tuple[int, int]
    """Sides of the last maps that the head takes; other maps are pooled to them."""
    head: nn.Module

    def features(self, images: Tensor) -> Tensor:
        """The last feature maps, (B, C', H', W'), of images (B, C, H, W)."""
        for stage in self.stages:
            images = stage(images)
        return images

    def classify(self, maps: Tensor) -> Tensor:
        """Outputs (B, K) of the last feature maps."""
        if tuple(maps.shape[2:]) != self.grid:
            maps = F.adaptive_avg_pool2d(maps, self.grid)
        outputs: Tensor = self.head(maps)
        return outputs

    def forward(self, images: Tensor) -> Tensor:
        """Outputs (B, K) of images (B, C, H, W)."""
        return self.classify(self.features(images))


class ConvNet(Staged):
    """Stages, each of twice the channels and half the size of the one before, and two dense layers.

    Images of other sizes than it was built for have their last maps pooled to the size that the dense layers take.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        *,
        width: int = 32,
        stages: int = 3,
        convolutions: int = 2,
        dense: int = 128,
        norm: Norm = "batch",
        pooling: Pooling = "max",
        dropout: float = 0.0,
    ) -> None:
        """Build it.

        Args:
            shape: (C, H, W) of the images.
            outputs: K.
            width: channels of the first stage.
            stages: how often the size is halved.
            convolutions: of a stage.
            dense: width of the hidden dense layer; 0 leaves it out.
            norm: after each convolution.
            pooling: how the size is halved.
            dropout: chance that a number before the last layer is left out.

        Raises:
            ValueError: the images are smaller than 2 ** stages.
        """
        super().__init__()
        channels, height, wide = shape
        self.width = width * 2 ** (stages - 1)
        """Channels of the last maps."""
        if min(height, wide) < 2**stages:
            raise ValueError(
                f"images of {height} x {wide} pixels cannot be halved {stages} times; "
                f"expected at least {2**stages} x {2**stages}"
            )
        widths = [width * 2**i for i in range(stages)]
        self.stages = nn.ModuleList(
            Stage(before, after, convolutions, norm, pooling)
            for before, after in zip([channels, *widths], widths, strict=False)
        )
        for _ in range(stages):  # pooling cuts an odd row off, a stride keeps it
            height, wide = (-(-s // 2) if pooling == "stride" else s // 2 for s in (height, wide))
        self.grid = height, wide
        flat = widths[-1] * height * wide
        head: list[nn.Module] = [nn.Flatten()]
        if dense:
            head += [nn.Linear(flat, dense), nn.ReLU()]
        self.head = nn.Sequential(*head, nn.Dropout(dropout), nn.Linear(dense or flat, outputs))
