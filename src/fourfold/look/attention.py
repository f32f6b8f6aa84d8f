"""Attention drawn: layer by head, which token looks at which, and what each head looks at in numbers.

Shapes: H heads, Q queries, K keys (positions).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from fourfold.core.types import Picture, Table
from fourfold.look.figures import picture, subplots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONGEST = 32
"""Tokens that are drawn with their names."""
T = TypeVar("T")
HEADS, LAYERS = 12, 12
"""Maps drawn across and down; of more, as many are chosen evenly."""


def attention_maps(
    weights: Mapping[str, np.ndarray],
    tokens: Sequence[str],
    title: str = "Attention",
    queries: Sequence[str] | None = None,
    sides: tuple[str, str] | None = None,
) -> Picture:
    """All maps as one picture: a row for each layer, a column for each head.

    Args:
        weights: (H, Q, K) by layer, each row of K a distribution.
        tokens: a name for each of the K positions, the queries being the last Q of them.
        title: of the picture.
        queries: a name for each of the Q positions, where they are those of another sequence.
        sides: what the rows and what the columns are.

    Raises:
        ValueError: no layer, or other than K or Q names.
    """
    if not weights or any(w.shape[-1] != len(tokens) for w in weights.values()):
        shapes = {name: w.shape for name, w in weights.items()}
        raise ValueError(f"attention_maps expects {len(tokens)} keys in each layer, got {shapes}")
    if queries is not None and any(w.shape[-2] != len(queries) for w in weights.values()):
        shapes = {name: w.shape for name, w in weights.items()}
        raise ValueError(
            f"attention_maps expects {len(queries)} queries in each layer, got {shapes}"
        )
    layers = _some(list(weights), LAYERS)
    heads = [_some(range(len(weights[name])), HEADS) for name in layers]
    shown = min(len(tokens), LONGEST)
    asking = None if queries is None else [visible(token) for token in queries[:LONGEST]]
    fig = _draw(weights, layers, heads, [visible(token) for token in tokens[:shown]], asking)
    rows, columns = sides or ("looks", "is looked at")
    fig.axes[0].set(ylabel=rows, xlabel=columns)
    caption = (
        "Rows look at columns: how much of each token a position takes, 0 dark to 1 bright; a row sums to 1. "
        f"{_left_out(weights, layers, heads, tokens, shown)}"
    )
    return picture(fig, title, caption.strip(), dpi=110)


def _draw(
    weights: Mapping[str, np.ndarray],
    layers: Sequence[str],
    heads: Sequence[Sequence[int]],
    names: Sequence[str],
    asking: Sequence[str] | None,
) -> Figure:
    """All maps on one pair of axes: a hundred pairs would take a hundred times as long."""
    columns, shown = max(map(len, heads)), len(names)
    rows = shown if asking is None else len(asking)
    wide, high = (count + 1 + count // 8 for count in (shown, rows))  # a map and the gap after it
    sheet = np.full((len(layers) * high - (high - rows), columns * wide - (wide - shown)), np.nan)
    down: dict[int, str] = {}
    for i, (name, row) in enumerate(zip(layers, heads, strict=True)):
        # position of the first query among the keys, where they are of one sequence
        first = weights[name].shape[2] - weights[name].shape[1] if asking is None else 0
        down |= {i * high + k: token for k, token in enumerate(asking or names[first:])}
        for j, head in enumerate(row):
            map_ = weights[name][head, : max(1, rows - first), :shown]
            sheet[i * high : i * high + len(map_), j * wide : j * wide + shown] = map_
    across, tall = (max(1.5, 0.15 * cell) for cell in (wide, high))  # inches
    fig, axes = subplots(width=across * columns + 1.2, height=tall * len(layers) + 1.0)
    axes.imshow(sheet, vmin=0, vmax=1, cmap="viridis", interpolation="nearest", aspect="auto")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    below = {j * wide + k: token for j in range(columns) for k, token in enumerate(names)}
    axes.set_xticks(list(below), list(below.values()), rotation=90)
    axes.set_yticks(list(down), list(down.values()))
    axes.tick_params(labelsize=7, length=0)
    # names stand so many points off: a single row or column is as large as the axes
    aside: dict[str, Any] = {"textcoords": "offset points", "fontsize": 9}
    for j, head in enumerate(heads[0]):
        at = (j * wide + (shown - 1) / 2, -0.5)
        axes.annotate(f"head {head}", at, (0, 5), **aside, ha="center")
    for i, name in enumerate(layers):
        right, height = columns * wide - (wide - shown) - 0.5, i * high + (rows - 1) / 2
        axes.annotate(name, (right, height), (8, 0), **aside, va="center", rotation=270)
    return fig


def attention_table(weights: Mapping[str, np.ndarray]) -> Table:
    """What each head looks at: how widely, how far back, and at which usual places."""
    rows = []
    for name, maps in weights.items():
        for head, map_ in enumerate(maps):
            rows.append((name, head, *_habits(map_.astype(np.float64))))
    return Table(
        "Attention heads",
        ("layer", "head", "spread (tokens)", "distance (tokens)", "on the first", "on the one before", "on itself"),
        tuple(rows),
        "Spread: two to the power of the entropy, so many tokens looked at evenly. The others are means over positions "
        "that have a token before them.",
    )  # fmt: skip


def _habits(map_: np.ndarray) -> tuple[float, ...]:
    """Spread, mean distance, and shares on the first position, the one before and itself."""
    queries, keys = map_.shape
    places = np.arange(keys - queries, keys)
    later = places > 0
    if not later.any():
        return (1.0, 0.0, math.nan, math.nan, 1.0)
    p, at = map_[later], places[later]
    entropy = -(p * np.log2(np.where(p > 0, p, 1))).sum(axis=1)
    distance = (p * np.abs(at[:, None] - np.arange(keys))).sum(axis=1)
    rows = np.arange(len(p))
    found = (
        2 ** entropy.mean(), distance.mean(), p[:, 0].mean(), p[rows, at - 1].mean(), p[rows, at].mean()
    )  # fmt: skip
    return tuple(map(float, found))


def visible(token: str) -> str:
    """A token's name with blanks that can be seen, cut to fit at an axis."""
    shown = token.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥")
    return shown if len(shown) <= 12 else shown[:11] + "…"


def _some(items: Sequence[T], most: int) -> list[T]:
    """All, or as many chosen evenly, the first and last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _left_out(
    weights: Mapping[str, np.ndarray],
    layers: Sequence[str],
    heads: Sequence[Sequence[int]],
    tokens: Sequence[str],
    shown: int,
) -> str:
    parts = []
    if len(layers) < len(weights):
        parts.append(f"{len(layers)} of {len(weights)} layers")
    most = max(len(weights[name]) for name in layers)
    if max(map(len, heads)) < most:
        parts.append(f"{max(map(len, heads))} of {most} heads")
    if shown < len(tokens):
        parts.append(f"the first {shown} of {len(tokens)} tokens")
    return f"Shown: {', '.join(parts)}." if parts else ""
