"""Nearest rows of a matrix of word vectors by cosine, exactly: blocked products of any size.

Shapes: V words, D features, Q questions.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from fourfold.core.errors import UserError

BLOCK = 1 << 25
"""Products held at once: rows of a block are this by the number of questions."""
OFFERED = 3
"""Spellings offered for a word that is unknown."""


class Searches(Protocol):
    """Finds rows of largest product."""

    def nearest(self, questions: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
        """(Q, top) rows and products."""


class Space:
    """Words and their vectors, scaled to length 1; a vector of zeros stays zero."""

    def __init__(self, words: Sequence[str], vectors: np.ndarray) -> None:
        self.words = list(words)
        vectors = np.asarray(vectors, np.float32)
        lengths = np.sqrt(np.einsum("vd,vd->v", vectors, vectors))[:, None]
        self.unit = vectors / np.where(lengths > 0, lengths, 1)
        """(V, D) float32."""

    @functools.cached_property
    def numbers(self) -> dict[str, int]:
        """Row of each word."""
        return {word: number for number, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def number(self, word: str) -> int:
        """The row of a word.

        Raises:
            UserError: it is not in the vocabulary; the nearest spellings are offered.
        """
        if word not in self.numbers:
            close = spellings(word, self.words)
            hint = f"; did you mean {_or(close)}?" if close else ""
            raise UserError(f"{word}: not among the {len(self):,} words of this run{hint}")
        return self.numbers[word]

    def nearest(
        self, questions: np.ndarray, top: int, without: Sequence[Sequence[int]] = (),
        among: int | None = None, index: Searches | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """The rows of largest product with each question, in falling order.

        Args:
            questions: (Q, D); of length 1 where products should be cosines.
            top: how many rows.
            without: rows that do not count, for each question.
            among: only the first rows; None takes all.
            index: answers all but exactly; None takes every product.

        Returns:
            (Q, top) int64 rows and (Q, top) float32 products, fewer where there are fewer words.
        """
        questions = np.atleast_2d(np.asarray(questions, np.float32))
        count = min(among or len(self), len(self))
        extra = max((len(w) for w in without), default=0)
        if index is not None and among is None:
            rows, found = index.nearest(questions, min(top + extra, count))
            return _without(rows, found, without, top, count - extra)
        size = max(1, BLOCK // max(1, len(questions)))
        rows, products = np.empty((len(questions), 0), np.int64), np.empty((len(questions), 0))
        for start in range(0, count, size):
            found = questions @ self.unit[start : min(start + size, count)].T
            best = _largest(found, min(top + extra, found.shape[1]))
            rows = np.concatenate([rows, best + start], 1)
            products = np.concatenate([products, np.take_along_axis(found, best, 1)], 1)
        return _without(rows, products, without, top, count - extra)


def _without(
    rows: np.ndarray, products: np.ndarray, without: Sequence[Sequence[int]], top: int, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted by falling products, without the rows that do not count."""
    products = products.copy()
    for question, hidden in enumerate(without):
        products[question, np.isin(rows[question], list(hidden))] = -np.inf
    order = np.argsort(-products, axis=1, kind="stable")[:, : max(0, min(top, most))]
    each = np.arange(len(rows))[:, None]
    return rows[each, order], products[each, order].astype(np.float32)


def _largest(found: np.ndarray, top: int) -> np.ndarray:
    """(Q, top) columns of the largest entries of each row, in no order."""
    if top >= found.shape[1]:
        return np.tile(np.arange(found.shape[1]), (len(found), 1))
    return np.argpartition(-found, top - 1, axis=1)[:, :top]


def spellings(word: str, words: Sequence[str], count: int = OFFERED) -> list[str]:
    """The words spelt most like one, of words in the order of their frequency; other case comes first."""
    import difflib

    lowered = word.casefold()
    same = [w for w in words if w.casefold() == lowered][:count]
    size = (
        2 if len(lowered) > 3 else 1
    )  # letters that a word must share, in pairs where there are several
    pairs = {lowered[i : i + size] for i in range(len(lowered) - size + 1)}
    near = [w for w in words if abs(len(w) - len(word)) <= 2]
    shared = [(sum(p in w.casefold() for p in pairs), w) for w in near]
    least = max(1, len(pairs) // 3)
    likely = sorted((s for s in shared if s[0] >= least), key=lambda s: -s[0])[:2000]
    close = difflib.get_close_matches(word, [w for _, w in likely], n=count, cutoff=0.6)
    return list(dict.fromkeys([*same, *close]))[:count]


def _or(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
