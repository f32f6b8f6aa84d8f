"""Pictures of n-gram models: counts of counts, discounts, and where counting ends.

Shapes: K orders, S sizes of the text.
"""

from __future__ import annotations

import math

import numpy as np

from fourfold.core.types import Picture
from fourfold.core.words import short
from fourfold.look.figures import COLORS, picture, plain_ticks, subplots


def counts_of_counts(counts: np.ndarray) -> Picture:
    """How many n-grams of each order have a count of 1, 2, ...

    Args:
        counts: (K, R) integers: those with count r + 1.
    """
    fig, axes = subplots()
    times = np.arange(1, counts.shape[1] + 1)
    for order, row in enumerate(counts, 1):
        some = row > 0
        axes.plot(times[some], row[some], marker="o", markersize=4, label=f"{order}-grams")
    axes.set(yscale="log", xlabel="count", ylabel="n-grams with that count")
    axes.set_xticks(times)
    plain_ticks(axes.yaxis)
    axes.legend(ncols=2 if len(counts) > 4 else 1)
    caption = (
        "How many n-grams were counted once, twice, ...: the discounts follow from these. Below the highest "
        "order, Kneser-Ney counts the different words before an n-gram instead of how often it came."
    )
    return picture(fig, "Counts of counts", caption)


def discounts(values: np.ndarray, *, shares: bool) -> Picture:
    """What is taken from counts of each order.

    Args:
        values: (K, R) float: for counts of 1, 2, ...; 0 where there is none.
        shares: whether they are the shares that are left of each count (Good-Turing) instead of what is taken.
    """
    fig, axes = subplots()
    used = values[:, (values > 0).any(0)]
    if not shares:
        used = used[:, :1] if (used == used[:, :1]).all() else used
    width = 0.8 / used.shape[1]
    for column in range(used.shape[1]):
        places = np.arange(1, len(used) + 1) + (column - (used.shape[1] - 1) / 2) * width
        more = "+" if not shares and column == used.shape[1] - 1 and used.shape[1] > 1 else ""
        label = f"count {column + 1}{more}" if used.shape[1] > 1 else "every count"
        axes.bar(places, used[:, column], width * 0.92, color=COLORS[column], label=label)
    axes.set_xticks(range(1, len(used) + 1))
    axes.set(xlabel="order", ylabel="share that is left" if shares else "taken from the count")
    axes.grid(axis="x", visible=False)
    axes.set_ylim(top=1.3 * float(used.max()))
    axes.legend(ncols=min(5, used.shape[1]))
    caption = (
        "What Good-Turing leaves of a count, as a share of it; larger counts are left whole."
        if shares
        else "What each count gives up for n-grams that were not seen; the higher the order, the less a count says."
    )
    return picture(fig, "Discounts", caption)


def growth(sizes: np.ndarray, unseen: np.ndarray, perplexity: np.ndarray) -> Picture:
    """What share of held-out n-grams was never counted, and perplexity, by order and size of the text.

    Args:
        sizes: (S,) tokens counted.
        unseen: (S, K) in 0..1; NaN where there are none of that order.
        perplexity: (S, K).
    """
    fig, (left, right) = subplots(1, 2, width=8.6, height=3.9)
    orders = np.arange(1, unseen.shape[1] + 1)
    for row, size in enumerate(sizes):
        color = COLORS[row % len(COLORS)]
        label = f"{short(float(size))} tokens"
        left.plot(orders, 100 * unseen[row], marker="o", markersize=4, color=color, label=label)
        right.plot(orders, perplexity[row], marker="o", markersize=4, color=color, label=label)
        best = int(np.argmin(perplexity[row]))
        right.plot(
            orders[best], perplexity[row, best], "o", markersize=9, fillstyle="none", color=color
        )
    left.set(xlabel="order", ylabel="held-out n-grams never seen (%)", ylim=(0, 103))
    right.set(xlabel="order", ylabel="perplexity of a held-out token", yscale="log")
    for axes in (left, right):
        axes.set_xticks(orders)
    low, high = float(np.nanmin(perplexity)), float(np.nanmax(perplexity))
    right.set_yticks(_between(low, high))
    right.minorticks_off()
    plain_ticks(right.yaxis)
    left.legend(loc="lower right")
    third = float(unseen[-1, min(2, len(orders) - 1)])
    caption = (
        f"Of held-out {min(3, len(orders))}-grams {third:.0%} were never seen in {short(float(sizes[-1]))} tokens, "
        f"of {len(orders)}-grams {float(unseen[-1, -1]):.0%}: with so few repeated, longer contexts tell hardly "
        "more, which made three words the practical limit at a million. Rings mark the best order; modified "
        "Kneser-Ney."
    )
    return picture(fig, "Where counting ends", caption)


def _between(low: float, high: float) -> list[float]:
    """Round numbers on a logarithmic axis, a few."""
    steps = (1, 1.5, 2, 3, 5, 7) if high / low < 8 else (1, 2, 5)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [s * 10.0**p for p in powers for s in steps if low * 0.93 <= s * 10.0**p <= high * 1.08]
    return found or [low, high]
