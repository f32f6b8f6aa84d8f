"""Which values a normalization averages over, drawn as a block of N examples x C channels x L positions.

Batch: Ioffe and Szegedy 2015; layer: Ba et al. 2016; instance: Ulyanov et al. 2016; RMS: Zhang and
Sennrich 2019; group: Wu and He 2018, whose figure 2 this follows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from fourfold.core.types import Picture
from fourfold.look.figures import COLORS, picture, subplots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHAPE = (4, 4, 4)
"""Examples, channels and positions of the drawn block."""


@dataclass(frozen=True)
class Normalization:
    """What one kind of layer takes its moments over."""

    kind: str
    examples: bool
    """Whether over all examples; otherwise each has moments of its own."""
    channels: bool
    """Whether over channels; otherwise each has moments of its own."""
    positions: bool
    """Whether over positions (time, pixels); otherwise each has moments of its own."""
    groups: int = 1
    """Groups into which the channels are cut first."""
    mean: bool = True
    """Whether the mean is taken off; RMS divides by the root mean square only."""

    def words(self) -> str:
        """What is averaged over: "the examples and positions of one channel"."""
        axes = ("examples", "positions", "channels")
        over = (self.examples, self.positions, self.channels)
        taken = [a for a, o in zip(axes, over, strict=True) if o]
        kept = [f"one {a[:-1]}" for a, o in zip(axes, over, strict=True) if not o]
        told = " and ".join(taken) if len(taken) < 3 else "all values"
        if self.groups > 1:
            told = told.replace("channels", f"channels (in {self.groups} groups)")
        return f"the {told} of {' and '.join(kept)}" if kept else told


def normalization_of(module: nn.Module) -> Normalization | None:
    """What a module normalizes over; None if it is no normalization that is known here.

    Modules of one's own count as RMS normalization of the last dimension if their class is named RMSNorm.
    """
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return Normalization("batch", True, False, True)
    if isinstance(module, nn.modules.instancenorm._InstanceNorm):
        return Normalization("instance", False, False, True)
    if isinstance(module, nn.GroupNorm):
        return Normalization("group", False, True, True, module.num_groups)
    if isinstance(module, nn.LayerNorm):
        return Normalization("layer", False, True, len(module.normalized_shape) > 1)
    if type(module).__name__.endswith("RMSNorm"):
        wide = len(getattr(module, "normalized_shape", ())) > 1
        return Normalization("RMS", False, True, wide, mean=False)
    return None


def shared(how: Normalization, cell: tuple[int, int, int], shape: Sequence[int]) -> np.ndarray:
    """Which values have their moments in common with one of them.

    Args:
        how: the normalization.
        cell: example, channel and position of the one.
        shape: (N, C, L); C a multiple of the groups.

    Returns:
        (N, C, L) bool.
    """
    n, c, position = np.indices(tuple(shape))
    size = math.ceil(shape[1] / how.groups)
    together = how.examples | (n == cell[0])
    together &= (c // size == cell[1] // size) if how.channels else (c == cell[1])
    together &= how.positions | (position == cell[2])
    return together


def normalization_pictures(model: nn.Module) -> tuple[Picture, ...]:
    """One picture of the kinds of normalization that a model has; none if it has none."""
    found: dict[Normalization, list[str]] = {}
    for name, module in model.named_modules():
        how = normalization_of(module)
        if how is not None:
            found.setdefault(how, []).append(name or type(module).__name__)
    if not found:
        return ()
    layers = "; ".join(
        f"{how.kind}: {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if names[3:] else "")
        for how, names in found.items()
    )
    return (normalization_picture(list(found), layers),)


def normalization_picture(kinds: Sequence[Normalization], caption: str = "") -> Picture:
    """Blocks of values, side by side; those in colour share one mean and variance.

    Args:
        kinds: at least one.
        caption: a further sentence.
    """
    fig, axes = subplots(1, len(kinds), width=max(3.4, 2.6 * len(kinds)), height=3.1, squeeze=False)
    for axis, how in zip(axes[0], kinds, strict=True):
        _draw(axis, how)
    told = "; ".join(f"{how.kind} normalization over {how.words()}" for how in kinds)
    told = f"{told[0].upper()}{told[1:]}. Values in colour share one mean and variance"
    if not all(how.mean for how in kinds):
        told += " (RMS: one mean square, no mean)"
    told += "; a table has a single position." + (f" {caption}." if caption else "")
    return picture(fig, "What the normalization averages over", told)


def _draw(axis: Axes, how: Normalization) -> None:
    """A block seen from above: examples to the back, channels to the right, positions upwards."""
    size = math.ceil(SHAPE[1] / min(how.groups, 2))  # two groups can be told apart
    drawn = Normalization(
        how.kind, how.examples, how.channels, how.positions, min(how.groups, 2), how.mean
    )
    colored = shared(drawn, (0, size - 1, SHAPE[2] - 1), SHAPE)
    for corners, cell, shade in _faces():
        color = COLORS[0] if colored[cell] else "#f2f2f2"
        face = [*(int(color[i : i + 2], 16) / 255 * shade for i in (1, 3, 5))]
        axis.fill(*zip(*corners, strict=True), facecolor=face, edgecolor="#ffffff", linewidth=1)
    n, c, height = SHAPE
    for text, at, turn in (
        ("C channels", _project(0, c / 2, -0.55), 0),
        ("N examples", _project(n / 2, c + 0.75, -0.1), 38),
        ("L positions", _project(0, -0.5, height / 2), 90),
    ):
        axis.text(*at, text, ha="center", va="center", rotation=turn, fontsize=9)
    axis.set(title=how.kind, aspect="equal")
    axis.margins(0.08)
    axis.set_axis_off()


def _project(n: float, c: float, position: float) -> tuple[float, float]:
    return c + 0.55 * n, position + 0.42 * n


def _faces() -> list[tuple[list[tuple[float, float]], tuple[int, int, int], float]]:
    """The visible sides of every outer cell: corners, the cell, and how much light falls there."""
    n, c, height = SHAPE
    found: list[Any] = []
    steps = ((0, 0), (1, 0), (1, 1), (0, 1))
    for i, j in np.ndindex(c, height):  # front: the first example
        found.append(([_project(0, i + a, j + b) for a, b in steps], (0, i, j), 1.0))
    for i, j in np.ndindex(n, c):  # top: the last position
        found.append(([_project(i + a, j + b, height) for a, b in steps], (i, j, height - 1), 0.93))
    for i, j in np.ndindex(n, height):  # right: the last channel
        found.append(([_project(i + a, c, j + b) for a, b in steps], (i, c - 1, j), 0.82))
    return found
