"""VQ-VAE: images as grids of codes, and how likely such grids are. Van den Oord et al. 2017, https://arxiv.org/abs/1711.00937.

Shapes: B batch, C channels, H and W pixels, h and w of the grid, D features, L levels, K codes of a level.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.models.code_context import CodeContext, code_nats
from fourfold.models.grids import GridDecoder, GridEncoder
from fourfold.models.patch_discriminator import PatchDiscriminator
from fourfold.models.quantizer import Gradient, Quantized, Quantizer
from fourfold.models.sampling import Sampling
from fourfold.models.torch_decoder import TorchDecoder
from fourfold.models.transformer import Transformer


class Coded(NamedTuple):
    """An image through the bottleneck."""

    image: Tensor
    """(B, C, H, W)."""
    grid: Quantized


class GridCodec(nn.Module):
    """Images to codes and back.

    Args:
        channels: C.
        width: features of the networks.
        features: D, of a code's vector.
        stages: how often height and width are halved.
        size, levels, gradient, drop, restart: see `Quantizer`.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        features: int,
        stages: int,
        *,
        size: int,
        levels: int = 1,
        blocks: int = 2,
        gradient: Gradient = "rotation",
        drop: float = 0.0,
        restart: float = 0.1,
    ) -> None:
        super().__init__()
        self.channels, self.width, self.stages = channels, width, stages
        self.encoder = GridEncoder(channels, width, features, stages, blocks)
        self.quantizer = Quantizer(
            features, size, levels, gradient=gradient, drop=drop, restart=restart
        )
        self.decoder = GridDecoder(channels, width, features, stages, blocks)

    def forward(self, images: Tensor) -> Coded:
        """Through codes and back, (B, C, H, W) in [-1, 1]."""
        grid = self.quantizer(self.encoder(images))
        height, width = images.shape[-2:]
        return Coded(self.decoder(grid.values, (height, width)), grid)

    def encode(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to codes (B, h, w, L) int64."""
        return self.quantizer.encode(self.encoder(images))

    def decode(self, codes: Tensor, size: tuple[int, int]) -> Tensor:
        """Codes (B, h, w, l), the first l levels, to images (B, C, H, W)."""
        return self.decoder(self.quantizer.values(codes), size)

    def grid_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of images of a size (H, W)."""
        step = 2**self.stages
        return -(-size[0] // step), -(-size[1] // step)


class CodePrior(nn.Module):
    """A Transformer over the codes of grids of one size, read row by row, the levels of a place one after the other.

    Args:
        size, levels: K and L.
        places: h times w.
        width, layers, heads, dropout: of the Transformer.
    """

    def __init__(
        self,
        size: int,
        levels: int,
        places: int,
        *,
        width: int,
        layers: int,
        heads: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.size, self.levels, self.places = size, levels, places
        self.begin = size * levels  # the token before the first
        self.transformer = Transformer(
            self.begin + 1, width, layers, heads, window=places * levels, dropout=dropout, tied=False
        )  # fmt: skip

    def _tokens(self, codes: Tensor) -> Tensor:
        """(B, h, w, L) to (B, T): each level has numbers of its own."""
        offsets = self.size * torch.arange(self.levels, device=codes.device)
        return (codes + offsets).flatten(1)

    def forward(self, codes: Tensor) -> Tensor:
        """What the codes (B, h, w, L) of each grid cost, (B,) nats.

        Raises:
            ValueError: grids of another size.
        """
        tokens = self._tokens(codes)
        if tokens.shape[1] != self.places * self.levels:
            raise ValueError(
                f"CodePrior expects {self.places} places of {self.levels} levels, got {tuple(codes.shape)}"
            )
        start = tokens.new_full((len(tokens), 1), self.begin)
        states = self.transformer.states(torch.cat([start, tokens[:, :-1]], 1))
        targets = codes.flatten(1)
        nats = torch.zeros(targets.shape, device=codes.device)
        for level in range(self.levels):  # only the level that comes next is to be told apart
            at = slice(level, None, self.levels)
            weight = self.transformer.head.weight[level * self.size : (level + 1) * self.size]
            logits = F.linear(states[:, at], weight).float()
            nats[:, at] = F.cross_entropy(logits.movedim(-1, 1), targets[:, at], reduction="none")
        return nats.sum(1)

    @torch.no_grad()
    def draw(self, count: int, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        """Codes of new grids, (count, places, L) int64."""
        decoder = TorchDecoder(self.transformer, count)
        sampling = Sampling(temperature=temperature)
        slots = list(range(count))
        last = [[self.begin] for _ in slots]
        drawn: list[list[int]] = []
        for step in range(self.places * self.levels):
            first = step % self.levels * self.size
            logits = decoder.read(slots, last)[:, first : first + self.size]
            tokens = sampling.draw(logits.float(), [generator] * count)
            drawn.append(tokens)
            last = [[first + token] for token in tokens]
        return torch.tensor(drawn).T.reshape(count, self.places, self.levels)


class VQVAE(nn.Module):
    """The players: `codec` learns codes, `context` what a code costs in a file, `prior` how likely whole grids are.

    A `discriminator` tells patches of images from those that come back, where there is one.
    """

    players = ("codec", "context", "prior", "discriminator")

    def __init__(
        self,
        codec: GridCodec,
        context: CodeContext,
        prior: CodePrior | None,
        discriminator: PatchDiscriminator | None = None,
    ) -> None:
        super().__init__()
        self.codec, self.context, self.prior = codec, context, prior
        self.discriminator = discriminator

    def parts(self, codes: Tensor) -> Tensor:
        """Every level's vector of codes (..., L): (..., L, D)."""
        book = self.codec.quantizer.codebook
        return torch.stack([book[level][codes[..., level]] for level in range(codes.shape[-1])], -2)

    def context_nats(self, codes: Tensor, level: int) -> Tensor:
        """What one level of codes (B, h, w, L) costs in a file, (B, h, w) nats."""
        return code_nats(self.context, self.parts(codes), codes, level)
