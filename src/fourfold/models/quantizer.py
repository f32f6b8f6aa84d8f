"""Vector quantization: van den Oord et al. 2017, https://arxiv.org/abs/1711.00937.

The codebook follows what it is given by exponential moving averages (the paper's appendix A.1); a code that is
hardly used begins anew from a vector of the batch (Dhariwal et al. 2020, https://arxiv.org/abs/2005.00341).
Several levels quantize what the levels before left over (residual quantization: Juang and Gray 1982; Zeghidour et
al. 2021, https://arxiv.org/abs/2107.03312). The gradient passes straight through, or turned and stretched as the
vector is (Fifty et al. 2024, https://arxiv.org/abs/2410.06424).
Shapes: N vectors, D features, K codes of a level, L levels.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fourfold.core.shares import drawn, idle

Gradient = Literal["rotation", "straight-through"]
EPS = 1e-6


class Quantized(NamedTuple):
    """What a quantizer says of vectors (..., D)."""

    values: Tensor
    """(..., D): the nearest sums of codes, with a gradient for the vectors."""
    codes: Tensor
    """(..., L) int64."""
    commitment: Tensor
    """(...): squared distance of each level's vector from its code, summed over levels; its gradient moves the vectors."""


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """The nearest code of each vector, (N,) int64; of equally near ones the first.

    Args:
        vectors: (N, D) float.
        codebook: (K, D) float.
    """
    # |x - e|^2 without |x|^2, which all codes share
    return (codebook.square().sum(1) - 2 * vectors @ codebook.T).argmin(1)


def rotated(vectors: Tensor, values: Tensor) -> Tensor:
    """`values`, with a gradient that reaches `vectors` turned and stretched by the map that takes each to its value.

    Args:
        vectors: (..., D) float, with a graph.
        values: (..., D) float, without one.
    """
    with torch.no_grad():
        lengths = vectors.norm(dim=-1, keepdim=True).clamp_min(EPS)
        wanted = values.norm(dim=-1, keepdim=True)
        start, end = vectors / lengths, values / wanted.clamp_min(EPS)
        middle = nn.functional.normalize(start + end, dim=-1, eps=EPS)
    along = (vectors * middle).sum(-1, keepdim=True)
    turned = vectors - 2 * along * middle + 2 * (vectors * start).sum(-1, keepdim=True) * end
    made = wanted / lengths * turned
    return made + (values - made).detach()  # exactly the codes, whatever rounding does


class Quantizer(nn.Module):
    """Codebooks that vectors are rounded to, level by level.

    Args:
        width: features of a vector, D.
        size: codes of a level, K.
        levels: L.
        decay: of the moving averages of how often each code is taken and what it stands for.
        restart: a code that is taken less often than this share of the mean begins anew; 0 never.
        gradient: how it passes.
        drop: share of training examples of which only the first few levels are kept, so that they serve alone.
    """

    codebook: Tensor
    counts: Tensor
    sums: Tensor
    begun: Tensor

    def __init__(
        self,
        width: int,
        size: int,
        levels: int = 1,
        *,
        decay: float = 0.99,
        restart: float = 0.1,
        gradient: Gradient = "rotation",
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        if min(width, size, levels) < 1:
            raise ValueError(
                f"Quantizer expects width, size and levels >= 1, got {width}, {size}, {levels}"
            )
        self.width, self.size, self.levels = width, size, levels
        self.decay, self.restart, self.gradient, self.drop = decay, restart, gradient, drop
        self.register_buffer("codebook", torch.randn(levels, size, width) / width**0.5)
        self.register_buffer("counts", torch.ones(levels, size))
        self.register_buffer("sums", self.codebook.clone())
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))

    def forward(self, vectors: Tensor) -> Quantized:
        """Round vectors; while training the codebooks follow.

        Args:
            vectors: (B, ..., D) float.

        Raises:
            ValueError: another number of features.
        """
        if vectors.ndim < 2 or vectors.shape[-1] != self.width:
            raise ValueError(
                f"Quantizer expects vectors (B, ..., {self.width}), got {tuple(vectors.shape)}"
            )
        with torch.autocast(vectors.device.type, enabled=False):
            full = vectors.float()
            flat = full.reshape(-1, self.width)
            codes, parts = self._levels(flat.detach(), self.training)
            # of level l what is left over by the levels before it
            left = flat[:, None] - torch.cat(
                [torch.zeros_like(parts[:, :1]), parts[:, :-1]], 1
            ).cumsum(1)
            commitment = (left - parts).square().sum((1, 2))
            values = self._kept(parts, len(vectors)).sum(1)
            made = (
                rotated(flat, values)
                if self.gradient == "rotation"
                else flat + (values - flat).detach()
            )
        shape = vectors.shape[:-1]
        return Quantized(
            made.view(vectors.shape), codes.view(*shape, self.levels), commitment.view(shape)
        )

    def encode(self, vectors: Tensor) -> Tensor:
        """Codes (..., L) of vectors (..., D); the codebooks stay as they are."""
        flat = vectors.detach().float().reshape(-1, self.width)
        with torch.autocast(vectors.device.type, enabled=False):
            codes, _ = self._levels(flat, False)
        return codes.view(*vectors.shape[:-1], self.levels)

    def _levels(self, flat: Tensor, learning: bool) -> tuple[Tensor, Tensor]:
        """Codes (N, L) and what they stand for (N, L, D)."""
        codes, parts, left = [], [], flat
        for level in range(self.levels):
            if learning and not self.begun:
                self._begin(level, left)
            chosen = nearest(left, self.codebook[level])
            part = self.codebook[level][chosen]
            if learning:
                self._follow(level, left, chosen)
            codes.append(chosen)
            parts.append(part)
            left = left - part
        if learning:
            self.begun.fill_(True)
        return torch.stack(codes, 1), torch.stack(parts, 1)

    def _kept(self, parts: Tensor, examples: int) -> Tensor:
        """The parts (N, L, D) without the later levels of some examples."""
        if not self.training or not self.drop or self.levels == 1:
            return parts
        device = parts.device
        many = drawn(examples, lambda n: torch.randint(1, self.levels + 1, (n,), device=device))
        some = drawn(examples, lambda n: torch.rand(n, device=device)) < self.drop
        many = torch.where(some, many, self.levels)
        kept = torch.arange(self.levels, device=device) < many[:, None]  # (B, L)
        return parts * kept.repeat_interleave(len(parts) // examples, 0)[..., None]

    @torch.no_grad()
    def _begin(self, level: int, vectors: Tensor) -> None:
        """The first codes of a level are vectors of the first batch."""
        chosen = _drawn(vectors, self.size)
        self.codebook[level] = chosen
        self.sums[level] = chosen
        self.counts[level].fill_(1.0)

    @torch.no_grad()
    def _follow(self, level: int, vectors: Tensor, chosen: Tensor) -> None:
        """Move the averages, and the codes after them."""
        taken = torch.zeros_like(self.counts[level])
        taken.index_add_(0, chosen, torch.ones_like(chosen, dtype=taken.dtype))
        total = torch.zeros_like(self.sums[level]).index_add_(0, chosen, vectors)
        if idle():  # a row that does not count
            taken.zero_()
            total.zero_()
        if _several():
            dist.all_reduce(taken)
            dist.all_reduce(total)
        self.counts[level].lerp_(taken, 1 - self.decay)
        self.sums[level].lerp_(total, 1 - self.decay)
        if self.restart:
            dead = self.counts[level] < self.restart * self.counts[level].mean()
            if dead.any():
                fresh = _drawn(vectors, int(dead.sum()))
                level_mean = self.counts[level].mean()
                self.sums[level][dead] = fresh * level_mean
                self.counts[level][dead] = level_mean
        self.codebook[level] = self.sums[level] / self.counts[level].clamp_min(1e-12)[:, None]

    def values(self, codes: Tensor) -> Tensor:
        """What codes stand for, (..., D); fewer levels than there are stand for the first of them.

        Args:
            codes: (..., l) int64 with l <= L.

        Raises:
            ValueError: more levels, or codes that do not exist.
        """
        levels = codes.shape[-1]
        if levels > self.levels or codes.min() < 0 or codes.max() >= self.size:
            raise ValueError(
                f"Quantizer expects codes (..., up to {self.levels}) from 0 to {self.size - 1}, got "
                f"{tuple(codes.shape)} from {int(codes.min())} to {int(codes.max())}"
            )
        made = self.codebook[0][codes[..., 0]]
        for level in range(1, levels):
            made = made + self.codebook[level][codes[..., level]]
        return made


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _drawn(vectors: Tensor, count: int) -> Tensor:
    """Some of the vectors, (count, D), each a little off so that no two codes are equal; the same on all processes."""
    index = torch.randint(len(vectors), (count,), device=vectors.device)
    spread = vectors.std(0, correction=0)
    fresh = vectors[index] + 1e-3 * spread * torch.randn_like(vectors[index])
    if _several():
        dist.broadcast(fresh, 0)
    return fresh
