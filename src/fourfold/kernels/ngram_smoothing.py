"""From counts of n-grams to the probabilities of a back-off model: the smoothing methods, level by level.

For a context c with the words w that follow it, of which those that are pruned count as not seen:

    p(w | c) = discounted(w) / C + gamma p(w | c'),  gamma = what the discounts leave over,

where c' is c without its first word; below the words alone lies the uniform distribution over all V.

    absolute              discounted = count - D, D = n1 / (n1 + 2 n2): Ney, Essen and Kneser 1994
    kneser-ney            the same on continuation counts below the highest order: Kneser and Ney 1995
    modified-kneser-ney   three discounts, for counts of 1, 2 and more: Chen and Goodman 1998, equation 26
    witten-bell           C = tokens + types after c: Witten and Bell 1991, method C
    add-k                 (count + k) / (C + k V), nothing from lower orders: Lidstone 1920
    good-turing           r* = (r + 1) n(r+1) / n(r) for r <= 5, not interpolated but backed off to
                          where w has not followed c: Katz 1987

n(r) is the number of n-grams of an order with count r. The continuation count of an n-gram is the number of
different words that precede it; n-grams that begin at a boundary, which nothing precedes, keep their counts.
Interpolation and the unknown word are as in KenLM (Heafield et al. 2013): a word that never occurred, the
unknown one among them, has the uniform share gamma / V.
Shapes: V words; n nodes of a level, p those of the level above.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from fourfold.kernels.cached import njit
from fourfold.kernels.ngram import Tables
from fourfold.kernels.ngram_counts import Level, Store
from fourfold.kernels.ngram_discounts import HIGHEST, discounts, turing

Smoothing = Literal[
    "modified-kneser-ney", "kneser-ney", "absolute", "witten-bell", "good-turing", "add-k"
]
METHODS: tuple[str, ...] = get_args(Smoothing)
DISCOUNT, WITTEN_BELL, ADD, KATZ, UNIFORM = range(5)


@dataclass(frozen=True)
class Order:
    """What is told of one order."""

    size: int
    """Different n-grams in the text, before pruning."""
    kept: int
    """Of these in the model."""
    counts: tuple[int, ...]
    """n(1), n(2), ... of the counts that discounts were taken from (continuation counts under Kneser-Ney)."""
    discounts: tuple[float, ...]
    """What is taken from counts of 1, 2 and more; under Good-Turing the share that is left of counts 1 to 5."""
    fallback: bool
    """Whether the counts of counts gave no usable discounts, so that others stand in."""


def smooth(
    levels: list[Level],
    method: str,
    end: int,
    stop: int,
    *,
    k: float = 1.0,
    prune: Sequence[int] = (),
    store: Store | None = None,
    between: Callable[[float], None] = lambda share: None,
) -> tuple[Tables, list[Order]]:
    """Probabilities and back-off weights from counts.

    Args:
        levels: from `ngram_counts.count`; emptied, so that their memory is free when it is no longer needed.
        method: one of `METHODS`.
        end, stop: the boundaries, as they were counted.
        k: what add-k adds.
        prune: counts up to which n-grams of orders 2, 3, ... are left out, not falling; the last holds for
            the orders beyond.
        store: that of the counts; the model does not live in it.
        between: told the share of work done; what it raises ends the work.

    Returns:
        The model and what to tell of each order.
    """
    order, vocabulary = len(levels), len(levels[0].words)
    limits = [0, *prune, *[prune[-1] if prune else 0] * order][:order]
    store = store or Store(0)
    lower, kept = np.full(1, 1 / vocabulary, np.float32), np.ones(1, np.bool_)
    begins = (0, 0)  # nodes of the level above that begin at a boundary
    pieces, told = _Pieces(vocabulary), []
    for number in range(1, order + 1):
        between((number - 1) / order)
        level, below = levels[number - 1], levels[number] if number < order else None
        size, counts = len(level.words), level.counts
        if below is not None and method in ("kneser-ney", "modified-kneser-ney"):
            counts = store.empty(size, np.int32)
            _continuations(level, below.suffix, *begins, counts)
        keep = store.empty(size, np.bool_)
        _keep(level.counts, level.begin, kept, limits[number - 1], keep)
        kind, amounts, facts = _amounts(method, counts, k)
        terminal = (0, len(kept)) if number == order else begins
        probabilities, backoff = store.empty(size, np.float32), store.empty(len(kept), np.float32)
        _fill(
            kind, amounts, terminal, level.begin, counts, keep, level.suffix, lower, vocabulary,
            probabilities, backoff,
        )  # fmt: skip
        whole = limits[number - 1] == 0 and not store.on_disk
        pieces.add(level, keep, kept, probabilities, backoff, whole=whole)
        told.append(Order(int(np.count_nonzero(level.counts)), int(np.count_nonzero(keep)), *facts))
        first, last = begins
        begins = (
            (int(level.begin[first]), int(level.begin[last])) if number > 1 else (stop, stop + 1)
        )
        lower, kept = probabilities, keep
        levels[number - 1] = Level(*[np.empty(0, np.int32)] * 4)
    return pieces.tables(end, stop, order), told


class _Pieces:
    """The tables, level by level, in memory."""

    def __init__(self, vocabulary: int) -> None:
        self.words: list[np.ndarray] = []
        self.firsts = [np.array([vocabulary], np.int32)]
        self.logs: list[np.ndarray] = []
        self.backoffs = [np.empty(0, np.float32)]
        self.size = 0

    def add(
        self,
        level: Level,
        keep: np.ndarray,
        above: np.ndarray,
        probabilities: np.ndarray,
        backoff: np.ndarray,
        *,
        whole: bool,
    ) -> None:
        """Add a level's nodes to be kept, (n,) bool, and what belongs to those kept `above`, (p,) bool."""
        if self.words:
            ends = np.empty(np.count_nonzero(above), np.int32)
            _ends(level.begin, keep, above, self.size, ends)
            self.firsts.append(ends)
            self.backoffs.append(_logs(backoff[above]))
        self.words.append(level.words if whole else level.words[keep])
        # a copy: the next level still reads them as they are
        self.logs.append(_logs(probabilities[keep]))
        self.size += len(self.words[-1])

    def tables(self, end: int, stop: int, order: int) -> Tables:
        """All of it; the pieces are gone afterwards, each as soon as it is joined."""
        joined = []
        for pieces in (self.words, self.firsts, self.logs, self.backoffs):
            joined.append(np.concatenate(pieces))
            pieces.clear()
        words, first, logs, backoffs = joined
        return Tables(words, first, logs, backoffs, end, stop, order)


def _logs(values: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(values, out=values)


def _amounts(
    method: str, counts: np.ndarray, k: float
) -> tuple[int, np.ndarray, tuple[tuple[int, ...], tuple[float, ...], bool]]:
    """How a level is smoothed, its numbers, and what to tell of them."""
    found_counts = np.zeros(HIGHEST + 3, np.int64)
    _count_counts(counts, found_counts)
    of = found_counts[1 : HIGHEST + 2].tolist()
    if method in ("absolute", "kneser-ney", "modified-kneser-ney"):
        found, fallback = discounts(of[:4], three=method == "modified-kneser-ney")
        return DISCOUNT, np.array(found), (tuple(of), found, fallback)
    if method == "good-turing":
        shares, fallback = turing(of)
        return KATZ, np.array(shares, np.float64), (tuple(of), shares, fallback)
    kind = {"witten-bell": WITTEN_BELL, "add-k": ADD}[method]
    return kind, np.array([k]), (tuple(of), (), False)


@njit(nogil=True, cache=True, boundscheck=False)
def _count_counts(counts, found):  # type: ignore[no-untyped-def]
    """Add up how many nodes have each count; the last cell is for all larger ones."""
    for count in counts:
        found[min(count, len(found) - 1)] += 1


@njit(nogil=True, cache=True, boundscheck=False)
def _continuations(level, suffix_below, first, last, found):  # type: ignore[no-untyped-def]
    """How many different words precede each node, (n,) int32 in place; its count if its parent is one of first to last - 1."""
    found[:] = 0
    for place in suffix_below:
        found[place] += 1
    for node in range(level.begin[first], level.begin[last]):
        found[node] = level.counts[node]


@njit(nogil=True, cache=True, boundscheck=False)
def _keep(counts, begin, keep_above, limit, keep):  # type: ignore[no-untyped-def]
    """Which nodes are not pruned, (n,) bool in place: their count is above the limit, and their parent is kept."""
    for parent in range(len(keep_above)):
        for node in range(begin[parent], begin[parent + 1]):
            keep[node] = limit == 0 or (keep_above[parent] and counts[node] > limit)


@njit(nogil=True, cache=True, boundscheck=False)
def _ends(begin, keep, above, size, ends):  # type: ignore[no-untyped-def]
    """Where the kept children of each kept parent end, in place, if those of the first begin at `size`."""
    at = 0
    for parent in range(len(above)):
        for node in range(begin[parent], begin[parent + 1]):
            size += keep[node]
        if above[parent]:
            ends[at] = size
            at += 1


@njit(nogil=True, cache=True, boundscheck=False)
def _fill(kind, amounts, terminal, begin, counts, keep, suffix, lower, vocabulary, probabilities, backoff):  # type: ignore[no-untyped-def]  # fmt: skip
    """Probabilities of a level's nodes (n,) and back-off weights of their parents (p,), both linear, in place."""
    for parent in range(len(backoff)):
        start, stop = begin[parent], begin[parent + 1]
        if kind == ADD and not terminal[0] <= parent < terminal[1]:
            # add-k knows one order: below it all words are equally likely
            backoff[parent] = 1.0
            for node in range(start, stop):
                probabilities[node] = 1.0 / vocabulary
            continue
        if start == stop:
            backoff[parent] = 1.0
            continue
        total, types, left = 0.0, 0, 0.0  # left: what pruning and discounts take, in counts
        for node in range(start, stop):
            total += counts[node]
            types += counts[node] > 0
            if not keep[node]:
                left += counts[node]
        if kind == KATZ:
            backoff[parent] = _katz(
                amounts, start, stop, counts, keep, suffix, lower, total, probabilities
            )
            continue
        if kind == WITTEN_BELL:
            left += types
            total += types
        elif kind == ADD:
            left += amounts[0] * vocabulary
            total += amounts[0] * vocabulary
        else:
            for node in range(start, stop):
                if keep[node] and counts[node]:
                    left += amounts[min(counts[node], 3) - 1]
        gamma = left / total
        backoff[parent] = gamma
        for node in range(start, stop):
            below = 1.0 / vocabulary if kind == ADD else lower[suffix[node]]
            own = counts[node] / total
            if kind == DISCOUNT and counts[node]:
                own -= amounts[min(counts[node], 3) - 1] / total
            probabilities[node] = own + gamma * below


@njit(nogil=True, cache=True, boundscheck=False)
def _katz(shares, start, stop, counts, keep, suffix, lower, total, probabilities):  # type: ignore[no-untyped-def]
    """Fill the probabilities of one parent's children; returns its back-off weight."""
    seen, below = 0.0, 0.0
    for node in range(start, stop):
        if keep[node] and counts[node]:
            r = counts[node]
            seen += r * shares[r - 1] if r <= len(shares) else r
            below += lower[suffix[node]]
    if total - seen < 1e-9 * total:
        total += 1.0  # nothing is left for the unseen: as if one more had been seen
    rest = 1.0 - below
    closed = rest < 1e-6  # every word follows: nothing is unseen
    if closed:
        total = seen
    weight = 1.0 if closed else (1.0 - seen / total) / rest
    for node in range(start, stop):
        r = counts[node]
        if keep[node] and r:
            probabilities[node] = (r * shares[r - 1] if r <= len(shares) else r) / total
        else:
            probabilities[node] = weight * lower[suffix[node]]
    return weight
