"""Maps of many numbers in two dimensions, with each point's true neighbours on hovering.

Principal components: Pearson 1901; t-SNE: van der Maaten and Hinton 2008. Shapes: N points, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from fourfold.core.errors import UserError
from fourfold.core.types import Picture
from fourfold.look.svg import Drawing, elide, text_width

Method = Literal["pca", "tsne"]
NEIGHBOURS = 6
"""Named on hovering a point."""
WIDTH, HEIGHT, SIZE = 760.0, 560.0, 10.0  # pixels of the map, and of its labels


def project(vectors: np.ndarray, method: Method = "pca", *, seed: int = 0) -> np.ndarray:
    """Points in the plane, (N, 2) float64.

    Args:
        vectors: (N, D), N at least 3.
        method: pca keeps the directions of largest variance; tsne keeps neighbours together.
        seed: of t-SNE's search.

    Raises:
        UserError: fewer than 3 points, or values that are not finite.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    if len(vectors) < 3:
        raise UserError(f"a map needs at least 3 points, got {len(vectors)}")
    if not np.isfinite(vectors).all():
        raise UserError("a map needs finite numbers, and some of these are not")
    if method == "pca":
        return components(vectors)[0]
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(vectors) - 1) / 3)
    start = "pca" if min(vectors.shape) >= 2 else "random"
    return np.asarray(
        TSNE(2, perplexity=perplexity, init=start, random_state=seed).fit_transform(vectors),
        dtype=np.float64,
    )


def components(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two principal components of each point, (N, 2), and each one's share of the variance, (2,)."""
    centred = vectors - vectors.mean(axis=0)
    u, scales, axes = np.linalg.svd(centred, full_matrices=False)
    # a component's sign is arbitrary: the largest entry of its axis is made positive
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
    points = np.zeros((len(vectors), 2))
    share = np.zeros(2)
    kept = min(2, len(scales))
    points[:, :kept] = (u * scales * signs)[:, :kept]
    total = (scales**2).sum()
    share[:kept] = scales[:kept] ** 2 / (total if total else 1.0)
    return points, share


def neighbours(vectors: np.ndarray, count: int = NEIGHBOURS) -> tuple[np.ndarray, np.ndarray]:
    """The nearest other points by cosine, (N, count) numbers and cosines; zero vectors are near nothing."""
    vectors = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(lengths > 0, lengths, 1.0)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, : min(count, len(vectors) - 1)]
    return order, np.take_along_axis(cosines, order, axis=1)


def projection_map(
    vectors: np.ndarray,
    names: Sequence[str],
    title: str,
    *,
    method: Method = "pca",
    seed: int = 0,
    colors: Sequence[int] | None = None,
) -> Picture:
    """A map of named points. Where names would overlap, some are left out; hovering tells every one.

    Args:
        vectors: (N, D).
        names: of the points; earlier ones are written first.
        method: see `project`.
        colors: a number for each point's kind.

    Raises:
        UserError: see `project`.
        ValueError: not one name for each point.
    """
    if len(names) != len(vectors):
        raise ValueError(f"projection_map expects {len(vectors)} names, got {len(names)}")
    points = project(vectors, method, seed=seed)
    order, cosines = neighbours(vectors)
    spread = points.max(axis=0) - points.min(axis=0)
    places = (points - points.min(axis=0)) / np.where(spread > 0, spread, 1.0)
    x, y = 12 + places[:, 0] * (WIDTH - 90), 12 + (1 - places[:, 1]) * (HEIGHT - 24)
    written = _without_overlap(x, y, names)
    drawing = Drawing(WIDTH, HEIGHT)
    for i, name in enumerate(names):
        near = ", ".join(
            f"{names[j]} {cosine:.2f}" for j, cosine in zip(order[i], cosines[i], strict=True)
        )
        with drawing.group(f"{name}: nearest {near}"):
            color = f"c{(0 if colors is None else colors[i]) % 6}"
            drawing.dot(x[i], y[i], 3.2, color)
            if i in written:
                drawing.text(x[i] + 6, y[i] + 3.5, elide(name, 80, SIZE), size=SIZE)
    return drawing.picture(title, _caption(vectors, method))


def _caption(vectors: np.ndarray, method: Method) -> str:
    near = "Hovering a point names the nearest ones in all dimensions, by cosine."
    if method == "tsne":
        return f"t-SNE of {vectors.shape[1]} dimensions: near points are near; distances between groups mean little. {near}"
    share = components(np.asarray(vectors, dtype=np.float64))[1].sum()
    return f"The two principal components of {vectors.shape[1]} dimensions hold {share:.0%} of the variance. {near}"


def _without_overlap(x: np.ndarray, y: np.ndarray, names: Sequence[str]) -> set[int]:
    """Points whose name can be written without covering an earlier name."""
    taken: list[tuple[float, float, float, float]] = []
    found = set()
    for i, name in enumerate(names):
        width = text_width(elide(name, 80, SIZE), SIZE)
        box = (x[i] + 5, y[i] - SIZE + 3, x[i] + 8 + width, y[i] + 5)
        free = all(box[2] < b[0] or b[2] < box[0] or box[3] < b[1] or b[3] < box[1] for b in taken)
        if free:
            taken.append(box)
            found.add(i)
    return found
