"""Text encoded once: in memory where it is small, else in memory-mapped files that later runs use again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fourfold.core.errors import UserError
from fourfold.core.parts import Split
from fourfold.core.state import full_disk
from fourfold.data.corpus import SPLITS, Part
from fourfold.data.spelling import Spelling
from fourfold.data.vocabulary import Vocabulary

BATCH = 1 << 20
"""Characters encoded at once."""
NAMED = 20
"""Unknown words that are told by name."""
REMEMBERED = 1 << 18
"""Different unknown words whose counts are kept on the way; beyond, the rarer half is forgotten."""


def _zeros() -> dict[Split, int]:
    return dict.fromkeys(SPLITS, 0)


@dataclass
class Held:
    """What the splits hold of one source."""

    tokens: dict[Split, int] = field(default_factory=_zeros)
    bytes: dict[Split, int] = field(default_factory=_zeros)
    spelling: dict[Split, float] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0.0))


@dataclass
class Measures:
    """What the splits hold."""

    tokens: dict[Split, int] = field(default_factory=_zeros)
    """Every one a target of evaluation: the end token that opens the split does not count."""
    bytes: dict[Split, int] = field(default_factory=_zeros)
    """UTF-8 bytes of the text."""
    characters: dict[Split, int] = field(default_factory=_zeros)
    documents: dict[Split, int] = field(default_factory=_zeros)
    """Documents or shares of one."""
    unknown: dict[Split, int] = field(default_factory=_zeros)
    """Tokens that are not in the vocabulary."""
    spelling: dict[Split, float] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0.0))
    """Bits that spelling those takes: see `fourfold.data.spelling`."""
    unknown_words: dict[str, int] = field(default_factory=dict)
    """The most frequent of them in all splits, with their counts."""
    sources: list[dict[str, Any]] = field(default_factory=list)
    """Of each source, in the order in which they follow one another in every split, what `Held` says."""

    def held(self) -> list[Held]:
        """What the splits hold of each source."""
        return [Held(**source) for source in self.sources]

    def add(self, source: int, split: Split, **found: float) -> None:
        """Count tokens, bytes and spelling, of a source and in all."""
        while len(self.sources) <= source:
            self.sources.append(asdict(Held()))
        for name, value in found.items():
            self.sources[source][name][split] += value
            vars(self)[name][split] += value


@dataclass
class Encoded:
    """The tokens of each split, (tokens + 1,) uint16 or uint32; the first is the opening token."""

    tokens: dict[Split, np.ndarray]
    measures: Measures
    counts: np.ndarray
    """(V,) int64 occurrences in the training split."""


class Piece(NamedTuple):
    """What a batch of parts gives of one split."""

    tokens: np.ndarray
    """(tokens,) uint16 or uint32."""
    spelled: list[str]
    """What its unknown tokens stand for."""
    bytes: int
    characters: int
    documents: int


def encode_splits(stream: Iterable[Part], vocabulary: Vocabulary, folder: Path | None) -> Encoded:
    """Encode a corpus.

    Args:
        stream: its parts.
        vocabulary: how.
        folder: where the tokens are kept; None keeps them in memory. A folder that is there already is
            used as it is, so its name must say all that the tokens depend on.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    if folder is None:
        tally = Tally(vocabulary)
        chunks = {split: [np.array([vocabulary.opening], dtype_of(vocabulary))] for split in SPLITS}
        for batch in batches(stream):
            for split, piece in encoded(batch, vocabulary).items():
                chunks[split].append(piece.tokens)
                tally.add(batch[0].source, split, piece)
        return Encoded(
            {s: np.concatenate(chunks[s]) for s in SPLITS}, tally.measured(), tally.counts
        )
    from fourfold.data.token_files import read, write

    if not (folder / "measures.json").is_file():
        try:
            write(stream, vocabulary, folder)
        except OSError as error:
            why = "no space left" if full_disk(error) else f"cannot be written ({error.strerror})"
            raise UserError(
                f"{folder}: {why}; tokens of long texts are kept here, FOURFOLD_CACHE names another place"
            ) from error
    return read(folder, dtype_of(vocabulary))


def dtype_of(vocabulary: Vocabulary) -> np.dtype[Any]:
    """The smallest integer that holds every token."""
    return np.dtype(np.uint16 if len(vocabulary) <= 1 << 16 else np.uint32)


def batches(stream: Iterable[Part]) -> Iterator[list[Part]]:
    """Parts of one source each, encoded at once; they depend on the text alone."""
    batch: list[Part] = []
    waiting = 0
    for part in stream:
        if batch and (waiting >= BATCH or part.source != batch[-1].source):
            yield batch
            batch, waiting = [], 0
        batch.append(part)
        waiting += len(part.text)
    if batch:
        yield batch


def encoded(batch: Sequence[Part], vocabulary: Vocabulary) -> dict[Split, Piece]:
    """A batch's tokens, by split."""
    found: dict[Split, Piece] = {}
    for split in SPLITS:
        mine = [part for part in batch if part.split == split]
        if mine:
            tokens, spelled = _encode_parts(mine, vocabulary)
            size = sum(len(p.text) if p.text.isascii() else len(p.text.encode()) for p in mine)
            length, many = sum(len(p.text) for p in mine), sum(p.first for p in mine)
            found[split] = Piece(tokens.astype(dtype_of(vocabulary)), spelled, size, length, many)
    return found


class Tally:
    """Measures pieces in their order."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary, self.measures = vocabulary, Measures()
        self.counts = np.zeros(len(vocabulary), np.int64)
        self._unknown: Counter[str] = Counter()
        self._spelling: dict[Split, Spelling] = {}

    def add(self, source: int, split: Split, piece: Piece) -> None:
        """One more piece of a split."""
        measures, bits = self.measures, 0.0
        if piece.spelled:
            if split not in self._spelling:
                self._spelling[split] = Spelling(self.vocabulary)
            bits = self._spelling[split].bits(piece.spelled)
            _count(self._unknown, piece.spelled)
        measures.add(source, split, tokens=len(piece.tokens), bytes=piece.bytes, spelling=bits)
        measures.characters[split] += piece.characters
        measures.documents[split] += piece.documents
        if self.vocabulary.unknown is not None:
            measures.unknown[split] += int((piece.tokens == self.vocabulary.unknown).sum())
        if split == "train":
            self.counts += np.bincount(piece.tokens, minlength=len(self.counts))

    def measured(self) -> Measures:
        """All of them together."""
        self.measures.unknown_words = dict(self._unknown.most_common(NAMED))
        return self.measures


def _count(unknown: Counter[str], spelled: list[str]) -> None:
    unknown.update(word for word in spelled if word)
    if len(unknown) > REMEMBERED:
        kept = unknown.most_common(REMEMBERED // 2)
        unknown.clear()
        unknown.update(dict(kept))


def _encode_parts(parts: list[Part], vocabulary: Vocabulary) -> tuple[np.ndarray, list[str]]:
    tokens, lengths, spelled = vocabulary.encode_spelled(
        [p.text for p in parts], [p.before for p in parts]
    )
    ends = np.cumsum(lengths)[[p.closes for p in parts]]
    between = [vocabulary.end] if vocabulary.begin is None else [vocabulary.end, vocabulary.begin]
    # integers widen first: a byte vocabulary's end token does not fit a byte
    if len(ends):
        places = np.repeat(ends, len(between))
        tokens = np.insert(tokens.astype(np.uint32), places, np.tile(between, len(ends)))
    return tokens, spelled
