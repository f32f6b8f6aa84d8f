"""Texts to hashed terms in one compiled pass, for retrieval by words: folded, stemmed, Chinese in single characters and pairs.

A term is known by a hash of 64 bits alone: among a million terms two share one with a chance of 3e-8. Words end at
whatever is no letter, digit or mark; a run of a script without spaces gives its characters and its neighbouring pairs,
which find words wherever they begin. The stem is Harman's (1991), which takes English plurals away and little else.
Shapes: C code points of all texts, N texts, P different terms of each text, summed.
"""

from __future__ import annotations

import functools
import unicodedata

import numpy as np
from numba import uint64

from fourfold.kernels.cached import njit

SEPARATOR, PART, ALONE = range(3)
"""Classes of characters: between words; part of a word; of a script without spaces."""
PLANE = 0x10000
"""Code points with a class of their own; beyond, Han's extensions are `ALONE` and all else separates."""
_A, _E, _I, _O, _S, _U, _Y = (ord(c) for c in "aeiosuy")
LIMIT = 32767
"""How often a term counts in a text at most."""


@functools.cache
def tables() -> tuple[np.ndarray, np.ndarray]:
    """(PLANE,) uint8 classes and (PLANE,) uint32 folded code points: lower case, Latin letters without accents."""
    from fourfold.kernels.scripts import UNSPACED

    classes, fold = np.zeros(PLANE, np.uint8), np.arange(PLANE, dtype=np.uint32)
    for code in range(PLANE):
        character = chr(code)
        if unicodedata.category(character)[0] in "LNM":
            classes[code] = PART
            if code < 128:
                fold[code] = ord(character.lower())
                continue
            base = unicodedata.normalize("NFKD", character)
            plain = base[0] if base[0].isascii() and base[0].isalpha() else character
            lowered = plain.casefold()
            fold[code] = ord(lowered) if len(lowered) == 1 else code
    for first, last in UNSPACED:
        if first < PLANE:
            classes[first : min(last + 1, PLANE)][classes[first : min(last + 1, PLANE)] > 0] = ALONE
    return classes, fold


@njit(nogil=True, cache=True, boundscheck=False)
def _stemmed(word, size):  # type: ignore[no-untyped-def]
    """How many code points of a word its stem has; "ies" becomes "y" in place."""
    if size < 4 or word[size - 1] != _S:
        return size
    before, third = word[size - 2], word[size - 3]
    if before == _E and third == _I:
        if word[size - 4] == _A or word[size - 4] == _E:
            return size
        word[size - 3] = _Y
        return size - 2
    if before == _E:
        return size if third == _A or third == _E or third == _O else size - 1
    return size if before == _U or before == _S else size - 1


@njit(nogil=True, cache=True, boundscheck=False)
def _hashed(word, start, stop):  # type: ignore[no-untyped-def]
    """FNV-1a of 64 bits over code points, mixed once more."""
    value = uint64(14695981039346656037)
    for p in range(start, stop):
        value = (value ^ uint64(word[p])) * uint64(1099511628211)
    value = (value ^ (value >> uint64(32))) * uint64(0x9E3779B97F4A7C15)
    return value ^ (value >> uint64(29))


@njit(nogil=True, cache=True, boundscheck=False)
def _terms(points, start, stop, classes, fold, stem, word, found):  # type: ignore[no-untyped-def]
    """Hashes of the terms of points[start:stop], written to `found`; their number."""
    count, at = 0, start
    while at < stop:
        code = points[at]
        kind = (
            classes[code] if code < PLANE else (ALONE if 0x20000 <= code < 0x3FFFE else SEPARATOR)
        )
        if kind == SEPARATOR:
            at += 1
            continue
        if kind == ALONE:
            found[count] = _hashed(points, at, at + 1)
            count += 1
            if at + 1 < stop:
                after = points[at + 1]
                if (after < PLANE and classes[after] == ALONE) or 0x20000 <= after < 0x3FFFE:
                    found[count] = _hashed(points, at, at + 2)
                    count += 1
            at += 1
            continue
        size = 0
        while at < stop and points[at] < PLANE and classes[points[at]] == PART:
            if size < len(word):
                word[size] = fold[points[at]]
                size += 1
            at += 1
        if stem:
            size = _stemmed(word, size)
        found[count] = _hashed(word, 0, size)
        count += 1
    return count


@njit(nogil=True, cache=True, boundscheck=False)
def _all_terms(points, starts, classes, fold, stem, word, found, edges):  # type: ignore[no-untyped-def]
    count = 0
    for n in range(len(starts) - 1):
        count += _terms(points, starts[n], starts[n + 1], classes, fold, stem, word, found[count:])
        edges[n + 1] = count
    return count


@njit(nogil=True, cache=True, boundscheck=False)
def _counted(found, edges, counts, ends):  # type: ignore[no-untyped-def]
    """Different terms of each text to the front of `found`, sorted, with how often each came."""
    size = 0
    for n in range(len(edges) - 1):
        some = found[edges[n] : edges[n + 1]]
        some.sort()
        at = 0
        while at < len(some):
            first, same = some[at], 0
            while at < len(some) and some[at] == first:
                same, at = same + 1, at + 1
            found[size] = first  # never ahead of where it is read
            counts[size] = min(same, LIMIT)
            size += 1
        ends[n + 1] = size
    return size


def hashes(texts: list[str], *, stem: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """The terms of texts in their order, as hashes.

    Args:
        texts: N of them.
        stem: take plurals away.

    Returns:
        All hashes, uint64, and (N + 1,) int64: text n's are those from edges[n] to edges[n + 1].
    """
    normal = [t if t.isascii() else unicodedata.normalize("NFKC", t) for t in texts]
    starts = np.zeros(len(normal) + 1, np.int64)
    np.cumsum([len(t) for t in normal], out=starts[1:])
    data = "".join(normal).encode("utf-32-le", "surrogatepass")
    points = np.frombuffer(data, np.uint32)
    classes, fold = tables()
    found, edges = np.empty(2 * len(points) + 1, np.uint64), np.zeros(len(normal) + 1, np.int64)
    word = np.empty(64, np.uint32)
    count = _all_terms(points, starts, classes, fold, stem, word, found, edges)
    return found[:count], edges


def counts(
    texts: list[str], *, stem: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The different terms of each text, with how often each came.

    Args:
        texts: N of them.
        stem: take plurals away.

    Returns:
        Hashes (P,) uint64, sorted in each text; how often (P,) int16, at most `LIMIT`; (N + 1,) int64, where each
        text's begin and end; and (N,) int32, how many terms each text has in all.
    """
    found, edges = hashes(texts, stem=stem)
    often, ends = np.empty(len(found), np.int16), np.zeros(len(edges), np.int64)
    size = _counted(found, edges, often, ends)
    return found[:size].copy(), often[:size].copy(), ends, np.diff(edges).astype(np.int32)
