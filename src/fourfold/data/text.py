"""Text as windows of tokens, for language models. T is the window, B the batch, both in tokens and windows."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveInt, model_validator
from torch import nn

from fourfold.core.errors import UserError, nearest
from fourfold.core.parts import Batch, DataOptions, Split
from fourfold.core.state import write_text
from fourfold.data.catalog import cache_folder
from fourfold.data.continuing import Rows, rows_of
from fourfold.data.corpus import LONGEST, SPLITS, Corpus, Part, parts, plan_split, whole_documents
from fourfold.data.loading import Indexed
from fourfold.data.spaced import Jieba, Spaced
from fourfold.data.subwords import Subwords
from fourfold.data.text_sources import find_origins
from fourfold.data.tokens import Measures, encode_splits
from fourfold.data.vocabulary import Bytes, Characters, Texts, Vocabulary
from fourfold.data.words import Words

FORMAT = 1
WORDS: dict[str, type[Words | Spaced | Jieba]] = {
    kind.unit: kind for kind in (Words, Spaced, Jieba)
}
"""Vocabularies of words, by unit."""
IGNORE = -100
"""Target of positions that do not count."""
Share = Annotated[float, Field(ge=0, le=1)]
Unit = Literal["byte", "character", "word", "space", "jieba", "bpe"]


class Text(DataOptions):
    """Windows of tokens from texts."""

    unit: Unit = "character"
    """What a token is. Words are found in any script; space takes what stands between spaces, and the line's
    end, in corpora that are cut already; jieba cuts Chinese; bpe is byte-level and trained on the text."""
    window: PositiveInt = 64
    """Tokens per example."""
    context: PositiveInt = 1
    """Tokens that precede every prediction at least: a window begins with context - 1 tokens more, which are
    only read. Before a text the end token stands for them."""
    batch: PositiveInt = 32
    """Windows per micro-batch."""
    ordered: bool = False
    """Cut the text into `batch` long rows, of which each batch holds the next window: a model that carries
    its state from batch to batch reads on. Otherwise windows come in random order."""
    vocabulary: PositiveInt | None = None
    """Entries, the special ones included: the most frequent ones, or the size of the BPE. Without it all
    characters or words, and for bpe 512 to 8000 by the length of the text."""
    min_count: PositiveInt = 1
    """How often a character, word or BPE pair must occur in the training split to be an entry."""
    tokenizer: str | None = None
    """A Hugging Face tokenizer.json (or a folder with one) to use as it is; it takes the place of `unit`."""
    field: str = "text"
    """Column or key that holds the text in .jsonl, .json, .csv, .tsv and .parquet files."""
    split: tuple[Share, Share, Share] = (0.9, 0.05, 0.05)
    """Shares of training, validation and test; their sum is 1."""
    strict: bool = False
    """Refuse a folder with files that are no text; otherwise they are left out and counted."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if abs(sum(self.split) - 1) > 1e-6 or self.split[0] == 0:
            raise ValueError(
                f"split: expected shares that sum to 1, training not 0, got {self.split}"
            )
        if self.ordered and self.context > 1:
            raise ValueError(
                f"context {self.context} with ordered: rows that go on carry what they have read; take context 1"
            )
        return self

    def open(self, sources: Any, *, seed: int = 0, valid: Any = None) -> TextData:
        """Read texts and make the vocabulary from the training split.

        Args:
            sources: None (the embedded text), a path, folder, glob, catalog name, "-" (standard input) or
                several of these; in memory {"text": "..."} or {"text": [...]} or a frame with that column,
                where the key is `field`.
            seed: fixes the split by documents and the order.
            valid: texts of the validation split, if they are files of their own; the validation share of
                the sources is then trained on.

        Raises:
            UserError: something about the sources, the vocabulary or the window is wrong.
        """
        return _open(self, None, sources, seed, valid, whole=False)

    def restore(self, folder: Path) -> TextData:
        """See `DataOptions.restore`."""
        path = folder / "data.json"
        about = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise UserError(f"{path}: not written by this version of fourfold")
        vocabulary = load_vocabulary(folder)
        counts = np.array(about["counts"], np.int64)
        if len(counts) != len(vocabulary):
            raise UserError(
                f"{path}: damaged: it counts {len(counts)} entries, the vocabulary has {len(vocabulary)}"
            )
        vocabulary.counts = counts
        return TextData(
            self,
            vocabulary,
            about["seed"],
            about["fingerprint"],
            Measures(**about["measures"]),
            about["about"],
        )


class TextData(Indexed):
    """Windows over the tokens of each split; a window never reaches from one split into another.

    A batch is {"tokens": (B, C - 1 + T) int64, "targets": (B, T) int64, the next tokens}, where C is the context:
    target t follows token C - 1 + t. In an epoch the windows of
    a split begin at an offset fixed by (seed, epoch), so that they differ from epoch to epoch, and every
    token is a target at most once. In stored order (epoch None) every token is a target exactly once; what
    is missing in the last window has the target -100. Ordered text comes in rows that go on from batch to
    batch instead, with {"begins": (B,) bool} besides: see `data/continuing.py`.
    """

    unit = "tokens"

    def __init__(
        self,
        options: Text,
        vocabulary: Vocabulary,
        seed: int,
        fingerprint: str,
        measures: Measures,
        about: dict[str, Any],
        tokens: dict[Split, np.ndarray] | None = None,
    ) -> None:
        super().__init__(batch=options.batch, seed=seed)
        self.options, self.window = options, options.window
        self.vocabulary, self.fingerprint = vocabulary, fingerprint
        self._measures, self._about, self._tokens = measures, about, tokens

    def tokens(self, split: Split) -> np.ndarray:
        """The split as one array, (N + 1,) unsigned: the opening token, then the N tokens of the text.

        The end token follows every document, and then the begin token where the vocabulary has one.

        Raises:
            ValueError: this is the preparation only, without examples.
        """
        if self._tokens is None:
            raise ValueError("this data has no examples: give it sources with reopen()")
        return self._tokens[split]

    def bytes(self, split: Split) -> int:
        """UTF-8 bytes of the text behind a split's tokens, for bits per byte."""
        return self._measures.bytes[split]

    def spelling(self, split: Split) -> float:
        """Bits that spelling a split's unknown words takes, beside those of the unknown token itself."""
        return self._measures.spelling[split]

    @property
    def unknown_words(self) -> dict[str, int]:
        """The most frequent words outside the vocabulary in all splits, with their counts."""
        return self._measures.unknown_words

    def size(self, split: Split) -> int:
        """Windows in the split, the short ones at its end included."""
        if self.options.ordered:
            return self.count(split, None)
        return -(-self._measures.tokens[split] // self.window)

    def count(self, split: Split, epoch: int | None) -> int:
        """Windows in this epoch: those that are full, from the epoch's offset on; all where the text is ordered."""
        if self.options.ordered:
            rows = self._rows(split, epoch)
            return rows.rows * rows.steps
        if epoch is None:
            return self.size(split)
        return (self._measures.tokens[split] - self._offset(split, epoch)) // self.window

    def length(self, split: Split, epoch: int | None = None) -> int:
        """See `Data.length`."""
        if self.options.ordered:
            return self._rows(split, epoch).steps
        return super().length(split, epoch)

    def batches(
        self, split: Split, *, epoch: int | None = None, model: nn.Module | None = None
    ) -> Iterator[Batch]:
        """See `Data.batches`; of ordered text the next window of every row."""
        if not self.options.ordered:
            yield from super().batches(split, epoch=epoch, model=model)
            return
        rows, tokens = self._rows(split, epoch), self.tokens(split)
        steps = range(rows.steps) if epoch is None else self.unconsumed(rows.steps, epoch)
        for step in steps:
            yield rows.batch(tokens, step, self.vocabulary.end, IGNORE)

    def _rows(self, split: Split, epoch: int | None) -> Rows:
        return rows_of(self._measures.tokens[split], self.batch, self.window, self.seed, epoch)

    def _offset(self, split: Split, epoch: int) -> int:
        spare = self._measures.tokens[split] - self.window
        if spare <= 0:
            return 0
        generator = np.random.default_rng([self.seed, epoch, 0x0FF5E7])
        return int(generator.integers(min(self.window, spare + 1)))

    def take(self, split: Split, index: np.ndarray | slice, epoch: int | None) -> Batch:
        """See `Indexed.take`."""
        tokens = self.tokens(split)
        if isinstance(index, slice):
            index = np.arange(index.start, index.stop)
        offset = 0 if epoch is None else self._offset(split, epoch)
        lead = self.options.context - 1
        starts = (index * self.window + offset)[:, None]
        places = starts + np.arange(-lead, self.window + 1)  # (B, C + T)
        beyond = places >= len(tokens)
        short = bool(beyond.any())
        # the first token is the end token, which stands for all that is before it
        windows = tokens[np.clip(places, 0, len(tokens) - 1)].astype(np.int64)
        inputs, targets = windows[:, :-1].copy(), windows[:, 1 + lead :].copy()
        if self.vocabulary.begin is not None:  # it is given, never guessed
            targets[targets == self.vocabulary.begin] = IGNORE
        if short:
            inputs[beyond[:, :-1]] = self.vocabulary.end
            targets[beyond[:, 1 + lead :]] = IGNORE
        return {"tokens": torch.from_numpy(inputs), "targets": torch.from_numpy(targets)}

    def reopen(
        self, sources: Any, *, seed: int = 0, valid: Any = None, whole: bool = False
    ) -> TextData:
        """See `Data.reopen`."""
        return _open(self.options, self.vocabulary, sources, seed, valid, whole=whole)

    def save(self, folder: Path) -> None:
        """See `Data.save`: data.json and vocabulary.json, or tokenizer.json for bpe."""
        folder.mkdir(parents=True, exist_ok=True)
        self.vocabulary.save(folder)
        about = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "seed": self.seed,
            "measures": vars(self._measures),
            "about": self._about,
            "counts": self.vocabulary.counts.tolist(),
        }
        write_text(folder / "data.json", json.dumps(about, ensure_ascii=False))

    def summary(self) -> dict[str, Any]:
        """See `Data.summary`."""
        measures = self._measures
        return {
            **{k: v for k, v in self._about.items() if k != "notes"},
            **{
                name: dict(values)
                for name, values in vars(measures).items()
                if name not in ("spelling", "unknown_words")
            },
            "unit": self.vocabulary.unit,
            "vocabulary": len(self.vocabulary),
            "window": self.window,
            "not targets in one epoch": self._left_out(),
            "notes": [*self._about["notes"], *self._unknown_notes()],
        }

    def _left_out(self) -> str:
        if self.options.ordered:
            return f"none: {self.batch} rows are read to their ends, each window from where the one before ended"
        return (
            f"at most {2 * (self.window - 1)} of {self._measures.tokens['train']} training tokens, before the "
            "first and after the last full window; others in the next epoch"
        )

    def _unknown_notes(self) -> Iterator[str]:
        for split, unknown in self._measures.unknown.items():
            if unknown:
                total = self._measures.tokens[split]
                yield (
                    f"{split}: {unknown} of {total} tokens ({unknown / total:.2%}) are not in the vocabulary "
                    f"and read as {self.vocabulary.token(self.vocabulary.unknown or 0)}"
                )


def _open(
    options: Text,
    vocabulary: Vocabulary | None,
    sources: Any,
    seed: int,
    valid: Any,
    *,
    whole: bool,
) -> TextData:
    """Read, split, learn the vocabulary where there is none yet, and encode."""
    corpora, notes = _read(options, sources, valid)
    shares = _shares(options, whole=whole, valid=valid is not None)
    plans = [plan_split(c.characters, s, seed) for c, s in zip(corpora, shares, strict=True)]
    unit = vocabulary.unit if vocabulary else Subwords.unit if options.tokenizer else options.unit
    anywhere = unit in (Bytes.unit, Characters.unit)

    def stream() -> Iterator[Part]:
        return itertools.chain.from_iterable(
            parts(corpus, bounds, anywhere=anywhere)
            for corpus, (bounds, _) in zip(corpora, plans, strict=True)
        )

    learned = vocabulary is None
    if vocabulary is None:
        length = int(plans[0][0][:, 0].sum())
        vocabulary = _learn(options, stream, length)
    notes += _whole_document_notes(vocabulary, corpora)
    key = [FORMAT, vocabulary.digest, seed, shares, [c.digest for c in corpora]]
    fingerprint = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    small = all(corpus.fits for corpus in corpora)
    # the 2: what is measured beside the tokens has grown since the first form
    folder = None if small else cache_folder() / "tokens" / f"{fingerprint}-2"
    joined = whole_documents(stream()) if vocabulary.whole_documents else stream()
    encoded = encode_splits(joined, vocabulary, folder)
    if learned:
        vocabulary.counts = encoded.counts
    name = ", ".join(o.name for o in corpora[0].origins[:3])
    if len(corpora[0].origins) > 3:
        name += f" and {len(corpora[0].origins) - 3} more"
    notes += _check_length(encoded.measures, options, shares, name)
    how = "all of it is tested on" if whole else plans[0][1]
    if valid is not None:
        how += "; validation from files of its own"
    about = {"source": name, "split": how, "shares": list(shares[0]), "notes": notes}
    measures = encoded.measures
    return TextData(options, vocabulary, seed, fingerprint, measures, about, encoded.tokens)


def split_text(
    options: Text, split: Split, sources: Any, *, seed: int = 0, valid: Any = None
) -> str:
    """The text behind a split's tokens, for what reads no tokens.

    Args:
        options, sources, seed, valid: as for `Text.open`.
        split: which.
    """
    corpora, _ = _read(options, sources, valid)
    shares = _shares(options, whole=False, valid=valid is not None)
    anywhere = options.tokenizer is None and options.unit in (Bytes.unit, Characters.unit)
    found = []
    for corpus, some in zip(corpora, shares, strict=True):
        bounds, _ = plan_split(corpus.characters, some, seed)
        found += [p.text for p in parts(corpus, bounds, anywhere=anywhere) if p.split == split]
    return "".join(found)


def _read(options: Text, sources: Any, valid: Any) -> tuple[list[Corpus], list[str]]:
    """The sources' documents, then those of the validation split if it has its own; with notes."""
    origins, notes = find_origins(sources, options.field, strict=options.strict)
    every = [origins]
    if valid is not None:
        more, more_notes = find_origins(valid, options.field, strict=options.strict)
        both = {o.path.resolve() for o in origins if o.path} & {
            o.path.resolve() for o in more if o.path
        }
        if both:
            raise UserError(f"{min(both)}: is among the training and the validation texts")
        every, notes = [origins, more], notes + more_notes
    corpora = [Corpus(some) for some in every]
    if empty := sum(corpus.empty for corpus in corpora):
        notes.append(f"{empty} documents without text left out")
    return corpora, notes


def _shares(options: Text, *, whole: bool, valid: bool) -> list[tuple[float, float, float]]:
    """Shares of the splits for the sources, and for the validation sources if there are any."""
    train, held, test = options.split
    if whole:
        shares = [(0.0, 0.0, 1.0)]
    elif valid:
        shares = [(train + held, 0.0, test), (0.0, 1.0, 0.0)]
    else:
        shares = [(train, held, test)]
    return shares


def _learn(options: Text, stream: Any, characters: int) -> Vocabulary:
    def texts() -> Iterator[tuple[str, str]]:
        return ((part.text, part.before) for part in stream() if part.split == "train")

    if options.tokenizer is not None:
        return Subwords.read(Path(options.tokenizer))
    return learn_vocabulary(options.unit, texts, options.vocabulary, options.min_count, characters)


def learn_vocabulary(
    unit: Unit, texts: Texts, size: int | None, min_count: int, characters: int
) -> Vocabulary:
    """A vocabulary of some texts, those of the training split.

    Args:
        unit: what a token is.
        texts: their pieces.
        size: entries; None takes all, or for bpe as many as the length of the text asks for.
        min_count: how often an entry must occur.
        characters: how long the texts are.

    Raises:
        UserError: more entries are asked than the texts support.
    """
    if unit == "character":
        return Characters.learn(texts, size, min_count)
    if unit in WORDS:
        return WORDS[unit].learn(texts, size, min_count)
    if unit == "bpe":
        return Subwords.learn(texts, size, min_count, characters)
    if size not in (None, len(Bytes())):
        raise UserError(f"vocabulary: {size} entries asked, the unit byte has {len(Bytes())}")
    return Bytes()


def load_vocabulary(folder: Path) -> Vocabulary:
    """The vocabulary that `Vocabulary.save` wrote into a folder.

    Raises:
        UserError: it is of an unknown unit.
    """
    path = folder / Vocabulary.file
    if not path.exists():
        return Subwords.read(folder, as_saved=True)
    stored = json.loads(path.read_text(encoding="utf-8"))
    if stored["unit"] == Bytes.unit:
        return Bytes()
    kinds: dict[str, type[Vocabulary]] = {Characters.unit: Characters, **WORDS}
    if stored["unit"] not in kinds:
        raise UserError(f"{path}: unknown unit {stored['unit']!r}{nearest(stored['unit'], kinds)}")
    kind, entries = kinds[stored["unit"]], stored["entries"]
    if kind is Spaced:
        return Spaced(entries, padded=bool(stored["padded"]))
    return kind(entries)  # type: ignore[call-arg]


def _whole_document_notes(vocabulary: Vocabulary, corpora: list[Corpus]) -> list[str]:
    if not vocabulary.whole_documents:
        return []
    notes = [
        "this tokenizer is not byte-level or changes the text before it reads it (such as lower case): "
        "decoded text may differ from what was given"
    ]
    if longer := sum(int((c.characters > LONGEST).sum()) for c in corpora):
        notes.append(f"{longer} documents are encoded in pieces of {LONGEST} characters")
    return notes


def _check_length(
    measures: Measures, options: Text, shares: list[tuple[float, float, float]], name: str
) -> list[str]:
    """Notes on splits that got nothing.

    Raises:
        UserError: not one window can be trained on.
    """
    asked = dict(zip(SPLITS, np.sum(shares, axis=0), strict=True))
    found = measures.tokens["train"]
    if asked["train"] and found < options.window:
        raise UserError(
            f"{name}: the training split has {found} tokens, fewer than one window of {options.window}; "
            f"--data.window {max(found, 1)} or less fits"
        )
    empty = [split for split in SPLITS if asked[split] and not measures.tokens[split]]
    return [f"the text is so short that the {split} split is empty" for split in empty]
