"""Pictures of language models: how often each word occurs, and what surprises the model in a text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fourfold.core.types import Picture
from fourfold.core.words import short
from fourfold.look.attention import visible
from fourfold.look.figures import picture, plain_ticks, subplots

COLUMNS = 88
"""Characters in a line of a passage."""


def zipf(counts: np.ndarray, names: Sequence[str]) -> Picture:
    """Counts against ranks, both logarithmic, beside Zipf's law: the n-th word is 1/n as frequent (Zipf 1935).

    Args:
        counts: (V,) integers, not all 0.
        names: of the entries.
    """
    order = np.argsort(-counts, kind="stable")
    ranked = counts[order][counts[order] > 0].astype(float)
    ranks = np.arange(1, len(ranked) + 1)
    fig, axes = subplots()
    axes.plot(ranks, ranked, marker="." if len(ranked) < 200 else "", label="counted")
    middle = min(len(ranked), 10) - 1
    law = ranked[middle] * ranks[middle] / ranks
    axes.plot(ranks, law, linestyle="--", color="#888888", linewidth=1.2, label="1 / rank")
    axes.set(xscale="log", yscale="log", xlabel="rank", ylabel="count in the training text")
    axes.set_ylim(bottom=max(0.7, ranked[-1] * 0.7))
    shown = sorted({0, 9, 99, 999, 9_999} & set(range(len(ranked))))
    for place in shown:
        axes.annotate(
            visible(names[order[place]]), (ranks[place], ranked[place]), xytext=(4, 6),
            textcoords="offset points", fontsize=9, parse_math=False,
        )  # fmt: skip
    plain_ticks(axes.xaxis, axes.yaxis)
    axes.legend()
    once = int((ranked == 1).sum())
    caption = (
        f"{len(ranked):,} entries occur in the training text of {short(float(ranked.sum()))} tokens, "
        f"{once:,} of them once."
    )
    return picture(fig, "How often each entry occurs", caption)


def passage(pieces: Sequence[str], bits: Sequence[float], columns: int = COLUMNS) -> Picture:
    """A text on the colour of each token's surprise.

    Args:
        pieces: what each token adds to the text.
        bits: its surprise.
        columns: characters in a line.
    """
    cells, line, column = [], 0, 0
    for piece, surprise in zip(pieces, bits, strict=True):
        for character in piece:
            if character == "\n" or column == columns:
                line, column = line + 1, 0
            if character != "\n":
                cells.append((column, line, character, surprise))
                column += 1
    fig, axes = subplots(width=8.8, height=0.9 + 0.22 * (line + 1))
    top = max(8.0, *bits)
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    shades = ScalarMappable(Normalize(0, top), "YlOrRd")
    for column, line, character, surprise in cells:
        axes.add_patch(
            Rectangle((column, line), 1, 1, color=shades.to_rgba(np.array(surprise)), linewidth=0)
        )
        dark = surprise > 0.6 * top
        axes.text(
            column + 0.5, line + 0.55, character, ha="center", va="center", fontsize=8,
            family="monospace", color="white" if dark else "black", parse_math=False,
        )  # fmt: skip
    axes.set(xlim=(0, columns), ylim=(line + 1, 0))
    axes.axis("off")
    fig.colorbar(shades, ax=axes, orientation="horizontal", label="bits", aspect=60, pad=0.02)
    caption = "A held-out text; the darker, the less the model expected that token."
    return picture(fig, "What surprises the model", caption)
