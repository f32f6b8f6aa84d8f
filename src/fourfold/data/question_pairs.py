"""Questions with passages that answer them, as tokens: what embedders and rerankers learn from.

Shapes: B pairs, T tokens of a text, C candidates of a question.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Ge
from pydantic import PositiveInt

from fourfold.core.errors import UserError, nearest
from fourfold.core.parts import Batch, Data, DataOptions, Split
from fourfold.data.loading import Indexed
from fourfold.data.masking import MaskedData, MaskedText
from fourfold.data.readers import Origin, decoded
from fourfold.data.splits import Shares, divide
from fourfold.data.text_sources import find_origins

ASKED = ("question", "query", "anchor")
ANSWERED = ("passage", "positive", "context", "answer", "text")
OTHER = ("negative", "hard_negative")


class PairRow(NamedTuple):
    """A question, a passage that answers it and, where it is told, one that does not."""

    question: str
    passage: str
    negative: str = ""


class QuestionPairs(DataOptions):
    """Rows with a question and a passage, and perhaps a negative: a passage that does not answer."""

    loose: ClassVar[frozenset[str]] = frozenset({"batch", "split"})

    unit: Literal["bpe", "word", "character"] = "bpe"
    """What texts are cut into."""
    vocabulary: PositiveInt | None = None
    """Entries, where one is learned; None takes all characters or words, and for bpe 512 to 8000 by the length of the texts."""
    tokenizer: str | None = None
    """A folder or tokenizer.json to read with instead."""
    window: Annotated[int, Ge(8)] = 128
    """Tokens of a text at most; longer ones are cut. Of a pair that is read together twice as many."""
    batch: PositiveInt = 32
    """Pairs at once; in a step each question has the passages of the others for negatives."""
    split: Shares = (0.9, 0.1, 0.0)
    """Shares of training, validation and test; pairs of one passage stay together."""

    @property
    def text(self) -> MaskedText:
        """How texts are read."""
        return MaskedText(
            unit=self.unit, vocabulary=self.vocabulary, tokenizer=self.tokenizer, window=self.window, split=(1.0, 0.0, 0.0)
        )  # fmt: skip

    def open(self, sources: Any, *, seed: int = 0, valid: Any = None) -> QuestionPairsData:
        """See `DataOptions.open`."""
        splits, digest = _divided(self, sources, seed, valid)
        texts = list(dict.fromkeys(t for row in splits["train"] for t in row if t))
        prepared = self.text.open({"text": texts}, seed=seed)
        return QuestionPairsData(self, prepared, splits, digest, seed)

    def adopt(
        self, prepared: Data, sources: Any, *, seed: int = 0, valid: Any = None
    ) -> QuestionPairsData | None:
        """See `DataOptions.adopt`: under the vocabulary of a masked language model."""
        found = reading(prepared)
        if found is None:
            return None
        splits, digest = _divided(self, sources, seed, valid)
        return QuestionPairsData(self, found, splits, digest, seed)

    def restore(self, folder: Path) -> QuestionPairsData:
        """See `DataOptions.restore`."""
        return QuestionPairsData(self, self.text.restore(folder), {}, _digest(folder), 0)


class QuestionPairsData(Indexed):
    """Pairs by number. A batch is {"question", "passage", and where all rows have one "negative"}, each (B, T) int64
    tokens between [CLS] and [SEP], filled with the padding token, and {"question_keep", ...}, (B, T) bool.
    """

    unit = "pairs"

    def __init__(
        self, options: QuestionPairs, prepared: MaskedData, splits: Mapping[Split, Sequence[PairRow]], digest: str, seed: int,
    ) -> None:  # fmt: skip
        super().__init__(batch=options.batch, seed=seed)
        self.options, self.prepared, self.rows, self.fingerprint = options, prepared, splits, digest
        self.vocabulary, self.specials = prepared.vocabulary, prepared.specials

    @property
    def entries(self) -> int:
        """Tokens that a model of this data knows."""
        return self.prepared.entries

    def size(self, split: Split) -> int:
        """See `Data.size`."""
        return len(self.rows.get(split, ()))

    def encode(self, text: str, most: int | None = None) -> list[int]:
        """A text's tokens between [CLS] and [SEP], cut to the window."""
        room = (most or self.options.window) - 2
        inner = self.vocabulary.encode(text[: 20 * room]).tolist()[:room]
        return [self.specials.cls, *inner, self.specials.sep]

    def take(self, split: Split, index: np.ndarray | slice, epoch: int | None) -> Batch:
        """See `Indexed.take`."""
        chosen = [self.rows[split][n] for n in np.arange(self.size(split))[index]]
        names = ["question", "passage", *(["negative"] if all(r.negative for r in chosen) else [])]
        batch: dict[str, torch.Tensor] = {}
        for name in names:
            rows = [self.encode(getattr(row, name)) for row in chosen]
            batch[name], batch[f"{name}_keep"] = padded(rows, self.specials.pad)
        return batch

    def reopen(
        self, sources: Any, *, seed: int = 0, valid: Any = None, whole: bool = False
    ) -> QuestionPairsData:
        """See `Data.reopen`."""
        splits, digest = _divided(self.options, sources, seed, valid, whole)
        return type(self)(self.options, self.prepared, splits, digest, seed)

    def save(self, folder: Path) -> None:
        """See `Data.save`."""
        self.prepared.save(folder)
        (folder / "pairs.json").write_text(
            json.dumps({"fingerprint": self.fingerprint}), encoding="utf-8"
        )

    def summary(self) -> dict[str, Any]:
        """See `Data.summary`."""
        cut = sum(
            len(self.vocabulary.encode(row.passage)) > self.options.window - 2
            for row in self.rows.get("train", ())[:200]
        )
        notes = (
            [f"{cut} of the first 200 passages are longer than the window and cut."] if cut else []
        )
        return {"pairs": {s: len(r) for s, r in self.rows.items()}, "notes": notes}


class RankedPairs(QuestionPairs):
    """The same pairs, each question read together with its passage and with others that do not answer it."""

    candidates: Annotated[int, Ge(2)] = 4
    """Passages that a question is read with, the right one first; the others are its negative and those of other pairs."""

    def _made(self, data: QuestionPairsData) -> RankedPairsData:
        return RankedPairsData(self, data.prepared, data.rows, data.fingerprint, data.seed)

    def open(self, sources: Any, *, seed: int = 0, valid: Any = None) -> RankedPairsData:
        """See `DataOptions.open`."""
        return self._made(super().open(sources, seed=seed, valid=valid))

    def adopt(
        self, prepared: Data, sources: Any, *, seed: int = 0, valid: Any = None
    ) -> RankedPairsData | None:
        """See `DataOptions.adopt`."""
        found = super().adopt(prepared, sources, seed=seed, valid=valid)
        return None if found is None else self._made(found)

    def restore(self, folder: Path) -> RankedPairsData:
        """See `DataOptions.restore`."""
        return self._made(super().restore(folder))


class RankedPairsData(QuestionPairsData):
    """A batch is {"tokens": (B, C, T) int64, "keep": (B, C, T) bool, "types": (B, C, T) int64}: candidate 0 answers."""

    options: RankedPairs

    def joined(self, question: str, passage: str) -> tuple[list[int], list[int]]:
        """A question and a passage as one row, and which token is of which."""
        asked = self.encode(question)
        said = self.encode(passage, 2 * self.options.window - len(asked) + 1)[1:]
        return asked + said, [0] * len(asked) + [1] * len(said)

    def take(self, split: Split, index: np.ndarray | slice, epoch: int | None) -> Batch:
        """See `Indexed.take`."""
        numbers = np.arange(self.size(split))[index]
        pairs = [
            self.joined(*some) for n in numbers for some in self._candidates(split, int(n), epoch)
        ]
        tokens, keep = padded([p[0] for p in pairs], self.specials.pad)
        types, _ = padded([p[1] for p in pairs], 0)
        shape = (len(numbers), self.options.candidates, -1)
        return {"tokens": tokens.view(shape), "keep": keep.view(shape), "types": types.view(shape)}

    def _candidates(
        self, split: Split, number: int, epoch: int | None
    ) -> Iterator[tuple[str, str]]:
        """The question with each of its candidates, drawn by (seed, epoch, number)."""
        rows = self.rows[split]
        own = rows[number]
        others = [own.negative] if own.negative else []
        draw = np.random.default_rng([self.seed, 0 if epoch is None else epoch + 1, number])
        for place in (
            draw.permutation(len(rows)) if len(rows) < 100 else draw.integers(0, len(rows), 100)
        ):
            if len(others) >= self.options.candidates - 1:
                break
            if rows[place].passage != own.passage:
                others.append(rows[place].passage)
        while len(others) < self.options.candidates - 1:
            others.append("")  # there are too few other passages: nothing answers nothing
        yield from ((own.question, passage) for passage in (own.passage, *others))


def reading(data: Data) -> MaskedData | None:
    """How data of a masked language model, or of pairs, reads texts; None for other data."""
    if isinstance(data, QuestionPairsData):
        return data.prepared
    return data if isinstance(data, MaskedData) else None


def padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of tokens as one tensor (B, T), and where they are, (B, T) bool."""
    width = max(len(row) for row in rows)
    tokens = np.full((len(rows), width), pad, np.int64)
    for n, row in enumerate(rows):
        tokens[n, : len(row)] = row
    lengths = np.array([len(row) for row in rows])[:, None]
    return torch.from_numpy(tokens), torch.from_numpy(np.arange(width) < lengths)


def _digest(folder: Path) -> str:
    path = folder / "pairs.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error})") from error


def _divided(
    options: QuestionPairs, sources: Any, seed: int, valid: Any, whole: bool = False
) -> tuple[dict[Split, list[PairRow]], str]:
    """The pairs of each split, and a digest of them all."""
    rows = _read(sources)
    held = _read(valid) if valid is not None else []
    told = json.dumps([rows, held], ensure_ascii=False).encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(told).hexdigest()
    if whole:
        return {"train": [], "valid": [], "test": rows}, digest
    groups = list(dict.fromkeys(row.passage for row in rows))
    shares = options.split
    if held:
        shares = (shares[0] / (shares[0] + shares[2]), 0.0, shares[2] / (shares[0] + shares[2]))
    part = dict(zip(groups, divide(len(groups), shares, seed).tolist(), strict=True))
    names: tuple[Split, ...] = ("train", "valid", "test")
    found = {name: [r for r in rows if part[r.passage] == n] for n, name in enumerate(names)}
    if held:
        found["valid"] = held
    if len(found["train"]) < 2:
        raise UserError(
            "the training split has fewer than 2 pairs: give more, or a smaller --data.split"
        )
    return found, digest


def _read(sources: Any) -> list[PairRow]:
    """Rows of files of JSON lines, or in memory.

    Raises:
        UserError: a row lacks a question or a passage, or there is none.
    """
    if sources is None:
        raise UserError("expected pairs: JSON lines with a question and a passage")
    if isinstance(sources, (list, tuple)) and not any(isinstance(s, (str, Path)) for s in sources):
        rows = [_row(row, f"row {n}") for n, row in enumerate(sources, 1)]
    else:
        rows = [
            row for origin in find_origins(sources, "question")[0] for row in _of_origin(origin)
        ]
    if not rows:
        raise UserError("no pair in it; expected rows with a question and a passage")
    return rows


def _of_origin(origin: Origin) -> Iterator[PairRow]:
    for number, line in enumerate("".join(decoded(origin)).split("\n"), 1):
        if line.strip():
            where = f"{origin.name}, line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{where}: not JSON ({error})") from None
            yield _row(row, where)


def _row(row: Any, where: str) -> PairRow:
    if not isinstance(row, Mapping):
        raise UserError(
            f"{where}: expected an object with a question and a passage, got {row!r:.40}"
        )
    found = []
    for names in (ASKED, ANSWERED, OTHER):
        name = next((n for n in names if row.get(n) is not None), None)
        if name is None and names is not OTHER:
            raise UserError(f"{where}: no field {names[0]!r}{nearest(names[0], map(str, row))}")
        text = "" if name is None else row[name]
        if not isinstance(text, str) or (names is not OTHER and not text.strip()):
            raise UserError(f"{where}, field {name}: expected text, got {text!r:.40}")
        found.append(text.strip())
    return PairRow(*found)
