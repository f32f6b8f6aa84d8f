"""Binary trees over words: random and balanced, or grown from vectors by recursive clustering.

Mnih and Hinton 2008, "A scalable hierarchical distributed language model": words are split by a mixture of two Gaussians,
and each half again, down to single words. A tree is the paths from its root, as models/output.py takes them.
Shapes: V words, D features.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np

from fourfold.models.output import Paths

Halves = tuple[np.ndarray, np.ndarray]
FEW = 12
"""Words from which on a mixture is fitted; fewer are split along their first principal component."""
LEAST = 0.05
"""The smaller side of an adaptive split has at least this share of the words; otherwise they are halved."""


def grow(words: np.ndarray, split: Callable[[np.ndarray], Halves]) -> Paths:
    """A tree, split from the root down.

    Args:
        words: (V,) the numbers 0 to V - 1 in any order.
        split: two or more words in, two parts out, neither empty.

    Returns:
        Begins, nodes and labels (1 towards the first part), the root node 0.
    """
    nodes: list[tuple[int, ...]] = [()] * len(words)
    labels: list[tuple[int, ...]] = [()] * len(words)
    waiting: list[tuple[np.ndarray, tuple[int, ...], tuple[int, ...]]] = [(words, (), ())]
    made = 0
    while waiting:
        some, path, turns = waiting.pop()
        if len(some) == 1:
            nodes[int(some[0])], labels[int(some[0])] = path, turns
            continue
        first, second = split(some)
        waiting += [(second, (*path, made), (*turns, 0)), (first, (*path, made), (*turns, 1))]
        made += 1
    begins = np.concatenate([[0], np.cumsum([len(path) for path in nodes])]).astype(np.int32)
    return (
        begins,
        np.array([n for path in nodes for n in path] or [0], np.int32),
        np.array([t for turns in labels for t in turns] or [0], np.float32),
    )


def halved(some: np.ndarray) -> Halves:
    """The first and the second half of words, in their order."""
    middle = len(some) // 2
    return some[:middle], some[middle:]


def clustered(
    vectors: np.ndarray, how: Literal["adaptive", "balanced"] = "adaptive", seed: int = 0
) -> Paths:
    """A tree that keeps words with like vectors together.

    Args:
        vectors: (V, D) finite.
        how: adaptive puts each word where it more likely belongs; balanced halves the words by how likely.
        seed: of the mixtures' first means.
    """
    vectors = np.asarray(vectors, np.float64)

    def split(some: np.ndarray) -> Halves:
        if len(some) == 2:
            return some[:1], some[1:]
        leaning = _leaning(vectors[some], seed) if len(some) >= FEW else _along(vectors[some])
        order = np.argsort(-leaning, kind="stable")
        first = int((leaning > 0).sum())
        if how == "balanced" or min(first, len(some) - first) < max(1, LEAST * len(some)):
            return halved(some[order])
        return some[order[:first]], some[order[first:]]

    return grow(np.arange(len(vectors)), split)


def _leaning(points: np.ndarray, seed: int) -> np.ndarray:
    """(N,) log-odds of the first of two Gaussians with round covariances against the second."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(
        2, covariance_type="spherical", max_iter=20, init_params="random_from_data", random_state=seed
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a rough split is enough
        odds = np.log(np.clip(mixture.fit(points).predict_proba(points), 1e-300, None))
    return np.asarray(odds[:, 0] - odds[:, 1], np.float64)


def _along(points: np.ndarray) -> np.ndarray:
    """(N,) coordinates along the first principal component."""
    centred = points - points.mean(0)
    return np.asarray(centred @ np.linalg.svd(centred, full_matrices=False)[2][0], np.float64)


def top_levels(paths: Paths, levels: int) -> dict[str, np.ndarray]:
    """Which words hang below each node of the upper levels.

    Args:
        paths: a tree.
        levels: how deep.

    Returns:
        By the turns from the root ("" is the root, "10" what comes after first and second part) the words, (M,),
        for every node and every word's leaf down to that level.
    """
    begins, _, labels = paths
    found: dict[str, list[int]] = {}
    for word, (begin, end) in enumerate(zip(begins[:-1], begins[1:], strict=True)):
        turns = "".join(str(int(t)) for t in labels[begin : min(end, begin + levels)])
        for depth in range(len(turns) + 1):
            found.setdefault(turns[:depth], []).append(word)
    return {turns: np.array(words) for turns, words in found.items()}
