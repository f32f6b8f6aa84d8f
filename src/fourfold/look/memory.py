"""How far back a recurrent network is taught: the size of the gradient by distance. Bengio et al. 1994; Pascanu et al. 2013.

Shapes: K + 1 distances, 0 being the token itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fourfold.core.types import Picture, Table
from fourfold.look.figures import picture, subplots

SHARES = (0.1, 0.01, 0.001)
"""Down to which the table says how far it is."""
LEAST = 1e-12
"""Below this nothing is drawn: a float32 gradient has no meaning there."""


def reach(curve: np.ndarray, share: float) -> int | None:
    """The distance from which on a curve, (K + 1,), stays below a share of its value at 0; None if it does not get there."""
    above = np.flatnonzero(curve >= share * curve[0])
    first = int(above[-1]) + 1 if len(above) else 0
    return first if first < len(curve) else None


def gradient_picture(curves: Mapping[str, np.ndarray], window: int) -> Picture:
    """The gradient's size against distance, each curve relative to its own value at distance 0.

    Args:
        curves: by name, each (K + 1,); the first is the run's own and drawn thickest.
        window: tokens after which back-propagation is cut while learning.
    """
    fig, axes = subplots(width=7.2, height=3.9)
    longest = 0
    for number, (name, curve) in enumerate(curves.items()):
        shares = np.maximum(curve / max(float(curve[0]), 1e-300), LEAST / 10)
        shown = np.where(shares >= LEAST, shares, np.nan)
        axes.plot(
            shown, label=name, linewidth=1.8 if number else 2.8, linestyle="--" if number else "-"
        )
        longest = max(longest, len(curve) - 1)
    axes.set_yscale("log")
    if window <= longest:
        axes.axvline(window, color="#888888", linewidth=1, linestyle=":")
        axes.annotate(
            f" window: {window}", (window, 1), xycoords=("data", "axes fraction"), va="top",
            fontsize=10, color="#555555",
        )  # fmt: skip
    axes.set(
        xlabel="distance back (tokens)",
        ylabel="gradient, relative to distance 0",
        xlim=(0, longest),
    )
    axes.legend(loc="best")
    caption = (
        "Norm of the gradient of the last layer's state, along random directions, by the word vector read so many "
        "tokens before; means of its logarithm over held-out places. Where a curve falls, what is that far back can no longer be learned; beyond the "
        "window only the carried state reaches, without a gradient. Dashed: untrained networks of the same size."
    )
    return picture(fig, "Gradient by distance", caption)


def gradient_table(curves: Mapping[str, np.ndarray]) -> Table:
    """How far each curve is above some shares of its value at distance 0."""

    def cell(curve: np.ndarray, share: float) -> str:
        found = reach(curve, share)
        return f"over {len(curve) - 1}" if found is None else str(found)

    rows = tuple(
        (name, *(cell(curve, share) for share in SHARES)) for name, curve in curves.items()
    )
    columns = ("network", *(f"tokens until below {share:g}" for share in SHARES))
    return Table("Gradient by distance", columns, rows)
