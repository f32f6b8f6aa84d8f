"""Loss by size, and what it lets expect of the next size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fourfold.core.types import Picture
from fourfold.look.figures import COLORS, picture, plain_ticks, subplots


def scaling_picture(
    runs: Sequence[tuple[str, int, float]],
    places: np.ndarray,
    curves: np.ndarray | None,
    predicted: tuple[str, int, float, float, float] | None,
    checked: Sequence[tuple[int, float]],
) -> Picture:
    """Held-out loss against weights on a logarithmic axis.

    Args:
        runs: size, weights and bits per byte of each run.
        places: (P,) weights at which the curves are known.
        curves: (3, P) low, middle and high of what is expected; None draws none.
        predicted: size, weights, middle, low and high.
        checked: weights and bits per byte of runs of that size.
    """
    fig, axes = subplots(width=7.0, height=4.4)
    axes.set_xscale("log")
    if curves is not None:
        axes.fill_between(places, curves[0], curves[2], color=COLORS[0], alpha=0.15, linewidth=0)
        axes.plot(places, curves[1], color=COLORS[0], linewidth=1.2)
    weights, losses = [r[1] for r in runs], [r[2] for r in runs]
    axes.plot(weights, losses, "o", color=COLORS[0], markersize=7, label="trained")
    labels = {size: (w, max(r[2] for r in runs if r[0] == size)) for size, w, _ in runs}
    if predicted is not None:
        size, place, middle, low, high = predicted
        axes.errorbar(
            [place], [middle], [[middle - low], [high - middle]], fmt="D", color=COLORS[1],
            markersize=7, capsize=5, label="expected, 90%",
        )  # fmt: skip
        labels[size] = (place, max([high, *(loss for _, loss in checked)]))
    if checked:
        axes.plot(
            [c[0] for c in checked], [c[1] for c in checked], "*", color=COLORS[2], markersize=13,
            label="then trained",
        )  # fmt: skip
    for size, (place, height) in labels.items():
        axes.annotate(
            size,
            (place, height),
            xytext=(0, 9),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
    ticks = sorted({place for place, _ in labels.values()})
    axes.set_xticks(ticks, [_short(t) for t in ticks])
    axes.minorticks_off()
    axes.margins(x=0.1, y=0.16)
    plain_ticks(axes.yaxis)
    axes.set(xlabel="weights that a token is multiplied with", ylabel="bits per byte, held out")
    axes.legend()
    return picture(
        fig,
        "What the next size is expected to reach",
        "Every size saw the same tokens. The band holds nine of ten bootstrap replicates.",
    )


def _short(number: int) -> str:
    for unit, name in ((1_000_000_000, "B"), (1_000_000, "M"), (1000, "k")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return str(number)
