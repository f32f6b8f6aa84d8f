"""Preferences between two answers to one prompt. P pairs, R rows of T positions, N = 2P sequences."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import PositiveInt

from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, Data, DataOptions, Split
from fourfold.data.chat_tokens import Encoded, encode_chats, special_tokens
from fourfold.data.corpus import SPLITS
from fourfold.data.loading import Indexed
from fourfold.data.packing import pack
from fourfold.data.preference_rows import Pair, pair
from fourfold.data.prompted import Prompted
from fourfold.data.records import Record, sourced
from fourfold.data.templated import Frame, Templated, store, stored, taken_over
from fourfold.data.text import IGNORE
from fourfold.data.turns import Conversation, Turn

ROUND = 64
"""Rows of a batch are as long as its longest sequence, rounded up to this."""


class Preferences(Prompted):
    """Pairs of a better and a worse answer."""

    loose: ClassVar[frozenset[str]] = DataOptions.loose | {"long", "faulty", "others"}

    batch: PositiveInt = 8
    """Pairs per micro-batch."""
    long: Literal["cut", "error", "drop"] = "cut"
    """What becomes of pairs longer than the window: the prompt is cut at its beginning, refused, or the pair left out.
    An answer is never cut: a pair whose answers do not fit is left out, or refused."""
    faulty: Literal["error", "drop"] = "error"
    """What becomes of rows that are no pairs."""
    others: bool = False
    """Add the prompts with the answers to others, as KTO's baseline needs."""

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
    parts = options.parted(rows, held, lambda row: row[1].prompt, seed, whole=whole)
    if frame is None:
        frame = options.begun([t for _, each in parts["train"] for t in _both(each)])
    encoded, kept = {}, {}
    for split in SPLITS:
        encoded[split], kept[split] = reader.fitting(frame, parts[split], split)
    if parts["train"] and not encoded["train"]:
        raise UserError(f"no pair of the training split fits {frame.window} positions")
    about = reader.about(kept, encoded)
    fingerprint = options.fingerprint(reader.digest(), frame, seed)
    return PreferenceData(options, frame, seed, fingerprint, about, kept, encoded)


def _both(each: Pair) -> tuple[Conversation, Conversation]:
    """The conversations that end with the chosen and with the rejected answer."""
    chosen, rejected = (Turn("assistant", a) for a in (each.chosen, each.rejected))
    return (*each.prompt, chosen), (*each.prompt, rejected)


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
        self.notes += self.options.empty(pairs)
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
