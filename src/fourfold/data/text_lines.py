"""Sentences as examples: one a line, numbered by a vocabulary, each ended by the end token.

A batch is {"tokens": (B, T) int64, the end token behind the last word and from there on, "lengths": (B,) int64, the
tokens of each with its end}. Shapes: B batch, T tokens of the longest sentence of the batch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import PositiveInt

from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, DataOptions, Split
from fourfold.core.state import write_text
from fourfold.data.loading import Indexed
from fourfold.data.made_sentences import made_sentences
from fourfold.data.readers import documents
from fourfold.data.splits import Shares
from fourfold.data.text_sources import find_origins
from fourfold.data.vocabularies import learn_vocabulary, load_vocabulary
from fourfold.data.vocabulary import Vocabulary

SPLITS: tuple[Split, ...] = ("train", "valid", "test")


class TextLines(DataOptions):
    """Sentences, one a line."""

    unit: Literal["word", "character", "bpe"] = "word"
    """What a token is: words, Chinese by the character (word), characters, or pieces of words (bpe)."""
    lower: bool = False
    """Read text in lower case."""
    vocabulary: PositiveInt | None = None
    """Entries, the special ones included; None takes all, or for bpe as many as the length of the text asks for."""
    min_count: PositiveInt = 2
    """How often an entry must occur."""
    longest: PositiveInt = 40
    """Tokens of a sentence at most, its end not counted; longer ones are left out and counted."""
    batch: PositiveInt = 64
    """Sentences in a batch."""
    field: str = "text"
    """Column or key that holds the text in .jsonl, .json, .csv, .tsv and .parquet files."""
    split: Shares = (0.9, 0.05, 0.05)
    """Shares of training, validation and test, by lot; equal sentences are one."""
    strict: bool = False
    """Refuse a folder with files that are no text; otherwise they are left out and counted."""

    loose: ClassVar[frozenset[str]] = frozenset({"batch", "split", "strict"})

    def open(self, sources: Any, *, seed: int = 0, valid: Any = None) -> TextLinesData:
        """Read sentences and make the vocabulary from the training split.

        Args:
            sources: as for `Text.open`; None takes sentences that the project makes.
            seed: fixes the split and the order.
            valid: sentences of the validation split, if they are apart.

        Raises:
            UserError: nothing to read, or too few sentences that are short enough.
        """
        return _open(self, None, sources, seed, valid, whole=False)

    def restore(self, folder: Path) -> TextLinesData:
        """See `DataOptions.restore`."""
        about = json.loads((folder / "lines.json").read_text(encoding="utf-8"))
        return TextLinesData(
            self, load_vocabulary(folder), about["fingerprint"], about["about"], None, 0
        )


class TextLinesData(Indexed):
    """Numbered sentences, or after `restore` only their vocabulary."""

    unit = "sentences"
    apart = True

    def __init__(
        self,
        options: TextLines,
        vocabulary: Vocabulary,
        fingerprint: str,
        about: dict[str, Any],
        sentences: dict[Split, list[np.ndarray]] | None,
        seed: int,
    ) -> None:
        super().__init__(batch=options.batch, seed=seed)
        self.options, self.vocabulary, self.fingerprint = options, vocabulary, fingerprint
        self._about, self._sentences = about, sentences

    def size(self, split: Split) -> int:
        """Sentences of the split."""
        return 0 if self._sentences is None else len(self._sentences[split])

    def sentences(self, split: Split) -> list[np.ndarray]:
        """A split's sentences, each (N,) int64 without its end."""
        if self._sentences is None:
            raise ValueError("this data was restored without examples; reopen brings them")
        return self._sentences[split]

    def take(self, split: Split, index: np.ndarray | slice, epoch: int | None) -> Batch:
        """See `Indexed.take`."""
        some = self.sentences(split)
        return self.batch_of(some[index] if isinstance(index, slice) else [some[i] for i in index])

    def batch_of(self, sentences: list[np.ndarray]) -> Batch:
        """Sentences, each (N,), as a batch."""
        lengths = torch.tensor([len(sentence) + 1 for sentence in sentences])
        tokens = torch.full((len(sentences), int(lengths.max())), self.vocabulary.end)
        for row, sentence in zip(tokens, sentences, strict=True):
            row[: len(sentence)] = torch.from_numpy(sentence.astype(np.int64))
        return {"tokens": tokens, "lengths": lengths}

    def encode(self, text: str) -> np.ndarray:
        """A sentence's tokens, (N,) int64.

        Raises:
            UserError: it is empty, more than one line, or longer than training's were.
        """
        lines = text.splitlines()
        if len(lines) != 1 or not lines[0].strip():
            raise UserError(
                f"expected one sentence, got {len(lines)} lines"
                if len(lines) > 1
                else "the sentence is empty"
            )
        found = self.vocabulary.encode(_plain(self.options, lines[0]))
        if len(found) > self.options.longest:
            raise UserError(
                f"a sentence of {len(found)} tokens; this run learned from {self.options.longest} at most (--data.longest)"
            )
        return found

    def text(self, tokens: Any) -> str:
        """The sentence of some tokens, up to its end."""
        found = np.asarray(tokens).tolist()
        if self.vocabulary.end in found:
            found = found[: found.index(self.vocabulary.end)]
        return self.vocabulary.decode(found)

    def reopen(
        self, sources: Any, *, seed: int = 0, valid: Any = None, whole: bool = False
    ) -> TextLinesData:
        """See `Data.reopen`."""
        return _open(self.options, self.vocabulary, sources, seed, valid, whole=whole)

    def save(self, folder: Path) -> None:
        """See `Data.save`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.vocabulary.save(folder)
        about = {"fingerprint": self.fingerprint, "about": self._about}
        write_text(folder / "lines.json", json.dumps(about, ensure_ascii=False))

    def summary(self) -> dict[str, Any]:
        """See `Data.summary`."""
        return dict(self._about)


def _plain(options: TextLines, line: str) -> str:
    stripped = line.strip()
    return stripped.lower() if options.lower else stripped


def _lines(options: TextLines, sources: Any, notes: list[str]) -> list[str]:
    if sources is None:
        return made_sentences()
    origins, more = find_origins(sources, options.field, strict=options.strict)
    notes += more
    found: list[str] = []
    for origin in origins:
        whole = ""
        for piece, last in documents(origin):
            whole += piece
            if last:
                found += [_plain(options, line) for line in whole.splitlines() if line.strip()]
                whole = ""
    return found


def _open(
    options: TextLines,
    known: Vocabulary | None,
    sources: Any,
    seed: int,
    valid: Any,
    *,
    whole: bool,
) -> TextLinesData:
    notes: list[str] = []
    read = _lines(options, sources, notes)
    digest = hashlib.sha256("\n".join(read).encode("utf-8", "surrogatepass"))
    lines = list(dict.fromkeys(read))
    if len(lines) < len(read):
        notes.append(
            f"{len(read) - len(lines):,} sentences occur more than once and are taken once"
        )
    parts = _parts(options, lines, seed, valid is not None, whole)
    if valid is not None:
        parts["valid"] = list(dict.fromkeys(_lines(options, valid, notes)))
        digest.update("\n".join(parts["valid"]).encode("utf-8", "surrogatepass"))
    learned = options.min_count if known is None else None
    if known is None:
        training = parts["train"]

        def texts() -> Iterator[tuple[str, str]]:
            return ((line, "") for line in training)

        known = learn_vocabulary(
            options.unit, texts, options.vocabulary, options.min_count, sum(map(len, training))
        )
    sentences: dict[Split, list[np.ndarray]] = {}
    left = 0
    for split in SPLITS:
        found = _numbered(known, parts[split])
        sentences[split] = [one for one in found if 0 < len(one) <= options.longest]
        left += len(found) - len(sentences[split])
    if left:
        notes.append(
            f"{left:,} sentences of more than {options.longest} tokens were left out (--data.longest)"
        )
    used: Split = "test" if whole else "train"
    if not sentences[used]:
        raise UserError(
            f"no sentence of at most {options.longest} tokens to learn from or measure on"
        )
    if known.unknown is not None:
        notes += _unknown_notes(known, sentences, learned)
    plain = options.model_dump_json(exclude=set(TextLines.loose - {"split"}))
    about: dict[str, Any] = {
        **{str(split): len(sentences[split]) for split in SPLITS},
        "vocabulary": len(known),
        "unit": known.unit,
        "tokens": sum(len(one) for split in SPLITS for one in sentences[split]),
        "notes": notes,
    }
    fingerprint = hashlib.sha256(f"{plain} {digest.hexdigest()}".encode()).hexdigest()
    return TextLinesData(options, known, fingerprint, about, sentences, seed)


def _unknown_notes(
    vocabulary: Vocabulary, sentences: dict[Split, list[np.ndarray]], learned: int | None
) -> Iterator[str]:
    """How many tokens of each split the vocabulary does not have.

    Args:
        vocabulary: with an entry for what is unknown.
        sentences: numbered.
        learned: how often an entry had to occur, where the vocabulary is of these sentences.

    Raises:
        UserError: all tokens of the training split are unknown.
    """
    for split, found in sentences.items():
        total = sum(map(len, found))
        unknown = sum(int((one == vocabulary.unknown).sum()) for one in found)
        if learned and split == "train" and unknown == total:
            raise UserError(
                f"--data.min-count {learned}: nothing occurs so often in the {len(found):,} training sentences; "
                "1 takes everything, or --data.unit character"
            )
        if unknown:
            told = vocabulary.token(vocabulary.unknown or 0)
            yield f"{split}: {unknown:,} of {total:,} tokens ({unknown / total:.2%}) are not in the vocabulary and read as {told}"


def _numbered(vocabulary: Vocabulary, lines: list[str]) -> list[np.ndarray]:
    if not lines:
        return []
    tokens, lengths = vocabulary.encode_many(lines)
    return np.split(tokens.astype(np.int64), np.cumsum(lengths)[:-1])


def _parts(
    options: TextLines, lines: list[str], seed: int, apart: bool, whole: bool
) -> dict[Split, list[str]]:
    """The lines of each split, by lot, in their order."""
    if whole:
        return {"train": [], "valid": [], "test": lines}
    shares = np.array(options.split) * ((1, 0, 1) if apart else (1, 1, 1))
    if len(lines) < int((shares > 0).sum()):
        raise UserError(
            f"{len(lines)} sentences: too few to split into training, validation and test"
        )
    ends = np.round(np.cumsum(shares / shares.sum()) * len(lines)).astype(int)
    for i in (1, 0):  # at least one sentence each
        ends[i] = min(ends[i], ends[i + 1] - int(shares[i + 1] > 0))
    order = np.random.default_rng(seed).permutation(len(lines))
    cuts = np.split(order, ends[:2])
    return {s: [lines[i] for i in np.sort(cut)] for s, cut in zip(SPLITS, cuts, strict=True)}
