"""Pictures of masked language models: a text whose hidden tokens are filled in, and how often that succeeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fourfold.core.types import Picture
from fourfold.core.words import short
from fourfold.look.figures import drawable, picture, subplots
from fourfold.look.language import COLUMNS, laid_out, markup, painted

PLAIN, RIGHT, WRONG = "#ffffff", "Greens", "OrRd"
"""Colours of what was not hidden, of what was guessed and of what was not: the deeper, the surer or the wronger."""
DEEPEST = 10.0
"""Bits at which a wrong guess has its deepest colour."""
BINS = 8
"""Groups of tokens by frequency."""


def restored(
    pieces: Sequence[str],
    bits: Sequence[float],
    right: Sequence[bool | None],
    columns: int = COLUMNS,
) -> Picture:
    """A text in which hidden tokens stand on the colour of how well the model knew them.

    Args:
        pieces: what each token adds to the text.
        bits: -log2 of the probability that the model gave it.
        right: whether it was the likeliest to the model; None where it was not hidden.
        columns: characters in a line; Chinese ones count twice.
    """
    cells, lines = laid_out(pieces, [float(n) for n in range(len(pieces))], columns)
    colors, inks = [], []
    for cell in cells:
        color, ink = _color(bits[int(cell.bits)], right[int(cell.bits)])
        colors.append(color)
        inks.append(ink)
    fig, axes = painted(cells, colors, inks, columns, lines)
    hidden = [r for r in right if r is not None]
    from matplotlib.patches import Patch

    names = {"guessed": _color(0.3, True)[0], "not guessed": _color(6.0, False)[0]}
    handles = [Patch(color=color, label=name) for name, color in names.items()]
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2)
    caption = (
        f"A held-out text of which the model saw no token on colour: {sum(hidden)} of {len(hidden)} were the "
        "likeliest to it. The darker the green, the surer it was; the darker the red, the less it expected the token."
    )
    made = picture(fig, "What was hidden, and whether the model knew it", caption)
    drawn = markup(cells, colors, inks, columns, lines)
    return replace(made, svg=drawn) if not drawable("".join(pieces)) else made


def _color(bits: float, right: bool | None) -> tuple[str, str]:
    """Of a token, and of its ink."""
    if right is None:
        return PLAIN, "#555555"
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    depth = 2.0**-bits if right else min(bits / DEEPEST, 1.0)
    shade = colormaps[RIGHT if right else WRONG](0.25 + 0.55 * depth)
    return to_hex(shade), "white" if depth > 0.7 else "black"


def by_frequency(counts: np.ndarray, right: np.ndarray) -> Picture:
    """How often hidden tokens are the model's likeliest, by how often they occur in the training text.

    Args:
        counts: (N,) integers, of each hidden token.
        right: (N,) bool.
    """
    edges = np.unique(np.quantile(counts, np.linspace(0, 1, BINS + 1)))
    group = np.clip(np.searchsorted(edges, counts, side="right") - 1, 0, max(len(edges) - 2, 0))
    shown = [g for g in range(max(len(edges) - 1, 1)) if (group == g).any()]
    share = np.array([right[group == g].mean() for g in shown])
    size = np.array([(group == g).sum() for g in shown])
    error = np.sqrt(share * (1 - share) / size)
    names = [
        f"{short(float(counts[group == g].min()))} to {short(float(counts[group == g].max()))}"
        for g in shown
    ]
    fig, axes = subplots()
    axes.bar(range(len(shown)), share, yerr=error, capsize=3, error_kw={"linewidth": 1})
    axes.axhline(right.mean(), linestyle="--", color="#888888", linewidth=1.2, label="all together")
    axes.set_xticks(range(len(shown)), names, rotation=20, ha="right")
    axes.set(xlabel="occurrences of the token in the training text", ylabel="share guessed")
    axes.set_ylim(0, max(0.05, min(1.0, 1.15 * float((share + error).max()))))
    axes.legend()
    caption = (
        f"{len(right):,} hidden tokens of held-out texts, about as many in each group; {right.mean():.1%} of all were "
        "guessed. Lines are one standard error."
    )
    return picture(fig, "How often the model guesses right", caption)
