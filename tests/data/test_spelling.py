"""The spelling of unknown words against the model as docs/language.md states it."""

from __future__ import annotations

import math
from collections import defaultdict

import pytest

from fourfold.data.spelling import Spelling
from fourfold.data.words import Words

Node = tuple[object, ...]


class Stated:
    """The page's formulas: a bit is asked of what is known of its byte, after 0, 1 and 2 bytes."""

    def __init__(self) -> None:
        self.counts: defaultdict[Node, list[int]] = defaultdict(lambda: [0, 0])

    def asked(self, contexts: list[Node], answer: int) -> float:
        """Bits of an answer, from the shortest context to the longest; all of them learn it."""
        q = 1 / 2
        for context in contexts:
            n0, n1 = self.counts[context]
            q = (n1 + q) / (n0 + n1 + 1)
        for context in contexts:
            self.counts[context][answer] += 1
            if self.counts[context][answer] > 1000:
                self.counts[context] = [n // 2 for n in self.counts[context]]
        q = min(max(math.floor(q * 65536), 16), 65520) / 65536
        return -math.log2(q if answer else 1 - q)

    def word(self, word: str) -> float:
        """Bits of a word and its end."""
        spelled, bits = word.encode(), 0.0
        for place in range(len(spelled) + 1):
            two = (None, None, *spelled[:place])[-2:]
            asked: list[tuple[str, int]] = [("end", int(place == len(spelled)))]
            if place < len(spelled):
                byte = f"{spelled[place]:08b}"
                asked += [(byte[:bit], int(byte[bit])) for bit in range(8)]
            for known, answer in asked:
                bits += self.asked([(known,), (known, two[1]), (known, *two)], answer)
        return bits


def test_spelling_is_the_stated_model() -> None:
    """Begun with a vocabulary's words, so many that counts are halved; Chinese, a word again, the empty word."""
    vocabulary = Words([f"word{n}" for n in range(1500)])
    stated = Stated()
    for word in vocabulary.spellings():
        stated.word(word)
    assert sum(stated.counts[("end",)]) < 1500 * len(
        "word"
    )  # so often an end was asked for, and more
    ours = Spelling(vocabulary)
    for word in ("zebra", "quay", "春眠", "zebra", "", "naïve", "word99999"):
        assert ours.bits([word]) == pytest.approx(stated.word(word), rel=1e-9), word
    again = ["of", "two", "words"]
    assert ours.bits(again) == pytest.approx(sum(map(stated.word, again)), rel=1e-9)
