"""Reliability diagrams: how often what was told with a probability came true."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fourfold.core.types import Picture
from fourfold.look.figures import COLORS, picture, subplots

LEAST, FEW = 0.01, 5
"""Share of the rows, and rows, from which a bin is drawn: the frequency among a few is chance."""


def reliability_diagram(
    curves: Mapping[str, tuple[np.ndarray, float]], of: str, caption: str = ""
) -> Picture:
    """Frequency against probability, and below it how many rows were told with which.

    Args:
        curves: by what the probabilities are ("as predicted", "temperature"), (bins, 3) of mean
            probability, frequency and weight, and the expected calibration error.
        of: what the probability is of: "of yes", "of the predicted class".
        caption: for the report.
    """
    fig, (upper, lower) = subplots(
        2, 1, height=5.0, sharex=True, gridspec_kw={"height_ratios": [3, 1]}
    )
    upper.plot([0, 1], [0, 1], color="#888888", linewidth=1, linestyle=":")
    for (name, (bins, error)), color in zip(curves.items(), COLORS, strict=False):
        told, came, counts = bins.T
        total = counts.sum()  # weights, which need not count rows
        some = counts >= max(LEAST * total, min(FEW, total / 10))
        label = f"{name}: error {error:.3f}"
        upper.plot(told[some], came[some], marker="o", markersize=4, color=color, label=label)
        lower.step(told, counts / counts.sum(), where="mid", color=color, linewidth=1.2)
    upper.set(ylabel="frequency", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    lower.set(xlabel=f"probability {of}", ylabel="share of rows")
    lower.set_ylim(bottom=0)
    upper.legend(loc="upper left", frameon=False)
    said = (
        "On the dotted line probabilities mean what they say; below it the model is too sure. Bins of a few "
        "rows are left out. The error is the expected calibration error."
    )
    return picture(fig, "Reliability", f"{caption} {said}".strip())
