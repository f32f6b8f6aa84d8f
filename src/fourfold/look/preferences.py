"""Pictures of rewards, and of what a policy became while it was rewarded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fourfold.core.types import Picture
from fourfold.look.figures import COLORS, picture, plain_ticks, subplots


def rewards_picture(chosen: Sequence[float], rejected: Sequence[float]) -> Picture:
    """How rewards of chosen and rejected answers lie, and their differences."""
    fig, (left, right) = subplots(1, 2, width=9.0, height=3.4)
    both = np.concatenate([chosen, rejected])
    edges = np.histogram_bin_edges(both, min(40, max(8, len(both) // 12)))
    for values, name, color in ((chosen, "chosen", COLORS[0]), (rejected, "rejected", COLORS[1])):
        left.hist(values, edges, alpha=0.6, color=color, label=name)
    left.set(xlabel="reward", ylabel="answers")
    left.legend(frameon=False)
    gaps = np.asarray(chosen) - np.asarray(rejected)
    right.hist(gaps, min(40, max(8, len(gaps) // 12)), color=COLORS[2])
    right.axvline(0, color="#888888", linewidth=1, linestyle=":")
    right.set(xlabel="reward of chosen less that of rejected", ylabel="pairs")
    plain_ticks(left.xaxis, right.xaxis)
    share = float((gaps > 0).mean())
    caption = (
        f"Held-out pairs: in {share:.1%} of {len(gaps):,} the chosen answer has the higher reward."
    )
    return picture(fig, "Rewards", caption)


def length_picture(lengths: Sequence[int], rewards: Sequence[float], correlation: float) -> Picture:
    """Reward against length of the answer: what a policy could gain by being long."""
    fig, axes = subplots()
    axes.scatter(lengths, rewards, s=9, alpha=0.5, color=COLORS[0], linewidths=0)
    if max(lengths) > 20 * max(1, min(lengths)):
        axes.set_xscale("log")
    axes.set(xlabel="tokens of the answer", ylabel="reward")
    plain_ticks(axes.yaxis)
    caption = (
        f"Held-out answers; the rank correlation is {correlation:+.2f}. Far from 0, a policy that learns from these "
        "rewards is paid for length."
    )
    return picture(fig, "Reward and length", caption)


def policy_picture(series: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Picture:
    """What happened while a policy learned, one small chart each, over its steps.

    Args:
        series: by title, steps and values; at most twelve.
    """
    names = list(series)[:12]
    columns = min(4, max(1, len(names)))
    rows = -(-len(names) // columns)
    fig, grid = subplots(rows, columns, width=2.9 * columns, height=2.4 * rows, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(names):
            axes.set_axis_off()
            continue
        steps, values = series[names[place]]
        axes.plot(steps, values, color=COLORS[place % len(COLORS)], linewidth=1.3)
        axes.set_title(names[place], fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        plain_ticks(axes.yaxis)
    return picture(fig, "While it learned", "Means between two lines of the log.")
