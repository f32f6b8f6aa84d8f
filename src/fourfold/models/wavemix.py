"""WaveMix: Jeevan, Viswanathan, Anandu and Sethi 2022, https://arxiv.org/abs/2205.14375 (WaveMix-Lite, one level).

Places are mixed by a wavelet transform without weights instead of by attention or large convolutions: a block
reduces the channels to a quarter, takes the Haar transform (four maps of half the size, together as many channels
as before), passes them through two 1 x 1 convolutions and enlarges them again.
Shapes: B batch, C channels, H and W pixels, K outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def haar(x: Tensor) -> Tensor:
    """The Haar transform of one level: (B, 4 C, H / 2, W / 2) of (B, C, H, W) with even sides.

    Channels are the means, then the differences across columns, rows and both; it keeps the sum of squares.
    """
    above, below = x[:, :, ::2], x[:, :, 1::2]
    a, b, c, d = above[..., ::2], above[..., 1::2], below[..., ::2], below[..., 1::2]
    bands = (a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d)
    return torch.cat(bands, dim=1) / 2


class Block(nn.Module):
    """One mixing block; its input is added to what it finds."""

    def __init__(self, width: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, width // 4, 1)
        self.mix = nn.Sequential(
            nn.Conv2d(width, width * expansion, 1),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Conv2d(width * expansion, width, 1),
            nn.ConvTranspose2d(width, width, 4, 2, padding=1),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) of the same."""
        odd = [side % 2 for side in x.shape[2:]]
        reduced = F.pad(self.reduce(x), (0, odd[1], 0, odd[0]))
        found: Tensor = self.mix(haar(reduced))
        return x + found[:, :, : x.shape[2], : x.shape[3]]


class WaveMix(nn.Module):
    """Two convolutions, blocks, the mean over the pixels, one linear layer."""

    def __init__(
        self,
        channels: int,
        outputs: int,
        *,
        width: int = 64,
        blocks: int = 4,
        expansion: int = 2,
        dropout: float = 0.0,
    ) -> None:
        """Build it.

        Args:
            channels: C of the images.
            outputs: K.
            width: channels of a block, a multiple of 4.
            blocks: how many.
            expansion: of the hidden 1 x 1 convolution, times the width.
            dropout: within a block.

        Raises:
            ValueError: the width is no multiple of 4.
        """
        super().__init__()
        if width % 4:
            raise ValueError(f"width {width}: expected a multiple of 4")
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width // 2, 3, padding=1),
            nn.Conv2d(width // 2, width, 3, padding=1),
            nn.BatchNorm2d(width),
        )
        self.blocks = nn.ModuleList(Block(width, expansion, dropout) for _ in range(blocks))
        self.head = nn.Linear(width, outputs)

    def features(self, images: Tensor) -> Tensor:
        """The last feature maps, (B, width, H, W), of images (B, C, H, W)."""
        x: Tensor = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return x

    def classify(self, maps: Tensor) -> Tensor:
        """Outputs (B, K) of the last feature maps."""
        outputs: Tensor = self.head(maps.mean(dim=(2, 3)))
        return outputs

    def forward(self, images: Tensor) -> Tensor:
        """Outputs (B, K) of images (B, C, H, W)."""
        return self.classify(self.features(images))
