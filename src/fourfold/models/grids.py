"""Images to a grid of vectors and back, by convolutions alone, so that any size will do.

The networks of VQ-VAE (van den Oord et al. 2017, https://arxiv.org/abs/1711.00937): strided convolutions, then
residual blocks, and the mirror image of it. Departures: as many stages as are asked for; the decoder ends in a
convolution onto blocks of pixels (Shi et al. 2016, https://arxiv.org/abs/1609.05158) where the paper has transposed
convolutions, which leave a checkerboard; beside both runs a linear map between blocks of 2^stages pixels and their vector,
which soon finds the principal components: 4.5 dB after 500 steps on photographs. The bodies of `models/autoencoder.py` are for images of one size.
Shapes: B batch, C channels, H and W pixels, h and w of the grid (H and W over 2^stages), D features.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.models.autoencoder import Residual


def _tower(width: int, blocks: int) -> list[nn.Module]:
    return [Residual(width) for _ in range(blocks)]


class GridEncoder(nn.Module):
    """Images to a grid of vectors.

    Args:
        channels: C.
        width: features inside.
        out: D.
        stages: how often height and width are halved.
        blocks: residual blocks at the end.
    """

    def __init__(self, channels: int, width: int, out: int, stages: int, blocks: int = 2) -> None:
        super().__init__()
        if stages < 1:
            raise ValueError(f"GridEncoder expects stages >= 1, got {stages}")
        self.stages = stages
        layers: list[nn.Module] = []
        for stage in range(stages):
            layers += [nn.Conv2d(width if stage else channels, width, 4, 2, 1), nn.ReLU()]
        self.layers = nn.Sequential(
            *layers, nn.Conv2d(width, width, 3, padding=1), *_tower(width, blocks), nn.ReLU(), nn.Conv2d(width, out, 1)
        )  # fmt: skip
        self.straight = nn.Conv2d(channels, out, 2**stages, 2**stages)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, h, w, D); sizes that 2^stages does not divide are filled up by repeating the edge.

        Raises:
            ValueError: not (B, C, H, W).
        """
        if images.ndim != 4:
            raise ValueError(f"GridEncoder expects images (B, C, H, W), got {tuple(images.shape)}")
        images = padded(images, 2**self.stages)
        return (self.layers(images) + self.straight(images)).movedim(1, -1)


class GridDecoder(nn.Module):
    """A grid of vectors to images; see `GridEncoder`."""

    def __init__(self, channels: int, width: int, into: int, stages: int, blocks: int = 2) -> None:
        super().__init__()
        self.stages = stages
        layers: list[nn.Module] = []
        for _ in range(stages - 1):
            layers += [nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.ReLU()]
        self.layers = nn.Sequential(
            nn.Conv2d(into, width, 3, padding=1), *_tower(width, blocks), nn.ReLU(),
            *layers, nn.Conv2d(width, 4 * channels, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip
        self.straight = nn.ConvTranspose2d(into, channels, 2**stages, 2**stages)

    def forward(self, grid: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, h, w, D) to (B, C, H, W) for size (H, W), about in [-1, 1]."""
        grid = grid.movedim(-1, 1)
        return (self.layers(grid) + self.straight(grid))[..., : size[0], : size[1]]


def padded(images: Tensor, multiple: int) -> Tensor:
    """Images (B, C, H, W) filled up at the right and below to multiples, by repeating the edge."""
    height, width = images.shape[-2:]
    below, right = -height % multiple, -width % multiple
    return F.pad(images, (0, right, 0, below), mode="replicate") if below or right else images
