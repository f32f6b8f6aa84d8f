"""Residual networks: He, Zhang, Ren and Sun 2016, https://arxiv.org/abs/1512.03385.

Two styles, both of the paper. cifar: depth 6n + 2, three stages of 16, 32, 64 channels for small images. imagenet:
depth 18, 34 (two convolutions a block) or 50 (three, the 3 x 3 one with the stride, as torchvision has it), four
stages of 64 to 512 channels after a 7 x 7 convolution and pooling; names of parameters are torchvision's. Where a
block's shape changes, its shortcut is a 1 x 1 convolution ("projection", the paper's B) or the input itself, every
other pixel, with zeros for the channels that it lacks ("identity", the paper's A). Without shortcuts at all
("none") it is the plain network that the paper compares with.
Shapes: B batch, C channels, H and W pixels, K outputs.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourfold.models.cnn import Norm, normalization

Shortcut = Literal["identity", "projection", "none"]
Style = Literal["cifar", "imagenet"]

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
"""Blocks of the four stages by depth."""

LARGE = 96
"""Pixels of the smaller side from which depths 18, 34 and 50 begin with 7 x 7 convolution and pooling."""


class Padded(nn.Module):
    """Every other pixel, and zeros for the channels that are lacking: a shortcut without weights."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H', W') of (B, C, H, W)."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.channels - x.shape[1]))


def _shortcut(kind: Shortcut, inside: int, outside: int, stride: int, norm: Norm) -> nn.Module:
    if inside == outside and stride == 1:
        return nn.Identity()
    if kind == "projection":
        return nn.Sequential(
            nn.Conv2d(inside, outside, 1, stride, bias=norm == "none"),
            normalization(norm, outside),
        )
    return Padded(outside, stride)


class Basic(nn.Module):
    """Two 3 x 3 convolutions round which the input passes."""

    grows = 1

    def __init__(
        self, inside: int, width: int, stride: int, norm: Norm, shortcut: Shortcut
    ) -> None:
        super().__init__()
        bias = norm == "none"
        self.conv1 = nn.Conv2d(inside, width, 3, stride, padding=1, bias=bias)
        self.bn1 = normalization(norm, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=bias)
        self.bn2 = normalization(norm, width)
        self.downsample = (
            None if shortcut == "none" else _shortcut(shortcut, inside, width, stride, norm)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H', W') of (B, inside, H, W)."""
        found = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(found if self.downsample is None else found + self.downsample(x))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions round which the input passes; the middle has a quarter of the channels."""

    grows = 4

    def __init__(
        self, inside: int, width: int, stride: int, norm: Norm, shortcut: Shortcut
    ) -> None:
        super().__init__()
        bias, outside = norm == "none", 4 * width
        self.conv1 = nn.Conv2d(inside, width, 1, bias=bias)
        self.bn1 = normalization(norm, width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=bias)
        self.bn2 = normalization(norm, width)
        self.conv3 = nn.Conv2d(width, outside, 1, bias=bias)
        self.bn3 = normalization(norm, outside)
        self.downsample = (
            None if shortcut == "none" else _shortcut(shortcut, inside, outside, stride, norm)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4 width, H', W') of (B, inside, H, W)."""
        found = F.relu(self.bn1(self.conv1(x)))
        found = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(found)))))
        return F.relu(found if self.downsample is None else found + self.downsample(x))


class ResNet(nn.Module):
    """Stages of residual blocks, the mean over the pixels, one linear layer."""

    def __init__(
        self,
        channels: int,
        outputs: int,
        depth: int,
        *,
        style: Style = "cifar",
        width: int | None = None,
        norm: Norm = "batch",
        shortcut: Shortcut = "projection",
        small: bool | None = None,
    ) -> None:
        """Build it.

        Args:
            channels: C of the images.
            outputs: K.
            depth: layers with weights that lie one behind the other.
            style: see above.
            width: channels of the first stage; None means 16 for cifar and 64 for imagenet.
            norm: after each convolution.
            shortcut: round a block whose shape changes; none leaves out all shortcuts.
            small: begin with a 3 x 3 convolution and no pooling, as small images need; None as the style has it.

        Raises:
            ValueError: there is no network of this depth in this style.
        """
        super().__init__()
        if style == "cifar" and (depth < 8 or depth % 6 != 2):
            raise ValueError(f"depth {depth}: expected 6n + 2 (8, 14, 20, 32, 44, 56, 110)")
        if style == "imagenet" and depth not in BLOCKS:
            raise ValueError(f"depth {depth}: expected {', '.join(map(str, BLOCKS))}")
        counts = ((depth - 2) // 6,) * 3 if style == "cifar" else BLOCKS[depth]
        three = style == "imagenet" and depth == 50
        block: type[Basic | Bottleneck] = Bottleneck if three else Basic
        width = width or (16 if style == "cifar" else 64)
        self.small = style == "cifar" if small is None else small
        kernel, stride = (3, 1) if self.small else (7, 2)
        self.conv1 = nn.Conv2d(
            channels, width, kernel, stride, padding=kernel // 2, bias=norm == "none"
        )
        self.bn1 = normalization(norm, width)
        inside, self.names = width, [f"layer{i}" for i in range(1, len(counts) + 1)]
        for number, count in enumerate(counts):
            planes, blocks = width * 2**number, []
            for i in range(count):
                step = 2 if number and i == 0 else 1
                blocks.append(block(inside, planes, step, norm, shortcut))
                inside = planes * block.grows
            self.add_module(self.names[number], nn.Sequential(*blocks))
        self.width = inside
        """Channels of the last maps."""
        self.fc: nn.Module = nn.Linear(inside, outputs)
        self.stride = 2 ** (len(counts) - 1) * (1 if self.small else 4)
        """Pixels of the image for one of the last maps."""
        _draw(self)

    @classmethod
    def suited(
        cls,
        shape: tuple[int, int, int],
        outputs: int,
        depth: int,
        *,
        width: int | None = None,
        norm: Norm = "batch",
        shortcut: Shortcut = "projection",
    ) -> ResNet:
        """The network of a depth for images of a shape (C, H, W): its style by the depth, its beginning by their size.

        Raises:
            ValueError: no network has this depth, or the images are smaller than its stride.
        """
        smaller = min(shape[1:])
        model = cls(
            shape[0],
            outputs,
            depth,
            style="imagenet" if depth in BLOCKS else "cifar",
            width=width,
            norm=norm,
            shortcut=shortcut,
            small=smaller < LARGE,
        )
        if smaller < model.stride:
            raise ValueError(
                f"images of {shape[1]} x {shape[2]} pixels are smaller than the network's stride, "
                f"{model.stride}"
            )
        return model

    def features(self, images: Tensor) -> Tensor:
        """The last feature maps, (B, C', H', W'), of images (B, C, H, W)."""
        x = F.relu(self.bn1(self.conv1(images)))
        if not self.small:
            x = F.max_pool2d(x, 3, 2, padding=1)
        for name in self.names:
            x = self.get_submodule(name)(x)
        return x

    def classify(self, maps: Tensor) -> Tensor:
        """Outputs (B, K) of the last feature maps."""
        outputs: Tensor = self.fc(maps.mean(dim=(2, 3)))
        return outputs

    def forward(self, images: Tensor) -> Tensor:
        """Outputs (B, K) of images (B, C, H, W)."""
        return self.classify(self.features(images))


def _draw(model: nn.Module) -> None:
    """Weights of convolutions by He et al. 2015, for the number of their outputs."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
