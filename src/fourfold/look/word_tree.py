"""The top of a binary tree over words, with the most frequent words below each branch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fourfold.core.types import Picture
from fourfold.look.attention import visible
from fourfold.look.figures import COLORS, TEXT, picture, short_name, subplots

SHOWN = 9
"""Words named at the end of a branch."""
ROW = 0.42
"""Inches between two branches."""


def word_tree(
    branches: Mapping[str, np.ndarray], names: Sequence[str], counts: np.ndarray, title: str
) -> Picture:
    """The tree from its root at the left; a line is as thick as its words are frequent in the text.

    Args:
        branches: by the turns from the root ("" is the root itself, then "0" and "1" for every turn) the words
            below, (M,); complete down to some level.
        names: of the words.
        counts: (V,) how often each occurs.
        title: for the report.
    """
    ends = sorted(t for t in branches if f"{t}0" not in branches)
    depth = max(len(t) for t in ends)
    height: dict[str, float] = {turns: float(-i) for i, turns in enumerate(ends)}
    for turns in sorted(branches, key=len, reverse=True):
        if turns not in height:
            height[turns] = (height[f"{turns}0"] + height[f"{turns}1"]) / 2
    total = max(1.0, float(counts.sum()))
    fig, axes = subplots(width=9.6, height=max(1.6, 0.5 + ROW * len(ends)))
    for turns, words in branches.items():
        share = float(counts[words].sum()) / total
        color = COLORS[int(turns[:2], 2) if len(turns) >= 2 else -1]
        if turns:
            above = turns[:-1]
            x = [len(above), len(above) + 0.35, len(turns)]
            y = [height[above], height[turns], height[turns]]
            axes.plot(x, y, color=color, linewidth=0.8 + 9 * share, solid_capstyle="round")
        if turns not in ends:
            axes.plot(len(turns), height[turns], "o", color=color, markersize=5)
            axes.annotate(
                f"{share:.0%}", (len(turns), height[turns]), xytext=(0, 6),
                textcoords="offset points", ha="center", fontsize=8, color="#555555",
            )  # fmt: skip
    for turns in ends:
        words = branches[turns]
        order = words[np.argsort(-counts[words], kind="stable")][:SHOWN]
        shown = short_name("  ".join(visible(names[int(w)]) for w in order), 74)
        more = f"  ({len(words):,})" if len(words) > len(order) else ""
        axes.annotate(
            f"{shown}{more}", (len(turns), height[turns]), xytext=(6, 0),
            textcoords="offset points", va="center", fontsize=9, color=TEXT,
        )  # fmt: skip
    axes.set(xlim=(-0.15, depth + 3.4), ylim=(-len(ends) + 0.3, 0.9))
    axes.axis("off")
    caption = (
        "Every word is found by the decisions on the way to it. At the end of each branch: its most frequent words, "
        "and how many there are; per cent: the branch's share of the training text."
    )
    return picture(fig, title, caption)
