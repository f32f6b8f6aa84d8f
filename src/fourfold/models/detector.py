"""A compact detector without anchors: residual backbone, feature pyramid, one head over its levels.

FCOS: Tian et al. 2019, https://arxiv.org/abs/1904.01355; pyramid: Lin et al. 2017, https://arxiv.org/abs/1612.03144;
group normalization: Wu and He 2018. Variant: three levels; distances are exp(x) strides without a learned scale for
each level; the centre-ness stands on the boxes' tower. Shapes: B batch, C channels, H and W pixels, P places, K classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LEVELS = 3
REACH = 4.0
"""A level answers for distances up to so many of its strides; the last for all beyond."""
PRIOR = 0.01  # probability that a place says a class is there, before anything is learned
GROUP = 16  # channels of a group that is normalized


def norm(channels: int) -> nn.GroupNorm:
    """Group normalization with groups of 16 channels, or of the next larger number that divides them."""
    groups = next(g for g in range(max(1, channels // GROUP), 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


class Block(nn.Module):
    """Two convolutions and a shortcut, which is projected where the shape changes: He et al. 2016."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, channels, 3, stride, 1, bias=False),
            norm(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            norm(channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, channels, 1, stride, bias=False), norm(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) to (B, channels, H / stride, W / stride)."""
        return torch.relu(self.body(x) + self.shortcut(x))


class Detector(nn.Module):
    """Images to what is where.

    Args:
        shape: (C, H, W), sides multiples of 32.
        classes: K.
        width: channels of the first stage; the next have 2, 4 and 8 times as many.
        blocks: of each stage.
        features: channels of the pyramid and the head.
        convolutions: of each of the head's two towers.
        finest: stride of the finest level, 4 or 8 pixels.

    Raises:
        ValueError: sides that are no multiples of the coarsest stride, or another finest stride.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        width: int = 32,
        blocks: int = 1,
        features: int = 64,
        convolutions: int = 2,
        finest: int = 8,
    ) -> None:
        super().__init__()
        if finest not in (4, 8):
            raise ValueError(f"Detector expects a finest stride of 4 or 8, got {finest}")
        self.strides = tuple(finest * 2**i for i in range(LEVELS))
        if shape[1] % self.strides[-1] or shape[2] % self.strides[-1]:
            raise ValueError(
                f"Detector expects sides that are multiples of {self.strides[-1]}, got {shape[1]} x {shape[2]}"
            )
        self.shape = shape
        stages = round(math.log2(self.strides[-1]))
        self.stem = nn.Sequential(
            nn.Conv2d(shape[0], width, 3, 2, 1, bias=False), norm(width), nn.ReLU()
        )
        channels = [width] + [width * min(2**i, 8) for i in range(stages - 1)]
        self.stages = nn.ModuleList(
            nn.Sequential(
                Block(before, after, 2), *[Block(after, after, 1) for _ in range(blocks - 1)]
            )
            for before, after in zip(channels[:-1], channels[1:], strict=True)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(c, features, 1) for c in channels[-LEVELS:])
        self.smooth = nn.ModuleList(
            nn.Conv2d(features, features, 3, 1, 1) for _ in range(LEVELS - 1)
        )
        self.naming, self.placing = (_tower(features, convolutions) for _ in range(2))
        self.logits = nn.Conv2d(features, classes, 3, 1, 1)
        self.distances = nn.Conv2d(features, 4, 3, 1, 1)
        self.centre = nn.Conv2d(features, 1, 3, 1, 1)
        self._initialize()
        points, strides, ranges = self._places()
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("place_strides", strides, persistent=False)
        self.register_buffer("ranges", ranges, persistent=False)

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for last in (self.logits, self.distances, self.centre):
            nn.init.normal_(last.weight, std=0.01)
        nn.init.constant_(self.logits.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]
        nn.init.constant_(self.distances.bias, math.log(REACH / 2))  # type: ignore[arg-type]

    def _places(self) -> tuple[Tensor, Tensor, Tensor]:
        """Middles (P, 2) of the places of all levels in pixels, their strides (P,) and ranges (P, 2)."""
        points, strides, ranges = [], [], []
        for level, stride in enumerate(self.strides):
            rows, columns = self.shape[1] // stride, self.shape[2] // stride
            y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
            points.append((torch.stack([x, y], dim=-1).flatten(0, 1) + 0.5) * stride)
            strides.append(torch.full((rows * columns,), float(stride)))
            low = 0.0 if level == 0 else REACH * stride / 2
            high = torch.inf if level == LEVELS - 1 else REACH * stride
            ranges.append(torch.tensor([[low, high]]).expand(rows * columns, 2))
        return torch.cat(points), torch.cat(strides), torch.cat(ranges)

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Feature maps of the levels, the finest first, each (B, features, H / stride, W / stride)."""
        # a quarter less time on a CPU; weights keep their order, in which gradients are summed
        x, found = self.stem(images.contiguous(memory_format=torch.channels_last)), []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        maps = [lateral(x) for lateral, x in zip(self.lateral, found[-LEVELS:], strict=True)]
        for level in reversed(range(LEVELS - 1)):
            above = nn.functional.interpolate(maps[level + 1], scale_factor=2.0, mode="nearest")
            maps[level] = self.smooth[level](maps[level] + above)
        return maps

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """What every place says.

        Args:
            images: (B, C, H, W) in [-1, 1].

        Returns:
            "logits" (B, P, K), "distances" (B, P, 4) in pixels, "centre" (B, P), and of the places "points" (P, 2),
            "strides" (P,) and "ranges" (P, 2), the distances a place answers for.

        Raises:
            ValueError: images of another shape.
        """
        if images.shape[1:] != self.shape:
            raise ValueError(
                f"Detector expects images (B, {', '.join(map(str, self.shape))}), got {tuple(images.shape)}"
            )
        said: list[tuple[Tensor, Tensor, Tensor]] = []
        for stride, features in zip(self.strides, self.pyramid(images), strict=True):
            placed = self.placing(features)
            logits = self.logits(self.naming(features)).flatten(2).transpose(1, 2)
            # exp in float32: bfloat16 has steps of 1% here
            distances = self.distances(placed).float().clamp(max=8).exp() * stride
            distances = distances.flatten(2).transpose(1, 2)
            said.append((logits, distances, self.centre(placed).flatten(1)))
        logits, distances, centre = (torch.cat(parts, dim=1) for parts in zip(*said, strict=True))
        return {
            "logits": logits,
            "distances": distances,
            "centre": centre,
            "points": self.get_buffer("points"),
            "strides": self.get_buffer("place_strides"),
            "ranges": self.get_buffer("ranges"),
        }


def _tower(features: int, convolutions: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(convolutions):
        layers += [nn.Conv2d(features, features, 3, 1, 1, bias=False), norm(features), nn.ReLU()]
    return nn.Sequential(*layers)
