"""Preferences between two answers to one prompt. P pairs, R rows of T positions, N = 2P sequences."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, TypeVar

import numpy as np
import torch
from pydantic import Field, PositiveInt, model_validator

from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, Data, DataOptions, Split
from fourfold.data.chat_tokens import Encoded, encode_chats, special_tokens
from fourfold.data.corpus import SPLITS
from fourfold.data.loading import Indexed
from fourfold.data.packing import pack
from fourfold.data.preference_rows import Pair, pair
from fourfold.data.records import Record, sourced
from fourfold.data.templated import Frame, Templated, begun, store, stored, taken_over
from fourfold.data.text import IGNORE
from fourfold.data.turns import Conversation, Turn

Row = TypeVar("Row")
FEW = 5
"""Prompts from which one at least is held out."""
ROUND = 64
"""Rows of a batch are as long as its longest sequence, rounded up to this."""
Share = Annotated[float, Field(ge=0, le=1)]


class Preferences(DataOptions):
    """Pairs of a better and a worse answer."""

    loose: ClassVar[frozenset[str]] = DataOptions.loose | {"long", "faulty", "others"}

    template: str = "auto"
    """How turns become text: that of the model begun from, or plain, chatml, llama3, or a file of Jinja."""
    window: PositiveInt | None = None
    """Most positions of a prompt with its answer; None takes the window of the model begun from, or 512."""
    batch: PositiveInt = 8
    """Pairs per micro-batch."""
    long: Literal["cut", "error", "drop"] = "cut"
    """What becomes of pairs longer than the window: the prompt is cut at its beginning, refused, or the pair left out.
    An answer is never cut: a pair whose answers do not fit is left out, or refused."""
    faulty: Literal["error", "drop"] = "error"
    """What becomes of rows that are no pairs."""
    unit: Literal["byte", "character", "bpe"] = "bpe"
    """What a token is, where no earlier run says so."""
    vocabulary: PositiveInt | None = None
    """Entries of a vocabulary that is made anew: see the same option of text."""
    others: bool = False
    """Add the prompts with the answers to others, as KTO's baseline needs."""
    split: tuple[Share, Share, Share] = (0.9, 0.05, 0.05)
    """Shares of training, validation and test; their sum is 1. Pairs of one prompt are in one split."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if abs(sum(self.split) - 1) > 1e-6 or self.split[0] == 0:
            raise ValueError(f"split: expected shares that sum to 1, training not 0, got {self.split}")  # fmt: skip
        return self

    def open(self, sources: Any, *, seed: int = 0, valid: Any = None) -> PreferenceData:
        """As `adopt`, from nothing: the vocabulary is made of the training split's pairs."""
        return _opened(self, None, sources, seed, valid)

    def adopt(self, prepared: Data, sources: Any, *, seed: int = 0, valid: Any = None) -> PreferenceData | None:  # fmt: skip
        """Read pairs under the vocabulary, window and template of a language model.

        Args:
            prepared: the language model's data: it has a vocabulary and a window.
            sources: paths, folders, globs, catalog names or "-" (JSON lines); in memory a list of rows, a mapping of
                columns or a frame. Layouts: see `data/preference_rows.py`.
            seed: fixes the split and the order.
            valid: pairs of the validation split, if they are files of their own.

        Raises:
            UserError: a row is no pair, or nothing is left to learn from.
        """
        frame = taken_over(self.template, self.window, prepared)
        return frame and _opened(self, frame, sources, seed, valid)

    def restore(self, folder: Path) -> PreferenceData:
        """See `DataOptions.restore`."""
        return PreferenceData(self, *stored(folder))


class Compared(NamedTuple):
    """A pair in tokens."""

    chosen: Encoded
    rejected: Encoded
    margin: float


class PreferenceData(Templated, Indexed):
    """Pairs of sequences, packed into rows batch by batch.

    A batch holds the sequences 2p (chosen) and 2p + 1 (rejected) of P pairs: "tokens", (R, T) int64; "targets",
    (R, T) int64, the next token where it is the answer's, its end included, else -100; "segments", (R, T) int64, the
    number of the sequence, N for padding; "ends", (N,) int64, the place of each sequence's last token in the
    flattened rows; "margins", (P,) float32. With `others`, "other_tokens", "other_targets" and "other_segments" hold
    P more: prompt p with the chosen answer of the next pair in the split that has another prompt.
    """

    unit = "pairs"
    divisible = False

    def __init__(
        self,
        options: Preferences,
        frame: Frame,
        seed: int,
        fingerprint: str,
        about: dict[str, Any],
        pairs: dict[Split, list[Pair]] | None = None,
        encoded: dict[Split, list[Compared]] | None = None,
    ) -> None:
        Templated.__init__(self, frame.vocabulary, frame.chat)
        Indexed.__init__(self, batch=options.batch, seed=seed)
        self.options, self.fingerprint, self.frame = options, fingerprint, frame
        self.window = frame.window
        self._about, self._pairs, self._encoded = about, pairs, encoded

    def pairs(self, split: Split) -> Sequence[Pair]:
        """The pairs of a split in words."""
        return _held(self._pairs)[split]

    def compared(self, split: Split) -> Sequence[Compared]:
        """The pairs of a split in tokens."""
        return _held(self._encoded)[split]

    def sequences(self, turns: Sequence[Conversation]) -> list[Encoded]:
        """Conversations that end with an answer, in tokens; what counts is the last answer alone."""
        return _encoded(self.frame, turns)

    def size(self, split: Split) -> int:
        """Pairs in the split."""
        return len(_held(self._encoded)[split])

    def take(self, split: Split, index: np.ndarray | slice, epoch: int | None) -> Batch:
        """See `Indexed.take`."""
        every = _held(self._encoded)[split]
        some = every[index] if isinstance(index, slice) else [every[i] for i in index.tolist()]
        batch = packed(
            [sequence for each in some for sequence in each[:2]], self.window, self.vocabulary.end
        )
        batch["margins"] = torch.tensor([each.margin for each in some], dtype=torch.float32)
        if self.options.others:
            numbers = np.arange(len(every))[index].tolist()
            following = [every[self._other(split, number)] for number in numbers]
            mixed = [_with(a.chosen, b.chosen, self.window) for a, b in zip(some, following, strict=True)]  # fmt: skip
            others = packed(mixed, self.window, self.vocabulary.end)
            batch |= {f"other_{n}": others[n] for n in ("tokens", "targets", "segments")}
        return batch

    def _other(self, split: Split, number: int) -> int:
        """The next pair, around the end of the split, with another prompt; itself where there is none."""
        pairs = self.pairs(split)
        many = len(pairs)
        places = ((number + step) % many for step in range(1, many))
        return next((p for p in places if pairs[p].prompt != pairs[number].prompt), number)

    def _gathered(self, split: Split, order: np.ndarray, epoch: int) -> Iterator[Batch]:
        """Each batch is packed by itself."""
        for start in range(0, len(order), self.batch):
            yield self.take(split, order[start : start + self.batch], epoch)

    def reopen(self, sources: Any, *, seed: int = 0, valid: Any = None, whole: bool = False) -> PreferenceData:  # fmt: skip
        """See `Data.reopen`."""
        return _opened(self.options, self.frame, sources, seed, valid, whole=whole)

    def save(self, folder: Path) -> None:
        """See `Data.save`: data.json, template.jinja, and the vocabulary's file."""
        store(folder, self.frame, self.seed, self.fingerprint, self._about)

    def summary(self) -> dict[str, Any]:
        """See `Data.summary`."""
        return {**self._about, "template": self.chat.name, "vocabulary": len(self.vocabulary)}


def packed(sequences: Sequence[Encoded], most: int, end: int) -> dict[str, torch.Tensor]:
    """Sequences in rows, each whole in one of them: "tokens", "targets", "segments" and "ends" as in `PreferenceData`.

    Args:
        sequences: of which what is `said` counts.
        most: positions of a row at most.
        end: token that stands for padding.
    """
    lengths = np.array([len(s.tokens) for s in sequences], np.int64)
    width = min(most, -(-int(lengths.max()) // ROUND) * ROUND)
    rows = pack(lengths, np.arange(len(sequences)), width)
    shape = len(rows), width
    tokens, targets = np.full(shape, end, np.int64), np.full(shape, IGNORE, np.int64)
    segments, ends = np.full(shape, len(sequences), np.int64), np.empty(len(sequences), np.int64)
    for number, row in enumerate(rows):
        place = 0
        for which in row.tolist():
            ids, said = sequences[which]
            after = place + len(ids)
            tokens[number, place:after], segments[number, place:after] = ids, which
            targets[number, place : after - 1] = np.where(said, ids, IGNORE)[1:]
            ends[which] = number * width + after - 1
            place = after
    found = {"tokens": tokens, "targets": targets, "segments": segments, "ends": ends}
    return {name: torch.from_numpy(array) for name, array in found.items()}


def split_by_prompt(rows: Sequence[Row], prompt: Callable[[Row], Conversation], shares: tuple[float, float, float], seed: int) -> dict[Split, list[Row]]:  # fmt: skip
    """Rows in their order; those of one prompt go to one split."""
    prompts = list(dict.fromkeys(prompt(row) for row in rows))
    order = np.random.default_rng([seed, 0x9A1B]).permutation(len(prompts))
    held, test = held_out_counts(len(prompts), shares)
    kinds: dict[Conversation, Split] = {}
    for place, number in enumerate(order.tolist()):
        kinds[prompts[number]] = (
            "test" if place < test else "valid" if place < test + held else "train"
        )
    found: dict[Split, list[Row]] = {split: [] for split in SPLITS}
    for row in rows:
        found[kinds[prompt(row)]].append(row)
    return found


# --- private ------------------------------------------------------------------------------------------


def _held(held: Any) -> Any:
    if held is None:
        raise ValueError("this data has no examples: give it sources with reopen()")
    return held


def _with(asked: Encoded, answered: Encoded, most: int) -> Encoded:
    """The prompt of one sequence with the answer of another, the prompt's beginning cut where both are too long."""
    begin, other = int(np.argmax(asked.said)), int(np.argmax(answered.said))
    answer = answered.tokens[other:]
    prompt = asked.tokens[max(0, begin + len(answer) - most) : begin]
    said = np.concatenate([np.zeros(len(prompt), bool), np.ones(len(answer), bool)])
    return Encoded(np.concatenate([prompt, answer]), said)


def _encoded(frame: Frame, turns: Sequence[Conversation], places: Sequence[str] | None = None) -> list[Encoded]:  # fmt: skip
    """What counts is the last answer, and nothing stands behind it."""
    rendered = [
        frame.chat.conversations(each, places[i] if places else "the conversation")[-1]
        for i, each in enumerate(turns)
    ]
    tokens = encode_chats(rendered, frame.vocabulary, special_tokens(frame.vocabulary))
    return [_last_alone(each) for each in tokens]


def _last_alone(encoded: Encoded) -> Encoded:
    """The last run of what is said, and nothing behind it."""
    said = np.flatnonzero(encoded.said)
    end = int(said[-1]) + 1
    silent = np.flatnonzero(~encoded.said[:end])
    begin = int(silent[-1]) + 1 if len(silent) else 0
    only = np.zeros(end, bool)
    only[begin:] = True
    return Encoded(encoded.tokens[:end], only)


def _opened(
    options: Preferences,
    frame: Frame | None,
    sources: Any,
    seed: int,
    valid: Any,
    *,
    whole: bool = False,
) -> PreferenceData:
    """Read, check, split, encode, and see what fits."""
    reader = _Reader(options)
    rows = reader.read(sources)
    held = reader.read(valid) if valid is not None else None
    if not rows:
        raise UserError(f"no pair to learn from{reader.why()}")
    train, wanted, test = options.split
    parts: dict[Split, list[tuple[str, Pair]]]
    if whole:
        parts = {"train": [], "valid": [], "test": rows}
    elif held is not None:
        parts = split_by_prompt(rows, _asked, (train + wanted, 0.0, test), seed)
        parts["valid"] = held
    else:
        parts = split_by_prompt(rows, _asked, options.split, seed)
    if frame is None:
        turns = [t for _, each in parts["train"] for t in _both(each)]
        frame = begun(options.template, options.window, options.unit, options.vocabulary, turns)
    encoded, kept = {}, {}
    for split in SPLITS:
        encoded[split], kept[split] = reader.fitting(frame, parts[split], split)
    if parts["train"] and not encoded["train"]:
        raise UserError(f"no pair of the training split fits {frame.window} positions")
    about = reader.about(kept, encoded)
    key = [reader.digest(), frame.vocabulary.digest, frame.chat.source, frame.window, seed, options.split]  # fmt: skip
    fingerprint = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    return PreferenceData(options, frame, seed, fingerprint, about, kept, encoded)


def _asked(row: tuple[str, Pair]) -> Conversation:
    return row[1].prompt


def _both(each: Pair) -> tuple[Conversation, Conversation]:
    """The conversations that end with the chosen and with the rejected answer."""
    chosen, rejected = (Turn("assistant", a) for a in (each.chosen, each.rejected))
    return (*each.prompt, chosen), (*each.prompt, rejected)


def held_out_counts(prompts: int, shares: tuple[float, float, float]) -> tuple[int, int]:
    """How many of so many prompts are validation and test: one at least where a share is asked and there are a few."""
    least = int(prompts >= FEW)
    held, test = (max(round(share * prompts), least if share else 0) for share in shares[1:])
    return held, test


class _Reader:
    """Pairs from sources, with what there is to say about them."""

    def __init__(self, options: Preferences) -> None:
        self.options, self.counts = options, Counter[str]()
        self.names: list[str] = []
        self.notes: list[str] = []
        self.faulty: list[str] = []
        self._digest = hashlib.sha256()

    def digest(self) -> str:
        return self._digest.hexdigest()

    def why(self) -> str:
        """What became of the rows there were."""
        if self.faulty:
            return f"; the first fault: {self.faulty[0]}"
        return f": in all {self.counts['equal']} rows both answers are equal" if self.counts["equal"] else ""  # fmt: skip

    def read(self, sources: Any) -> list[tuple[str, Pair]]:
        """The pairs of some sources in order, each with its place."""
        found = []
        for where, row in self._records(sources):
            try:
                each = pair(row, where)
            except UserError as error:
                if self.options.faulty == "error":
                    raise
                self.faulty.append(str(error))
                continue
            self._digest.update(json.dumps(each, ensure_ascii=False).encode())
            if each.chosen == each.rejected:
                self.counts["equal"] += 1
                continue
            found.append((where, each))
        return found

    def _records(self, sources: Any) -> Iterator[Record]:
        if sources is None:
            raise UserError("no pairs given: expected a file (.jsonl, .json, .csv, .parquet) or a catalog name")  # fmt: skip
        return sourced(sources, "chosen", self.names, self.notes)

    def fitting(self, frame: Frame, rows: list[tuple[str, Pair]], split: Split) -> tuple[list[Compared], list[Pair]]:  # fmt: skip
        """The pairs that fit the window, in tokens and in words."""
        places = [where for where, _ in rows for _ in range(2)]
        turns = [answered for _, each in rows for answered in _both(each)]
        encoded = _encoded(frame, turns, places)
        found, kept = [], []
        for number, (where, each) in enumerate(rows):
            both = encoded[2 * number : 2 * number + 2]
            longest = max(len(e.tokens) for e in both)
            if longest > frame.window:
                if self.options.long == "error":
                    raise UserError(f"{where}: {longest} positions, more than the {frame.window} of the window; --data.long cut or drop goes on")  # fmt: skip
                room = frame.window - max(int(e.said.sum()) for e in both)
                if self.options.long == "drop" or room < 1:
                    self.counts[f"{split}: dropped"] += 1
                    continue
                self.counts[f"{split}: cut"] += 1
                # both prompts keep the same end, so that they stay the same prompt
                both = [Encoded(e.tokens[s:], e.said[s:]) for e in both for s in [max(0, int(np.argmax(e.said)) - room)]]  # fmt: skip
            found.append(Compared(both[0], both[1], each.margin))
            kept.append(each)
        return found, kept

    def about(self, pairs: dict[Split, list[Pair]], encoded: dict[Split, list[Compared]]) -> dict[str, Any]:  # fmt: skip
        """For the report."""
        if self.counts["equal"]:
            self.notes.append(f"{self.counts['equal']} pairs whose answers are equal say nothing and are left out")  # fmt: skip
        for split in SPLITS:
            for what, how in (("cut", "cut at the beginning of their prompts"), ("dropped", "left out")):  # fmt: skip
                if many := self.counts[f"{split}: {what}"]:
                    self.notes.append(f"{split}: {many} pairs are longer than the window and {how}")
        if self.faulty:
            self.notes.append(f"{len(self.faulty)} rows left out as faulty: {self.faulty[0]}")
        for split, share in zip(SPLITS, self.options.split, strict=True):
            if share and pairs["train"] and not pairs[split]:
                self.notes.append(f"there are so few prompts that the {split} split is empty")
        longer = [len(p.chosen) > len(p.rejected) for p in pairs["train"]]
        found: dict[str, Any] = {
            "source": ", ".join(self.names[:3]),
            "pairs": {split: len(some) for split, some in pairs.items()},
            "answer tokens": {s: sum(int(e.said.sum()) for c in some for e in c[:2]) for s, some in encoded.items()},
            "notes": self.notes,
        }  # fmt: skip
        if longer:
            found["chosen is the longer answer"] = f"{sum(longer) / len(longer):.1%} of the training pairs"  # fmt: skip
        return found
