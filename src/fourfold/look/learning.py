"""Pictures of learning: over training, over the number of rows, and bias against variance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fourfold.core.types import Picture
from fourfold.core.words import number
from fourfold.look.curves import smooth_both_ways
from fourfold.look.figures import COLORS, picture, plain_ticks, short_name, subplots


def over_training(lines: Sequence[Mapping[str, Any]], best_step: int) -> Picture | None:
    """The training loss and the validation measure over the steps; None where there are too few.

    Args:
        lines: of the run's log.
        best_step: whose weights were kept.
    """
    train = [(line["step"], line["loss"]) for line in lines if "loss" in line and "step" in line]
    names = [name for line in lines for name in line if name.startswith("valid.")]
    if len(train) < 3 or not names:
        return None
    # a search that tries several logs the one it keeps once more in the end, with that one's step
    valid = sorted({line["step"]: line[names[0]] for line in lines if names[0] in line}.items())
    if len(valid) < 3:
        return None
    fig, (upper, lower) = subplots(2, 1, height=4.4, sharex=True)
    steps, losses = zip(*train, strict=True)
    upper.plot(steps, losses, color=COLORS[0], alpha=0.25, linewidth=1)
    upper.plot(steps, smooth_both_ways(losses), color=COLORS[0])
    upper.set_ylabel("training loss")
    if min(losses) > 0 and max(losses) > 40 * min(losses):
        upper.set_yscale("log")
    steps, values = zip(*valid, strict=True)
    lower.plot(steps, values, marker="o", markersize=3, color=COLORS[1])
    lower.axvline(best_step, color="#888888", linewidth=1, linestyle=":")
    lower.set(xlabel="step", ylabel=f"{names[0][6:].replace('_', ' ')}, validation")
    plain_ticks(lower.xaxis, lower.yaxis)
    caption = f"The dotted line is the step whose weights were kept, {best_step:,}."
    return picture(fig, "Learning over training", caption)


def compared(rows: Sequence[tuple[str, float]], measure: str, where: str) -> Picture:
    """Bars of the losses that the verdict compares."""
    fig, axes = subplots(height=1.0 + 0.4 * len(rows))
    places = np.arange(len(rows))[::-1]
    colors = [COLORS[0], COLORS[1], "#aaaaaa", COLORS[2]][: len(rows)]
    bars = axes.barh(places, [value for _, value in rows], color=colors)
    axes.bar_label(bars, [number(value) for _, value in rows], padding=4, fontsize=10)
    axes.set_yticks(places, [name for name, _ in rows])
    axes.margins(x=0.18)
    axes.locator_params(axis="x", nbins=5)
    plain_ticks(axes.xaxis)
    axes.set_xlabel(measure)
    return picture(fig, "Errors compared", f"Held-out: {where}. Less is better.")


def over_rows(
    rows: Sequence[int], train: Sequence[float], held: Sequence[float], measure: str
) -> Picture:
    """Training and held-out loss of fits on growing shares of the training rows."""
    fig, axes = subplots()
    axes.plot(rows, train, marker="o", color=COLORS[0], label="training rows")
    axes.plot(rows, held, marker="o", color=COLORS[1], label="held-out rows")
    axes.set_xscale("log")
    axes.set_xticks(rows, [f"{n:,}" for n in rows])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    plain_ticks(axes.yaxis)
    axes.set(xlabel="training rows", ylabel=measure)
    axes.legend(frameon=False)
    return picture(
        fig,
        "Learning over rows",
        "Fits on 10, 20, 40, 80 and 100% of the training rows, in as many steps. Where the upper curve still "
        "falls, more rows help; where both meet high up, a larger model may.",
    )


def bias_variance(
    option: str,
    values: Sequence[float],
    bias: Sequence[float],
    variance: Sequence[float],
    fits: int,
    of: str,
) -> Picture:
    """Squared bias and variance over an option's values."""
    fig, axes = subplots()
    x = np.arange(len(values))
    total = np.array(bias) + np.array(variance)
    axes.plot(x, total, marker="o", color="#555555", label="expected error")
    axes.plot(x, bias, marker="o", color=COLORS[0], label="bias² and noise")
    axes.plot(x, variance, marker="o", color=COLORS[1], label="variance")
    axes.set_xticks(x, [f"{v:,.4g}" for v in values])
    axes.set_ylim(bottom=0)
    plain_ticks(axes.yaxis)
    axes.set(xlabel=short_name(option, 40), ylabel=of)
    fig.legend(loc="outside lower center", ncols=3, frameon=False)
    return picture(
        fig,
        f"Bias and variance over {option}",
        f"{fits} fits on bootstrap samples for each value, measured on the held-out rows. Bias is what all fits "
        "get wrong alike, variance what differs between them; noise is in every fit.",
    )
