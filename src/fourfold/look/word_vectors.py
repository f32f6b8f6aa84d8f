"""Pictures of word vectors: the parallelogram of an analogy, and what sub-sampling leaves out.

Shapes: N words, D features, V words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fourfold.core.types import Picture
from fourfold.look.attention import visible
from fourfold.look.figures import COLORS, picture, plain_ticks, subplots


def plane(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The plane of largest variance of some points.

    Args:
        vectors: (N, D), N at least 3.

    Returns:
        Its origin (D,), its two axes (2, D), and the share of the points' variance in it.
    """
    vectors = np.asarray(vectors, np.float64)
    origin = vectors.mean(0)
    _, scales, axes = np.linalg.svd(vectors - origin, full_matrices=False)
    axes, total = axes[:2], float((scales**2).sum())
    # a component's sign is arbitrary: the largest entry of its axis is made positive
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
    return origin, axes, float((scales[:2] ** 2).sum() / total) if total else 1.0


def parallelogram(
    names: Sequence[str], vectors: np.ndarray, arrows: Sequence[tuple[int, int]],
    around: Sequence[str], nearby: np.ndarray,
) -> Picture:  # fmt: skip
    """Words in the plane that shows them best, arrows from one to another, and their neighbourhood behind them.

    Args:
        names: (N) words, at least 3.
        vectors: (N, D).
        arrows: pairs of places among the names.
        around: names of the neighbours.
        nearby: (M, D) vectors of them.
    """
    origin, axes, share = plane(vectors)
    points = (vectors - origin) @ axes.T
    others = (np.asarray(nearby, np.float64).reshape(-1, vectors.shape[1]) - origin) @ axes.T
    fig, ax = subplots(width=7.6, height=5.6)
    ax.scatter(*others.T, s=12, color="#9aa0a6")
    size = float(np.ptp(np.concatenate([points, others]), axis=0).max()) or 1.0
    written: list[tuple[float, float, int]] = [
        (x, y, len(n)) for n, (x, y) in zip(names, points, strict=True)
    ]
    for name, (x, y) in zip(around, others, strict=True):
        if any(
            abs(y - v) < 0.025 * size and -0.014 * size * len(name) < u - x < 0.014 * size * n
            for u, v, n in written
        ):
            continue  # it would lie on another
        written.append((x, y, len(name)))
        ax.annotate(
            visible(name), (x, y), xytext=(4, 2), textcoords="offset points", fontsize=8.5,
            color="#6b7075", parse_math=False,
        )  # fmt: skip
    for number, (start, stop) in enumerate(arrows):
        ax.annotate(
            "", points[stop], points[start],
            arrowprops={
                "arrowstyle": "-|>", "color": COLORS[number % len(COLORS)], "linewidth": 2,
                "shrinkA": 5, "shrinkB": 5,
            },
        )  # fmt: skip
    ax.scatter(*points.T, s=44, color="#222222", zorder=3)
    for name, (x, y) in zip(names, points, strict=True):
        ax.annotate(
            visible(name), (x, y), xytext=(7, 5), textcoords="offset points", fontsize=12,
            fontweight="bold", parse_math=False, zorder=4,
        )  # fmt: skip
    ax.set(xlabel="first component", ylabel="second component")
    ax.margins(0.14)
    ax.set_aspect("equal", adjustable="datalim")
    caption = (
        f"The two principal components of the {len(names)} words hold {share:.0%} of their variance; "
        "grey: their nearest words, in the same plane. All vectors have length 1."
    )
    if len(arrows) > 1:
        caption += " Arrows that are parallel and of one length make an analogy."
    return picture(fig, ", ".join(names), caption)


def thinning(
    counts: np.ndarray, keep: np.ndarray, names: Sequence[str], threshold: float
) -> Picture:
    """Which share of each word's occurrences sub-sampling removes, and of how many words the text then is.

    Args:
        counts: (V,) occurrences.
        keep: (V,) the share that is kept.
        names: of the words.
        threshold: of sub-sampling.
    """
    order = np.argsort(-counts, kind="stable")
    counts, removed = counts[order].astype(float), 1 - keep[order]
    ranks = np.arange(1, len(counts) + 1)
    gone = counts * removed
    fig, axes = subplots()
    axes.plot(ranks, counts, label="in the text")
    axes.plot(ranks, np.maximum(counts - gone, 0.5), label="left by sub-sampling")
    axes.set(xscale="log", yscale="log", xlabel="rank", ylabel="occurrences")
    axes.set_ylim(top=3 * counts[0])
    for place in sorted({0, 9, 99} & set(np.flatnonzero(removed > 0.005).tolist())):
        axes.annotate(
            f"{visible(names[order[place]])} -{removed[place]:.0%}", (ranks[place], counts[place]),
            xytext=(4, 6), textcoords="offset points", fontsize=9, parse_math=False,
        )  # fmt: skip
    plain_ticks(axes.xaxis, axes.yaxis)
    axes.legend()
    touched = int((removed > 0).sum())
    caption = (
        f"Threshold {threshold:g}: of {counts.sum():,.0f} occurrences {gone.sum() / max(1, counts.sum()):.1%} "
        f"are left out in a pass, all of the {touched:,} most frequent words."
    )
    return picture(fig, "What sub-sampling removes", caption)
