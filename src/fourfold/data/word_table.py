"""Words to numbers by a compiled table: what stands between white space, and the ends of lines."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence

import numpy as np

LINE = "\n"
BLOCK = 1 << 15
"""Characters looked at with one size of the table, which is small so that it stays in the cache."""
SPARE = 1 << 18
"""Words outside a table that it remembers; beyond, it forgets them all."""


@functools.cache
def _classes() -> np.ndarray:
    """(0x110000,) uint8: see `kernels.segment`; a line's end is a word of its own."""
    from fourfold.kernels.segment import ALONE, PART, SEPARATOR

    found = np.full(0x110000, PART, np.uint8)
    for code in range(0x3001):  # the last white space of Unicode is U+3000
        if chr(code).isspace():
            found[code] = SEPARATOR
    found[ord(LINE)] = ALONE
    return found


class WordTable:
    """Numbers of words: the line's end is 0, then those given, then others as they come.

    Args:
        words: without white space, each once.
    """

    def __init__(self, words: Sequence[str] = ()) -> None:
        self._words = words
        self.size = 1 + len(words)
        """Numbers from here on are of words that were not given."""
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        from fourfold.kernels.segment import entries

        self._known = entries()
        self._segment(LINE)
        self._segment(" ".join(self._words))

    def _segment(self, text: str) -> np.ndarray:
        """Numbers of a text's words, (N,) int32."""
        from fourfold.kernels import segment as kernel

        points = np.frombuffer(bytearray(text.encode("utf-32-le", "surrogatepass")), np.uint32)
        found = np.empty(len(points) + 1, np.int32)
        size = begin = 0
        while begin < len(points):
            stop = min(begin + BLOCK, len(points))
            while stop < len(points):  # not within a word
                breaks = np.flatnonzero(_classes()[points[stop : stop + BLOCK]] != kernel.PART)
                if len(breaks):
                    stop += int(breaks[0])
                    break
                stop = min(stop + BLOCK, len(points))
            self._known = kernel.with_room(self._known, stop - begin)
            some = points[begin:stop]
            count, _ = kernel.segment(some, _classes(), True, self._known, found[size:])
            size, begin = size + count, stop
        return found[:size]

    def numbers(self, text: str) -> tuple[np.ndarray, dict[int, str]]:
        """The numbers of a text's words, (N,) int32, and what those are that were not given."""
        with self._lock:
            if int(self._known.size[0]) > self.size + SPARE:
                self._begin()
            found = self._segment(text)
            more = int(self._known.size[0]) > self.size
            new = np.unique(found[found >= self.size]).tolist() if more else []
            return found, {number: self._spelled(number, number + 1)[0] for number in new}

    def count(self, text: str) -> None:
        """Count a text's words; all of them are remembered."""
        with self._lock:
            self._segment(text)

    def counted(self) -> dict[str, int]:
        """All words so far but the line's end, with how often each came."""
        size = int(self._known.size[0])
        counts = self._known.counts[1:size].tolist()
        return dict(zip(self._spelled(1, size), counts, strict=True))

    def _spelled(self, first: int, last: int) -> list[str]:
        """Words first to last - 1."""
        begins = self._known.begins[first : last + 1]
        points = self._known.letters[begins[0] : begins[-1]].astype("<u4")
        letters = points.tobytes().decode("utf-32-le", "surrogatepass")
        edges = (begins - begins[0]).tolist()
        return [letters[a:b] for a, b in zip(edges, edges[1:], strict=False)]
