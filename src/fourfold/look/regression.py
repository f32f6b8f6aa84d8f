"""Pictures of predicted numbers: against the truth, residuals, and how they spread.

Shapes: N rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fourfold.core.types import Picture
from fourfold.look.figures import picture, plain_ticks, short_name, subplots

POINTS = 5_000
"""Rows in a picture."""


def predictions(
    predicted: np.ndarray, true: np.ndarray, name: str, sentence: str
) -> Iterator[Picture]:
    """Predicted against true values; residuals; their distribution.

    Args:
        predicted, true: (N,) in the target's units.
        name: of the target.
        sentence: which rows these are: "on its own test split".
    """
    if not len(true):
        return
    some = np.linspace(0, len(true) - 1, min(POINTS, len(true))).astype(int)
    shown, known, word = predicted[some], true[some], short_name(name, 40)
    rows = f"{len(some):,} rows {sentence}."
    fig, axes = subplots()
    axes.scatter(known, shown, s=6, alpha=_alpha(len(some)))
    ends = [min(known.min(), shown.min()), max(known.max(), shown.max())]
    axes.plot(ends, ends, color="#888888", linewidth=1)
    axes.set(xlabel=f"true {word}", ylabel=f"predicted {word}")
    plain_ticks(axes.xaxis, axes.yaxis)
    yield picture(fig, "Predicted against true", f"{rows} Perfect predictions lie on the line.")
    fig, axes = subplots(1, 2, width=7.2, sharey=True, gridspec_kw={"width_ratios": [3, 1]})
    residual = known - shown
    axes[0].scatter(shown, residual, s=6, alpha=_alpha(len(some)))
    axes[0].axhline(0, color="#888888", linewidth=1)
    axes[0].set(xlabel=f"predicted {word}", ylabel="true - predicted")
    plain_ticks(axes[0].xaxis, axes[0].yaxis)
    axes[1].hist(residual, bins=40, orientation="horizontal")
    axes[1].set_xlabel("rows")
    yield picture(
        fig,
        "Residuals",
        f"{rows} A pattern here is something that the model does not express; a fan says that errors grow.",
    )


def _alpha(rows: int) -> float:
    return 0.7 if rows < 300 else 0.4 if rows < 2_000 else 0.25
