"""Pictures of what predictions rest on: contributions, permutation importance, partial dependence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fourfold.core.types import Picture
from fourfold.core.words import number
from fourfold.look.figures import COLORS, picture, plain_ticks, short_name, subplots

SHOWN = 20
"""Columns in a picture."""


def importance(
    names: Sequence[str], means: np.ndarray, deviations: np.ndarray, measure: str, caption: str
) -> Picture:
    """Bars of how much a measure suffers when a column is shuffled, the largest on top."""
    order = np.argsort(means, kind="stable")[-SHOWN:]
    fig, axes = subplots(height=1.2 + 0.26 * len(order))
    axes.barh(range(len(order)), means[order], xerr=deviations[order])
    axes.set_yticks(range(len(order)), [short_name(names[i], 28) for i in order])
    axes.axvline(0, color="#888888", linewidth=1)
    axes.locator_params(axis="x", nbins=5)  # long numbers must not run into one another
    plain_ticks(axes.xaxis)
    axes.set_xlabel(f"rise of the {measure} when shuffled")
    cut = f" The {SHOWN} largest of {len(names):,}." if len(names) > SHOWN else ""
    return picture(fig, "Permutation importance", f"{caption}{cut}")


def dependence(
    curves: Mapping[str, tuple[Sequence[str] | np.ndarray, np.ndarray]],
    rugs: Mapping[str, np.ndarray],
    outputs: Sequence[str],
    y_label: str,
    caption: str,
) -> Picture:
    """Mean prediction against one column at a time.

    Args:
        curves: by column, (V,) values, numbers or categories, and (V, K) mean predictions.
        rugs: by column of numbers, values that the rows have, drawn as ticks.
        outputs: names of the K predicted values.
        y_label: what is predicted.
        caption: for the report.
    """
    across = min(2, len(curves))
    down = -(-len(curves) // across)
    fig, grid = subplots(
        down, across, width=3.7 * across + 0.6, height=2.7 * down + 0.3, sharey=True, squeeze=False
    )
    for place in grid.flat[len(curves) :]:
        place.set_visible(False)
    for (name, (values, told)), axes in zip(curves.items(), grid.flat, strict=False):
        categories = not isinstance(values, np.ndarray)
        x = np.arange(len(values)) if categories else values
        for k, color in zip(range(told.shape[1]), COLORS, strict=False):
            axes.plot(x, told[:, k], "o" if categories else "-", color=color, label=outputs[k])
        if categories:
            labels = [short_name(str(v), 12) for v in values]
            turned = len(labels) > 3 or max(map(len, labels)) > 8
            axes.set_xticks(
                x, labels, rotation=40 if turned else 0, ha="right" if turned else "center"
            )
            axes.margins(x=0.15)
        else:
            axes.locator_params(axis="x", nbins=5)
            plain_ticks(axes.xaxis)
            inside = rugs[name][(rugs[name] >= x[0]) & (rugs[name] <= x[-1])]
            axes.plot(inside, np.zeros(len(inside)), "|", color="#888888", alpha=0.5,
                      transform=axes.get_xaxis_transform(), clip_on=False)  # fmt: skip
        axes.set_xlabel(short_name(name, 36))
    for axes in grid[:, 0]:
        axes.set_ylabel(short_name(y_label, 26))
        plain_ticks(axes.yaxis)
    if len(outputs) > 1:
        fig.legend(
            *grid.flat[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=3,
            frameon=False,
        )
    return picture(fig, "Partial dependence", caption)


def contributions(
    names: Sequence[str], values: Sequence[str], shares: np.ndarray, errors: np.ndarray,
    base: float, what: str, caption: str,
) -> Picture:  # fmt: skip
    """One row's prediction as a path from the mean prediction, column by column, the largest first.

    Args:
        names, values: of the original columns and what the row holds there.
        shares: (G,) contributions.
        errors: (G,) their standard errors.
        base: mean prediction.
        what: what is predicted, with its unit.
        caption: for the report.
    """
    order = list(np.argsort(-np.abs(shares), kind="stable"))
    rest = order[SHOWN:]
    order = order[:SHOWN]
    labels = [f"{short_name(names[i], 22)} = {short_name(values[i], 14)}" for i in order]
    sizes, bars = [float(shares[i]) for i in order], [float(errors[i]) for i in order]
    if rest:
        labels.append(f"{len(rest):,} other columns")
        sizes.append(float(shares[rest].sum()))
        bars.append(float(np.sqrt((errors[rest] ** 2).sum())))
    starts = base + np.concatenate([[0], np.cumsum(sizes)])
    fig, axes = subplots(width=7.0, height=1.4 + 0.3 * len(labels))
    colors = [COLORS[0] if size >= 0 else COLORS[1] for size in sizes]
    places = np.arange(len(labels))[::-1]
    axes.barh(places, sizes, left=starts[:-1], color=colors, xerr=bars, error_kw={"elinewidth": 1})
    for place, start in zip(places, starts[1:], strict=True):
        axes.plot([start, start], [place - 1.4, place + 0.4], color="#888888", linewidth=0.8)
    axes.set_yticks(places, labels)
    axes.set_ylim(-1, len(labels) - 0.4)
    axes.axvline(base, color="#888888", linewidth=1, linestyle=":")
    room = 0.06 * (float(np.ptp(starts)) or 1.0)
    axes.set_xlim(starts.min() - room - max(bars), starts.max() + room + max(bars))
    axes.locator_params(axis="x", nbins=5)
    plain_ticks(axes.xaxis)
    axes.set_xlabel(f"{what}: from {number(base)} on average to {number(float(starts[-1]))}")
    return picture(fig, "Contributions", caption)
