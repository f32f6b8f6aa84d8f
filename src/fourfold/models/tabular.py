"""What a network sees of a table's columns: embeddings of numbers and of categories with many values.

Piecewise-linear and periodic embeddings of numbers: Gorishniy, Rubachev and Babenko 2022,
https://arxiv.org/abs/2203.05556; embeddings of categories: Guo and Berkhahn 2016,
https://arxiv.org/abs/1604.06737.
Shapes: B rows, D prepared columns, N columns of numbers, T bins, F frequencies, E numbers that the
network sees of a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourfold.models.noise import perturbed_rows


class PiecewiseLinear(nn.Module):
    """Each number by how far it fills each of T bins: 1 below it, a share within, 0 above (their equation 1).

    The first bin goes on below its lower edge and the last above its upper one, so nothing is cut off.
    Bins without width, of numbers with few values, stay 0.
    """

    shift: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, edges: np.ndarray) -> None:
        """An encoding.

        Args:
            edges: (N, T + 1) float, ascending in each row.
        """
        super().__init__()
        lower, width = edges[:, :-1], np.diff(edges, axis=1)
        real = width > 0
        scale = np.divide(1.0, width, out=np.zeros_like(width), where=real)
        bins = np.arange(edges.shape[1] - 1)
        some = real.any(axis=1, keepdims=True)
        first = some & (bins == real.argmax(axis=1)[:, None])
        last = some & (bins == len(bins) - 1 - real[:, ::-1].argmax(axis=1)[:, None])
        for name, values in (
            ("shift", -lower * scale),
            ("scale", scale),
            ("low", np.where(first, -np.inf, 0.0)),
            ("high", np.where(last, np.inf, 1.0)),
        ):
            self.register_buffer(name, torch.from_numpy(values).float())
        self.outputs = edges.shape[1] - 1

    def forward(self, x: Tensor) -> Tensor:
        """(B, N) to (B, N, T)."""
        filled = torch.addcmul(self.shift, x[..., None], self.scale)
        return filled.clamp(self.low, self.high)


class Periodic(nn.Module):
    """Sines and cosines of 2 pi c x with frequencies c that are learned (their equation 4)."""

    def __init__(self, numbers: int, frequencies: int, scale: float) -> None:
        """An embedding.

        Args:
            numbers: N.
            frequencies: F of each number.
            scale: standard deviation of the initial frequencies, their most telling choice.
        """
        super().__init__()
        self.frequencies = nn.Parameter(scale * torch.randn(numbers, frequencies))
        self.outputs = 2 * frequencies

    def forward(self, x: Tensor) -> Tensor:
        """(B, N) to (B, N, 2 F)."""
        angles = 2 * math.pi * self.frequencies * x[..., None]
        return torch.cat((angles.sin(), angles.cos()), dim=-1)


class PerNumber(nn.Module):
    """A linear layer of its own for each number's encoding, then relu: "LR" of their names."""

    def __init__(self, numbers: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(numbers, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(numbers * outputs).uniform_(-bound, bound))
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, inputs) to (B, N, outputs)."""
        mixed = torch.einsum("bni,nio->bno", x, self.weight)
        return torch.relu(mixed + self.bias.view(-1, self.outputs))


class Codes(nn.Module):
    """A learned vector for each category of each column; code 0, unseen or missing, begins at zero."""

    offsets: Tensor

    def __init__(self, sizes: Sequence[int], width: int) -> None:
        """A table.

        Args:
            sizes: codes of each column.
            width: numbers that stand for a category.
        """
        super().__init__()
        offsets = torch.tensor([0, *sizes]).cumsum(0)
        # a plain parameter: weight decay, which leaves torch.nn.Embedding alone, is what keeps rare
        # categories near the average here
        self.weight = nn.Parameter(width**-0.5 * torch.randn(int(offsets[-1]), width))
        self.register_buffer("offsets", offsets[:-1], persistent=False)
        with torch.no_grad():
            self.weight[self.offsets] = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """(B, columns) of codes, whole numbers in any format, to (B, columns * width)."""
        return F.embedding(x.long() + self.offsets, self.weight).flatten(1)


class Columns(nn.Module):
    """Prepared columns (B, D) as what the network sees (B, E): all but codes as they are, then embeddings.

    Embedded numbers stay beside their embedding: of few rows bins alone overfit (docs/experiments.md).
    """

    plain: Tensor
    encoded: Tensor
    coded: Tensor
    spread: Tensor

    def __init__(
        self,
        kinds: Sequence[str],
        *,
        numbers: nn.Module | None = None,
        number_width: int | None = None,
        sizes: Sequence[int] = (),
        code_width: int = 16,
        noise: float = 0.0,
    ) -> None:
        """The front of a network.

        Args:
            kinds: of the D columns; "number" and "code" are treated apart.
            numbers: PiecewiseLinear or Periodic over the columns of kind "number"; None embeds none.
            number_width: numbers that stand for each after a layer of its own; None takes the encoding itself.
            sizes: codes of each column of kind "code", in order.
            code_width: numbers that stand for a category.
            noise: standard deviation of what is added to all columns but codes while learning.
        """
        super().__init__()
        spread = [0.0 if kind == "code" else noise for kind in kinds]
        self.register_buffer("spread", torch.tensor(spread), persistent=False)
        self.noisy = noise > 0
        count = sum(kind == "number" for kind in kinds)
        self.numbers = numbers if count else None
        self._index("plain", [i for i, kind in enumerate(kinds) if kind != "code"])
        self._index("encoded", [i for i, kind in enumerate(kinds) if kind == "number"])
        self._index("coded", [i for i, kind in enumerate(kinds) if kind == "code"])
        self.mixed: PerNumber | None = None
        self.codes = Codes(sizes, code_width) if sizes else None
        self.outputs = len(self.plain) + code_width * len(sizes)
        if self.numbers is not None:
            width = int(self.numbers.outputs)  # type: ignore[arg-type]
            if number_width is not None:
                self.mixed = PerNumber(count, width, number_width)
                width = number_width
            self.outputs += count * width

    def _index(self, name: str, positions: list[int]) -> None:
        self.register_buffer(name, torch.tensor(positions, dtype=torch.long), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) float to (B, E)."""
        if self.noisy and self.training:
            features = perturbed_rows(features, self.spread)
        if self.numbers is None and self.codes is None:
            return features
        seen = [features.index_select(1, self.plain)] if len(self.plain) else []
        if self.numbers is not None:
            encoded = self.numbers(features.index_select(1, self.encoded))
            seen.append((self.mixed(encoded) if self.mixed else encoded).flatten(1))
        if self.codes is not None:
            seen.append(self.codes(features.index_select(1, self.coded)))
        return torch.cat(seen, dim=1)
