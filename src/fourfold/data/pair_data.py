"""Pairs of token sequences, encoded, in batches.

Shapes: B pairs of a batch, S tokens of the longest source, T of the longest target, the end token among them.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from fourfold.core.parts import Batch, Split
from fourfold.core.state import write_text
from fourfold.data.loading import Indexed
from fourfold.data.pair_batches import cut, epoch_batches, padding
from fourfold.data.pair_encoding import Encoded, padded
from fourfold.data.pair_opening import FORMAT, opened
from fourfold.data.text import IGNORE
from fourfold.data.vocabulary import Vocabulary

if TYPE_CHECKING:
    from fourfold.data.pairs import Pairs


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

    @property
    def common_length(self) -> int:
        """Tokens that nearly all training sources have at most (99 in 100), the end token among them."""
        return int(self._about.get("common") or self.options.longest)

    @property
    def single_sentences(self) -> bool:
        """Whether hardly any training source (less than one in a hundred) has more than one sentence.

        Taken to be so of runs that did not count it: sentences one by one lose context, several at once their words.
        """
        return float(self._about.get("several") or 0.0) < 0.01

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
        found = opened(
            self.options, vocabularies, sources, seed, valid, whole=whole, before=self._about
        )
        return PairData(self.options, *found)

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
