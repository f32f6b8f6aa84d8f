"""How far counting reaches: what share of n-grams was never seen, and perplexity, by order and size of the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fourfold.kernels.cached import njit
from fourfold.kernels.ngram import _child, surprises
from fourfold.kernels.ngram_counts import count
from fourfold.kernels.ngram_smoothing import smooth


class Growth(NamedTuple):
    """By size of the text (S) and order (K)."""

    sizes: np.ndarray
    """(S,) int64, tokens counted."""
    unseen: np.ndarray
    """(S, K) float64, share of the held-out n-grams of that order that were never counted; NaN: there are none."""
    perplexity: np.ndarray
    """(S, K) float64, of the held-out text, after modified Kneser-Ney smoothing."""


def grow(
    tokens: np.ndarray,
    held: np.ndarray,
    sizes: Sequence[int],
    order: int,
    vocabulary: int,
    end: int,
    stop: int,
) -> Growth:
    """Count the first tokens of a text, more and more of them, and look at another text each time.

    Args:
        tokens: (N + 1,), the first a boundary.
        held: (M + 1,), the first a boundary: the other text.
        sizes: how many tokens to count, each at most N.
        order: the longest n-gram, K.
        vocabulary: V, the same at every size.
        end, stop: the boundaries.
    """
    unseen, perplexity = np.empty((len(sizes), order)), np.empty((len(sizes), order))
    nats = np.empty(len(held) - 1)
    for row, size in enumerate(sizes):
        levels = count(tokens[: size + 1], order, vocabulary, end, stop)
        for n in range(1, order + 1):
            tables, _ = smooth(levels[:n], "modified-kneser-ney", end, stop)
            surprises(tables, held, nats)
            perplexity[row, n - 1] = np.exp(nats.mean())
        known, there = np.zeros(order, np.int64), np.zeros(order, np.int64)
        known[0] = int((levels[0].counts[held[1:]] > 0).sum())
        _seen(tables, held, known, there)
        with np.errstate(invalid="ignore"):
            unseen[row] = 1 - known / there
    return Growth(np.array(sizes), unseen, perplexity)


@njit(nogil=True, cache=True, boundscheck=False)
def _seen(tables, tokens, known, there):  # type: ignore[no-untyped-def]
    """How many n-grams of each order end at tokens[1:] within their sentence, and how many of them are in the tables.

    Args:
        tables: `Tables`.
        tokens: (N + 1,) integers; the first is a boundary.
        known: (K,) int64, counted up from order 2 on.
        there: (K,) int64, counted up.
    """
    contexts = np.full(tables.order, -1, np.int32)
    contexts[0] = tables.stop
    since = 1  # tokens since the sentence began, its boundary among them
    for i in range(1, len(tokens)):
        word = np.int32(tokens[i])
        ends = word == tables.end or word == tables.stop
        for j in range(tables.order - 1, -1, -1):
            there[j] += j <= since
            if j == 0:
                contexts[0] = tables.stop if ends else word
                continue
            node = np.int32(-1)
            if contexts[j - 1] >= 0:
                node = _child(tables, contexts[j - 1], word)
                known[j] += node >= 0
            if j < tables.order - 1:
                contexts[j] = np.int32(-1) if ends else node
        since = 1 if ends else since + 1
