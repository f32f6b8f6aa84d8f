"""Pairs of sequences: sentences and their translations, dates and their ISO form, texts and their summaries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from fourfold.core.parts import DataOptions
from fourfold.data.pair_data import PairData, pair_data
from fourfold.data.pair_encoding import Encoded
from fourfold.data.pair_lengths import Long
from fourfold.data.pair_opening import FORMAT, opened
from fourfold.data.splits import Shares
from fourfold.data.vocabularies import Unit, counted, load_vocabulary, record_of

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
        return PairData(self, *opened(self, None, sources, seed, valid, whole=False))

    def restore(self, folder: Path) -> PairData:
        """See `DataOptions.restore`."""
        about = record_of(folder, FORMAT)
        joint = about["joint"]
        places = (folder, folder) if joint else (folder / "source", folder / "target")
        first = load_vocabulary(places[0])
        second = first if joint else load_vocabulary(places[1])
        for vocabulary, counts in zip((first, second), about["counts"], strict=True):
            counted(vocabulary, counts, folder)
        both = first, second
        return PairData(self, both, about["seed"], about["fingerprint"], about["about"])


__all__ = ["Encoded", "PairData", "Pairs", "pair_data"]
