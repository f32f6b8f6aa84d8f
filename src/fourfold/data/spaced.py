"""Units as corpora that are cut already write them: what stands between spaces, and by jieba for Chinese.

`space` reads the files of the field as the field does (Penn Treebank, WikiText): every line's words at white
space, the line's end as the token </s>, a literal <unk> as the unknown token, so that perplexities compare.
Of the white space only the lines are kept; text is given back in the layout most lines of the training text
have: one space between words, and one at both ends of a line where its lines have that.
"""

from __future__ import annotations

import functools
import json
import logging
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from fourfold.core.errors import UserError
from fourfold.data.vocabulary import END, UNKNOWN, Decoder, SpelledVocabulary, Texts
from fourfold.data.word_table import LINE, WordTable
from fourfold.data.words import frequent, numbered, ranked


class _SpacedDecoder(Decoder):
    def __init__(self, vocabulary: Spaced) -> None:
        self.vocabulary = vocabulary
        self.begins = True  # whether a line begins here
        self.pad = " " if vocabulary.padded else ""

    def push(self, token: int) -> str:
        if token == self.vocabulary.line:
            self.begins = True
            return self.pad + LINE
        return self.spell(self.vocabulary.entries[token])

    def spell(self, text: str) -> str:
        space = self.pad if self.begins else " "
        self.begins = False
        return space + text


class Spaced(SpelledVocabulary):
    """Words between spaces, most frequent first after the end token 0, the unknown token 1 and the line's end 2."""

    unit = "space"
    end, unknown, line = 0, 1, 2
    lossless = False  # of the white space only the lines are kept

    def __init__(self, words: Sequence[str], *, padded: bool = False) -> None:
        self.entries = [END, UNKNOWN, LINE, *words]
        self.padded = padded
        """Whether lines begin and end with a space."""
        self.counts = np.zeros(len(self.entries), np.int64)
        self._table: WordTable | None = None

    @classmethod
    def learn(cls, texts: Texts, size: int | None, min_count: int) -> Spaced:
        """Those words of the training split that occur often enough, and how its lines look."""
        lines = padded = 0
        table = WordTable()
        for text, _ in texts():
            lines += text.count(LINE)
            padded += text.count(" \n")
            table.count(text)
        words = ranked(table.counted(), (UNKNOWN,), size, special=3, min_count=min_count)
        return cls(words, padded=2 * padded > lines)

    def encode_spelled(
        self, texts: Sequence[str], before: Sequence[str] | None = None
    ) -> tuple[np.ndarray, np.ndarray, list[str]]:
        if self._table is None:
            self._table = WordTable(self.entries[3:])
        flat, lengths, spelled = [], [], []
        for text in texts:
            numbers, others = self._table.numbers(text)
            lengths.append(len(numbers))
            tokens = (numbers + self.line).astype(np.uint32)
            if others:
                unknown = numbers >= self._table.size
                spelled += [others[number] for number in numbers[unknown].tolist()]
                tokens[unknown] = self.unknown
            flat.append(tokens)
        tokens = np.concatenate(flat) if flat else np.zeros(0, np.uint32)
        spelled = ["" if word == UNKNOWN else word for word in spelled]
        return tokens, np.array(lengths, np.int64), spelled

    def spellings(self) -> Sequence[str]:
        return self.entries[3:]

    def decoder(self) -> Decoder:
        return _SpacedDecoder(self)

    def token(self, number: int) -> str:
        return "</s>" if number == self.line else self.entries[number]

    def content(self) -> str:
        about = {"unit": self.unit, "padded": self.padded, "entries": self.entries[3:]}
        return json.dumps(about, ensure_ascii=False)


class _PieceDecoder(Decoder):
    def __init__(self, entries: Sequence[str]) -> None:
        self.entries = entries

    def push(self, token: int) -> str:
        return self.entries[token]


class Jieba(SpelledVocabulary):
    """What jieba cuts Chinese text into, white space and all; the end token is 0, the unknown token 1."""

    unit = "jieba"
    end, unknown = 0, 1

    def __init__(self, words: Sequence[str]) -> None:
        self.entries = [END, UNKNOWN, *words]
        self.counts = np.zeros(len(self.entries), np.int64)
        self._numbers = {word: number for number, word in enumerate(self.entries) if number > 0}

    @classmethod
    def learn(cls, texts: Texts, size: int | None, min_count: int) -> Jieba:
        """Those words of the training split that occur often enough."""
        pieces = (cut(text) for text, _ in texts())
        return cls(frequent(pieces, (UNKNOWN,), size, special=2, min_count=min_count))

    def encode_spelled(
        self, texts: Sequence[str], before: Sequence[str] | None = None
    ) -> tuple[np.ndarray, np.ndarray, list[str]]:
        return numbered([cut(text) for text in texts], self._numbers, self.unknown)

    def spellings(self) -> Sequence[str]:
        return self.entries[2:]

    def decoder(self) -> Decoder:
        return _PieceDecoder(self.entries)

    def token(self, number: int) -> str:
        return self.entries[number]

    def content(self) -> str:
        return json.dumps({"unit": self.unit, "entries": self.entries[2:]}, ensure_ascii=False)


@functools.cache
def _jieba() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its source has escapes that newer Pythons warn of
            import jieba
    except ImportError as error:
        raise UserError('unit jieba needs pip install "fourfold[chinese]"') from error
    jieba.setLogLevel(logging.WARNING)
    return jieba.Tokenizer()  # its own: words that others add to the module's do not change it


def cut(text: str) -> list[str]:
    """The words of a text; lines apart, so that a piece of a text is cut like the whole."""
    cutter = _jieba()
    return [word for line in text.splitlines(keepends=True) for word in cutter.cut(line)]
