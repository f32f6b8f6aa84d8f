"""Words as units, in any script, without losing a character.

A word is a run of letters, marks and digits with apostrophes inside ("don't"). Every character of a script
written without spaces (Chinese, Japanese kana, Thai, Lao, Khmer, Burmese) is a word of its own, so is every
other character: punctuation, a space, a line end. One space before a word is understood and has no token,
so that "the" is one entry wherever it stands. Where a word follows punctuation without a space, the token
<join> says so: `say "no"` is say, space, ", <join>, no, ". The text "<unk>" is read as the unknown token,
as word corpora write it.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fourfold.data.vocabulary import END, UNKNOWN, Decoder, SpelledVocabulary, Texts, limit
from fourfold.kernels.scripts import UNSPACED

JOIN = ""
"""What the pattern finds where a word follows without a space: the empty string."""

_UNSPACED = "".join(f"{chr(first)}-{chr(last)}" for first, last in UNSPACED)


@functools.cache
def _letter() -> str:
    r"""A pattern for one character of a word: \w lacks the marks with which many scripts write their vowels."""
    marks = [n for n in range(sys.maxunicode + 1) if unicodedata.category(chr(n))[0] == "M"]
    runs = itertools.groupby(enumerate(marks), lambda pair: pair[1] - pair[0])
    spans = [[code for _, code in run] for _, run in runs]
    return rf"\w{''.join(f'{chr(span[0])}-{chr(span[-1])}' for span in spans)}"


@functools.cache
def _pattern() -> re.Pattern[str]:
    """Finds the units of a text, dropping the spaces that are understood."""
    letter = rf"(?:(?![{_UNSPACED}])[{_letter()}])"
    no_letter = rf"(?:(?<=[^\s{_letter()}])|(?<=[{_UNSPACED}]))"
    return re.compile(
        rf"(?:(?<=\S) (?={letter}|{UNKNOWN}))?"  # a space that is understood
        rf"({no_letter}(?={letter})|(?<=\S)(?={UNKNOWN})"  # no space where one would be
        rf"|{UNKNOWN}|{letter}+(?:['\u2019]{letter}+)*|[\s\S])"
    )


def is_unspaced(character: str) -> bool:
    """Whether a character is of a script that is written without spaces."""
    return re.match(f"[{_UNSPACED}]", character) is not None


def split_words(text: str, before: str = "") -> list[str]:
    """The units of a text; "" stands for <join>.

    Args:
        text: the text.
        before: the character before it in its document, "" at the beginning.
    """
    return _pattern().findall(before + text, len(before))


@functools.cache
def _beginning() -> re.Pattern[str]:
    return re.compile(rf"{UNKNOWN}|(?![{_UNSPACED}])[{_letter()}]")


def begins_word(entry: str) -> bool:
    """Whether one space before it is understood."""
    return _beginning().match(entry) is not None


def frequent(
    pieces: Iterable[Iterable[str]],
    without: Sequence[str],
    size: int | None,
    *,
    special: int,
    min_count: int,
) -> list[str]:
    """The words that occur often enough, most frequent first, equally frequent ones by their letters.

    Args:
        pieces: the words of each piece of the training split.
        without: words that are special ones.
        size: entries of the vocabulary, the special ones included; None takes all.
        special: how many special ones there are.
        min_count: how often a word must occur.

    Raises:
        UserError: see `limit`.
    """
    counts: Counter[str] = Counter()
    for words in pieces:
        counts.update(words)
    return ranked(counts, without, size, special=special, min_count=min_count)


def ranked(
    counts: Mapping[str, int],
    without: Sequence[str],
    size: int | None,
    *,
    special: int,
    min_count: int,
) -> list[str]:
    """As `frequent`, of words that are counted already."""
    known = [(w, count) for w, count in counts.items() if count >= min_count and w not in without]
    known.sort(key=lambda pair: (-pair[1], pair[0]))
    words = [word for word, _ in known]
    return limit(words, size, special=special, what="words", min_count=min_count)


def numbered(
    texts: Sequence[list[str]], numbers: Mapping[str, int], unknown: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Texts that are cut into units as their numbers: see `Vocabulary.encode_spelled`."""
    flat = list(itertools.chain.from_iterable(texts))
    found = map(numbers.get, flat, itertools.repeat(unknown))
    tokens = np.fromiter(found, np.uint32, len(flat))
    missing = [flat[place] for place in np.flatnonzero(tokens == unknown).tolist()]
    lengths = np.array([len(text) for text in texts], np.int64)
    return tokens, lengths, ["" if word == UNKNOWN else word for word in missing]


class _WordDecoder(Decoder):
    def __init__(self, vocabulary: Words) -> None:
        self.vocabulary = vocabulary
        self.joined = True  # whether what comes next stands without a space

    def push(self, token: int) -> str:
        words = self.vocabulary
        if token == words.join:
            self.joined = True
            return ""
        text = words.entries[token]
        space = "" if self.joined or not words.spaced[token] else " "
        self.joined = token == words.end or text.isspace()
        return space + text

    def spell(self, text: str) -> str:
        space = "" if self.joined or not begins_word(text) else " "
        self.joined = text.isspace()
        return space + text


class Words(SpelledVocabulary):
    """Words, most frequent first after the end token 0, the unknown token 1 and <join> 2."""

    unit = "word"
    end, unknown, join = 0, 1, 2

    def __init__(self, words: Sequence[str]) -> None:
        self.entries = [END, UNKNOWN, JOIN, *words]
        self.counts = np.zeros(len(self.entries), np.int64)
        self._numbers = {word: number for number, word in enumerate(self.entries) if number > 0}
        # whether one space before it is understood
        self.spaced = [begins_word(entry) for entry in self.entries]

    @classmethod
    def learn(cls, texts: Texts, size: int | None, min_count: int) -> Words:
        """Those words of the training split that occur often enough."""
        pieces = (split_words(text, before) for text, before in texts())
        return cls(frequent(pieces, (JOIN, UNKNOWN), size, special=3, min_count=min_count))

    def encode_spelled(
        self, texts: Sequence[str], before: Sequence[str] | None = None
    ) -> tuple[np.ndarray, np.ndarray, list[str]]:
        found = [
            split_words(text, character)
            for text, character in zip(texts, before or itertools.repeat(""), strict=False)
        ]
        return numbered(found, self._numbers, self.unknown)

    def spellings(self) -> Sequence[str]:
        return self.entries[3:]

    def decoder(self) -> Decoder:
        return _WordDecoder(self)

    def token(self, number: int) -> str:
        return "<join>" if number == self.join else self.entries[number]

    def content(self) -> str:
        return json.dumps({"unit": self.unit, "entries": self.entries[3:]}, ensure_ascii=False)
