"""Counts of n-grams of all orders at once, by sorting, in bounded memory.

The n-grams form a tree: one of order k is the child, by its last word, of its first k - 1 words. Order by
order each position of the text is given the number of the n-gram that ends there: its parent's number (the
n-gram one shorter that ends one position before) and its word are one 64-bit key, the distinct keys in
order are the next level, and a search in it numbers the positions again. No n-gram is ever stored as words.

Contexts do not reach across a boundary (the end of a sentence or document). As a context a boundary is
always `stop`, so that it is both </s>, where it is predicted, and <s>, where it precedes.
Where the text is longer than the memory allows, keys are sorted in runs that go to files and are merged from
there (external sorting: Knuth 1973), and every array that is as long as the text is a file too.
Shapes: N + 1 tokens, the first a boundary; V words; n nodes of a level, p those of the level above.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import uint64

from fourfold.kernels.cached import njit

BYTES = 40
"""Working memory for each token of a run, at most."""
LARGEST = 2**31 - 1
"""Tokens at most: nodes are numbered by 32 bits."""


class Level(NamedTuple):
    """The n-grams of one order, in the order of their words."""

    words: np.ndarray
    """(n,) int32, the last word of each."""
    begin: np.ndarray
    """(p + 1,) int32: the children of node x of the level above are begin[x] to begin[x + 1] - 1."""
    counts: np.ndarray
    """(n,) int32, how often each occurs."""
    suffix: np.ndarray
    """(n,) int32: the node of the level above that lacks the first word."""


def count(
    tokens: np.ndarray,
    order: int,
    vocabulary: int,
    end: int,
    stop: int,
    *,
    store: Store | None = None,
    between: Callable[[float], None] = lambda share: None,
) -> list[Level]:
    """Count the n-grams of orders 1 to `order` that end at tokens[1:].

    Args:
        tokens: (N + 1,) integers below `vocabulary`; the first is a boundary.
        order: the longest.
        vocabulary: V.
        end, stop: the boundaries; may be the same.
        store: where arrays live, which is to stay open while they are used; None is memory.
        between: told the share of work done; what it raises ends the count.

    Returns:
        A level for each order. The first has every word, those that do not occur too; its suffix is 0.

    Raises:
        ValueError: no token is to be predicted, the first is no boundary, or there are too many.
    """
    size = len(tokens) - 1
    if size < 1 or tokens[0] not in (end, stop):
        raise ValueError("expected a boundary and at least one token after it")
    if size > LARGEST:
        raise ValueError(f"expected at most {LARGEST:,} tokens, got {size:,}")
    store = store or Store(0)
    bits = max(1, (vocabulary - 1).bit_length())
    block = size if not store.on_disk else store.block
    spans = [(a, min(a + block, size + 1)) for a in range(1, size + 1, block)]
    nodes = store.empty(size + 1, np.int32)
    occurring = np.zeros(vocabulary, np.int64)
    for first, last in [(0, 1), *spans]:
        nodes[first:last] = tokens[first:last]
        if first:
            occurring += np.bincount(tokens[first:last], minlength=vocabulary)
    every = np.arange(vocabulary, dtype=np.int32)
    root = np.array([0, vocabulary], np.int32)
    levels = [Level(every, root, occurring.astype(np.int32), np.zeros(vocabulary, np.int32))]
    for k in range(2, order + 1):

        def told(share: float, k: int = k) -> None:
            between((k - 2 + share) / (order - 1))

        runs = _runs(tokens, nodes, spans, (k, end, stop, bits), store, told)
        level = _level(store, runs, len(levels[-1].words), bits)
        levels.append(level)
        before = np.int64(-1)
        for first, last in spans:
            before = _number(tokens, nodes, first, last, k, end, stop, level, before)
            told(0.7 + 0.3 * last / (size + 1))
    return levels


def _runs(
    tokens: np.ndarray,
    nodes: np.ndarray,
    spans: list[tuple[int, int]],
    how: tuple[int, int, int, int],
    store: Store,
    told: Callable[[float], None],
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The distinct keys of stretches of the text, sorted, with their counts."""
    runs = []
    for number, (first, last) in enumerate(spans):
        told(0.7 * number / len(spans))
        keys = np.empty(last - first, np.uint64)
        keys = keys[: _keys(tokens, nodes, first, last, *how, keys)]
        keys.sort()
        counts = np.empty(len(keys), np.int32)
        distinct = _distinct(keys, counts)
        runs.append((store.kept(keys[:distinct]), store.kept(counts[:distinct])))
    told(0.7)
    return runs


class Store:
    """Where long arrays live: in memory or, beyond what is allowed, in files of a scratch folder.

    Files are mapped: the system keeps of them in memory what it has room for. The folder is gone on exit.

    Args:
        tokens: of the text.
        memory: bytes of working memory.
        scratch: where the folder is made; None takes the system's temporary folder.
    """

    def __init__(self, tokens: int, memory: int = 1 << 30, scratch: Path | None = None) -> None:
        self.block = max(256, memory // BYTES)
        """Tokens that are worked on at once."""
        beyond = tokens > self.block
        self._folder = tempfile.TemporaryDirectory(prefix="ngram-", dir=scratch) if beyond else None
        self._made = 0

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    @property
    def on_disk(self) -> bool:
        """Whether arrays are files, which end with the store."""
        return self._folder is not None

    def empty(self, size: int, dtype: type) -> np.ndarray:
        """An array of this size."""
        if self._folder is None or size == 0:
            return np.empty(size, dtype)
        self._made += 1
        path = Path(self._folder.name) / str(self._made)
        mapped = np.memmap(path, dtype, "w+", shape=(size,))
        path.unlink()  # its bytes stay until the array is gone
        return np.asarray(mapped)

    def kept(self, array: np.ndarray) -> np.ndarray:
        """A copy on disk, or the array itself."""
        if self._folder is None:
            return array
        copy = self.empty(len(array), array.dtype.type)
        copy[:] = array
        return copy


def _level(
    store: Store, runs: list[tuple[np.ndarray, np.ndarray]], parents: int, bits: int
) -> Level:
    """The level that sorted runs of keys make together."""
    if len(runs) == 1:
        merged: Iterator[tuple[np.ndarray, np.ndarray]] = iter(runs)
        size = len(runs[0][0])
    else:
        merged = _merged(runs, store.block)
        size = sum(len(keys) for keys, _ in _merged(runs, store.block))
    words = store.empty(size, np.int32)
    counts = store.empty(size, np.int32)
    suffix = store.empty(size, np.int32)
    begin = store.empty(parents + 1, np.int32)
    done, next_parent = 0, 0
    for keys, numbers in merged:
        stop = done + len(keys)
        counts[done:stop] = numbers
        next_parent = _split(keys, bits, done, words, begin, next_parent)
        done = stop
    begin[next_parent:] = size
    return Level(words, begin, counts, suffix)


def _merged(
    runs: list[tuple[np.ndarray, np.ndarray]], block: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Distinct keys of sorted runs with their counts added up, in order, a bounded piece at a time.

    Pieces are cut at every so many keys of each run, so that none is longer than a block.
    """
    step = max(1, block // (2 * len(runs)))
    edges = np.unique(np.concatenate([keys[::step] for keys, _ in runs]))
    places = [np.append(np.searchsorted(keys, edges), len(keys)) for keys, _ in runs]
    for i in range(len(edges)):
        parts = [
            (k[at[i] : at[i + 1]], c[at[i] : at[i + 1]])
            for (k, c), at in zip(runs, places, strict=True)
        ]
        keys = np.concatenate([k for k, _ in parts])
        counts = np.concatenate([c for _, c in parts])
        order = np.argsort(keys, kind="stable")
        keys, first = np.unique(keys[order], return_index=True)
        yield keys, np.add.reduceat(counts[order], first)


@njit(nogil=True, cache=True, boundscheck=False)
def _keys(tokens, nodes, first, last, level, end, stop, bits, keys):  # type: ignore[no-untyped-def]
    """Keys of the n-grams of a level that end at first to last - 1; returns how many there are."""
    found = 0
    for i in range(first, last):
        before = tokens[i - 1]
        if before == end or before == stop:
            if level > 2:
                continue
            parent = uint64(stop)
        elif level == 2:
            parent = uint64(before)
        elif nodes[i - 1] < 0:
            continue
        else:
            parent = uint64(nodes[i - 1])
        keys[found] = (parent << uint64(bits)) | uint64(tokens[i])
        found += 1
    return found


@njit(nogil=True, cache=True, boundscheck=False)
def _distinct(keys, counts):  # type: ignore[no-untyped-def]
    """Sorted keys, in place, to those that differ, with the number of each; returns how many."""
    size = 0
    for i in range(len(keys)):
        if size and keys[i] == keys[size - 1]:
            counts[size - 1] += 1
        else:
            keys[size], counts[size] = keys[i], 1
            size += 1
    return size


@njit(nogil=True, cache=True, boundscheck=False)
def _split(keys, bits, done, words, begin, next_parent):  # type: ignore[no-untyped-def]
    """Words of some keys from place `done` on, and where the children of each parent begin."""
    mask = (uint64(1) << uint64(bits)) - uint64(1)
    for i in range(len(keys)):
        words[done + i] = keys[i] & mask
        parent = np.int64(keys[i] >> uint64(bits))
        while next_parent <= parent:
            begin[next_parent] = done + i
            next_parent += 1
    return next_parent


@njit(nogil=True, cache=True, boundscheck=False)
def _number(tokens, nodes, first, last, level, end, stop, known, before):  # type: ignore[no-untyped-def]
    """Give each position the node of this level that ends there, in place of that of the level above, or -1.

    Returns:
        The node of the level above that ended at the last position, for the next call's `before`.
    """
    for i in range(first, last):
        old, word, previous = nodes[i], tokens[i], tokens[i - 1]
        if previous == end or previous == stop:
            parent = np.int64(stop) if level == 2 else np.int64(-1)
        else:
            parent = np.int64(previous) if level == 2 else np.int64(before)
        before = np.int64(old)
        if parent < 0:
            nodes[i] = -1
            continue
        low, high = known.begin[parent], known.begin[parent + 1] - 1
        while low < high:
            middle = (low + high) >> 1
            if known.words[middle] < word:
                low = middle + 1
            else:
                high = middle
        nodes[i] = low
        known.suffix[low] = old
    return before
