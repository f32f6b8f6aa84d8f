"""Units that are perfectly equal: with equal weights and equal gradients they stay equal for ever.

Shapes: U units, N weights of each.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

WEIGHTS, GRADIENTS = 1e-6, 1e-4
"""Largest difference, relative to the larger of two units, at which they count as equal: a sum's last
digits depend on how it is cut into pieces, and training carries them into the weights."""


class Twins(NamedTuple):
    """Equal units of one layer."""

    units: int
    """In all."""
    equal: int
    """That have at least one twin."""
    kinds: int
    """Groups of twins."""
    moving: bool
    """Whether a gradient reaches them."""


def twins(weight: Tensor, gradient: Tensor, dim: int = 0) -> Twins | None:
    """Groups of units whose weights are equal and whose gradients are.

    Args:
        weight, gradient: equal shapes of two dimensions or more, float, finite.
        dim: along which the units stand.

    Returns:
        None if there are none. Units without gradient (dead ones) count only if all of the layer are
        equal, as nothing then tells any two of them apart.
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    rows = weight.detach().movedim(dim, 0).flatten(1).to(wide)  # (U, N)
    slopes = gradient.detach().movedim(dim, 0).flatten(1).to(wide)
    if len(rows) < 2:
        return None
    # equal units have equal projections: after sorting they are neighbours
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(rows.shape[1], generator=generator, dtype=wide).to(rows.device)
    order = (rows @ direction).argsort()
    close = _equal(rows, order, WEIGHTS)
    close &= _equal(slopes, order, GRADIENTS)
    still = (slopes == 0).all(1)[order]
    if not bool(close.all()):
        close &= ~(still[1:] & still[:-1])
    if not bool(close.any()):
        return None
    edge = torch.zeros(1, dtype=torch.bool, device=close.device)
    before, after = torch.cat([edge, close]), torch.cat([close, edge])
    equal, kinds = int((before | after).sum()), int((after & ~before).sum())
    return Twins(len(rows), equal, kinds, not bool(still.all()))


def _equal(rows: Tensor, order: Tensor, tolerance: float) -> Tensor:
    """(U - 1,) bool: which neighbours in this order are equal."""
    first, second = rows[order[:-1]], rows[order[1:]]
    larger = torch.maximum(first.abs().amax(1), second.abs().amax(1))
    return (first - second).abs().amax(1) <= tolerance * larger
