"""One token drawn from logits in one compiled call, for a CPU: temperature, top-k, top-p, min-p.

`models/sampling.py`'s `Sampling.probabilities` is the plain reference. Nothing is sorted but the shares of one bucket:
they are told apart by the leading bits of their float32, which count their size in eighths of an octave.
V is the vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fourfold.kernels.cached import njit
from fourfold.kernels.lanes import LANES, exp, load, pointer, store

OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "boundscheck": False}
SUMS: dict[str, Any] = {**OPTIONS, "fastmath": {"reassoc", "contract", "nsz"}}
SHIFT, BUCKETS = 20, 1 << 11
RUN = 64
"""Numbers summed in float32."""
LEAST, NOTHING = np.float32(80.0), np.float32(1.9e-35)
"""Logits so far below the largest, over the temperature, have no share: `exp` knows no smaller one than this."""


@njit(**SUMS)
def _shares(logits, temperature, shares):  # type: ignore[no-untyped-def]
    """e^((logit - largest) / temperature), to shares, which has room for whole vectors."""
    largest = np.float32(-3e38)
    for i in range(len(logits)):
        largest = max(largest, logits[i])
    size, least = len(logits), np.float32(-LEAST)
    over = np.float32(min(np.float64(1e30), 1.0 / temperature))
    for i in range(
        size
    ):  # what is far below, minus infinity too, is cut here: fast arithmetic knows none
        shares[i] = max((logits[i] - largest) * over, least)
    shares[size : size + LANES] = np.float32(0.0)
    start = pointer(shares)
    for i in range(0, size, LANES):
        store(start, i, exp(load(start, i)))
    for i in range(size):
        if shares[i] < NOTHING:
            shares[i] = np.float32(0.0)


@njit(**SUMS)
def _sum(shares, begin, end):  # type: ignore[no-untyped-def]
    total = np.float32(0.0)
    for i in range(begin, end):
        total += shares[i]
    return np.float64(total)


@njit(**OPTIONS)
def _cut(shares, size, count, mass):  # type: ignore[no-untyped-def]
    """Zero all shares but the `count` largest (equal ones stay), or, with count 0, but the largest that together have `mass`."""
    bits = shares.view(np.uint32)
    counts, masses = np.zeros(BUCKETS, np.int64), np.zeros(BUCKETS, np.float64)
    total = 0.0
    for i in range(size):
        if shares[i] > 0:
            counts[bits[i] >> SHIFT] += 1
            masses[bits[i] >> SHIFT] += shares[i]
            total += shares[i]
    bucket, above, held = BUCKETS - 1, 0, 0.0
    while bucket > 0 and (
        counts[bucket] == 0
        or (above + counts[bucket] < count if count > 0 else held + masses[bucket] < mass * total)
    ):
        above += counts[bucket]
        held += masses[bucket]
        bucket -= 1
    inside = np.empty(counts[bucket], np.float32)
    places = np.empty(counts[bucket], np.int64)
    n = 0
    for i in range(size):
        if shares[i] > 0 and bits[i] >> SHIFT == bucket:
            inside[n], places[n] = shares[i], i
            n += 1
        elif bits[i] >> SHIFT < bucket:
            shares[i] = np.float32(0.0)
    order = np.argsort(-inside, kind="mergesort")
    last = np.float32(-1.0)
    for rank in range(n):
        share = inside[order[rank]]
        if count > 0:
            gone = above + rank >= count and share < last
        else:
            gone = held >= mass * total and above + rank > 0
        if gone:
            shares[places[order[rank]]] = np.float32(0.0)
        else:
            held += share
            last = share


@njit(**OPTIONS)
def draw(logits, temperature, top_k, top_p, min_p, uniform):  # type: ignore[no-untyped-def]
    """The number of a token.

    Args:
        logits: (V,) float32, one of them finite; those of minus infinity are never drawn.
        temperature: above 0.
        top_k: 0 for all.
        top_p: 1 for all.
        min_p: 0 for all.
        uniform: from 0 to below 1, what decides.
    """
    size = len(logits)
    shares = np.empty(size + LANES, np.float32)
    _shares(logits, temperature, shares)
    if 0 < top_k < size:
        _cut(shares, size, top_k, 0.0)
    if top_p < 1.0:
        _cut(shares, size, 0, top_p)
    if min_p > 0.0:  # the largest share is 1
        for i in range(size):
            if shares[i] < min_p:
                shares[i] = np.float32(0.0)
    runs = (size + RUN - 1) // RUN
    sums = np.empty(runs, np.float64)
    total = 0.0
    for n in range(runs):
        sums[n] = _sum(shares, n * RUN, min(size, n * RUN + RUN))
        total += sums[n]
    left, n = uniform * total, 0
    while n < runs - 1 and left >= sums[n]:
        left -= sums[n]
        n += 1
    found = -1
    for i in range(n * RUN, min(size, n * RUN + RUN)):
        if shares[i] > 0:
            found = i
            left -= shares[i]
            if left < 0:
                return i
    # rounding may leave a little at the end of a run: its last token is it
    while found < 0 and n > 0:
        n -= 1
        for i in range(n * RUN, n * RUN + RUN):
            if shares[i] > 0:
                found = i
    return found
