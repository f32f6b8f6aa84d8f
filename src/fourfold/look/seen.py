"""What is kept of a layer's output and of a parameter while a batch is watched.

Shapes: B examples, the first dimension; U units (channels after a convolution, otherwise the last dimension).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from fourfold.look.symmetry import Twins

Role = Literal["", "rectifier", "tanh", "sigmoid"]

VALUES = 1 << 20
"""Values of a tensor that its statistics are taken of, spread evenly over the units."""
LEVELS = (0.01, 0.25, 0.5, 0.75, 0.99)
"""Quantiles that are kept of every layer's output."""
NEAR = 0.01
"""Distance from the bound within which tanh and sigmoid count as saturated, as a share of their range."""


@dataclass
class Call:
    """What one layer gave in one call. Statistics leave out what is not finite."""

    name: str
    kind: str
    """Class of the module, or name of the function."""
    block: bool
    """Whether it holds layers that are listed too."""
    role: Role = ""
    shape: tuple[int, ...] = ()
    mean: float = math.nan
    deviation: float = math.nan
    spread: float = math.nan
    """How much a unit differs between examples: root mean square over units of the deviation over examples."""
    quantiles: tuple[float, ...] = ()
    """At LEVELS."""
    zeros: float = 0.0
    """Share of values that are exactly 0."""
    saturated: float = math.nan
    """Share within NEAR of a bound; of tanh and sigmoid only."""
    dead: Tensor | None = None
    """(U,) bool, units that are 0 for every example; of rectifiers only."""
    broken: int = 0
    """Values that are not finite."""
    gradient: float = math.nan
    """Norm of the loss's gradient with respect to the output; NaN where none comes."""
    broken_gradient: int = 0
    reads: str = ""
    """Layer whose output is this call's input as it stands; empty if something lies between."""


@dataclass
class Weights:
    """One parameter and its gradient."""

    name: str
    layer: str
    """The layer that used it first."""
    shape: tuple[int, ...]
    norm: float
    trained: bool
    """Whether the move may change it."""
    gradient: float = math.nan
    """Norm; NaN where it is not trained or the loss does not use it."""
    broken: int = 0
    """Values that are not finite."""
    broken_gradient: int = 0
    twins: Twins | None = None
    """Units that are perfectly equal; of matrices only."""

    @property
    def ratio(self) -> float:
        """Norm of the gradient over norm of the weights; NaN where one is missing or the weights are 0."""
        return self.gradient / self.norm if self.norm > 0 else math.nan


@dataclass
class Watched:
    """One player's move on one batch."""

    player: str
    loss: float
    """Divided by its weight."""
    examples: int
    calls: list[Call] = field(default_factory=list)
    """In the order in which they ended."""
    weights: list[Weights] = field(default_factory=list)
    """In the order in which the layers ran."""


def describe(call: Call, value: Tensor, channels_first: bool = False) -> None:
    """Fill a call's statistics in.

    Args:
        call: its `role` says what is looked for.
        value: (B, ...) float.
        channels_first: whether units are the second dimension.
    """
    call.shape, call.broken = tuple(value.shape), not_finite(value)
    rows = value.reshape(len(value), -1) if value.ndim else value.reshape(1, 1)
    x = _some(rows).to(_wide(value))  # (B, some of the rest)
    if len(x) > 1:
        call.spread = float(x.var(0, correction=0).nanmean().sqrt())
    flat = x[torch.isfinite(x)]
    if not len(flat):
        return
    call.mean, call.deviation = float(flat.mean()), float(flat.std(correction=0))
    levels = torch.tensor(LEVELS, dtype=flat.dtype, device=flat.device)
    call.quantiles = tuple(torch.quantile(flat, levels).tolist())
    call.zeros = float((flat == 0).double().mean())
    if call.role in ("tanh", "sigmoid"):
        low = -1.0 if call.role == "tanh" else 0.0
        edge = NEAR * (1 - low)
        call.saturated = float(((flat <= low + edge) | (flat >= 1 - edge)).double().mean())
    if call.role == "rectifier" and value.ndim > 1:
        unit = 1 if channels_first else value.ndim - 1
        call.dead = (value == 0).movedim(unit, 0).flatten(1).all(1)


def _some(rows: Tensor) -> Tensor:
    """Rows with at most VALUES numbers: columns spread evenly, in an order that hits no pattern of theirs."""
    if rows.numel() <= VALUES:
        return rows
    rows = rows[: VALUES // 2]
    keep = max(1, VALUES // len(rows))
    golden = (math.sqrt(5) - 1) / 2
    places = (torch.arange(keep, dtype=torch.float64) * golden) % 1 * rows.shape[1]
    return rows[:, places.long().to(rows.device)]


def norm(value: Tensor) -> float:
    """Euclidean, of all values; squares of what float32 holds do not overflow."""
    return float(torch.linalg.vector_norm(value.detach(), dtype=_wide(value)))


def _wide(value: Tensor) -> torch.dtype:
    return torch.float32 if value.device.type == "mps" else torch.float64  # which Metal has not


def not_finite(value: Tensor) -> int:
    """How many values are NaN or infinite."""
    finite = torch.isfinite(value.detach())
    return 0 if bool(finite.all()) else int((~finite).sum())


def numbered(calls: Sequence[Call]) -> list[str]:
    """A label for each call; those of a module that is called several times are numbered from 1."""
    many = Counter(c.name for c in calls)
    seen: Counter[str] = Counter()
    labels = []
    for call in calls:
        seen[call.name] += 1
        labels.append(f"{call.name} ({seen[call.name]})" if many[call.name] > 1 else call.name)
    return labels
