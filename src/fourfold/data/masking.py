"""Text with hidden tokens, for masked language models: BERT, Devlin et al. 2018. B rows, T the window, K hidden at most."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, Data, Split
from fourfold.core.state import write_text
from fourfold.data.mask_tokens import NAMES, Specials
from fourfold.data.masked_rows import Rows, Stretches, documents, packed, stretches, weighed
from fourfold.data.masks import hide
from fourfold.data.text import Text, TextData
from fourfold.data.vocabulary import Vocabulary
from fourfold.data.whole_words import WordStarts

SHORTEST = 3
"""Tokens of the smallest window: one between [CLS] and [SEP]."""
Part = Annotated[float, Field(ge=0, le=1)]


class MaskedText(Text):
    """Windows of tokens from texts, some of them hidden."""

    loose: ClassVar[frozenset[str]] = Text.loose | {"masking", "rate", "random", "kept"}

    masking: Literal["token", "word", "jieba"] = "token"
    """What is hidden as a whole: a token; all tokens of a word, where a word ends at spaces and punctuation and a
    Chinese character is one; or a word as jieba cuts Chinese."""
    rate: Annotated[float, Field(gt=0, le=1)] = 0.15
    """Share of a row's tokens that are to be predicted."""
    random: Part = 0.1
    """Share of those that are replaced by a random token instead of [MASK]."""
    kept: Part = 0.1
    """Share of those that stay as they are."""

    @model_validator(mode="after")
    def _check_masking(self) -> Self:
        if self.random + self.kept > 1:
            raise ValueError(
                f"random {self.random} and kept {self.kept}: expected a sum of at most 1"
            )
        if self.ordered or self.context > 1:
            raise ValueError("ordered, context: a masked row sees all of itself; take neither")
        if self.document_mask:
            raise ValueError("document_mask: no text in a masked row sees another as it is")
        if self.window < SHORTEST:
            raise ValueError(
                f"window {self.window}: expected {SHORTEST} or more, [CLS] and [SEP] among them"
            )
        return self

    def open(self, sources: Any, *, seed: int = 0, valid: Any = None) -> MaskedData:
        """See `Text.open`."""
        return MaskedData(self, super().open(sources, seed=seed, valid=valid))

    def adopt(
        self, prepared: Data, sources: Any, *, seed: int = 0, valid: Any = None
    ) -> MaskedData | None:
        """See `Text.adopt`."""
        text = super().adopt(prepared, sources, seed=seed, valid=valid)
        return None if text is None else MaskedData(self, text)

    def restore(self, folder: Path) -> MaskedData:
        """See `DataOptions.restore`."""
        path = folder / "masking.json"
        try:
            names = json.loads(path.read_text(encoding="utf-8"))
            specials = Specials(**{name: int(number) for name, number in names.items()})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: damaged ({error})") from error
        return MaskedData(self, super().restore(folder), specials)


class MaskedData(TextData):
    """Rows of the tokens of each split, each stretch of a document between [CLS] and [SEP].

    A batch is {"tokens": (B, T) int64, with hidden ones replaced; "places": (B, K) int64, where; "targets":
    (B, K) int64, what was there, -100 where a row has fewer}. Rows that hold several stretches or padding come
    with {"segments": (B, T) int64}, the number of each position's stretch: it sees nothing else. A document longer
    than a row is cut; in an epoch its first stretch is shorter by an amount fixed by (seed, epoch), so that the
    cuts fall elsewhere each time. Every token is in exactly one row. What is hidden is fixed by (seed, epoch, row); in stored
    order (epoch None) it is the same each time.
    """

    unit = "hidden tokens"
    options: MaskedText

    def __init__(
        self, options: MaskedText, text: TextData, specials: Specials | None = None
    ) -> None:
        super().__init__(
            options,
            text.vocabulary,
            text.seed,
            text.fingerprint,
            text._measures,
            text._about,
            text._tokens,
        )
        self.specials = specials or Specials.of(text.vocabulary)
        self._plans: dict[tuple[Split, bool], tuple[int | None, Rows]] = {}
        self._documents: dict[Split, Stretches] = {}
        self._jieba: dict[Split, np.ndarray] = {}
        taken = {*self.specials, self.vocabulary.end, self.vocabulary.unknown}
        taken.update(self.vocabulary.specials())
        self.ordinary = np.setdiff1d(
            np.arange(len(self.vocabulary)), [n for n in taken if n is not None]
        )
        """(V',) int64 tokens that are hidden and predicted: none of the special ones."""
        self._ordinary = np.zeros(self.entries, bool)
        self._ordinary[self.ordinary] = True

    @classmethod
    def prepared(
        cls, options: MaskedText, vocabulary: Vocabulary, specials: Specials, *, source: str
    ) -> MaskedData:
        """A preparation without examples, as an imported model brings it.

        Args:
            options: the configuration.
            vocabulary: what it reads with.
            specials: its special tokens.
            source: where they come from, in words.
        """
        return cls(options, TextData.of_vocabulary(options, vocabulary, source), specials)

    @property
    def entries(self) -> int:
        """Tokens that a model of this data knows, V: the vocabulary's and the special ones beyond."""
        return max(len(self.vocabulary), max(self.specials) + 1)

    @property
    def room(self) -> int:
        """Tokens of a text that a row holds between [CLS] and [SEP]."""
        return self.window - 2

    def token_name(self, token: int) -> str:
        """The name of a token, special ones beyond the vocabulary included."""
        if token < len(self.vocabulary):
            return self.vocabulary.token(token)
        if token not in self.specials:
            return f"<{token}>"  # a row of an imported embedding that no text is read as
        field = Specials._fields[self.specials.index(token)]
        return NAMES[field][0]

    def size(self, split: Split) -> int:
        """Rows in stored order."""
        return self.count(split, None)

    def count(self, split: Split, epoch: int | None) -> int:
        """Rows in this epoch."""
        if not self._measures.tokens[split]:
            return 0
        return len(self._plan(split, epoch).edges) - 1

    def _plan(self, split: Split, epoch: int | None) -> Rows:
        """The rows of an epoch; the last ones asked for are kept."""
        held = self._plans.get((split, epoch is None))
        if held is not None and held[0] == epoch:
            return held[1]
        key = None if epoch is None else (self.seed, epoch)
        documents = self._found(split)
        if key is not None and split == "train" and self.mixture is not None:
            spans = [span for _, span, _, _ in self.held(split)]
            chosen = weighed(documents, spans, self.mixture.shares, self.room, key)
        else:
            chosen = stretches(documents, self.room, key)
        made = packed(chosen, self.window, key)
        self._plans[split, epoch is None] = epoch, made
        return made

    def _found(self, split: Split) -> Stretches:
        """The documents of a split."""
        if split not in self._documents:
            # behind the end token; where documents begin with a token of their own, behind that
            after = 1 if self.vocabulary.begin is None else 2
            self._documents[split] = documents(self.tokens(split), self.vocabulary.end, after)
        return self._documents[split]

    def take(self, split: Split, index: np.ndarray | slice, epoch: int | None) -> Batch:
        """See `Indexed.take`."""
        if isinstance(index, slice):
            index = np.arange(index.start, index.stop)
        plan = self._plan(split, epoch)
        whole, sources, segments = plan.take(self.tokens(split), index, self.window, self.specials)
        free = self._ordinary[whole] & (sources >= 0)
        masked = hide(
            whole,
            free,
            self._word_starts(split, whole, sources),
            index,
            key=(self.seed, 0 if epoch is None else epoch + 1),
            mask=self.specials.mask,
            ordinary=self.ordinary,
            rate=self.options.rate,
            random=self.options.random,
            kept=self.options.kept,
        )
        batch = {name: torch.from_numpy(values) for name, values in masked._asdict().items()}
        if segments.any():
            batch["segments"] = torch.from_numpy(segments)
        return batch

    def _word_starts(
        self, split: Split, whole: np.ndarray, sources: np.ndarray
    ) -> np.ndarray | None:
        if self.options.masking == "token":
            return None
        if not hasattr(self, "_starts"):
            self._starts = WordStarts(self.vocabulary, jieba=self.options.masking == "jieba")
        if self.options.masking == "word":
            return self._starts(np.where(sources >= 0, whole, self.vocabulary.end))
        if split not in self._jieba:
            found = np.ones(len(self.tokens(split)), bool)
            for begin, length in zip(*self._found(split), strict=True):
                stretch = slice(begin, begin + length)
                found[stretch] = self._starts.by_jieba(self.tokens(split)[stretch])
            self._jieba[split] = found
        return self._jieba[split][np.maximum(sources, 0)]

    def texts(self, split: Split) -> Iterator[list[int]]:
        """The tokens of every stretch in stored order, nothing hidden, [CLS] and [SEP] around it."""
        begins, lengths = self._plan(split, None).stretches
        tokens = self.tokens(split)
        for begin, length in zip(begins.tolist(), lengths.tolist(), strict=True):
            inner = tokens[begin : begin + length].tolist()
            yield [self.specials.cls, *inner, self.specials.sep]

    def reopen(
        self, sources: Any, *, seed: int = 0, valid: Any = None, whole: bool = False
    ) -> MaskedData:
        """See `Data.reopen`."""
        text = super().reopen(sources, seed=seed, valid=valid, whole=whole)
        return MaskedData(self.options, text, self.specials)

    def save(self, folder: Path) -> None:
        """See `Data.save`; masking.json names the special tokens."""
        super().save(folder)
        write_text(folder / "masking.json", json.dumps(self.specials._asdict()))

    def summary(self) -> dict[str, Any]:
        """See `Data.summary`."""
        found = super().summary()
        found.pop("not targets in one epoch")
        options = self.options
        chosen = (
            f"{options.rate:.0%} of a row's tokens, by {options.masking}; of them {options.random:.0%} behind a "
            f"random token, {options.kept:.0%} as they are, the others behind {self.token_name(self.specials.mask)}"
        )
        return {
            **found,
            "rows": {s: self.size(s) for s in ("train", "valid", "test")},
            "hidden": chosen,
        }
