"""What language models say to the same prompts: how each is asked, what it answers, how likely it finds a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.core.system import verbs
from fourfold.data.preferences import PreferenceData
from fourfold.data.spelling import Spelling
from fourfold.data.templated import Templated
from fourfold.data.turns import Turn
from fourfold.data.words import split_words
from fourfold.models.reward import RewardModel
from fourfold.models.sampling import Sampling
from fourfold.tasks.answering import ROWS, answers
from fourfold.tasks.foreign import ForeignModel
from fourfold.tasks.language import LanguageModel, noise, vocabulary_of
from fourfold.tasks.rolling_out import rewards_of
from fourfold.tasks.transformer_language import TransformerLanguage

NGRAM = 4
"""Length of what counts as repeated within an answer."""


def check_answers(run: Run) -> None:
    """Refuse what says nothing to a prompt.

    Raises:
        UserError: it is no language model, ours or somebody else's.
    """
    if not isinstance(run.system, ForeignModel):
        language_model(run)


def language_model(run: Run) -> LanguageModel:
    """A run's system.

    Raises:
        UserError: it is no language model of our own.
    """
    if not isinstance(run.system, LanguageModel) or "generate" not in verbs(run.system):
        raise UserError(
            f"{run.place}: is a run of {run.system.name}, which says nothing to a prompt; "
            "runs of language models are compared"
        )
    return run.system


def asked(run: Run, prompt: str, where: str) -> list[int]:
    """The tokens by which a run is asked: the prompt after the token that opens a text, or the user's turn in its chat template.

    Of a model of somebody else's there are none: it is asked in words.

    Raises:
        UserError: they leave no room in the run's context; `where` names the prompt.
    """
    if isinstance(run.system, ForeignModel):
        return []
    data, vocabulary = run.data, vocabulary_of(run.data)
    if isinstance(data, Templated):
        tokens = data.prompt((Turn("user", prompt),), where)
    else:
        tokens = [vocabulary.opening, *vocabulary.encode(prompt).tolist()]
    if isinstance(run.system, TransformerLanguage):
        window = int(run.model.window)  # type: ignore[arg-type]
        if len(tokens) >= window:
            raise UserError(
                f"{where}: the prompt has {len(tokens)} tokens, {run.place} reads {window} at once and must answer in them"
            )
    return tokens


def answered(
    run: Run, prompts: Sequence[str], *, tokens: int, temperature: float, seed: int
) -> list[str]:
    """A run's answer to each prompt; a conversing one answers the user's turn."""
    if isinstance(run.system, ForeignModel):
        told = {"tokens": tokens, "temperature": temperature, "seed": seed}
        return ["".join(run.chat(prompt, **told)) for prompt in prompts]
    system, data = language_model(run), run.data
    if isinstance(data, Templated):
        asks = [data.prompt((Turn("user", prompt),)) for prompt in prompts]
        return list(_conversed(run, asks, tokens, Sampling(temperature), seed))
    with torch.no_grad():
        said = list(
            system.generate(run, list(prompts), tokens=tokens, temperature=temperature, seed=seed)
        )
    if len(prompts) == 1:
        return ["".join(said)]
    return [text.removesuffix("\n") for text in said]


def _conversed(
    run: Run, asks: Sequence[list[int]], tokens: int, sampling: Sampling, seed: int
) -> Iterator[str]:
    """As `chat` answers each with the same seed, some at once."""
    for begin in range(0, len(asks), ROWS):
        some = asks[begin : begin + ROWS]
        said = [""] * len(some)
        drawn = [noise(run, seed, 0) for _ in some]
        with torch.no_grad():
            for row, piece in answers(
                run, some, tokens=tokens, sampling=sampling, generators=drawn
            ):
                said[row] += piece
        yield from said


def surprise(run: Run, begun: Sequence[int], text: str) -> float:
    """Bits that a run needs for a text behind tokens, the spelling of unknown words included."""
    vocabulary = vocabulary_of(run.data)
    found, _, spelled = vocabulary.encode_spelled([text])
    if not len(found):
        return 0.0  # nothing of it is a token: white space that the vocabulary does not keep
    tokens = np.concatenate([np.asarray(begun, np.int64), found.astype(np.int64)])
    nats = language_model(run).reader(run).surprises(tokens)[len(begun) - 1 :]
    bits = Spelling(vocabulary).bits(spelled) if spelled else 0.0
    return float(nats.sum()) / float(np.log(2)) + bits


def divergences(
    base: Run, others: Sequence[Run], begun: Sequence[int], text: str
) -> tuple[list[float], int]:
    """KL(base || other) summed over the positions of a text behind tokens, each position's over the whole vocabulary.

    Args:
        base: the run whose vocabulary it is.
        others: runs with the same vocabulary.
        begun: what precedes, the same for all.
        text: what is said.

    Returns:
        Nats for each of the others, and the number of positions.
    """
    found = vocabulary_of(base.data).encode(text)
    if not len(found):
        return [0.0] * len(others), 0
    tokens = np.concatenate([np.asarray(begun, np.int64), found])
    logs = _last(base, tokens, len(found))
    shares = logs.exp()
    sums = []
    for other in others:
        theirs = _last(other, tokens, len(found))
        # an entry that the base excludes contributes nothing
        terms = torch.where(shares > 0, shares * (logs - theirs), 0)
        sums.append(float(terms.sum()))
    return sums, len(found)


def _last(run: Run, tokens: np.ndarray, count: int) -> torch.Tensor:
    return language_model(run).reader(run).distributions(tokens)[-count:].double().cpu()


def reward_judge(judge: Run) -> tuple[RewardModel, PreferenceData]:
    """What judges, and what it reads answers by.

    Raises:
        UserError: it is no run of reward.
    """
    data, model = judge.data, judge.model
    if not isinstance(model, RewardModel) or not isinstance(data, PreferenceData):
        raise UserError(
            f"--judge {judge.place}: is a run of {judge.system.name}; expected one of reward, or one that converses"
        )
    return model, data


def judged(judge: Run, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
    """What a run of reward says of each answer, asked in its own template.

    Raises:
        UserError: it is no run of reward.
    """
    model, data = reward_judge(judge)
    turns = [
        (Turn("user", prompt), Turn("assistant", answer))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    return rewards_of(model, data.sequences(turns), data.vocabulary.end)


def distinct(texts: Sequence[str], n: int) -> float | None:
    """distinct-n, Li et al. 2016: different n-grams of words over all of them, in all texts together."""
    found = Counter(gram for text in texts for gram in _grams(text, n))
    return len(found) / found.total() if found else None


def repeated(texts: Sequence[str]) -> float | None:
    """rep-4, Welleck et al. 2020: the share of a text's 4-grams of words that it has said before, mean over the texts."""
    shares = [1 - len(set(grams)) / len(grams) for text in texts if (grams := _grams(text, NGRAM))]
    return float(np.mean(shares)) if shares else None


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    words = [word for word in split_words(text) if word.strip()]
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
