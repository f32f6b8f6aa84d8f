"""Why scores are divided by the square root of the key's dimension: Vaswani et al. 2017, section 3.2.1.

The entries of queries and keys are drawn independently, with mean 0 and variance 1, as behind a normalization: a
score is then a sum of D products and has the variance D. Shapes: Q queries, S keys, D their features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fourfold.core.types import Picture, Table
from fourfold.look.figures import COLORS, picture, subplots

DIMENSIONS = (1, 4, 16, 64, 256, 1024)
KEYS = 64
QUERIES = 512


def scale_measures(scores: np.ndarray) -> tuple[float, float, float]:
    """What the size of the scores does to attention.

    Args:
        scores: (Q, S) float.

    Returns:
        The scores' variance; the mean entropy of their softmax in bits, log2 S where it is even; and the mean norm of
        its derivative, the Frobenius norm of diag(p) - p p', which all that is learned about queries and keys passes.
    """
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    entropy = -(p * np.log2(np.where(p > 0, p, 1.0))).sum(axis=1)
    # |diag(p) - p p'|^2 = sum p^2 - 2 sum p^3 + (sum p^2)^2
    square = (p**2).sum(axis=1)
    slope = np.sqrt(np.maximum(square - 2 * (p**3).sum(axis=1) + square**2, 0.0))
    return float(scores.var()), float(entropy.mean()), float(slope.mean())


def scale_picture(
    dimensions: Sequence[int] = DIMENSIONS, *, keys: int = KEYS, seed: int = 0
) -> tuple[Picture, Table]:
    """Variance of the scores, entropy of the softmax and its gradient against D, with the scale and without.

    Args:
        dimensions: D.
        keys: S.
        seed: of the draws.
    """
    random = np.random.default_rng(seed)
    rows = []
    for size in dimensions:
        queries, drawn = random.normal(size=(QUERIES, size)), random.normal(size=(keys, size))
        scores = queries @ drawn.T
        rows.append((size, *scale_measures(scores), *scale_measures(scores / size**0.5)))
    names = (
        "variance of the scores",
        "entropy of the weights (bits)",
        "norm of the softmax's derivative",
    )
    table = Table(
        "Scores with and without the scale 1 / sqrt(D)",
        ("D", *(f"{name}, unscaled" for name in names), *(f"{name}, scaled" for name in names)),
        tuple(rows),
        f"{QUERIES} queries and {keys} keys with independent normal entries; even weights have {np.log2(keys):.3g} bits.",
    )
    return _drawn(np.array(rows), names, keys), table


def _drawn(values: np.ndarray, names: Sequence[str], keys: int) -> Picture:
    fig, panels = subplots(1, 3, width=11, height=3.4)
    for number, (axes, name) in enumerate(zip(panels, names, strict=True)):
        for first, label, color, marker in ((1, "unscaled", COLORS[1], "s"), (4, "scaled", COLORS[0], "o")):  # fmt: skip
            axes.plot(
                values[:, 0], values[:, first + number], marker, ls="-", color=color, label=label
            )
        axes.set_xscale("log", base=2)
        axes.set_xticks(values[:, 0], [f"{size:,.0f}" for size in values[:, 0]])
        axes.set(xlabel="dimension of queries and keys, D", title=name)
    panels[0].set_yscale("log")
    panels[1].set_ylim(0, 1.05 * np.log2(keys))
    panels[1].axhline(np.log2(keys), color="gray", lw=1, ls=":")
    panels[2].set_ylim(bottom=0)
    panels[0].legend()
    caption = (
        "Unscaled, the scores' variance is D: the softmax puts all its weight on one key, and hardly any gradient comes "
        "back through it. Divided by sqrt(D), all three stay as they are, whatever D is. Dotted: even weights."
    )
    return picture(fig, "Why attention's scores are scaled", caption)
