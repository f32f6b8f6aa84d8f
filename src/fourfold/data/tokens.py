"""Text encoded once: in memory where it is small, else in memory-mapped files that later runs use again."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

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
        chunks: dict[Split, list[np.ndarray]] = {split: [] for split in SPLITS}
        measures, counts = _encode(stream, vocabulary, lambda s, t: chunks[s].append(t))
        return Encoded({s: np.concatenate(chunks[s]) for s in SPLITS}, measures, counts)
    if not (folder / "measures.json").is_file():
        try:
            _write(stream, vocabulary, folder)
        except OSError as error:
            why = "no space left" if full_disk(error) else f"cannot be written ({error.strerror})"
            raise UserError(
                f"{folder}: {why}; tokens of long texts are kept here, FOURFOLD_CACHE names another place"
            ) from error
    return _read(folder, dtype_of(vocabulary))


def dtype_of(vocabulary: Vocabulary) -> np.dtype[Any]:
    """The smallest integer that holds every token."""
    return np.dtype(np.uint16 if len(vocabulary) <= 1 << 16 else np.uint32)


def _write(stream: Iterable[Part], vocabulary: Vocabulary, folder: Path) -> None:
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        files = {split: (temporary / f"{split}.bin").open("wb") for split in SPLITS}
        try:
            measures, counts = _encode(stream, vocabulary, lambda s, t: files[s].write(t.data))
        finally:
            for file in files.values():
                file.close()
        np.save(temporary / "counts.npy", counts)
        (temporary / "measures.json").write_text(json.dumps(asdict(measures)), encoding="utf-8")
        try:
            os.replace(temporary, folder)
        except OSError:
            if not (folder / "measures.json").is_file():  # otherwise another process was faster
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read(folder: Path, dtype: np.dtype[Any]) -> Encoded:
    try:
        measures = Measures(**json.loads((folder / "measures.json").read_text(encoding="utf-8")))
        counts = np.load(folder / "counts.npy", allow_pickle=False)
        tokens = {s: np.memmap(folder / f"{s}.bin", dtype, mode="r") for s in SPLITS}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder}: damaged ({error}); delete it and it is made again") from error
    for split in SPLITS:
        if len(tokens[split]) != measures.tokens[split] + 1:
            raise UserError(
                f"{folder}/{split}.bin: truncated; delete {folder} and it is made again"
            )
    return Encoded(dict(tokens), measures, counts)


def _encode(
    stream: Iterable[Part], vocabulary: Vocabulary, emit: Any
) -> tuple[Measures, np.ndarray]:
    """Hand the tokens of each split to `emit(split, tokens)` in order, and measure them."""
    measures, counts = Measures(), np.zeros(len(vocabulary), np.int64)
    dtype = dtype_of(vocabulary)
    unknown: Counter[str] = Counter()
    spelling: dict[Split, Spelling] = {}
    for split in SPLITS:
        emit(split, np.array([vocabulary.opening], dtype))

    def flush(batch: list[Part]) -> None:
        for split in SPLITS:
            mine = [part for part in batch if part.split == split]
            if not mine:
                continue
            tokens, spelled = _encode_parts(mine, vocabulary)
            tokens = tokens.astype(dtype)
            emit(split, tokens)
            bits = 0.0
            if spelled:
                if split not in spelling:
                    spelling[split] = Spelling(vocabulary)
                bits = spelling[split].bits(spelled)
                _count(unknown, spelled)
            size = sum(len(p.text) if p.text.isascii() else len(p.text.encode()) for p in mine)
            measures.add(mine[0].source, split, tokens=len(tokens), bytes=size, spelling=bits)
            measures.characters[split] += sum(len(p.text) for p in mine)
            measures.documents[split] += sum(p.first for p in mine)
            if vocabulary.unknown is not None:
                measures.unknown[split] += int((tokens == vocabulary.unknown).sum())
            if split == "train":
                counts[:] += np.bincount(tokens, minlength=len(counts))

    batch: list[Part] = []
    waiting = 0
    for part in stream:
        if batch and part.source != batch[-1].source:
            flush(batch)
            batch, waiting = [], 0
        batch.append(part)
        waiting += len(part.text)
        if waiting >= BATCH:
            flush(batch)
            batch, waiting = [], 0
    flush(batch)
    measures.unknown_words = dict(unknown.most_common(NAMED))
    return measures, counts


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
