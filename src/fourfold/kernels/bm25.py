"""Inverted lists and their scores, compiled. BM25: Robertson et al. 1994, in Lucene's form; `bm25_plain` says the same plainly.

Shapes: N passages, P different terms of each passage, summed, V different terms of all, Q terms of a question.
"""

from __future__ import annotations

import numpy as np
from numba import uint64

from fourfold.kernels.cached import njit


@njit(nogil=True, cache=True, boundscheck=False)
def _place(slots, keys, entry, mask):  # type: ignore[no-untyped-def]
    at = keys[entry] & mask
    while slots[at] >= 0:
        at = (at + uint64(1)) & mask
    slots[at] = entry


@njit(nogil=True, cache=True, boundscheck=False)
def _numbered(hashes, numbers):  # type: ignore[no-untyped-def]
    """The different hashes in the order in which they come; `numbers` becomes the place of each among them."""
    capacity = 1 << 16
    slots, keys, size = np.full(2 * capacity, -1, np.int32), np.empty(capacity, np.uint64), 0
    mask = uint64(len(slots) - 1)
    for p in range(len(hashes)):
        at = hashes[p] & mask
        while slots[at] >= 0 and keys[slots[at]] != hashes[p]:
            at = (at + uint64(1)) & mask
        if slots[at] < 0:
            if size == capacity:
                capacity *= 2
                more = np.empty(capacity, np.uint64)
                more[:size] = keys
                slots, keys = np.full(2 * capacity, -1, np.int32), more
                mask = uint64(len(slots) - 1)
                for entry in range(size):
                    _place(slots, keys, entry, mask)
                at = hashes[p] & mask
                while slots[at] >= 0:
                    at = (at + uint64(1)) & mask
            keys[size], slots[at] = hashes[p], size
            size += 1
        numbers[p] = slots[at]
    return keys[:size]


@njit(nogil=True, cache=True, boundscheck=False)
def _turned(numbers, counts, ends, offsets, rows, often):  # type: ignore[no-untyped-def]
    """Lists by passage to lists by term; `offsets` holds where each term's list begins, and is moved on."""
    for n in range(len(ends) - 1):
        for p in range(ends[n], ends[n + 1]):
            at = offsets[numbers[p]]
            rows[at], often[at] = n, counts[p]
            offsets[numbers[p]] = at + 1


def inverted(
    hashes: np.ndarray, counts: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Which passages hold each term.

    Args:
        hashes: (P,) uint64 terms of each passage, each once.
        counts: (P,) int16, how often.
        ends: (N + 1,) int64, where each passage's begin and end.

    Returns:
        (V,) uint64 terms, rising; (V + 1,) int64, where each one's list begins and ends; (P,) int32 passages of each
        list, rising; (P,) int16, how often.
    """
    numbers = np.empty(len(hashes), np.int32)
    terms = _numbered(hashes, numbers)
    order = np.argsort(terms)
    place = np.empty(len(terms), np.int32)
    place[order] = np.arange(len(terms), dtype=np.int32)
    numbers = place[numbers]
    offsets = np.zeros(len(terms) + 1, np.int64)
    np.cumsum(np.bincount(numbers, minlength=len(terms)), out=offsets[1:])
    rows, often = np.empty(len(hashes), np.int32), np.empty(len(hashes), np.int16)
    _turned(numbers, counts, ends, offsets[:-1].copy(), rows, often)
    return terms[order], offsets, rows, often


@njit(nogil=True, cache=True, boundscheck=False)
def impacts(offsets, rows, often, lengths, mean, k1, b, found):  # type: ignore[no-untyped-def]
    """What each entry adds to its passage's score, idf (1 + k1) tf / (tf + k1 (1 - b + b length / mean)); (P,) float32."""
    total = len(lengths)
    for t in range(len(offsets) - 1):
        having = offsets[t + 1] - offsets[t]
        idf = np.log(1 + (total - having + 0.5) / (having + 0.5))
        for p in range(offsets[t], offsets[t + 1]):
            tf = float(often[p])
            found[p] = idf * (1 + k1) * tf / (tf + k1 * (1 - b + b * lengths[rows[p]] / mean))


@njit(nogil=True, cache=True, boundscheck=False)
def add_scores(offsets, rows, gains, asked, scores):  # type: ignore[no-untyped-def]
    """Add to scores (N,) float32 what each of the asked terms, (Q,) int64 places, gives."""
    for q in range(len(asked)):
        for p in range(offsets[asked[q]], offsets[asked[q] + 1]):
            scores[rows[p]] += gains[p]


@njit(nogil=True, cache=True, boundscheck=False)
def largest(scores, top):  # type: ignore[no-untyped-def]
    """The rows of the `top` largest positive scores, falling; of equal ones the first row comes first."""
    best, count = np.empty(top, np.int64), 0
    least = np.float32(0)
    for row in range(len(scores)):
        score = scores[row]
        if score <= least:
            continue
        at = count if count < top else top - 1
        while at > 0 and scores[best[at - 1]] < score:
            if at < top:
                best[at] = best[at - 1]
            at -= 1
        best[at] = row
        if count < top:
            count += 1
        if count == top:
            least = scores[best[top - 1]]
    return best[:count]
