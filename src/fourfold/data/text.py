"""Text as windows of tokens, for language models. T is the window, B the batch, both in tokens and windows."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt, model_validator
from torch import nn

from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, Data, DataOptions, Split
from fourfold.core.state import write_text
from fourfold.data.catalog import cache_folder
from fourfold.data.continuing import Rows, rows_of
from fourfold.data.corpus import LONGEST, SPLITS, Corpus, Part, parts, plan_split, whole_documents
from fourfold.data.loading import Indexed
from fourfold.data.mixture import Mixture, weight_of
from fourfold.data.splits import Shares
from fourfold.data.subwords import Subwords
from fourfold.data.text_stocks import read_stocks
from fourfold.data.tokens import Measures, encode_splits
from fourfold.data.vocabularies import Unit, counted, learn_vocabulary, load_vocabulary, record_of
from fourfold.data.vocabulary import Bytes, Characters, Vocabulary

FORMAT = 1
IGNORE = -100
"""Target of positions that do not count."""


class Text(DataOptions):
    """Windows of tokens from texts."""

    loose: ClassVar[frozenset[str]] = DataOptions.loose | {
        "field", "document_mask", "mixture", "training"
    }  # fmt: skip

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
    split: Shares = (0.9, 0.05, 0.05)
    """Shares of training, validation and test; their sum is 1."""
    strict: bool = False
    """Refuse a folder with files that are no text; otherwise they are left out and counted."""
    document_mask: bool = False
    """Let each position see its own document only. A window is a piece of all documents joined, with an end token
    between them; without the mask what is before that is seen too."""
    mixture: dict[str, PositiveFloat] | None = None
    """Weight of each source in the training windows: wiki=0.7,code=0.3. Sources are named as they are given, or by
    their file's name; of a single folder each entry is one."""
    training: str | None = None
    """File or folder to train on in place of the sources' training split; they are still validated and tested on."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.document_mask and (self.ordered or self.context > 1):
            raise ValueError(
                "document_mask: goes with windows in random order and context 1 only (ordered False)"
            )
        if self.mixture is not None and self.ordered:
            raise ValueError("mixture: its windows come in random order; take ordered False")
        if self.mixture is not None and self.training is not None:
            raise ValueError(
                "mixture: weighs the sources' training splits, which training replaces"
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

    def adopt(
        self, prepared: Data, sources: Any, *, seed: int = 0, valid: Any = None
    ) -> TextData | None:
        """See `DataOptions.adopt`: texts under the vocabulary of data of another kind."""
        vocabulary = getattr(prepared, "vocabulary", None)
        if not isinstance(vocabulary, Vocabulary):
            return None
        return _open(self, vocabulary, sources, seed, valid, whole=False)

    def restore(self, folder: Path) -> TextData:
        """See `DataOptions.restore`."""
        about = record_of(folder, FORMAT)
        vocabulary = counted(load_vocabulary(folder), about["counts"], folder)
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
    is missing in the last window has the target -100. With document masks there is {"segments": (B, T) int64}
    besides: which document of its window a position belongs to. An end token that is read begins the next one, as
    the end token precedes every text that is scored or continued. Under a mixture an epoch's windows are those of
    `data/mixture.py`, and none reaches from one source into another. Ordered text comes in rows that go on from batch to
    batch instead, with {"begins": (B,) bool} besides: see `data/continuing.py`.
    """

    unit = "tokens"
    apart = True

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
        self.digests = about.get("files", {})

    @classmethod
    def of_vocabulary(cls, options: Text, vocabulary: Vocabulary, name: str) -> TextData:
        """The preparation alone, of a model that was not trained here.

        Args:
            options: how texts will be read.
            vocabulary: the model's.
            name: of the model, for the report.
        """
        about = {"source": name, "split": "no texts of its own", "shares": [0.0] * 3, "notes": []}
        return cls(options, vocabulary, 0, "", Measures(), about)

    @functools.cached_property
    def mixture(self) -> Mixture | None:
        """Which windows an epoch takes from which source; None where all are of one.

        Raises:
            UserError: a source has less than a window.
        """
        weighed = self._about.get("mixture")
        if not weighed:
            return None
        names, weights = zip(*weighed, strict=True)
        held = self._measures.held()[: len(names)]  # validation texts of their own come last
        sizes = [each.tokens["train"] for each in held]
        return Mixture(names, weights, sizes, self.window, self.seed)

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

    def held(self, split: Split) -> Iterator[tuple[str, slice, int, float]]:
        """Of each source of a mixture: its name, its tokens' places in the split, bytes, and bits of spelling."""
        names = [name for name, _ in self._about.get("mixture") or ()]
        begin = 0
        for name, held in zip(names, self._measures.held(), strict=False):
            end = begin + held.tokens[split]
            yield name, slice(begin, end), held.bytes[split], held.spelling[split]
            begin = end

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
        if self.mixture is not None and split == "train":
            return self.mixture.count
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
        lead = self.options.context - 1
        if self.mixture is not None and split == "train" and epoch is not None:
            starts, first = self.mixture.starts(index, epoch)
        else:
            offset = 0 if epoch is None else self._offset(split, epoch)
            starts, first = index * self.window + offset, np.zeros_like(index)
        places = starts[:, None] + np.arange(-lead, self.window + 1)  # (B, C + T)
        beyond = places >= len(tokens)
        short = bool(beyond.any())
        # the first token is the end token, which stands for all that is before it
        windows = tokens[np.clip(places, first[:, None], len(tokens) - 1)].astype(np.int64)
        inputs, targets = windows[:, :-1].copy(), windows[:, 1 + lead :].copy()
        if self.vocabulary.begin is not None:  # it is given, never guessed
            targets[targets == self.vocabulary.begin] = IGNORE
        if short:
            inputs[beyond[:, :-1]] = self.vocabulary.end
            targets[beyond[:, 1 + lead :]] = IGNORE
        batch = {"tokens": torch.from_numpy(inputs), "targets": torch.from_numpy(targets)}
        if self.options.document_mask:
            batch["segments"] = segments_of(batch["tokens"], self.vocabulary.end)
        return batch

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
            **{k: v for k, v in self._about.items() if k not in ("notes", "mixture", "files")},
            **{
                name: dict(values)
                for name, values in vars(measures).items()
                if name not in ("spelling", "unknown_words", "sources")
            },
            **({"mixture": self.mixture.summary()} if self.mixture else {}),
            "unit": self.vocabulary.unit,
            "vocabulary": len(self.vocabulary),
            "window": self.window,
            "not targets in one epoch": self._left_out(),
            "notes": [
                *self._about["notes"],
                *([self.mixture.note()] if self.mixture else []),
                *self._unknown_notes(),
            ],
        }

    def _left_out(self) -> str:
        if self.options.ordered:
            return f"none: {self.batch} rows are read to their ends, each window from where the one before ended"
        if self.mixture is not None:
            return "by the weights of the mixture: see the passes of each source"
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


def segments_of(tokens: torch.Tensor, end: int) -> torch.Tensor:
    """Which document of its row each position belongs to, (B, T) int64 from 0 on, of tokens that are read, (B, T).

    An end token belongs to the document that it begins.
    """
    begun = (tokens == end).long().cumsum(-1)
    return begun - begun[..., :1]


MOST_FILES = 10_000
"""Files whose digests are kept; of more it is not told which one has changed."""


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
    stocks, notes = read_stocks(options, sources, valid, whole=whole)
    plans = [plan_split(stock.corpus.characters, stock.shares, seed) for stock in stocks]
    unit = vocabulary.unit if vocabulary else Subwords.unit if options.tokenizer else options.unit
    anywhere = unit in (Bytes.unit, Characters.unit)
    mixture = None if whole else options.mixture

    def stream() -> Iterator[Part]:
        for number, (stock, (bounds, _)) in enumerate(zip(stocks, plans, strict=True)):
            some = parts(
                stock.corpus, bounds, anywhere=anywhere, source=number, alone=mixture is None
            )
            yield from (part for part in some if stock.trains or part.split != "train")

    learned = vocabulary is None
    if vocabulary is None:
        length = sum(
            int(b[:, 0].sum()) for s, (b, _) in zip(stocks, plans, strict=True) if s.trains
        )
        vocabulary = _learn(options, stream, length)
    corpora = [stock.corpus for stock in stocks]
    notes += _whole_document_notes(vocabulary, corpora)
    shares = [stock.shares for stock in stocks]
    key = [FORMAT, vocabulary.digest, seed, shares, [c.digest for c in corpora]]
    if mixture is not None or options.training is not None:
        key.append([(stock.name, stock.trains) for stock in stocks])
    fingerprint = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    small = all(corpus.fits for corpus in corpora)
    # the 2: what is measured beside the tokens has grown since the first form
    folder = None if small else cache_folder() / "tokens" / f"{fingerprint}-2"
    joined = whole_documents(stream()) if vocabulary.whole_documents else stream()
    encoded = encode_splits(joined, vocabulary, folder)
    if learned:
        vocabulary.counts = encoded.counts
    origins = [o for s in stocks if s.name or s is stocks[0] for o in s.corpus.origins]
    name = ", ".join(o.name for o in origins[:3])
    if len(origins) > 3:
        name += f" and {len(origins) - 3} more"
    notes += _check_length(encoded.measures, options, shares, name)
    how = "all of it is tested on" if whole else plans[0][1]
    if valid is not None:
        how += "; validation from files of its own"
    if not whole and options.training is not None:
        how += f"; training on {options.training}"
    about: dict[str, Any] = {
        "source": name,
        "split": how,
        "shares": list(shares[0]),
        "notes": notes,
    }
    files = {place: digest for corpus in corpora for place, digest in corpus.files.items()}
    if len(files) <= MOST_FILES:
        about["files"] = files
    if mixture is not None:
        # validation texts of their own come last and have no weight
        about["mixture"] = _weighed(mixture, [stock.name for stock in stocks if stock.name])
    measures, tokens = encoded.measures, encoded.tokens
    data = TextData(options, vocabulary, seed, fingerprint, measures, about, tokens)
    data.mixture  # noqa: B018  # a source of less than a window is an error before anything is built
    return data


def split_text(
    options: Text, split: Split, sources: Any, *, seed: int = 0, valid: Any = None
) -> str:
    """The text behind a split's tokens, for what reads no tokens.

    Args:
        options, sources, seed, valid: as for `Text.open`.
        split: which.
    """
    stocks, _ = read_stocks(options, sources, valid, whole=False)
    anywhere = options.tokenizer is None and options.unit in (Bytes.unit, Characters.unit)
    found = []
    for stock in stocks:
        bounds, _ = plan_split(stock.corpus.characters, stock.shares, seed)
        if stock.trains or split != "train":
            some = parts(stock.corpus, bounds, anywhere=anywhere)
            found += [p.text for p in some if p.split == split]
    return "".join(found)


def _weighed(mixture: dict[str, float], names: list[str]) -> list[tuple[str, float]]:
    """The sources in their order with their weights."""
    return [(name, weight_of(mixture, name)) for name in names]


def _learn(options: Text, stream: Any, characters: int) -> Vocabulary:
    def texts() -> Iterator[tuple[str, str]]:
        return ((part.text, part.before) for part in stream() if part.split == "train")

    if options.tokenizer is not None:
        return Subwords.read(Path(options.tokenizer))
    return learn_vocabulary(options.unit, texts, options.vocabulary, options.min_count, characters)


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
