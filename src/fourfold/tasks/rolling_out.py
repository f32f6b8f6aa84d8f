"""What answers prompts while a policy learns, and what scores the answers: a reward run, a built-in, a user's function."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fourfold.core.errors import UserError
from fourfold.core.folders import find_run
from fourfold.core.run import Run
from fourfold.data.chat_tokens import Encoded
from fourfold.data.experience import Answers, ExperienceData, Prompt
from fourfold.data.preferences import packed
from fourfold.data.rewards import BUILT_IN, reward_named, scored
from fourfold.data.templated import Templated
from fourfold.models.generation import Voice, generate
from fourfold.models.reward import RewardModel
from fourfold.models.sampling import Sampling
from fourfold.models.transformer import Transformer

ROWS = 64
"""Answers drawn, or scored, at once."""
Scorer = Callable[[Sequence[Prompt], Answers, Sequence[str]], list[float]]


class RollOut:
    """See `fourfold.data.experience.Answering`.

    Args:
        data: whose prompts are answered; it is not kept from being restored without examples.
        reward: name of what is learned from.
        judge: name of what is only measured with; None if nothing is.
        reference: run whose own answers are asked for; None if none are.
    """

    def __init__(
        self, data: ExperienceData, reward: str, judge: str | None, reference: str | None
    ) -> None:
        self.data, self._names = data, (reward, judge, reference)

    @functools.cached_property
    def _reward(self) -> Scorer:
        return scorer(self._names[0], self.data)

    @functools.cached_property
    def _judge(self) -> Scorer | None:
        return scorer(self._names[1], self.data) if self._names[1] else None

    @functools.cached_property
    def _reference(self) -> nn.Module | None:
        return Run.open(self._names[2]).model if self._names[2] else None

    def answers(self, model: nn.Module, prompts: Sequence[Sequence[int]], seed: int) -> Answers:
        """See `Answering.answers`."""
        assert isinstance(model, Transformer)  # noqa: S101
        options, found = self.data.options, []
        for begin in range(0, len(prompts), ROWS):
            some = prompts[begin : begin + ROWS]
            generators = [
                torch.Generator(model.embedding.weight.device).manual_seed(
                    seed * 1_000_003 + begin + i
                )
                for i in range(len(some))
            ]
            sampling = Sampling(options.temperature)
            found += drawn(model, self.data, some, options.tokens, sampling, generators)
        return found

    def rewards(self, prompts: Sequence[Prompt], answers: Answers, texts: Sequence[str]) -> list[float]:  # fmt: skip
        """See `Answering.rewards`."""
        return self._reward(prompts, answers, texts)

    def judged(self, prompts: Sequence[Prompt], answers: Answers, texts: Sequence[str]) -> list[float] | None:  # fmt: skip
        """See `Answering.judged`."""
        return self._judge(prompts, answers, texts) if self._judge else None

    def reference(self, prompts: Sequence[Sequence[int]], seed: int) -> Answers | None:
        """See `Answering.reference`."""
        if self._names[2] is None:
            return None
        assert self._reference is not None  # noqa: S101
        return self.answers(self._reference, prompts, seed)


def drawn(
    model: Transformer, data: Templated, prompts: Sequence[Sequence[int]], tokens: int, sampling: Sampling,
    generators: Sequence[torch.Generator | None],
) -> Answers:  # fmt: skip
    """An answer to each prompt in tokens, (L,) int64, its end of turn included where it came to one.

    Args:
        model: in evaluation mode.
        data: whose template says what ends an answer.
        prompts: each with room for the answer in the model's window.
        tokens: most of each.
        sampling: how they are drawn.
        generators: of each prompt.
    """
    stop, token = data.stop
    ends = {*data.vocabulary.ends, *([] if token is None else [token])}
    voices = [Voice(data.vocabulary.decoder(), () if token is not None else (stop,)) for _ in prompts]  # fmt: skip
    found: list[list[int]] = [[] for _ in prompts]
    stream = generate(
        model, prompts, tokens=tokens, sampling=sampling, generators=generators, never=data.vocabulary.never,
    )  # fmt: skip
    answer: bool | None = None
    while True:
        try:
            row, number = stream.send(answer)  # type: ignore[attr-defined]
        except StopIteration:
            return [np.array(each, np.int64) for each in found]
        found[row].append(number)
        if token is None:
            voices[row].push(number)
        answer = number in ends or voices[row].ended


def is_run(name: str) -> bool:
    """Whether a name is that of a run: a path, a name under `runs/`, or last; a built-in reward's name is not."""
    if name in BUILT_IN:
        return False
    try:
        find_run(name)
    except UserError:
        return name == "last"  # opening it says what is wrong
    return True


def scorer(name: str, data: Templated) -> Scorer:
    """What gives answers a number.

    Args:
        name: a run of a reward model, or see `fourfold.data.rewards.BUILT_IN`.
        data: whose answers are scored.

    Raises:
        UserError: there is no such reward, or it is a run of something else, or of another tokenizer or template.
    """
    if not is_run(name):
        if ":" not in name and ("/" in name or Path(name).exists()):
            find_run(name)  # says what is wrong with it
        reward = reward_named(name)

        def by_function(prompts: Sequence[Prompt], answers: Answers, texts: Sequence[str]) -> list[float]:  # fmt: skip
            asked, rows = [p.turns[-1].content for p in prompts], [p.row for p in prompts]
            return scored(reward, name, asked, texts, rows)

        return by_function
    run = Run.open(name)
    return functools.partial(_by_run, reward_run(run, data), data)


def reward_run(run: Run, data: Templated) -> RewardModel:
    """The model of a reward run, to score answers that another run's data renders.

    Raises:
        UserError: it is no reward run, or reads other tokens or another template.
    """
    model, theirs = run.model, run.data
    if not isinstance(model, RewardModel) or not isinstance(theirs, Templated):
        raise UserError(f"reward {run.folder}: is a run of {run.system.name}, not of reward")
    if theirs.vocabulary.digest != data.vocabulary.digest:
        raise UserError(
            f"reward {run.folder}: reads another vocabulary ({len(theirs.vocabulary)} entries; the policy's has "
            f"{len(data.vocabulary)}), so its rewards would be of other text"
        )
    if theirs.chat.source != data.chat.source:
        raise UserError(f"reward {run.folder}: has another chat template ({theirs.chat.name}, the policy {data.chat.name})")  # fmt: skip
    return model


def _by_run(model: RewardModel, data: Templated, prompts: Sequence[Prompt], answers: Answers, texts: Sequence[str]) -> list[float]:  # fmt: skip
    sequences = []
    for prompt, answer in zip(prompts, answers, strict=True):
        tokens = np.concatenate([np.array(prompt.tokens, np.int64), answer])
        sequences.append(Encoded(tokens, np.arange(len(tokens)) >= len(prompt.tokens)))
    return rewards_of(model, sequences, data.vocabulary.end)


@torch.no_grad()
def rewards_of(model: RewardModel, sequences: Sequence[Encoded], end: int) -> list[float]:
    """The rewards of sequences, read at their last tokens; of longer ones than the window the end is read."""
    found: list[float] = []
    place = next(model.parameters()).device
    for begin in range(0, len(sequences), ROWS):
        some = [
            Encoded(e.tokens[-model.window :], e.said[-model.window :])
            for e in sequences[begin : begin + ROWS]
        ]
        batch = {n: t.to(place) for n, t in packed(some, model.window, end).items()}
        found += model(batch).float().tolist()
    return found
