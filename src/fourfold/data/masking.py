"""Text with hidden tokens, for masked language models: BERT, Devlin et al. 2018. B rows, T the window, K hidden at most."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, Data, Split
from fourfold.core.state import write_text
from fourfold.data.masks import Chance, hide
from fourfold.data.packing import pack
from fourfold.data.text import Text, TextData
from fourfold.data.vocabulary import Vocabulary
from fourfold.data.whole_words import WordStarts

NAMES: dict[str, tuple[str, ...]] = {
    "mask": ("[MASK]", "<mask>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "pad": ("[PAD]", "<pad>"),
}
"""What tokenizers call their special tokens."""
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


class Specials(NamedTuple):
    """The tokens around texts and in the place of hidden ones; those that the vocabulary lacks follow its entries."""

    mask: int
    cls: int
    """Begins every text."""
    sep: int
    """Ends every text; the vocabulary's end token where it has no other."""
    pad: int
    """Fills a row; nothing sees it."""

    @classmethod
    def of(cls, vocabulary: Vocabulary, names: Mapping[str, str] = {}) -> Specials:
        """Those of a vocabulary, found by their names.

        Args:
            vocabulary: of the texts.
            names: what it calls some of them, by field; the field's usual names otherwise.
        """
        found: dict[str, int] = {"sep": vocabulary.end}
        after = len(vocabulary)
        for field, usual in NAMES.items():
            for name in (names[field],) if field in names else usual:
                number = vocabulary.special(name)
                if number is not None:
                    found[field] = number
                    break
            if field not in found:
                found[field], after = after, after + 1
        return cls(**found)


class Rows(NamedTuple):
    """An epoch's rows: stretches of documents, packed."""

    begins: np.ndarray
    """(P,) int64 places in the split's tokens."""
    lengths: np.ndarray
    """(P,) int64 tokens, [CLS] and [SEP] excluded."""
    order: np.ndarray
    """(P,) int64 stretches, those of a row side by side."""
    edges: np.ndarray
    """(R + 1,) int64: row r holds order[edges[r]:edges[r + 1]]."""


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
        self._documents: dict[Split, tuple[np.ndarray, np.ndarray]] = {}
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

    def name(self, token: int) -> str:
        """The name of a token, special ones beyond the vocabulary included."""
        if token < len(self.vocabulary):
            return self.vocabulary.token(token)
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
        if epoch is not None and split == "train" and self.mixture is not None:
            begins, lengths = self._mixed(epoch)
        else:
            begins, lengths = self._stretches(
                *self._found(split), None if epoch is None else (epoch,)
            )
        if epoch is None:
            order = np.arange(len(begins))
        else:  # other neighbours in a row each time
            order = np.random.default_rng([self.seed, epoch, 0x9AC]).permutation(len(begins))
        full = lengths[order] == self.room  # rows of their own: nothing is to be looked for
        short = order[~full]
        rows = pack(lengths[short] + 2, np.arange(len(short)), self.window)
        sizes = np.concatenate([np.ones(full.sum(), np.int64), [len(row) for row in rows]])
        packed = np.concatenate([order[full], *(short[row] for row in rows)])
        edges = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        made = Rows(begins, lengths, packed, edges)
        self._plans[split, epoch is None] = epoch, made
        return made

    def _stretches(
        self, begins: np.ndarray, lengths: np.ndarray, key: tuple[int, ...] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Documents cut to what a row holds: where each stretch begins and how long it is; the key fixes the cuts."""
        if key is None:
            shifts = np.zeros_like(lengths)
        else:
            draws = Chance(self.seed, *key, 0x0FF)(begins)
            shifts = np.where(lengths > self.room, (draws * self.room).astype(np.int64), 0)
        counts = -(-(lengths + shifts) // self.room)
        number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        shifts, lengths, begins = (np.repeat(v, counts) for v in (shifts, lengths, begins))
        first = np.maximum(0, number * self.room - shifts)
        last = np.minimum(lengths, (number + 1) * self.room - shifts)
        return begins + first, last - first

    def _mixed(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """An epoch's stretches under a mixture: whole passes of each source, and of one more pass as many as are missing."""
        assert self.mixture is not None  # noqa: S101
        begins, lengths = self._found("train")
        total = lengths.sum()
        found = []
        for (_, span, _, _), share in zip(self.held("train"), self.mixture.shares, strict=True):
            mine = (begins > span.start) & (begins <= span.stop)  # the opening token is the first
            wanted = share * total / max(1, lengths[mine].sum())  # passes
            for number in range(int(np.ceil(wanted))):
                some = np.stack(self._stretches(begins[mine], lengths[mine], (epoch, number)))
                if number + 1 > wanted:
                    rng = np.random.default_rng([self.seed, epoch, number, 0x313C])
                    kept = round((wanted - number) * some.shape[1])
                    some = some[:, rng.permutation(some.shape[1])[:kept]]
                found.append(some)
        mixed = np.concatenate(found, axis=1)
        return mixed[0], mixed[1]

    def _found(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Where the documents of a split begin, and how long they are, in tokens."""
        if split not in self._documents:
            tokens = self.tokens(split)
            ends = np.append(np.flatnonzero(tokens == self.vocabulary.end), len(tokens))
            # behind the opening token; where documents begin with a token of their own, behind that
            after = 1 if self.vocabulary.begin is None else 2
            begins = np.concatenate([[1], ends[:-1] + after])
            lengths = ends - begins
            self._documents[split] = begins[lengths > 0], lengths[lengths > 0]
        return self._documents[split]

    def take(self, split: Split, index: np.ndarray | slice, epoch: int | None) -> Batch:
        """See `Indexed.take`."""
        if isinstance(index, slice):
            index = np.arange(index.start, index.stop)
        whole, sources, segments = self._whole(split, index, epoch)
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

    def _whole(
        self, split: Split, index: np.ndarray, epoch: int | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows before anything is hidden, each (B, T) int64: tokens, their places in the split or -1, and stretches."""
        begins, lengths, order, edges = self._plan(split, epoch)
        counts = edges[index + 1] - edges[index]
        row = np.repeat(np.arange(len(index)), counts)
        nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        piece = order[np.repeat(edges[index], counts) + nth]
        sizes = lengths[piece] + 2
        ends = np.cumsum(sizes)
        inside = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - sizes, sizes)
        before = ends - sizes  # of each row's pieces, less what other rows hold
        before = before - np.repeat(before[np.cumsum(counts) - counts], counts)
        shape = len(index), self.window
        place = np.repeat(row * self.window + before, sizes) + inside
        sources = np.full(shape, -1, np.int64)
        sources.flat[place] = np.repeat(begins[piece], sizes) - 1 + inside
        segments = np.repeat(counts[:, None], self.window, 1)  # padding is a stretch of its own
        segments.flat[place] = np.repeat(nth, sizes)
        text = self.tokens(split)
        whole = np.full(shape, self.specials.pad, np.int64)
        whole.flat[place] = text[np.minimum(sources.flat[place], len(text) - 1)]
        for edge, token in ((before, self.specials.cls), (before + sizes - 1, self.specials.sep)):
            whole[row, edge], sources[row, edge] = token, -1
        return whole, sources, segments

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
        begins, lengths, _, _ = self._plan(split, None)
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
            f"random token, {options.kept:.0%} as they are, the others behind {self.name(self.specials.mask)}"
        )
        return {
            **found,
            "rows": {s: self.size(s) for s in ("train", "valid", "test")},
            "hidden": chosen,
        }
