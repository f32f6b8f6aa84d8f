"""Roll-outs: the model that learns answers prompts, its answers are scored, and it learns from them for a while.

G prompts of a roll-out, n answers each, N = G n; R rows of T positions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import torch
from annotated_types import Ge, Le
from pydantic import PositiveFloat, PositiveInt
from torch import nn

from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, Data, DataOptions, Split
from fourfold.data.chat_tokens import Encoded, encode_chats, special_tokens
from fourfold.data.corpus import SPLITS
from fourfold.data.preference_rows import prompt_of
from fourfold.data.preferences import packed
from fourfold.data.prompted import Prompted
from fourfold.data.records import sourced
from fourfold.data.templated import Frame, Templated, store, stored, taken_over
from fourfold.data.turns import Conversation, Turn

EVERY = "0123456789 abcdefghijklmnopqrstuvwxyz"
"""What a vocabulary that is made of prompts alone holds besides them."""
Answers = list[np.ndarray]


class Prompt(NamedTuple):
    """A prompt in words, in tokens, and the row it came from."""

    turns: Conversation
    tokens: list[int]
    row: Mapping[str, Any]


class Answering(Protocol):
    """What answers prompts with a model, and what scores answers; the system that is fitted provides it."""

    def answers(self, model: nn.Module, prompts: Sequence[Sequence[int]], seed: int) -> Answers:
        """An answer to each prompt, its end of turn included, int64; the same seed gives the same answers."""

    def rewards(self, prompts: Sequence[Prompt], answers: Answers, texts: Sequence[str]) -> Sequence[float]:  # fmt: skip
        """How good each answer is, which is there in tokens and in words."""

    def judged(self, prompts: Sequence[Prompt], answers: Answers, texts: Sequence[str]) -> Sequence[float] | None:  # fmt: skip
        """How good each answer is to a judge that is not learned from, where there is one."""

    def reference(self, prompts: Sequence[Sequence[int]], seed: int) -> Answers | None:
        """The reference's own answers, where the objective compares with them."""


class Experience(Prompted):
    """Prompts, and how answers to them are drawn and learned from."""

    loose: ClassVar[frozenset[str]] = DataOptions.loose | {
        "prompts", "answers", "passes", "tokens", "temperature", "long", "faulty",
    }  # fmt: skip

    prompts: PositiveInt = 16
    """Prompts of a roll-out."""
    answers: PositiveInt = 4
    """Answers to each prompt."""
    passes: PositiveInt = 1
    """How many times a roll-out is learned from."""
    batch: PositiveInt = 64
    """Answers per micro-batch."""
    tokens: PositiveInt = 64
    """Most tokens of an answer."""
    temperature: PositiveFloat = 1.0
    """Divides the logits when answers are drawn. The probabilities that are learned from are those without it, so
    another temperature than 1 makes what is drawn differ from what is thought to be drawn."""
    long: Literal["cut", "error", "drop"] = "drop"
    """What becomes of prompts that leave no room for an answer: cut at their beginning, refused, or left out."""
    faulty: Literal["error", "drop"] = "error"
    """What becomes of rows without a prompt."""
    most: Annotated[int, Ge(1), Le(100_000)] = 256
    """Prompts of the validation and test splits that are answered for a measurement, the first ones."""

    def open(self, sources: Any, *, seed: int = 0, valid: Any = None) -> ExperienceData:
        """As `adopt`, from nothing: the vocabulary is made of the training split's prompts."""
        return _opened(self, None, sources, seed, valid)

    def adopt(self, prepared: Data, sources: Any, *, seed: int = 0, valid: Any = None) -> ExperienceData | None:  # fmt: skip
        """Read prompts under the vocabulary, window and template of a language model.

        Args:
            prepared: the language model's data.
            sources: as for `Conversations.open`; a row's prompt is its "prompt", "question", "instruction", or its
                messages up to the user's last.
            seed: fixes the split, the order and the answers.
            valid: prompts of the validation split, if they are files of their own.

        Raises:
            UserError: a row has no prompt, or none is left.
        """
        frame = taken_over(self.template, self.window, prepared)
        return frame and _opened(self, frame, sources, seed, valid)

    def restore(self, folder: Path) -> ExperienceData:
        """See `DataOptions.restore`."""
        return ExperienceData(self, *stored(folder))


class ExperienceData(Templated, Data):
    """Batches of answers that the model has given.

    A batch holds B of a roll-out's answers: "tokens", "targets", "segments", (R, T) int64 as in `PreferenceData` with
    segments 0 to B - 1; "answers", () int64, B; "which", (B,) int64, their numbers in the roll-out. With it goes the
    roll-out itself: "roll", () int64, its number; "roll_tokens", "roll_targets", "roll_segments", (R', T') int64, of
    all its answers; "rewards", (G, n) float64, and "others", (G, n) float64, of the reference's own answers, where
    they are asked for. In stored order each prompt is answered once, and every batch is a roll-out of its own; "judged",
    (G, 1) float64, is then what a judge says that is not learned from.
    """

    unit = "answers"
    divisible = False
    undivided = "its answers are drawn by the model while it learns"

    def __init__(
        self,
        options: Experience,
        frame: Frame,
        seed: int,
        fingerprint: str,
        about: dict[str, Any],
        prompts: dict[Split, list[Prompt]] | None = None,
    ) -> None:
        super().__init__(frame.vocabulary, frame.chat)
        self.options, self.frame, self.window = options, frame, frame.window
        self.seed, self.fingerprint = seed, fingerprint
        self._about, self._prompts = about, prompts
        self._epoch, self._rolled, self._consumed = 0, 0, 0
        self._roll: dict[str, Any] | None = None
        self.answering: Answering | None = None
        """What answers and scores; set by the system."""

    def prompts(self, split: Split) -> Sequence[Prompt]:
        """The prompts of a split."""
        if self._prompts is None:
            raise ValueError("this data has no examples: give it sources with reopen()")
        return self._prompts[split]

    def size(self, split: Split) -> int:
        """Prompts in the split; of those that are measured on, as many as are answered."""
        found = len(self.prompts(split))
        return found if split == "train" else min(found, self.options.most)

    def length(self, split: Split, epoch: int | None = None) -> int:
        """See `Data.length`."""
        prompts, options = self.size(split), self.options
        if epoch is None:
            return -(-prompts // options.prompts)
        whole, rest = divmod(prompts, options.prompts)
        sizes = [options.prompts] * whole + [rest] * (rest > 0)
        return sum(options.passes * -(-size * options.answers // options.batch) for size in sizes)

    def batches(self, split: Split, *, epoch: int | None = None, model: nn.Module | None = None) -> Iterator[Batch]:  # fmt: skip
        """See `Data.batches`: the model that learns makes them."""
        if model is None or self.answering is None:
            raise ValueError("experience is made by a model that answers: batches(..., model=)")
        count, each = self.size(split), self.options.prompts
        if epoch is None:
            for number, start in enumerate(range(0, count, each)):
                some = range(start, min(start + each, count))
                roll = self._rolled_out(model, split, list(some), 1, [0x0E7A1, number])
                self._judge(roll, [self.prompts(split)[i] for i in some])
                yield self._batch(roll, np.arange(len(roll["answers"])))
            return
        order = np.random.default_rng([self.seed, epoch]).permutation(count).tolist()
        if self._epoch != epoch:
            self._epoch, self._rolled, self._consumed, self._roll = epoch, 0, 0, None
        rolls = range(self._rolled, -(-count // each))
        for number in rolls:
            if self._roll is None:
                some = order[number * each : (number + 1) * each]
                self._roll = self._rolled_out(model, split, some, self.options.answers, [epoch, number])  # fmt: skip
            yield from self._learned(self._roll, [epoch, number])
            self._rolled, self._consumed, self._roll = number + 1, 0, None

    def state_dict(self) -> dict[str, Any]:
        """See `Data.state_dict`: in the middle of a roll-out its answers are kept."""
        return {"epoch": self._epoch, "rolled": self._rolled, "batches": self._consumed, "roll": _stored(self._roll)}  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Data.load_state_dict`."""
        self._epoch, self._rolled = state["epoch"], state["rolled"]
        self._consumed, self._roll = state["batches"], _restored(state["roll"])

    def reopen(self, sources: Any, *, seed: int = 0, valid: Any = None, whole: bool = False) -> ExperienceData:  # fmt: skip
        """See `Data.reopen`."""
        found = _opened(self.options, self.frame, sources, seed, valid, whole=whole)
        found.answering = self.answering
        return found

    def save(self, folder: Path) -> None:
        """See `Data.save`: data.json, template.jinja, and the vocabulary's file."""
        store(folder, self.frame, self.seed, self.fingerprint, self._about)

    def summary(self) -> dict[str, Any]:
        """See `Data.summary`."""
        return {**self._about, "template": self.chat.name, "vocabulary": len(self.vocabulary)}

    # --- roll-outs --------------------------------------------------------------------------------------

    def _rolled_out(self, model: nn.Module, split: Split, which: list[int], each: int, key: list[int]) -> dict[str, Any]:  # fmt: skip
        """Let the model answer some prompts, and have its answers scored."""
        assert self.answering is not None  # noqa: S101
        some = [self.prompts(split)[i] for i in which for _ in range(each)]
        tokens = [prompt.tokens for prompt in some]
        seed = int(np.random.default_rng([self.seed, *key]).integers(2**31))
        training = model.training
        model.eval()
        try:
            answers = self.answering.answers(model, tokens, seed)
        finally:
            model.train(training)
        rewards = self._scored(some, answers)
        roll = {
            "number": int(np.random.default_rng([*key, 1]).integers(2**62)), "each": each,
            "prompts": tokens, "answers": answers, "rewards": rewards.reshape(-1, each),
        }  # fmt: skip
        others = self.answering.reference(tokens, seed + 1)
        if others is not None:
            roll["others"] = self._scored(some, others).reshape(-1, each)
        return roll

    def _scored(self, prompts: Sequence[Prompt], answers: Answers) -> np.ndarray:
        assert self.answering is not None  # noqa: S101
        return np.array(self.answering.rewards(prompts, answers, self._texts(answers)), np.float64)

    def _texts(self, answers: Answers) -> list[str]:
        return [self.answer(answer.tolist()) for answer in answers]

    def _judge(self, roll: dict[str, Any], prompts: Sequence[Prompt]) -> None:
        assert self.answering is not None  # noqa: S101
        found = self.answering.judged(prompts, roll["answers"], self._texts(roll["answers"]))
        if found is not None:
            roll["judged"] = np.array(found, np.float64).reshape(-1, 1)

    def _learned(self, roll: dict[str, Any], key: list[int]) -> Iterator[Batch]:
        """The batches of a roll-out that are not consumed yet, pass after pass, each in another order."""
        answers, size = len(roll["answers"]), self.options.batch
        steps = -(-answers // size)
        for number in range(self._consumed, self.options.passes * steps):
            turn, place = divmod(number, steps)
            order = np.random.default_rng([self.seed, *key, 2, turn]).permutation(answers)
            self._consumed += (
                1  # before the hand-over: a checkpoint is taken after the step on this batch
            )
            yield self._batch(roll, np.sort(order[place * size : (place + 1) * size]))

    def _batch(self, roll: dict[str, Any], which: np.ndarray) -> Batch:
        sequences = [_joined(p, a) for p, a in zip(roll["prompts"], roll["answers"], strict=True)]
        batch = packed([sequences[i] for i in which.tolist()], self.window, self.vocabulary.end)
        del batch["ends"]
        whole = packed(sequences, self.window, self.vocabulary.end)
        batch |= {f"roll_{name}": whole[name] for name in ("tokens", "targets", "segments")}
        batch["answers"], batch["which"] = torch.tensor(len(which)), torch.from_numpy(which)
        batch["roll"] = torch.tensor(roll["number"])
        batch |= {
            n: torch.from_numpy(roll[n]) for n in ("rewards", "others", "judged") if n in roll
        }
        return batch


# --- private ------------------------------------------------------------------------------------------


def _joined(prompt: Sequence[int], answer: np.ndarray) -> Encoded:
    said = np.arange(len(prompt) + len(answer)) >= len(prompt)
    return Encoded(np.concatenate([np.array(prompt, np.int64), answer]), said)


def _stored(roll: dict[str, Any] | None) -> dict[str, Any] | None:
    """A roll-out as a state: lists of different lengths joined, with their lengths."""
    if roll is None:
        return None
    found: dict[str, Any] = {"number": roll["number"], "each": roll["each"]}
    for name in ("prompts", "answers"):
        found[name] = torch.from_numpy(np.concatenate([np.array(x, np.int64) for x in roll[name]]))
        found[f"{name}_lengths"] = [len(x) for x in roll[name]]
    return found | {n: torch.from_numpy(roll[n]) for n in ("rewards", "others") if n in roll}


def _restored(state: dict[str, Any] | None) -> dict[str, Any] | None:
    if state is None:
        return None
    found = {"number": state["number"], "each": state["each"]}
    for name in ("prompts", "answers"):
        parts = state[name].split(state[f"{name}_lengths"])
        found[name] = [p.tolist() if name == "prompts" else p.numpy() for p in parts]
    return found | {n: state[n].numpy() for n in ("rewards", "others") if n in state}


def _opened(
    options: Experience,
    frame: Frame | None,
    sources: Any,
    seed: int,
    valid: Any,
    *,
    whole: bool = False,
) -> ExperienceData:
    """Read prompts, split them, and see which leave room for an answer."""
    names: list[str] = []
    notes: list[str] = []
    digest = hashlib.sha256()
    rows = _read(options, sources, names, notes, digest)
    held = _read(options, valid, names, notes, digest) if valid is not None else None
    if not rows:
        raise UserError("no prompt to answer: the sources hold no row")
    parts = options.parted(rows, held, lambda row: row[1], seed, whole=whole)
    if frame is None:
        # an answer of every digit and letter: what is to be said must be in the vocabulary
        turns = [(*asked, Turn("assistant", EVERY)) for _, asked, _ in parts["train"]]
        frame = options.begun(turns)
    found: dict[Split, list[Prompt]] = {}
    for split in SPLITS:
        found[split] = _fitting(options, frame, parts[split], split, notes)
    if parts["train"] and not found["train"]:
        raise UserError(f"no prompt of the training split leaves room for an answer in {frame.window} positions")  # fmt: skip
    notes += options.empty(found)
    about = {
        "source": ", ".join(names[:3]),
        "prompts": {split: len(some) for split, some in found.items()},
        "notes": notes,
    }
    fingerprint = options.fingerprint(digest.hexdigest(), frame, seed)
    return ExperienceData(options, frame, seed, fingerprint, about, found)


Row = tuple[str, Conversation, Mapping[str, Any]]


def _read(options: Experience, sources: Any, names: list[str], notes: list[str], digest: Any) -> list[Row]:  # fmt: skip
    if sources is None:
        raise UserError("no prompts given: expected a file (.jsonl, .json, .csv, .parquet) or a catalog name")  # fmt: skip
    found: list[Row] = []
    faulty: list[str] = []
    for where, row in sourced(sources, "prompt", names, notes):
        try:
            turns = prompt_of(row, where)
        except UserError as error:
            if options.faulty == "error":
                raise
            faulty.append(str(error))
            continue
        kept = dict(row) if isinstance(row, Mapping) else {"prompt": row}
        digest.update(json.dumps([turns, kept], ensure_ascii=False, default=str).encode())
        found.append((where, turns, kept))
    if faulty:
        notes.append(f"{len(faulty)} rows left out as faulty: {faulty[0]}")
        if not found:
            raise UserError(f"no row has a prompt; the first: {faulty[0]}")
    return found


def _fitting(options: Experience, frame: Frame, rows: list[Row], split: Split, notes: list[str]) -> list[Prompt]:  # fmt: skip
    rendered = [frame.chat.prompt(turns, where) for where, turns, _ in rows]
    specials = special_tokens(frame.vocabulary)
    encoded = encode_chats(rendered, frame.vocabulary, specials) if rows else []
    window, most = frame.window, frame.window - options.tokens
    if most < 1:
        raise UserError(f"tokens {options.tokens}: leave no room for a prompt in {window} positions")  # fmt: skip
    found, cut, dropped = [], 0, 0
    for (where, turns, row), each in zip(rows, encoded, strict=True):
        tokens = each.tokens.tolist()
        if len(tokens) > most:
            if options.long == "error":
                raise UserError(f"{where}: the prompt has {len(tokens)} tokens, and {options.tokens} of an answer leave {most}; --data.long cut or drop goes on")  # fmt: skip
            if options.long == "drop":
                dropped += 1
                continue
            cut, tokens = cut + 1, tokens[-most:]
        found.append(Prompt(turns, tokens, row))
    if cut:
        notes.append(f"{split}: {cut} prompts are cut at their beginning to {most} tokens")
    if dropped:
        notes.append(f"{split}: {dropped} prompts longer than {most} tokens are left out")
    return found
