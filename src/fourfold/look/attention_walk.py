"""One token's way through one head of attention: query, keys, scores, scale, softmax, weighted sum.

Vaswani et al. 2017, equation 1. Shapes: S keys, D features of a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fourfold.core.types import Picture, Table
from fourfold.core.words import number
from fourfold.look.attention import visible
from fourfold.look.figures import COLORS, picture, subplots

SHOWN = 24
"""Keys that are drawn, those with the greatest weights; the table has all."""


class Walk(NamedTuple):
    """What one query met."""

    query: np.ndarray
    """(D,) float."""
    keys: np.ndarray
    """(S, D), those that it may see."""
    values: np.ndarray
    """(S, D)."""
    scale: float
    added: np.ndarray
    """(S,), what the scheme of positions adds to the scaled scores."""

    def scores(self) -> np.ndarray:
        """(S,): the products, before the scale."""
        return self.keys @ self.query

    def weights(self) -> np.ndarray:
        """(S,): they sum to 1."""
        scaled = self.scores() * self.scale + self.added
        shares = np.exp(scaled - scaled.max())
        return shares / shares.sum()

    def output(self) -> np.ndarray:
        """(D,): the weighted sum of the values."""
        return self.weights() @ self.values


def walked(
    walk: Walk, place: int, tokens: Sequence[str], where: str, queries: Sequence[str] | None = None
) -> tuple[list[str], Table, Picture]:
    """A walk in sentences, as a table and as a picture.

    Args:
        walk: of one query.
        place: the query's position.
        tokens: names of the S keys, and of the query too: tokens[place].
        where: the head, in words.
        queries: names of the queries, where they are those of another sequence.
    """
    asking = tokens if queries is None else queries
    scores, weights, output = walk.scores(), walk.weights(), walk.output()
    most = int(weights.argmax())
    size, word = len(walk.query), visible(asking[place])
    sentences = [
        f'"{word}" (position {place + 1} of {len(asking)}) in {where}: its query has {size} features and is multiplied '
        f"with {len(scores)} keys, which gives scores from {number(scores.min())} to {number(scores.max())}.",
        f"The scores are multiplied by {number(walk.scale)}"
        + (f" = 1/sqrt({size})" if math.isclose(walk.scale, size**-0.5) else "")
        + (
            ", and what the positions say is added"
            if (walk.added[np.isfinite(walk.added)] != 0).any()
            else ""
        )
        + f'; their softmax gives weights that sum to 1, the greatest {weights[most]:.1%} on "{visible(tokens[most])}".',
        f"The {size} values of each key, weighted and summed, are what the head hands on: a vector of length "
        f"{number(float(np.linalg.norm(output)))}.",
    ]
    table = Table(
        f'What "{word}" sees in {where}',
        ("position", "key", "q k", "scaled", "added", "weight", "length of the value"),
        tuple(
            (i + 1, visible(tokens[i]), float(scores[i]), float(scores[i] * walk.scale), float(walk.added[i]),
             float(weights[i]), float(np.linalg.norm(walk.values[i])))
            for i in range(len(scores))
        ),
        "The weight is the softmax of scaled + added, over all rows.",
    )  # fmt: skip
    return sentences, table, _drawn(walk, word, tokens, where)


def _drawn(walk: Walk, word: str, tokens: Sequence[str], where: str) -> Picture:
    weights, output = walk.weights(), walk.output()
    chosen = np.sort(np.argsort(-weights, kind="stable")[:SHOWN])
    rows = np.arange(len(chosen))
    names = [visible(tokens[i]) for i in chosen]
    fig, panels = subplots(
        1, 7, width=15, height=1.9 + 0.24 * len(chosen),
        gridspec_kw={"width_ratios": [0.5, 2, 1.2, 1.2, 1.2, 2, 0.5]},
    )  # fmt: skip
    high = max(float(np.abs(x).max()) for x in (walk.query, walk.keys[chosen])) or 1.0
    wide = max(float(np.abs(x).max()) for x in (output, walk.values[chosen])) or 1.0
    maps = (
        (0, walk.query[:, None], f"query of\n{word}", high),
        (1, walk.keys[chosen], "keys", high),
        (5, walk.values[chosen], "values", wide),
        (6, output[:, None], "weighted\nsum", wide),
    )
    for at, values, title, most in maps:
        panels[at].imshow(values, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto", interpolation="nearest")  # fmt: skip
        panels[at].set_title(title)
        panels[at].grid(False)
        panels[at].set_xticks([])
        panels[at].set_yticks([])
    scores = walk.scores()[chosen]
    scaled = scores * walk.scale + walk.added[chosen]
    bars = ((2, scores, "q k"), (3, scaled, "scaled"), (4, weights[chosen], "softmax"))
    for at, values, title in bars:
        panels[at].barh(rows, values, color=COLORS[0])
        panels[at].set_title(title)
        panels[at].set_ylim(len(rows) - 0.5, -0.5)
        panels[at].set_yticks([])
    panels[1].set_yticks(rows, names)
    left = f" Shown: the {len(chosen)} of {len(weights)} keys with most weight." if len(chosen) < len(weights) else ""  # fmt: skip
    caption = (
        f"{where}: the query meets each key (rows), the products are scaled, the softmax makes them weights, and the "
        f"values are summed by them. Red above zero, blue below.{left}"
    )
    return picture(fig, f"The way of {word} through attention", caption, dpi=110)
