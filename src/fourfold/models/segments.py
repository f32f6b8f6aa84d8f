"""Several examples in one row: which is which, where each begins, and what attention may see.

Shapes: B rows, T positions, H heads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

ROUND = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768)
"""Lengths that examples are filled up to, so that few batches hold them all; longer ones to multiples of 256."""


class Plan(NamedTuple):
    """How the positions of packed rows are taken apart into batches of examples of like length.

    Rows are those of a tensor (B, H, T, D) seen as (B * H * T, D).
    """

    there: Tensor
    """(M,) int64: the row that each place of the batches takes; a filled place repeats its example's last row."""
    back: Tensor
    """(B * H * T,) int64: the place that each row came to."""
    filling: Tensor
    """int64, the places that are filled."""
    groups: tuple[tuple[int, int], ...]
    """(examples times heads, length) of each batch, in order; M is the sum of their products."""


class Segments:
    """Which example of a packed row each position belongs to, and what follows from it, computed once.

    Args:
        numbers: (B, T) int64; an example's positions stand side by side and have one number, other than that of
            every other example in the row.
    """

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers
        self._mask: Tensor | None = None
        self._plans: dict[int, Plan] = {}
        self._single: bool | None = None

    @property
    def mask(self) -> Tensor:
        """(B, 1, T, T) bool: whether two positions belong to the same example."""
        if self._mask is None:
            self._mask = self.numbers[:, None, :, None] == self.numbers[:, None, None, :]
        return self._mask

    def places(self) -> Tensor:
        """(B, T) int64: each position counted from the first of its example."""
        numbers = self.numbers
        at = torch.arange(numbers.shape[1], device=numbers.device)
        new = numbers[:, 1:] != numbers[:, :-1]
        begins = torch.cat((torch.zeros_like(new[:, :1]), new), dim=1)
        return at - torch.where(begins, at, 0).cummax(dim=1).values

    def single(self) -> bool:
        """Whether every row is one example; looks at the numbers, so only where they are at hand (CPU)."""
        if self._single is None:
            self._single = bool((self.numbers == self.numbers[:, :1]).all())
        return self._single

    def plan(self, heads: int) -> Plan:
        """How to take the rows of `heads` heads apart; see `Plan`."""
        if heads not in self._plans:
            self._plans[heads] = _plan(self.numbers, heads)
        return self._plans[heads]


def _plan(numbers: Tensor, heads: int) -> Plan:
    found = numbers.numpy()
    batch, time = found.shape
    new = np.ones((batch, time), bool)
    new[:, 1:] = found[:, 1:] != found[:, :-1]
    starts = np.flatnonzero(new)
    lengths = np.diff(starts, append=batch * time)
    filled = np.array([_filled(length) for length in range(time + 1)])[lengths]
    theres, fillings, groups, first = [], [], [], 0
    for length in np.unique(filled).tolist():
        some = filled == length
        at = np.arange(length)
        ends = np.minimum(at, lengths[some, None] - 1)  # (N, L), from the example's first position
        row, place = np.divmod(starts[some], time)
        bases = (row[:, None] * heads + np.arange(heads)) * time + place[:, None]  # (N, H)
        theres.append((bases[..., None] + ends[:, None]).reshape(-1))
        empty = np.broadcast_to((at >= lengths[some, None])[:, None], (*bases.shape, length))
        fillings.append(first + np.flatnonzero(empty))
        groups.append((bases.size, length))
        first += bases.size * length
    there, filling = np.concatenate(theres), np.concatenate(fillings)
    back = np.empty(batch * heads * time, np.int64)
    real = np.ones(len(there), bool)
    real[filling] = False
    back[there[real]] = np.flatnonzero(real)
    a, b, c = map(torch.from_numpy, (there, back, filling))
    return Plan(a, b, c, tuple(groups))


def _filled(length: int) -> int:
    """The length that an example is filled up to."""
    fitting = next((size for size in ROUND if size >= length), None)
    return fitting or -(-length // 256) * 256
