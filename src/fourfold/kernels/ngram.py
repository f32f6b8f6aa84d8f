"""An n-gram model as four arrays, and the questions it answers: compiled.

The n-grams of all orders form a forest of tries, one node each, level after level: the V words, then the
pairs, and so on, each level in the order of its parents and words. A node's children are a stretch of the
next level, sorted by word, in which a child is searched. Probabilities are of the back-off form of ARPA
(Katz 1987), which holds interpolated models too: log p(w | c) is the entry of the longest n-gram (c', w) in
the tables, plus the back-off of every longer context of c that is in them.

A text's positions are looked up level by level, not one after the other, so that the memory's delays of
many positions pass side by side.
Shapes: V words, M nodes, I inner ones (orders 1 to n - 1), R rows, N + 1 tokens, the first a boundary.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fourfold.kernels.cached import njit
from fourfold.kernels.prefetch import prefetch

BLOCK = 2048
"""Positions looked up side by side: their nodes stay in the first-level cache."""


class Tables(NamedTuple):
    """What is known of each n-gram."""

    words: np.ndarray
    """(M,) int32, the last word of each node."""
    first: np.ndarray
    """(I + 1,) int32: the children of inner node x are first[x] to first[x + 1] - 1."""
    logs: np.ndarray
    """(M,) float32, log-probability of the last word after the others, in nats."""
    backoffs: np.ndarray
    """(I,) float32, what is added where a longer context's word is not among its children, in nats."""
    end: int
    """Ends a document."""
    stop: int
    """Ends a sentence; as a context it stands for both. Contexts do not reach across either."""
    order: int
    """The longest n-gram."""


@njit(nogil=True, cache=True, boundscheck=False, inline="always")
def _child(tables, parent, word):  # type: ignore[no-untyped-def]
    """The child of an inner node by a word, -1 if there is none."""
    low, high = tables.first[parent], tables.first[parent + 1]
    if low == high:
        return np.int32(-1)
    size = high - low
    while size > 1:
        half = size >> 1
        low = low + half if tables.words[low + half] <= word else low
        size -= half
    return low if tables.words[low] == word else np.int32(-1)


@njit(nogil=True, cache=True, boundscheck=False)
def surprises(tables, tokens, found):  # type: ignore[no-untyped-def]
    """-log p of tokens[1:], each after those before it.

    Only places whose context is in the tables go on to the next order, in a list without gaps: a branch that
    cannot be predicted would cost as much as the search. What is read next is asked for a round ahead.

    Args:
        tables: `Tables`.
        tokens: (N + 1,) integers; the first is a boundary.
        found: (N,) float64, written in place, in nats.
    """
    order, stop, end = tables.order, tables.stop, tables.end
    places, parents = np.empty(BLOCK + 1, np.int32), np.empty(BLOCK + 1, np.int32)
    lows, sizes = np.empty(BLOCK + 1, np.int32), np.empty(BLOCK + 1, np.int32)
    hit = np.empty(BLOCK + 1, np.bool_)
    carried = np.full(order, -1, np.int32)  # contexts of each length that end before the block
    carried[0] = stop
    for begin in range(1, len(tokens), BLOCK):
        size = min(BLOCK, len(tokens) - begin)
        parents[0] = carried[0]
        for i in range(size):
            word = np.int32(tokens[begin + i])
            places[i], parents[i + 1] = i, stop if word == end else word
            found[begin + i - 1] = -tables.logs[word]
        carried[0] = parents[size]
        active = size
        for j in range(1, order):
            for a in range(active):
                lows[a] = tables.first[parents[a]]
                sizes[a] = tables.first[parents[a] + 1] - lows[a]
                prefetch(tables.words, np.int64(lows[a] + (sizes[a] >> 1)))
                prefetch(tables.backoffs, np.int64(parents[a]))
            _search(tables, tokens[begin:], active, places, lows, sizes, hit)
            hits = _tell(
                tables,
                tokens[begin:],
                found[begin - 1 :],
                active,
                places,
                parents,
                lows,
                sizes,
                hit,
            )
            if j + 1 < order:
                active, carried[j] = _pass_on(carried[j], hits, size, places, parents, lows, sizes)


@njit(nogil=True, cache=True, boundscheck=False)
def _search(tables, tokens, active, places, lows, sizes, hit):  # type: ignore[no-untyped-def]
    """Search the words of some places among the children of their contexts: the node into `lows`, or `hit` is False."""
    for a in range(active):
        word, low, size = np.int32(tokens[places[a]]), lows[a], sizes[a]
        any_child = size > 0
        while size > 1:
            half = size >> 1
            low = low + half if tables.words[low + half] <= word else low
            size -= half
        low = low if any_child else np.int32(0)  # behind the last node there is none
        prefetch(tables.logs, np.int64(low))
        lows[a], hit[a] = low, any_child & (tables.words[low] == word)


@njit(nogil=True, cache=True, boundscheck=False)
def _tell(tables, tokens, found, active, places, parents, lows, sizes, hit):  # type: ignore[no-untyped-def]
    """Tell the surprise of the places so far.

    Returns:
        How many nodes that were found are contexts again; they are put into `lows`, their places into `sizes`.
    """
    hits = 0
    for a in range(active):
        place, low = places[a], lows[a]
        word, before = np.int32(tokens[place]), found[place]
        found[place] = -tables.logs[low] if hit[a] else before - tables.backoffs[parents[a]]
        lows[hits], sizes[hits] = low, place
        hits += hit[a] & (word != tables.stop) & (word != tables.end)
    return hits


@njit(nogil=True, cache=True, boundscheck=False)
def _pass_on(carried, hits, size, places, parents, lows, sizes):  # type: ignore[no-untyped-def]
    """Contexts found at some places are those of the places after them, the first of the next block's first.

    Returns:
        How many places have a context, and what is carried to the next block, -1 if nothing.
    """
    active = 0
    if carried >= 0:
        places[0], parents[0] = 0, carried
        active = 1
    carried = np.int32(-1)
    for a in range(hits):
        if sizes[a] + 1 < size:
            places[active], parents[active] = sizes[a] + 1, lows[a]
            active += 1
        else:
            carried = lows[a]
    return active, carried


@njit(nogil=True, cache=True, boundscheck=False)
def distributions(tables, contexts, logs):  # type: ignore[no-untyped-def]
    """Log-probabilities of every word after some contexts.

    Args:
        tables: `Tables`.
        contexts: (R, order - 1) int32, the nodes of the last 1, 2, ... words, -1 where there is none.
        logs: (R, V) float32, written in place, in nats.
    """
    for row in range(len(contexts)):
        total = 0.0
        for j in range(contexts.shape[1]):
            if contexts[row, j] >= 0:
                total += tables.backoffs[contexts[row, j]]
        for word in range(logs.shape[1]):
            logs[row, word] = tables.logs[word] + total
        for j in range(contexts.shape[1]):
            node = contexts[row, j]
            if node < 0:
                continue
            total -= tables.backoffs[node]
            for child in range(tables.first[node], tables.first[node + 1]):
                logs[row, tables.words[child]] = tables.logs[child] + total


@njit(nogil=True, cache=True, boundscheck=False)
def advance(tables, contexts, tokens):  # type: ignore[no-untyped-def]
    """The contexts once each row has read one more token, in place: as for `distributions`, tokens (R,) integers."""
    for row in range(len(contexts)):
        word = tokens[row]
        ends = word == tables.end or word == tables.stop
        for j in range(contexts.shape[1] - 1, 0, -1):
            parent = contexts[row, j - 1]
            contexts[row, j] = -1 if ends or parent < 0 else _child(tables, parent, word)
        if contexts.shape[1]:
            contexts[row, 0] = tables.stop if ends else word


@njit(nogil=True, cache=True, boundscheck=False)
def row_surprises(tables, tokens, targets, found):  # type: ignore[no-untyped-def]
    """-log p of targets after the tokens before them in their rows, of which nothing is known before the first.

    Args:
        tables: `Tables`.
        tokens: (R, C - 1 + T) integers.
        targets: (R, T) integers; negative ones are passed over.
        found: (R, T) float64, written in place, in nats.
    """
    inner = max(tables.order - 1, 0)
    contexts = np.empty((1, inner), np.int32)
    lead = tokens.shape[1] - targets.shape[1]
    for row in range(len(tokens)):
        contexts[:] = -1
        for t in range(tokens.shape[1]):
            advance(tables, contexts, tokens[row, t : t + 1])
            if t < lead or targets[row, t - lead] < 0:
                continue
            word = targets[row, t - lead]
            value = tables.logs[word]
            for j in range(inner):
                if contexts[0, j] >= 0:
                    node = _child(tables, contexts[0, j], word)
                    value = (
                        tables.logs[node] if node >= 0 else value + tables.backoffs[contexts[0, j]]
                    )
            found[row, t - lead] = -value


@njit(nogil=True, cache=True, boundscheck=False)
def suffixes(tables):  # type: ignore[no-untyped-def]
    """For each inner node the longest one in the tables that lacks its first word or more, (I,) int32; -1: none."""
    found = np.full(len(tables.backoffs), -1, np.int32)
    for parent in range(len(found)):
        for node in range(tables.first[parent], min(tables.first[parent + 1], len(found))):
            shorter = found[parent]
            while shorter >= 0:
                child = _child(tables, shorter, tables.words[node])
                if child >= 0:
                    break
                shorter = found[shorter]
            found[node] = child if shorter >= 0 else tables.words[node]
    return found


@njit(nogil=True, cache=True, boundscheck=False)
def context_sums(tables, shorter, total, sums):  # type: ignore[no-untyped-def]
    """What the probabilities of all words sum to after each context, if they sum to one after shorter ones.

    Args:
        tables: `Tables`.
        shorter: from `suffixes`.
        total: the sum of single words' probabilities.
        sums: (I,) float64, written in place.
    """
    for context in range(len(sums)):
        own, below = 0.0, 0.0
        for node in range(tables.first[context], tables.first[context + 1]):
            own += np.exp(np.float64(tables.logs[node]))
            word, place, log = tables.words[node], shorter[context], 0.0
            child = np.int32(-1)
            while place >= 0:
                child = _child(tables, place, word)
                if child >= 0:
                    break
                log += tables.backoffs[place]
                place = shorter[place]
            below += np.exp(log + (tables.logs[child] if place >= 0 else tables.logs[word]))
        rest = total - below if shorter[context] < 0 else 1.0 - below
        sums[context] = own + np.exp(np.float64(tables.backoffs[context])) * rest
