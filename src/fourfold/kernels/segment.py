"""Text to numbers of words in one compiled pass: split by classes of characters, hashed, counted.

The text comes as code points (UTF-32), each with a class, so that every script is treated alike.
Entries are compared by their characters, never by their hash alone.
Shapes: N code points of a block, E entries so far.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import uint64

from fourfold.kernels.cached import njit
from fourfold.kernels.lanes import pointer

SEPARATOR, PART, ALONE, JOINER, BREAK, STOP = range(6)
"""Classes of characters: between words; part of a word; a word of its own (Chinese by character); part of a
word only between two parts (apostrophe, hyphen); a line's end, of which two end a sentence; end of a sentence."""
SENTENCE = -1
"""Marks the end of a sentence among the numbers."""


class Entries(NamedTuple):
    """The words found so far, in the order in which they came."""

    letters: np.ndarray
    """uint32: the code points of all, one after the other."""
    begins: np.ndarray
    """(capacity + 1,) int64: entry e is letters[begins[e] : begins[e + 1]]."""
    counts: np.ndarray
    """(capacity,) int64."""
    slots: np.ndarray
    """(a power of two,) int32: the hash table's entries, -1 where empty."""
    size: np.ndarray
    """(1,) int64: how many entries there are."""


def entries(capacity: int = 1 << 16, letters: int = 1 << 20) -> Entries:
    """No words yet, with room for some."""
    slots = np.full(2 * capacity, -1, np.int32)
    return Entries(
        np.zeros(letters, np.uint32),
        np.zeros(capacity + 1, np.int64),
        np.zeros(capacity, np.int64),
        slots,
        np.zeros(1, np.int64),
    )


def with_room(known: Entries, letters: int) -> Entries:
    """The same words, with room for those of so many letters more."""
    size, used = int(known.size[0]), int(known.begins[known.size[0]])
    words = size + letters // 2 + 1
    if words <= len(known.counts) and used + letters <= len(known.letters):
        return known
    capacity = max(len(known.counts), 1 << (words - 1).bit_length())
    new = entries(capacity, max(len(known.letters), 2 * used + letters))
    new.letters[:used] = known.letters[:used]
    new.begins[: size + 1] = known.begins[: size + 1]
    new.counts[:size] = known.counts[:size]
    new.size[0] = size
    _place_all(new)
    return new


@njit(nogil=True, cache=True, boundscheck=False)
def _hash(letters, start, stop):  # type: ignore[no-untyped-def]
    """FNV-1a of 64 bits over code points."""
    value = uint64(14695981039346656037)
    for p in range(start, stop):
        value = (value ^ uint64(letters[p])) * uint64(1099511628211)
    return value ^ (value >> uint64(29))


@njit(nogil=True, cache=True, boundscheck=False)
def _place_all(known):  # type: ignore[no-untyped-def]
    """Fill the hash table anew."""
    mask = uint64(len(known.slots) - 1)
    for entry in range(known.size[0]):
        at = _hash(known.letters, known.begins[entry], known.begins[entry + 1]) & mask
        while known.slots[at] >= 0:
            at = (at + uint64(1)) & mask
        known.slots[at] = entry


@njit(nogil=True, cache=True, boundscheck=False)
def _number(letters, begins, slots, size, mask, text, start, stop):  # type: ignore[no-untyped-def]
    """The entry of text[start:stop], new if it has not come before; `size` is where their number stands."""
    at = _hash(text, start, stop) & mask
    while slots[at] >= 0:
        entry = slots[at]
        begin = begins[entry]
        if begins[entry + 1] - begin == stop - start:
            p = 0
            while p < stop - start and letters[begin + p] == text[start + p]:
                p += 1
            if p == stop - start:
                return np.int64(entry)
        at = (at + uint64(1)) & mask
    entry = size[0]
    begin = begins[entry]
    for p in range(stop - start):
        letters[begin + p] = text[start + p]
    begins[entry + 1] = begin + stop - start
    size[0] = entry + 1
    slots[at] = np.int32(entry)
    return entry


@njit(nogil=True, cache=True, boundscheck=False)
def segment(text, classes, whole, known, found):  # type: ignore[no-untyped-def]
    """Numbers of the words of a block.

    Args:
        text: (N,) uint32 code points.
        classes: (0x110000,) uint8, see above.
        whole: whether the text ends here; else an unfinished word at its end is left for the next block.
        known: `Entries` with room for N / 2 + 1 more words and N more letters; counted up in place.
        found: (>= N + 1,) int32: words' numbers, and `SENTENCE` where a sentence ends, written in place.

    Returns:
        How many numbers were written, and how many code points were used.
    """
    size, count, at = len(text), 0, 0
    # pointers: an array that is handed on is counted, which takes as long as finding a word
    text, classes, found = pointer(text), pointer(classes), pointer(found)
    letters, begins, slots = pointer(known.letters), pointer(known.begins), pointer(known.slots)
    counts, entries, mask = pointer(known.counts), pointer(known.size), uint64(len(known.slots) - 1)
    while at < size:
        kind = classes[text[at]]
        if kind == STOP or (kind == BREAK and at + 1 < size and classes[text[at + 1]] == BREAK):
            if count and found[count - 1] != SENTENCE:
                found[count] = np.int32(SENTENCE)
                count += 1
        if kind != PART and kind != ALONE:
            at += 1
            continue
        stop = at + 1
        if kind == PART:
            while stop < size:
                next_kind = classes[text[stop]]
                inside = next_kind == JOINER and stop + 1 < size and classes[text[stop + 1]] == PART
                if next_kind != PART and not inside:
                    break
                stop += 1
            unsure = stop == size or (stop + 1 == size and classes[text[stop]] == JOINER)
            if unsure and not whole and at > 0:
                return count, at
        entry = _number(letters, begins, slots, entries, mask, text, at, stop)
        counts[entry] += 1
        found[count] = np.int32(entry)
        count += 1
        at = stop
    return count, at
