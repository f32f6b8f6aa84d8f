"""Where words begin in a text of tokens, so that the tokens of a word can be hidden together.

A word is a run of letters, marks and digits; punctuation is a word for each character, so is every character of a
script written without spaces (Chinese, kana, Thai); a space belongs to the word that follows. By jieba Chinese
words are those of its dictionary (whole-word masking for Chinese: Cui et al. 2019).
"""

from __future__ import annotations

import unicodedata

import numpy as np

from fourfold.core.errors import UserError
from fourfold.data.spaced import Jieba, Spaced, cut
from fourfold.data.subwords import Subwords
from fourfold.data.vocabulary import Bytes, Characters, Vocabulary
from fourfold.data.words import Words, is_unspaced

WORDS = (Words, Spaced, Jieba)
"""Vocabularies of which every entry is a word."""
_LEADS = range(0xE3, 0xEA)
"""First bytes of Chinese and Japanese characters in UTF-8, U+3000 to U+9FFF."""


class WordStarts:
    """Says which tokens begin words, from what the vocabulary's entries look like."""

    def __init__(self, vocabulary: Vocabulary, *, jieba: bool = False) -> None:
        if jieba and isinstance(vocabulary, WORDS):
            raise UserError(
                f"masking jieba: with unit {vocabulary.unit} every token is a word already; take masking token"
            )
        self.vocabulary = vocabulary
        self.entries = entry_bytes(vocabulary)
        """(V,) what each adds to a text, in UTF-8."""
        self._first = np.array([_begins(entry) for entry in self.entries])
        self._after = np.array([_closes(entry) for entry in self.entries])
        if isinstance(vocabulary, WORDS):
            self._first[:] = True

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """Whether a word begins at each token, bool like tokens, (..., T) integers below V; the first one does."""
        found = self._first[tokens]
        found[..., 1:] |= self._after[tokens[..., :-1]]
        found[..., :1] = True
        return found

    def by_jieba(self, tokens: np.ndarray) -> np.ndarray:
        """The same by jieba's words, for the (T,) tokens of one document."""
        pieces = [self.entries[token] for token in tokens.tolist()]
        starts, place, spaced = set(), 0, False
        for word in cut(b"".join(pieces).decode("utf-8", "surrogateescape")):
            if not spaced:
                starts.add(place)
            spaced = word == " "  # a word to jieba; here it belongs to the next one
            place += len(word.encode("utf-8", "surrogateescape"))
        places = np.cumsum([0, *(len(piece) for piece in pieces[:-1])])
        return np.array([p in starts for p in places.tolist()])


def entry_bytes(vocabulary: Vocabulary) -> list[bytes]:
    """What each entry adds to a text, in UTF-8; where only whole words are spelled, with the space before them."""
    if isinstance(vocabulary, Bytes):
        return [*(bytes([byte]) for byte in range(256)), b"\n"]
    if isinstance(vocabulary, Subwords):
        return vocabulary.spelled_bytes()
    if isinstance(vocabulary, Characters):
        return [b"\n", b"\xef\xbf\xbd", *(entry.encode() for entry in vocabulary.spellings())]
    return [vocabulary.token(number).encode() for number in range(len(vocabulary))]


def _text(entry: bytes) -> str:
    return entry.decode("utf-8", "surrogateescape")


def _letter(character: str) -> bool:
    """Whether a word goes on with this character, or with this byte of one."""
    if "\udc80" <= character <= "\udcff":  # a lone byte
        return ord(character) - 0xDC00 not in _LEADS
    spelled = character.isalnum() or unicodedata.category(character)[0] == "M"
    return spelled and not is_unspaced(character)


def _begins(entry: bytes) -> bool:
    return not entry or not _letter(_text(entry)[0])


def _closes(entry: bytes) -> bool:
    if not entry:
        return True
    last = _text(entry)[-1]
    return not ("\udc80" <= last <= "\udcff") and not _letter(last) and last != " "
