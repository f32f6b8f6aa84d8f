"""The plain reference of `coder`: the same slices in Python's integers of any length, where no carry is lost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from fourfold.kernels.coder import MOST, PRIOR, SCALE, START


class Encoder:
    """Writes symbols into one number as long as the text."""

    def __init__(self) -> None:
        self.low, self.range, self.size = 0, 2**64 - 1, 0

    def put(self, begin: int, width: int, total: int) -> None:
        """Write the symbol that has [begin, begin + width) of a total."""
        part = self.range // total
        self.low, self.range = self.low + part * begin, part * width
        while self.range < 2**56:
            self.low, self.range, self.size = self.low << 8, self.range << 8, self.size + 1

    def finish(self) -> bytes:
        """The bytes of everything that was put."""
        for count in range(9):
            unit = 1 << (64 - 8 * count)
            value = -(-self.low // unit) * unit
            if value < self.low + self.range:
                break
        return value.to_bytes(self.size + 8, "big")[: self.size + count]

    def put_row(self, probabilities: Sequence[float], target: int) -> None:
        """Write one token, from the probability of every one."""
        widths = [int(p * SCALE) + 1 for p in probabilities]
        self.put(sum(widths[:target]), widths[target], sum(widths))


class Speller:
    """Counts of the contexts of 0, 1 and 2 bytes."""

    def __init__(self) -> None:
        self.counts: dict[tuple[tuple[int, ...], int], list[int]] = {}

    def bits(self, word: bytes, ended: bool) -> Iterator[tuple[int, int]]:
        """The chance of a yes in 65536ths and the answer, for each bit of a word; the counts learn from it."""
        context = (START, START)
        for byte in [*word, None]:
            if ended:
                yield self._asked(context, 0, int(byte is None))
            if byte is None:
                return
            node = 1
            for bit in map(int, f"{byte:08b}"):
                yield self._asked(context, node, bit)
                node = 2 * node + bit
            context = (context[1], byte)

    def _asked(self, context: tuple[int, int], node: int, answer: int) -> tuple[int, int]:
        keys = [(context[2 - order :], node) for order in range(3)]
        q = 0.5
        for key in keys:
            no, yes = self.counts.setdefault(key, [0, 0])
            q = (yes + PRIOR * q) / (float(no) + float(yes) + PRIOR)
        for key in keys:
            self.counts[key][answer] += 1
            if self.counts[key][answer] > MOST:
                self.counts[key] = [count >> 1 for count in self.counts[key]]
        return min(max(int(q * 65536.0), 16), 65520), answer


def put_word(encoder: Encoder, speller: Speller, word: bytes, ended: bool) -> float:
    """Spell a word, and what it costs in bits."""
    bits = 0.0
    for yes, answer in speller.bits(word, ended):
        begin, width = (0, yes) if answer else (yes, 65536 - yes)
        encoder.put(begin, width, 65536)
        bits += 16 - math.log2(width)
    return bits
