"""Documents measured once, split, and streamed as often as needed without holding them in memory."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fourfold.core.errors import UserError
from fourfold.core.parts import Split
from fourfold.data import readers
from fourfold.data.readers import Origin, documents, safe_cut

SPLITS: tuple[Split, ...] = ("train", "valid", "test")
MANY = 20
"""Documents from which on they are split as wholes."""
LONGEST = 1 << 23
"""Characters of one document that a tokenizer which needs whole documents gets at once."""


class Part(NamedTuple):
    """A stretch of one document, in one split."""

    split: Split
    text: str
    before: str
    """The character before it in its document; "" at its beginning."""
    first: bool
    """Whether it begins its document's share of this split."""
    closes: bool
    """Whether the end token follows."""
    source: int = 0
    """Which of several sources it is of."""


class Corpus:
    """The documents of some sources. Reading begins with one pass that measures them."""

    def __init__(self, origins: list[Origin]) -> None:
        self.origins = origins
        self.empty = 0
        """Documents without text, left out."""
        self.bytes = 0
        self._kept: list[tuple[int, str]] | None = []
        digest, lengths = hashlib.sha256(), array("q")
        self.files: dict[str, str] = {}
        """Digests of the files, by name."""
        own = [hashlib.blake2b(digest_size=8)]
        for number, piece in self._read(own):
            encoded = piece.encode()
            own[0].update(encoded)
            if number == len(lengths):
                lengths.append(0)
                digest.update(b"\xff")  # no byte of UTF-8: marks where a document begins
            lengths[number] += len(piece)
            self.bytes += len(encoded)
            digest.update(encoded)
            if self._kept is not None:
                self._kept.append((number, piece))
                if self.bytes > readers.MEMORY:
                    self._kept = None
        self.characters = np.array(lengths, np.int64)
        """(documents,) how long each is."""
        self.digest = digest.hexdigest()
        """SHA-256 of the documents."""
        self.fits = self._kept is not None
        """Whether the text stays in memory."""
        if not len(self.characters):
            names = ", ".join(origin.name for origin in origins[:3])
            raise UserError(f"{names}: no text in {'it' if len(origins) == 1 else 'them'}")

    def __len__(self) -> int:
        return len(self.characters)

    def _read(self, own: list[Any] | None = None) -> Iterator[tuple[int, str]]:
        """Pieces with the number of their document; documents without text are not numbered.

        Args:
            own: a digest that hears the pieces, kept for each file, whose place a new one then takes.
        """
        number, self.empty, begun = 0, 0, False
        for origin in self.origins:
            for piece, last in documents(origin):
                if piece:
                    begun = True
                    yield number, piece
                if last:
                    number, self.empty = number + begun, self.empty + (not begun)
                    begun = False
            if own is not None:
                if origin.path is not None:
                    self.files[origin.place] = own[0].hexdigest()
                own[0] = hashlib.blake2b(digest_size=8)

    def pieces(self) -> Iterator[tuple[int, str]]:
        """All pieces in order, from memory or read again.

        Raises:
            UserError: the sources have changed since they were measured.
        """
        if self._kept is not None:
            yield from self._kept
            return
        left = self.characters.copy()
        for number, piece in self._read():
            if number >= len(left) or left[number] < len(piece):
                raise UserError(f"{self.origins[0].name}: changed while it was being read")
            left[number] -= len(piece)
            yield number, piece
        if left.any():
            raise UserError(f"{self.origins[0].name}: changed while it was being read")


def plan_split(
    characters: np.ndarray, shares: tuple[float, float, float], seed: int
) -> tuple[np.ndarray, str]:
    """Where each document's training and validation shares end.

    Many documents are split as wholes: in an order fixed by the seed they fill the test share, then the
    validation share; a document longer than twice such a share stays in training. Few documents are cut
    into contiguous blocks each, training first, then validation, then test.

    Args:
        characters: (documents,) lengths.
        shares: of train, valid and test; they sum to one.
        seed: fixes the order.

    Returns:
        (documents, 2) int64 characters, and how it was split, in words.
    """
    held = [share for share in shares[1:] if share > 0]
    if shares[0] and held and len(characters) >= max(MANY, math.ceil(1 / min(held))):
        return _by_document(characters, shares, seed), "by document"
    ends = np.cumsum(shares[:2])
    # the small number keeps 0.9 + 0.1 from losing the last character
    bounds = np.floor(characters[:, None] * ends + 1e-6).astype(np.int64)
    if not held or not shares[0]:
        return bounds, "not split"
    return bounds, "by contiguous blocks" + (" of each document" if len(characters) > 1 else "")


def _by_document(
    characters: np.ndarray, shares: tuple[float, float, float], seed: int
) -> np.ndarray:
    total = characters.sum()
    place = np.zeros(len(characters), np.int64)  # 0 train, 1 valid, 2 test
    order = np.random.default_rng([seed, 0x5EED]).permutation(len(characters))
    for split in (2, 1):
        target = shares[split] * total
        allowed = order[(place[order] == 0) & (characters[order] <= 2 * target)]
        filled = np.cumsum(characters[allowed]) - characters[allowed]  # before each
        place[allowed[filled < target]] = split
    return np.stack([(place == 0) * characters, (place <= 1) * characters], axis=1)


def parts(
    corpus: Corpus, bounds: np.ndarray, *, anywhere: bool, source: int = 0, alone: bool = True
) -> Iterator[Part]:
    """The documents cut at the bounds of the splits.

    The end token closes every document's share of a split where there are several documents; one text
    alone has none.

    Args:
        corpus: what to cut.
        bounds: from `plan_split`.
        anywhere: whether a cut may fall inside a word; otherwise it moves back to where a token ends.
        source: number of the corpus among several.
        alone: whether no other corpus goes into the same splits.
    """
    several = len(corpus) > 1 or not alone
    number, done, before, begun = -1, 0, "", [False, False, False]
    waiting: Part | None = None
    for document, piece in corpus.pieces():
        if document != number:
            number, done, before, begun = document, 0, "", [False, False, False]
        inner = [int(min(max(bound - done, 0), len(piece))) for bound in bounds[document]]
        if not anywhere:
            inner = [safe_cut(piece, p) if 0 < p < len(piece) else p for p in inner]
        edges = [0, *inner, len(piece)]
        for index, split in enumerate(SPLITS):
            text = piece[edges[index] : edges[index + 1]]
            if not text:
                continue
            part = Part(split, text, before, not begun[index], False, source)
            if waiting:
                yield waiting._replace(closes=part.first and several)
            waiting, before, begun[index] = part, text[-1], True
        done += len(piece)
    if waiting:
        yield waiting._replace(closes=several)


def whole_documents(stream: Iterator[Part]) -> Iterator[Part]:
    """Parts joined to whole shares of documents, up to `LONGEST` characters at a time."""
    held: list[Part] = []
    length = 0
    for part in stream:
        if held and (part.first or length + len(part.text) > LONGEST):
            yield _joined(held)
            held, length = [], 0
        held.append(part)
        length += len(part.text)
    if held:
        yield _joined(held)


def _joined(held: list[Part]) -> Part:
    return held[0]._replace(text="".join(p.text for p in held), closes=held[-1].closes)
