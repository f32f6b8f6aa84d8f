"""A range coder in integers (Martin 1979; the carry is propagated): numbers become bytes, and back again.

A symbol takes the slice [begin, begin + width) of a total; what it costs is log2(total / width) bits. The
register holds 64 bits and always at least 2^56 of range before a symbol, so that a total of 2^28 costs
nothing that could be measured. Bytes are spelled by an adaptive model of order 2, one bit after the other.
`coder_plain` is the same in Python's integers of any length.
Shapes: R rows, V entries.
"""

from __future__ import annotations

import numpy as np
from numba import uint64

from fourfold.kernels.cached import njit

SCALE = 1 << 26
"""Probabilities are rounded down to multiples of 1 / SCALE; every entry gets one more, so that none is impossible."""
ORDERS = (0, 256, 256 + 257 * 256)
"""Where the counts of the contexts of 0, 1 and 2 bytes begin."""
NODES = 256 + 257 * 256 + 257 * 257 * 256
"""A context's 256 nodes: 0 asks whether a word ends here, the others are the beginnings of a byte, bit by bit."""
START = 256
"""What stands for a byte before the first."""
PRIOR = 1.0
"""How much the next shorter context counts beside what was counted in the longer one."""
MOST = 1000
"""Counts of a node are halved beyond this, so that the model follows a text that changes."""

_compiled = njit(nogil=True, cache=True, boundscheck=False)
_inlined = njit(inline="always", cache=True)


# --- the register -----------------------------------------------------------------------------------


def register() -> np.ndarray:
    """(3,) uint64: low end, range, and how many bytes are out, of an encoder at its beginning."""
    return np.array([0, 2**64 - 1, 0], np.uint64)


@_compiled
def put(state: np.ndarray, out: np.ndarray, begin: int, width: int, total: int) -> None:
    """Write the symbol that has [begin, begin + width) of a total; `out` (uint8) has room for 8 bytes more."""
    part = state[1] // uint64(total)
    low = state[0] + part * uint64(begin)
    if low < state[0]:  # beyond 64 bits: one more in the bytes that are out
        place = int(state[2]) - 1
        while out[place] == 255:
            out[place] = 0
            place -= 1
        out[place] += 1
    state[0] = low
    state[1] = part * uint64(width)
    while state[1] < uint64(1) << uint64(56):
        out[int(state[2])] = state[0] >> uint64(56)
        state[2] += uint64(1)
        state[0] <<= uint64(8)
        state[1] <<= uint64(8)


def finish(state: np.ndarray, out: np.ndarray) -> bytes:
    """The bytes of everything that was put: the fewest that lie in what is left of the range."""
    low, span, size = (int(value) for value in state)
    for count in range(9):
        unit = 1 << (64 - 8 * count)
        value = -(-low // unit) * unit
        if value < low + span:
            break
    head = bytearray(out[:size].tobytes())
    if value >> 64:
        place = size - 1
        while head[place] == 255:
            head[place] = 0
            place -= 1
        head[place] += 1
    return bytes(head) + (value & (2**64 - 1)).to_bytes(8, "big")[:count]


def opened(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """A decoder's register, (3,) uint64: code minus low end, range, next byte; and the bytes, zeros behind them."""
    padded = np.frombuffer(data + bytes(16), np.uint8)
    return np.array([int.from_bytes(padded[:8].tobytes(), "big"), 2**64 - 1, 8], np.uint64), padded


@_compiled
def _found(state: np.ndarray, total: int) -> int:
    """Which place of the total the code points at."""
    part = state[1] // uint64(total)
    return int(min(state[0] // part, uint64(total - 1)))


@_compiled
def _take(state: np.ndarray, data: np.ndarray, begin: int, width: int, total: int) -> None:
    """Read past the symbol that was found."""
    part = state[1] // uint64(total)
    state[0] -= part * uint64(begin)
    state[1] = part * uint64(width)
    while state[1] < uint64(1) << uint64(56):
        place = int(state[2])
        byte = data[place] if place < len(data) else 0
        state[0] = (state[0] << uint64(8)) | uint64(byte)
        state[1] <<= uint64(8)
        state[2] += uint64(1)


# --- rows of probabilities --------------------------------------------------------------------------


@_inlined
def _width(probability):  # type: ignore[no-untyped-def]
    # a power of two: exact in float32, so that whole rows are converted at once
    return np.int32(probability * np.float32(SCALE)) + np.int32(1)


@_compiled
def _widths(row, begin, end):  # type: ignore[no-untyped-def]
    """The sum of the widths of some entries; -1 where one is no probability. Without a branch inside."""
    total, wrong = np.int64(0), np.int64(0)
    for entry in range(begin, end):
        p = row[entry]
        fine = (p >= np.float32(0)) & (p <= np.float32(1.001))
        wrong += np.int64(not fine)
        total += np.int64(_width(p if fine else np.float32(0)))
    return -1 if wrong else total


@_compiled
def put_rows(
    state: np.ndarray, out: np.ndarray, probabilities: np.ndarray, targets: np.ndarray
) -> bool:
    """Write one token of each row.

    Args:
        state, out: of the encoder; room for 8 bytes a row.
        probabilities: (R, V) float32, at least as many rows as targets.
        targets: (N,) int64, those of the first rows.

    Returns:
        Whether all probabilities are such: from 0 to (nearly) 1, each row's sum near 1.
    """
    entries = probabilities.shape[1]
    for row in range(len(targets)):
        target = targets[row]
        begin = _widths(probabilities[row], 0, target)
        rest = _widths(probabilities[row], target, entries)
        if begin < 0 or rest < 0 or not 0.99 < (begin + rest - entries) / SCALE < 1.01:
            return False
        put(state, out, begin, _width(probabilities[row, target]), begin + rest)
    return True


@_compiled
def take_rows(
    state: np.ndarray, data: np.ndarray, probabilities: np.ndarray, targets: np.ndarray
) -> bool:
    """Read one token of each of the first rows into targets (N,): see `put_rows`."""
    for row in range(len(targets)):
        total = _widths(probabilities[row], 0, probabilities.shape[1])
        if total < 0:
            return False
        place, begin, entry = _found(state, total), 0, 0
        width = _width(probabilities[row, 0])
        while begin + width <= place:
            begin += width
            entry += 1
            width = _width(probabilities[row, entry])
        _take(state, data, begin, width, total)
        targets[row] = entry
    return True


# --- bytes, spelled ---------------------------------------------------------------------------------


def spelling_counts() -> np.ndarray:
    """(NODES, 2) uint16, all 0: how often each node's answer was no and yes. Memory comes as it is touched."""
    return np.zeros((NODES, 2), np.uint16)


@_inlined
def _chance(counts: np.ndarray, first: int, second: int, third: int) -> int:
    """The chance of a yes in 65536ths, from the counts of three contexts, the shortest first."""
    q = 0.5
    for node in (first, second, third):
        no, yes = float(counts[node, 0]), float(counts[node, 1])
        q = (yes + PRIOR * q) / (no + yes + PRIOR)
    return min(max(int(q * 65536.0), 16), 65520)


@_inlined
def _learn(counts: np.ndarray, first: int, second: int, third: int, bit: int) -> None:
    for node in (first, second, third):
        counts[node, bit] += 1
        if counts[node, bit] > MOST:
            counts[node, 0] >>= 1
            counts[node, 1] >>= 1


@_inlined
def _nodes(before: int, last: int, node: int) -> tuple[int, int, int]:
    return node, 256 + last * 256 + node, 256 + 257 * 256 + (before * 257 + last) * 256 + node


@_compiled
def spell_cost(counts: np.ndarray, data: np.ndarray, begins: np.ndarray, ended: bool) -> float:
    """Bits that words take, one after the other; the counts learn from them.

    Args:
        counts: from `spelling_counts`.
        data: uint8, the bytes of all words.
        begins: (words + 1,) int64, where each begins.
        ended: whether the end of a word is spelled too; otherwise its length is known.
    """
    bits = 0.0
    for word in range(len(begins) - 1):
        before, last = START, START
        for place in range(begins[word], begins[word + 1] + 1):
            ends = place == begins[word + 1]
            if ended:
                a, b, c = _nodes(before, last, 0)
                yes = _chance(counts, a, b, c)
                bits += 16.0 - np.log2(float(yes if ends else 65536 - yes))
                _learn(counts, a, b, c, int(ends))
            if ends:
                break
            node = 1
            for shift in range(7, -1, -1):
                bit = (data[place] >> shift) & 1
                a, b, c = _nodes(before, last, node)
                yes = _chance(counts, a, b, c)
                bits += 16.0 - np.log2(float(yes if bit else 65536 - yes))
                _learn(counts, a, b, c, bit)
                node = 2 * node + bit
            before, last = last, int(data[place])
    return bits


@_inlined
def _put_bit(
    state: np.ndarray, out: np.ndarray, counts: np.ndarray, nodes: tuple[int, int, int], bit: int
) -> None:
    yes = _chance(counts, nodes[0], nodes[1], nodes[2])
    if bit:
        put(state, out, 0, yes, 65536)
    else:
        put(state, out, yes, 65536 - yes, 65536)
    _learn(counts, nodes[0], nodes[1], nodes[2], bit)


@_inlined
def _take_bit(
    state: np.ndarray, data: np.ndarray, counts: np.ndarray, nodes: tuple[int, int, int]
) -> int:
    yes = _chance(counts, nodes[0], nodes[1], nodes[2])
    bit = int(_found(state, 65536) < yes)
    if bit:
        _take(state, data, 0, yes, 65536)
    else:
        _take(state, data, yes, 65536 - yes, 65536)
    _learn(counts, nodes[0], nodes[1], nodes[2], bit)
    return bit


@_compiled
def put_word(
    state: np.ndarray, out: np.ndarray, counts: np.ndarray, word: np.ndarray, ended: bool
) -> None:
    """Spell a word, (N,) uint8; `out` has room for 16 N + 32 bytes more. See `spell_cost`."""
    before, last = START, START
    for place in range(len(word) + 1):
        ends = place == len(word)
        if ended:
            _put_bit(state, out, counts, _nodes(before, last, 0), int(ends))
        if ends:
            break
        node = 1
        for shift in range(7, -1, -1):
            bit = (int(word[place]) >> shift) & 1
            _put_bit(state, out, counts, _nodes(before, last, node), bit)
            node = 2 * node + bit
        before, last = last, int(word[place])


@_compiled
def take_word(
    state: np.ndarray, data: np.ndarray, counts: np.ndarray, word: np.ndarray, ended: bool
) -> int:
    """Read a word into `word` (uint8) and return its length; all of `word` is filled where its length is known.

    A word that does not end within `word` (only a damaged file has one) gives -1.
    """
    before, last = START, START
    for place in range(len(word) + 1):
        if ended:
            if _take_bit(state, data, counts, _nodes(before, last, 0)):
                return place
        if place == len(word):
            break
        node = 1
        for _ in range(8):
            node = 2 * node + _take_bit(state, data, counts, _nodes(before, last, node))
        before, last = last, node - 256
        word[place] = last
    return -1 if ended else len(word)
