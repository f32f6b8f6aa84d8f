"""Generator and discriminator of DCGAN: Radford, Metz, Chintala 2016, https://arxiv.org/abs/1511.06434.

Any height and width from 8 to 256 pixels, not powers of two only: each stage doubles its size, or
doubles it less one where the size to reach is odd (28 = 2 * 14, 14 = 2 * 7, 7 = 2 * 4 - 1).
Departures: the discriminator has spectral normalization (Miyato et al. 2018,
https://arxiv.org/abs/1802.05957) or none where the paper has batch normalization, as that would make
an image's score depend on the others in its batch; it ends in one linear layer.
Shapes: B batch, Z noise, C channels, H and W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from fourfold.core.shares import drawn
from fourfold.models.halving import halved, kernel

LEAST, MOST = 8, 256  # pixels
DEEPEST = 8  # most channels of a stage, in units of `width`


class Players(nn.Module):
    """Two modules that play against each other, and the noise that the first one starts from.

    Any generator that maps noise (B, *noise_size) to examples, and any discriminator that maps
    examples to one logit each, (B,).
    """

    players = ("generator", "discriminator")
    """Children that are called by themselves."""

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        noise_size: Sequence[int],
        noise: Literal["normal", "uniform"] = "normal",
    ) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        self.noise_size, self.noise = tuple(noise_size), noise

    def draw(self, count: int, *, seed: torch.Generator | None = None) -> Tensor:
        """Noise for `count` examples, (count, *noise_size): normal, or uniform in [-1, 1].

        Args:
            count: how many.
            seed: a generator on the CPU (so that devices agree); None means torch's global one.
        """
        like = next(self.generator.parameters())
        device = like.device if seed is None else "cpu"
        draw = torch.randn if self.noise == "normal" else torch.rand

        def rows(count: int) -> Tensor:
            return draw(count, *self.noise_size, generator=seed, device=device, dtype=like.dtype)

        noise = drawn(count, rows) if seed is None else rows(count)
        return (noise if self.noise == "normal" else 2 * noise - 1).to(like.device)

    def forward(self, noise: Tensor) -> Tensor:
        """Examples from noise (B, *noise_size)."""
        return self.generator(noise)


def ladder(height: int, width: int) -> list[tuple[int, int]]:
    """Sizes from an image's down, halved at least twice, to the first one with a side of at most 4.

    Raises:
        ValueError: a side below 8 or above 256 pixels.
    """
    if not (LEAST <= min(height, width) and max(height, width) <= MOST):
        raise ValueError(
            f"DCGAN expects images from {LEAST} x {LEAST} to {MOST} x {MOST} pixels, got {height} x {width}"
        )
    sizes = [(height, width)]
    while min(sizes[-1]) > 4 or len(sizes) < 3:
        sizes.append(halved(sizes[-1]))
    return sizes


class Generator(nn.Module):
    """Noise to images in [-1, 1]: a linear layer, then transposed convolutions, batch-normalized."""

    def __init__(self, shape: tuple[int, int, int], noise_size: int, width: int) -> None:
        """Build the ladder upwards.

        Args:
            shape: (C, H, W) of an image.
            noise_size: Z.
            width: channels before the last stage; twice as many at each stage below, up to 8 times.
        """
        super().__init__()
        channels, *size = shape
        sizes = ladder(size[0], size[1])
        deep = [min(2**i, DEEPEST) * width for i in range(len(sizes) - 1)]
        start = (deep[-1], *sizes[-1])
        layers: list[nn.Module] = [
            nn.Linear(noise_size, math.prod(start), bias=False),
            nn.Unflatten(1, start),
        ]
        for i in reversed(range(len(deep))):
            out = deep[i - 1] if i else channels
            layers += [nn.BatchNorm2d(deep[i]), nn.ReLU()]
            layers.append(nn.ConvTranspose2d(deep[i], out, kernel(sizes[i]), 2, 1, bias=i == 0))
        self.layers = nn.Sequential(*layers, nn.Tanh())
        self.apply(_initialize)

    def forward(self, noise: Tensor) -> Tensor:
        """(B, Z) float to (B, C, H, W) in [-1, 1]."""
        return self.layers(noise)


class Discriminator(nn.Module):
    """Images to one logit each, positive for real: strided convolutions and leaky rectifiers."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        width: int,
        norm: Literal["spectral", "none"] = "spectral",
    ) -> None:
        """Build the ladder downwards.

        Args:
            shape: (C, H, W) of an image.
            width: channels after the first stage; twice as many at each further one, up to 8 times.
            norm: "spectral" bounds each layer's gain by 1.
        """
        super().__init__()
        channels, *size = shape
        self.shape = tuple(shape)
        sizes = ladder(size[0], size[1])
        deep = [channels, *(min(2**i, DEEPEST) * width for i in range(len(sizes) - 1))]
        layers: list[nn.Module] = []
        for i, large in enumerate(sizes[:-1]):
            layers += [nn.Conv2d(deep[i], deep[i + 1], kernel(large), 2, 1), nn.LeakyReLU(0.2)]
        layers += [nn.Flatten(), nn.Linear(deep[-1] * math.prod(sizes[-1]), 1)]
        self.layers = nn.Sequential(*layers)
        self.apply(_initialize)
        if norm == "spectral":
            for layer in self.layers:
                if isinstance(layer, (nn.Conv2d, nn.Linear)):
                    spectral_norm(layer)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] to logits (B,).

        Raises:
            ValueError: images of another shape.
        """
        if images.shape[1:] != self.shape:
            raise ValueError(
                f"Discriminator expects images (B, {', '.join(map(str, self.shape))}), "
                f"got {tuple(images.shape)}"
            )
        return self.layers(images).squeeze(1)


def _initialize(module: nn.Module) -> None:
    """The paper's: weights from N(0, 0.02), gains from N(1, 0.02)."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
