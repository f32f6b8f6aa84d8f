"""What a reward model tells: how often it prefers the right answer, how sure it may be, whether it pays for length."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out
from fourfold.core.parts import Split
from fourfold.core.run import Run, model_of
from fourfold.core.types import Document, Picture, Score, Source, Table
from fourfold.data.preference_rows import prompt_of
from fourfold.data.preferences import PreferenceData
from fourfold.data.turns import Conversation, Turn, conversation
from fourfold.look.calibration import reliability_diagram
from fourfold.look.preferences import length_picture, rewards_picture
from fourfold.models.reward import RewardModel
from fourfold.tasks.looking import Looking
from fourfold.tasks.rolling_out import rewards_of

if TYPE_CHECKING:
    import polars as pl

BINS = 10
"""Of the reliability diagram, between 1/2 and 1."""
SHOWN = 8
"""Pairs in the report's table."""
ANSWERS = ("completion", "response", "answer", "output")


class Told(NamedTuple):
    """Rewards of held-out pairs, (P,) each."""

    chosen: np.ndarray
    rejected: np.ndarray
    chosen_lengths: np.ndarray
    """Tokens of the answers."""
    rejected_lengths: np.ndarray
    margins: np.ndarray | float = 0.0
    """How much higher the chosen answer's should be, where the data says so."""

    @property
    def right(self) -> np.ndarray:
        """1 where the chosen answer has the higher reward, 1/2 for ties."""
        return (self.chosen > self.rejected) + 0.5 * (self.chosen == self.rejected)


class Rewarding(Looking):
    """A system whose runs give answers a reward."""

    def evaluate(self, run: Run, source: Source = None) -> Score:
        """Measure the run on its own test split or on other pairs: the loss, how often it prefers the chosen answer, its calibration, and whether it pays for length."""
        model = run.model  # before the data: it is measured with the weights that are kept
        data, split, sentence = held_out(run, source)
        told = rewards_told(run, data, split)
        if not len(told.chosen):
            raise UserError(f"there is no pair {sentence} to measure on")
        assert isinstance(model, RewardModel)  # noqa: S101
        gaps = told.chosen - told.rejected
        values = {
            "loss": float(np.logaddexp(0, told.margins - gaps).mean()),
            "accuracy": float(told.right.mean()),
            "margin": float(gaps.mean()),
            "calibration_error": calibration(gaps)[1],
            "length_correlation": length_correlation(told),
        }
        longer = told.chosen_lengths > told.rejected_lengths
        shorter = told.chosen_lengths < told.rejected_lengths
        for name, rows in (("chosen_longer", longer), ("chosen_shorter", shorter)):
            if rows.any():
                values[f"accuracy_{name}"] = float(told.right[rows].mean())
        notes = [f"{len(gaps):,} pairs {sentence}", *data.summary()["notes"]]
        if longer.any() and shorter.any():
            gap = values["accuracy_chosen_longer"] - values["accuracy_chosen_shorter"]
            if abs(gap) > 0.2:
                which = "longer" if gap > 0 else "shorter"
                notes.append(
                    f"Beware: it is right {abs(gap):.0%} of the pairs more often where the {which} answer is the chosen one; "
                    f"a policy that learns from it is paid for {which} answers."
                )
        return Score(values, {"loss": "nats per pair"}, tuple(notes))

    def score(self, run: Run, dialogue: Document) -> Score | pl.DataFrame:
        """The reward of an answer, or of several, as a table.

        Args:
            dialogue: JSON: messages that end with the assistant's; {"prompt": ..., "completion": ...}; or several of these in a
                list or one a line.
        """
        turns = dialogues(dialogue)
        data = preference_data(run)
        found = rewards_of(model_of(run, RewardModel), data.sequences(turns), data.vocabulary.end)
        if len(found) == 1:
            return Score({"reward": found[0]}, {}, ())
        import polars as pl

        return pl.DataFrame({
            "prompt": [t[-2].content if len(t) > 1 else "" for t in turns],
            "answer": [t[-1].content for t in turns],
            "reward": found,
        })  # fmt: skip

    def pictures(self, run: Run) -> Iterator[Picture]:
        """Rewards of held-out pairs, how sure they may be, and whether length is paid for."""
        told = _told(run)
        if told is None:
            return
        yield rewards_picture(told.chosen.tolist(), told.rejected.tolist())
        bins, error = calibration(told.chosen - told.rejected)
        yield reliability_diagram({"as told": (bins, error)}, "of the preferred answer")
        lengths = np.concatenate([told.chosen_lengths, told.rejected_lengths])
        rewards = np.concatenate([told.chosen, told.rejected])
        yield length_picture(lengths.tolist(), rewards.tolist(), length_correlation(told))

    def tables(self, run: Run) -> Iterator[Table]:
        """Held-out pairs that it is most wrong about."""
        yield from super().tables(run)
        told = _told(run)
        if told is None:
            return
        data, split, _ = held_out(run)
        pairs = data.pairs(split)  # type: ignore[attr-defined]
        order = np.argsort(told.chosen - told.rejected)[:SHOWN].tolist()
        rows = tuple(
            (
                pairs[i].prompt[-1].content[:200], pairs[i].chosen[:200], round(float(told.chosen[i]), 3),
                pairs[i].rejected[:200], round(float(told.rejected[i]), 3),
            )
            for i in order
        )  # fmt: skip
        yield Table("Where it is most wrong", ("prompt", "chosen", "its reward", "rejected", "its reward"), rows)  # fmt: skip


def preference_data(run: Run) -> PreferenceData:
    """A run's data.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(run.data, PreferenceData):
        raise TypeError(f"expected PreferenceData, got {type(run.data).__name__}")
    return run.data


def rewards_told(run: Run, data: Any, split: Split) -> Told:
    """The rewards of a split's pairs."""
    compared = data.compared(split)
    sequences = [sequence for each in compared for sequence in each[:2]]
    found = np.array(
        rewards_of(model_of(run, RewardModel), sequences, data.vocabulary.end)
    ).reshape(-1, 2)
    lengths = np.array([int(s.said.sum()) for s in sequences]).reshape(-1, 2)
    margins = np.array([each.margin for each in compared])
    return Told(found[:, 0], found[:, 1], lengths[:, 0], lengths[:, 1], margins)


def calibration(gaps: np.ndarray) -> tuple[np.ndarray, float]:
    """Reliability of sigmoid(|gap|) as the probability that the preferred answer is the better one.

    Args:
        gaps: (P,) reward of the chosen answer less that of the rejected.

    Returns:
        (bins, 3) mean probability, frequency and count, and the expected calibration error (Naeini et al. 2015).
    """
    told = 1 / (1 + np.exp(-np.abs(gaps)))
    right = (gaps > 0) + 0.5 * (gaps == 0)
    places = np.minimum(((told - 0.5) * 2 * BINS).astype(int), BINS - 1)
    rows = [
        (told[places == b].mean(), right[places == b].mean(), float((places == b).sum()))
        for b in range(BINS)
        if (places == b).any()
    ]
    bins = np.array(rows)
    error = float((np.abs(bins[:, 0] - bins[:, 1]) * bins[:, 2]).sum() / bins[:, 2].sum())
    return bins, error


def length_correlation(told: Told) -> float:
    """Spearman's rank correlation of rewards with lengths over all answers; 0 where either is constant."""
    lengths = np.concatenate([told.chosen_lengths, told.rejected_lengths])
    rewards = np.concatenate([told.chosen, told.rejected])
    ranks = [_ranks(values) for values in (lengths, rewards)]
    if any(np.ptp(r) == 0 for r in ranks):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def dialogues(text: str) -> list[Conversation]:
    """Conversations that end with an answer, of JSON; see `Rewarding.score`.

    Raises:
        UserError: it is no JSON, or no conversation that ends with an answer.
    """
    try:
        value = json.loads(text)
        rows = value if isinstance(value, list) and not _is_turns(value) else [value]
    except ValueError:
        rows = []
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise UserError(f"dialogue, line {number}: expected JSON, messages or a prompt with a completion; got {line[:40]!r}") from error  # fmt: skip
    if not rows:
        raise UserError("dialogue: is empty")
    return [_dialogue(row, f"dialogue {n}") for n, row in enumerate(rows, 1)]


def _dialogue(row: Any, where: str) -> Conversation:
    if isinstance(row, dict) and "prompt" in row:
        answer = next((row[name] for name in ANSWERS if isinstance(row.get(name), str)), None)
        if answer is None:
            raise UserError(f"{where}: a prompt without {', '.join(ANSWERS)}")
        return (*prompt_of({"prompt": row["prompt"]}, where), Turn("assistant", answer))
    turns = conversation(row, where)
    if turns[-1].role != "assistant":
        raise UserError(f"{where}: ends with {turns[-1].role}; expected an answer of the assistant")
    return turns


def _is_turns(value: list[Any]) -> bool:
    return bool(value) and all(isinstance(v, dict) and ("role" in v or "from" in v) for v in value)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, equal values sharing their mean rank."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[places]


def _told(run: Run) -> Told | None:
    try:
        data, split, _ = held_out(run)
    except UserError:
        return None  # nothing is held out, or the source is gone: the report says so elsewhere
    with torch.no_grad():
        told = rewards_told(run, data, split)
    return told if len(told.chosen) else None
