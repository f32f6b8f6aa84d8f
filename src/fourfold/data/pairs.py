"""Pairs of token sequences: sentences and their translations, dates and their ISO form, texts and their summaries.

Shapes: B pairs of a batch, S tokens of the longest source, T of the longest target, the end token among them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import nn

from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, DataOptions, Split
from fourfold.core.state import write_text
from fourfold.data.loading import Indexed
from fourfold.data.pair_batches import cut, epoch_batches, padding
from fourfold.data.pair_cleaning import kept_pairs, plan
from fourfold.data.pair_encoding import (
    Encoded,
    Texts,
    count_entries,
    encode,
    foreign_notes,
    padded,
    unknown_notes,
)
from fourfold.data.pair_lengths import Long, counted
from fourfold.data.pair_sources import Sides, read_pairs
from fourfold.data.splits import Shares
from fourfold.data.subwords import Subwords
from fourfold.data.text import IGNORE, Unit, learn_vocabulary, load_vocabulary
from fourfold.data.vocabulary import Vocabulary

FORMAT = 1
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
Ratio = Annotated[float, Field(gt=1)]


class Pairs(DataOptions):
    """Pairs of texts."""

    loose: ClassVar[frozenset[str]] = frozenset(
        {"batch", "split", "longest", "long", "ratio", "identical", "source", "target"}
    )

    unit: Unit = "bpe"
    """What a token is, on both sides unless source_unit or target_unit say otherwise."""
    source_unit: Unit | None = None
    """What a token of the sources is; None takes unit."""
    target_unit: Unit | None = None
    """What a token of the targets is; None takes unit."""
    shared: bool = True
    """One vocabulary for both sides, learned from both; otherwise one for each."""
    vocabulary: PositiveInt | None = None
    """Entries of each vocabulary, the special ones included. Without it all characters or words, and for bpe 512
    to 8000 by the length of the text."""
    min_count: PositiveInt = 1
    """How often a character, word or BPE pair must occur in the training split to be an entry."""
    tokenizer: str | None = None
    """A Hugging Face tokenizer.json (or a folder with one) to use as it is for both sides, in place of units."""
    begin: Literal["end", "own"] = "end"
    """What a target begins with: the end token, or a token of its own."""
    batch: PositiveInt = 4096
    """Tokens per micro-batch: of both sides together, padding included. A longer pair is a batch by itself."""
    longest: PositiveInt = 256
    """Most tokens of a side."""
    long: Long = "split"
    """What becomes of pairs with a longer side: split at the ends of sentences where both sides have as many of
    them (else left out), cut after so many tokens, or refused (error)."""
    ratio: Ratio | None = 5.0
    """How many times longer than the other side lets expect (by the usual ratio of the characters of both) a side
    may be; others are left out. None keeps all."""
    identical: Literal["keep", "drop"] = "keep"
    """Whether pairs whose sides are the same are learned from."""
    source: str = "source"
    """Column or key of the sources in tables; in a folder the end of their file's name, as en of train.en."""
    target: str = "target"
    """Column or key of the targets, or the end of their file's name."""
    split: Shares = (0.9, 0.05, 0.05)
    """Shares of training, validation and test; their sum is 1. Pairs with the same source stay together."""

    @property
    def units(self) -> tuple[Unit, Unit]:
        """Of sources and targets."""
        if self.tokenizer is not None:
            return "bpe", "bpe"
        return self.source_unit or self.unit, self.target_unit or self.unit

    @property
    def joint(self) -> bool:
        """Whether both sides have one vocabulary."""
        return self.tokenizer is not None or (self.shared and len(set(self.units)) == 1)

    def open(self, sources: Any, *, seed: int = 0, valid: Any = None) -> PairData:
        """Read pairs and make the vocabularies from the training split.

        Args:
            sources: see `pair_sources.read_pairs`: two files that belong together line by line, a table with
                two columns, a folder, a catalog name; in memory {"source": [...], "target": [...]}.
            seed: fixes the split and the order.
            valid: pairs of the validation split, if they are files of their own; the validation share of the
                sources is then trained on.

        Raises:
            UserError: something about the sources or the vocabulary is wrong.
        """
        return _open(self, None, sources, seed, valid, whole=False)

    def restore(self, folder: Path) -> PairData:
        """See `DataOptions.restore`."""
        path = folder / "data.json"
        about = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise UserError(f"{path}: not written by this version of fourfold")
        joint = about["joint"]
        places = (folder, folder) if joint else (folder / "source", folder / "target")
        first = load_vocabulary(places[0])
        second = first if joint else load_vocabulary(places[1])
        for vocabulary, counts in zip((first, second), about["counts"], strict=True):
            if len(counts) != len(vocabulary):
                raise UserError(
                    f"{path}: damaged: it counts {len(counts)} entries, the vocabulary has {len(vocabulary)}"
                )
            vocabulary.counts = np.array(counts, np.int64)
        both = first, second
        return PairData(self, both, about["seed"], about["fingerprint"], about["about"])


class PairData(Indexed):
    """Pairs of each split.

    A batch is {"source": (B, S) int64, "source_lengths": (B,) int64, "tokens": (B, T) int64, the begin token and the
    target without its last token, "targets": (B, T) int64, the target, -100 where it has ended}. Sources end with
    the end token, so that none is empty, and so do targets that were not cut. What stands in padded places is the
    end token; it means nothing. In an epoch batches hold pairs about as long as one another, in an order fixed by
    (seed, epoch); in stored order (epoch None) each holds the pairs that follow.
    """

    unit = "tokens"

    def __init__(
        self,
        options: Pairs,
        vocabularies: tuple[Vocabulary, Vocabulary],
        seed: int,
        fingerprint: str,
        about: dict[str, Any],
        splits: dict[Split, Encoded] | None = None,
    ) -> None:
        super().__init__(batch=options.batch, seed=seed)
        self.options, self.fingerprint = options, fingerprint
        self.source_vocabulary, self.target_vocabulary = vocabularies
        self._about, self._splits = about, splits
        self._epoch_batches: tuple[Any, list[np.ndarray]] = (None, [])

    # --- what models and decoders ask ---------------------------------------------------------------------

    @property
    def vocabulary(self) -> Vocabulary:
        """The targets' vocabulary: what a model of these data says its words in."""
        return self.target_vocabulary

    @property
    def shared(self) -> bool:
        """Whether both sides have one vocabulary."""
        return self.source_vocabulary is self.target_vocabulary

    @property
    def batch_tokens(self) -> int:
        """Most tokens of a batch: what its size is counted in."""
        return self.batch

    @property
    def own_begin(self) -> bool:
        """Whether targets begin with a token of their own, numbered behind the vocabulary's entries."""
        return self.options.begin == "own"

    @property
    def begin(self) -> int:
        """The token that a target begins with."""
        return len(self.target_vocabulary) if self.own_begin else self.end

    @property
    def end(self) -> int:
        """The token that a target ends with."""
        return self.target_vocabulary.end

    @property
    def target_size(self) -> int:
        """Tokens that a model of the targets has rows for, the begin token among them."""
        return len(self.target_vocabulary) + self.own_begin

    @property
    def source_size(self) -> int:
        """Tokens that a model of the sources has rows for; as many as of the targets where they share a vocabulary."""
        return self.target_size if self.shared else len(self.source_vocabulary)

    @property
    def languages(self) -> tuple[str, str] | None:
        """Codes of source and target language, where the files were called by them."""
        found = self._about["languages"]
        return (found[0], found[1]) if found else None

    @property
    def usual_ratio(self) -> float:
        """Tokens of a target for one of its source, in the training pairs."""
        return float(self._about["ratio"] or 1.0)

    def encode_sources(self, texts: Sequence[str]) -> tuple[list[list[int]], list[list[str]]]:
        """Texts as a model reads them, each with the end token; and what each one's unknown tokens stand for."""
        vocabulary = self.source_vocabulary
        tokens, lengths, spelled = vocabulary.encode_spelled(list(texts))
        words = iter(spelled)
        rows, unknown = [], []
        for row in np.split(tokens.astype(np.int64), np.cumsum(lengths)[:-1]):
            rows.append([*row.tolist(), vocabulary.end])
            count = int((row == vocabulary.unknown).sum()) if vocabulary.unknown is not None else 0
            unknown.append(list(itertools.islice(words, count)))
        return rows, unknown

    def texts(self, split: Split) -> tuple[list[str], list[str]]:
        """Sources and targets of a split as they were read, in stored order."""
        return self._split(split).texts

    # --- the contract ---------------------------------------------------------------------------------------

    def _split(self, split: Split) -> Encoded:
        if self._splits is None:
            raise ValueError("this data has no examples: give it sources with reopen()")
        return self._splits[split]

    def size(self, split: Split) -> int:
        """Pairs in the split."""
        if self._splits is None:
            return int(self._about["pairs"][split])
        return len(self._splits[split].begins[0]) - 1

    def length(self, split: Split, epoch: int | None = None) -> int:
        """See `Data.length`."""
        return len(self._batches(split, epoch))

    def batches(
        self, split: Split, *, epoch: int | None = None, model: nn.Module | None = None
    ) -> Iterator[Batch]:
        """See `Data.batches`."""
        found = self._batches(split, epoch)
        numbers = range(len(found)) if epoch is None else self.unconsumed(len(found), epoch)
        for number in numbers:
            yield self.take(split, found[number], epoch)

    def _batches(self, split: Split, epoch: int | None) -> list[np.ndarray]:
        lengths = self._split(split).lengths
        if epoch is None:
            return [np.arange(begin, end) for begin, end in cut(*lengths, self.batch)]
        key = (split, epoch)
        if self._epoch_batches[0] != key:  # asked for twice: how many they are, and which
            found = epoch_batches(*lengths, self.batch, self.seed, epoch)
            self._epoch_batches = (key, found)
        return self._epoch_batches[1]

    def take(self, split: Split, index: np.ndarray | slice, epoch: int | None) -> Batch:
        """See `Indexed.take`."""
        held = self._split(split)
        if isinstance(index, slice):
            index = np.arange(index.start, index.stop)
        source, source_lengths = padded(held.tokens[0], held.begins[0], index)
        target, lengths = padded(held.tokens[1], held.begins[1], index)
        beyond = np.arange(target.shape[1]) >= lengths[:, None]
        source[np.arange(source.shape[1]) >= source_lengths[:, None]] = self.source_vocabulary.end
        target[beyond] = self.end
        tokens = np.concatenate([np.full((len(index), 1), self.begin), target[:, :-1]], axis=1)
        target[beyond] = IGNORE
        return {
            "source": torch.from_numpy(source),
            "source_lengths": torch.from_numpy(source_lengths),
            "tokens": torch.from_numpy(tokens),
            "targets": torch.from_numpy(target),
        }

    def reopen(
        self, sources: Any, *, seed: int = 0, valid: Any = None, whole: bool = False
    ) -> PairData:
        """See `Data.reopen`. Where everything is tested on, no pair is left out and none is split."""
        vocabularies = (self.source_vocabulary, self.target_vocabulary)
        return _open(
            self.options, vocabularies, sources, seed, valid, whole=whole, before=self._about
        )

    def save(self, folder: Path) -> None:
        """See `Data.save`: data.json, and the vocabulary, or those of both sides in source/ and target/."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.shared:
            self.source_vocabulary.save(folder)
        else:
            for name, vocabulary in (
                ("source", self.source_vocabulary),
                ("target", self.target_vocabulary),
            ):
                (folder / name).mkdir(exist_ok=True)
                vocabulary.save(folder / name)
        counts = [v.counts.tolist() for v in (self.source_vocabulary, self.target_vocabulary)]
        about = {
            "format": FORMAT, "fingerprint": self.fingerprint, "seed": self.seed, "joint": self.shared,
            "about": self._about, "counts": counts,
        }  # fmt: skip
        write_text(folder / "data.json", json.dumps(about, ensure_ascii=False))

    def padding(self, split: Split = "train", epoch: int | None = 0) -> float:
        """The share of places in a pass's batches that hold no token."""
        return padding(*self._split(split).lengths, self._batches(split, epoch))

    def summary(self) -> dict[str, Any]:
        """See `Data.summary`."""
        sizes = {
            "vocabulary": len(self.target_vocabulary)
            if self.shared
            else f"{len(self.source_vocabulary)} and {len(self.target_vocabulary)}"
        }
        kept = ("source", "split", "languages", "pairs", "tokens", "padding", "unknown")
        return {
            **{name: self._about[name] for name in kept if self._about.get(name)},
            "units": " and ".join(dict.fromkeys(self.options.units)),
            **sizes,
            "notes": list(self._about["notes"]),
        }


def pair_data(data: Any) -> PairData:
    """Data that is pairs.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(data, PairData):
        raise TypeError(f"a translating system expects PairData, got {type(data).__name__}")
    return data


# --- opening ----------------------------------------------------------------------------------------------


def _open(
    options: Pairs,
    vocabularies: tuple[Vocabulary, Vocabulary] | None,
    sources: Any,
    seed: int,
    valid: Any,
    *,
    whole: bool,
    before: dict[str, Any] | None = None,
) -> PairData:
    """Read, clean, split, learn the vocabularies where there are none yet, and encode."""
    sides = read_pairs(sources, (options.source, options.target))
    notes = list(sides.notes)
    if before is not None:
        _check_languages(sides, before["languages"])
    if whole:
        test = [(sides.sources, sides.targets)] if sides.sources else []
        parts = {**dict.fromkeys(SPLITS, ([], [])), "test": test[0] if test else ([], [])}
        how = "all of it is tested on"
        notes += _whole_notes(sides)
    else:
        parts, how = _parts(options, sides, seed, valid, notes)
    if vocabularies is None:
        vocabularies = _learn(options, parts["train"])
    encoded = {
        split: encode(
            vocabularies,
            parts[split],
            split,
            notes,
            options.longest,
            "cut" if whole else options.long,
        )
        for split in SPLITS
    }
    if before is None:
        count_entries(vocabularies, encoded["train"])
        if not len(encoded["train"].begins[0]) - 1:
            raise UserError(
                f"{sides.name}: no pair is left to train on ({'; '.join(notes) or 'it is empty'})"
            )
    about = _about(options, vocabularies, sides, encoded, how, notes, before)
    settings = (options.longest, options.long, options.ratio, options.identical, options.begin)
    texts = hashlib.sha256()
    for split in SPLITS:
        for side in parts[split]:
            texts.update("\n".join(side).encode() + b"\0")
    key = [
        FORMAT,
        *(v.digest for v in vocabularies),
        seed,
        options.split,
        settings,
        texts.hexdigest(),
    ]
    fingerprint = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    data = PairData(options, vocabularies, seed, fingerprint, about, encoded)
    if data.size("train"):
        about["padding"] = f"{data.padding():.1%} of the places in an epoch's batches"
    return data


def _parts(
    options: Pairs, sides: Sides, seed: int, valid: Any, notes: list[str]
) -> tuple[dict[Split, Texts], str]:
    """The texts of each split: drawn from the sources, or from files of their own."""
    own: dict[Split, Sides] = dict(sides.splits)
    if valid is not None:
        own["valid"] = read_pairs(valid, (options.source, options.target))
        notes += own["valid"].notes
    held = [
        0.0 if split in own else share for split, share in zip(SPLITS, options.split, strict=True)
    ]
    shares = (1 - held[1] - held[2], held[1], held[2])
    kept, said = kept_pairs(sides.sources, sides.targets, options.ratio, options.identical)
    notes += said
    left = [sides.sources[i] for i in kept]
    right = [sides.targets[i] for i in kept]
    of = plan(left, shares, seed)
    parts: dict[Split, Texts] = {}
    for number, split in enumerate(SPLITS):
        if split in own:
            some = own[split]
            rows, said = kept_pairs(some.sources, some.targets, None, "keep")
            notes += [f"{split}: {sentence}" for sentence in said]
            parts[split] = [some.sources[i] for i in rows], [some.targets[i] for i in rows]
        else:
            places = np.flatnonzero(of == number)
            parts[split] = [left[i] for i in places], [right[i] for i in places]
    for split, some in own.items():
        if both := set(zip(*parts[split], strict=True)) & set(zip(*parts["train"], strict=True)):
            notes.append(
                f"{split}: {counted(len(both))} of {some.name} also among the training pairs"
            )
    what = ", ".join(f"{split} from {some.name}" for split, some in own.items())
    return parts, f"by sources at random{f'; {what}' if what else ''}"


def _learn(options: Pairs, train: Texts) -> tuple[Vocabulary, Vocabulary]:
    def learned(unit: Unit, texts: list[str]) -> Vocabulary:
        length = sum(len(text) for text in texts)
        return learn_vocabulary(
            unit, lambda: ((t, "") for t in texts), options.vocabulary, options.min_count, length
        )

    if options.tokenizer is not None:
        tokenizer = Subwords.read(Path(options.tokenizer))
        return tokenizer, tokenizer
    first, second = options.units
    if options.joint:
        both = learned(first, [*train[0], *train[1]])
        return both, both
    return learned(first, train[0]), learned(second, train[1])


def _about(
    options: Pairs,
    vocabularies: tuple[Vocabulary, Vocabulary],
    sides: Sides,
    encoded: dict[Split, Encoded],
    how: str,
    notes: list[str],
    before: dict[str, Any] | None,
) -> dict[str, Any]:
    pairs = {split: len(some.begins[0]) - 1 for split, some in encoded.items()}
    tokens = {split: [int(b[-1]) for b in some.begins] for split, some in encoded.items()}
    notes += unknown_notes(vocabularies, encoded)
    train = encoded["train"]
    if before is not None and before["density"]:
        notes += foreign_notes(encoded["test"], before["density"])
    languages = (
        list(sides.languages) if sides.languages else before["languages"] if before else None
    )
    return {
        "source": sides.name,
        "split": how,
        "languages": languages,
        "pairs": pairs,
        "tokens": tokens,
        "ratio": train.ratio or (before["ratio"] if before else None),
        "density": [train.density(0), train.density(1)]
        if pairs["train"]
        else before["density"]
        if before
        else None,
        "notes": notes,
    }


def _check_languages(sides: Sides, known: Sequence[str] | None) -> None:
    """Refuse files whose names say that they are in languages that were not learned."""
    if not known or not sides.languages or sides.name == "the embedded pairs":
        return
    found = list(sides.languages)
    if found == list(known):
        return
    wrong = [
        f"{side} language {code}"
        for side, code, k in zip(("source", "target"), found, known, strict=True)
        if code != k
    ]
    turned = "; give the two files in the other order" if found[::-1] == list(known) else ""
    raise UserError(
        f"{sides.name}: {' and '.join(wrong)} {'were' if len(wrong) > 1 else 'was'} never seen: this run was fitted from "
        f"{known[0]} to {known[1]}{turned}"
    )


def _whole_notes(sides: Sides) -> Iterator[str]:
    empty = Counter(
        side
        for pair in zip(sides.sources, sides.targets, strict=True)
        for side, text in enumerate(pair)
        if not text
    )
    for side, name in enumerate(("sources", "targets")):
        if empty[side]:
            yield f"empty {name}: {empty[side]:,}; they count as they are"


__all__ = ["Encoded", "PairData", "Pairs", "pair_data"]
