"""Answers of a model that converses: from turns to tokens, from there to text, as it is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from fourfold.core.errors import UserError
from fourfold.core.parts import Data
from fourfold.core.run import Run
from fourfold.data.conversations import ConversationData
from fourfold.data.templated import Templated
from fourfold.data.turns import Conversation, Turn, conversation
from fourfold.data.vocabulary import Vocabulary
from fourfold.models.decoder import Decoder
from fourfold.models.generation import Voice, generate, spoken
from fourfold.models.sampling import Guide, Sampling
from fourfold.models.transformer import Transformer

ROWS = 16
"""Answers made at once."""
GREEDY = Sampling(temperature=0)


def templated(data: Data) -> Templated:
    """Data under a chat template, which a model is asked in.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(data, Templated):
        raise TypeError(f"expected data under a chat template, got {type(data).__name__}")
    return data


def conversation_data(data: Data) -> ConversationData:
    """Data of conversations.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(data, ConversationData):
        raise TypeError(f"expected ConversationData, got {type(data).__name__}")
    return data


def answers(
    run: Run,
    prompts: Sequence[Sequence[int]],
    *,
    tokens: int,
    sampling: Sampling = GREEDY,
    generators: Sequence[torch.Generator | None] | None = None,
    model: torch.nn.Module | None = None,
    guides: Sequence[Guide] | None = None,
    make: Callable[[int, int], Decoder] | None = None,
) -> Iterator[tuple[int, str]]:
    """Answer prompts, all at once, each as if it were alone.

    An answer ends with the template's end of turn, at a token that ends texts, or where the context is full.

    Args:
        run: whose template and vocabulary it is.
        prompts: from `Templated.prompt`, each shorter than the context.
        tokens: most of each answer.
        sampling: how they are drawn; greedy in float32 unless said otherwise.
        generators: of each prompt.
        model: another model than the run's, of the same vocabulary.
        guides: of each prompt, what says which tokens may come.
        make: the decoder where it is another one than torch's, from slots and window.

    Yields:
        (prompt, piece of its answer).
    """
    data, model = templated(run.data), model or run.model
    assert isinstance(model, Transformer)  # noqa: S101
    vocabulary, (stop, token) = data.vocabulary, data.stop
    stream = _within(
        generate(
            model,
            prompts,
            tokens=tokens,
            sampling=sampling,
            generators=generators,
            never=vocabulary.never,
            dtype=torch.float32 if sampling.temperature == 0 else None,
            guides=guides,
            make=make,
        ),
        {*answer_ends(run)},
        [model.window - len(prompt) for prompt in prompts],
    )
    stops = () if token is not None else (stop,)
    voices = [Voice(primed(vocabulary, prompt), stops) for prompt in prompts]
    leads = [Lead(data.chat.lead) for _ in prompts]
    for row, piece in spoken(stream, voices):
        if said := leads[row].push(piece):
            yield row, said
    for row, lead in enumerate(leads):
        if said := lead.finish():
            yield row, said


def answer_ends(run: Run) -> tuple[int, ...]:
    """Tokens at which an answer ends: the template's end of turn, if it is one, and those that end texts."""
    data = templated(run.data)
    _, token = data.stop
    ends = data.vocabulary.ends
    return ends if token is None or token in ends else (*ends, token)


def whole_answers(run: Run, prompts: Sequence[Sequence[int]], **options: Any) -> list[str]:
    """As `answers`, each in one piece, without space around it; many prompts are answered a few at a time."""
    order = sorted(range(len(prompts)), key=lambda n: len(prompts[n]))
    said = [""] * len(prompts)
    for begin in range(0, len(order), ROWS):
        some = order[begin : begin + ROWS]
        for row, piece in answers(run, [prompts[n] for n in some], **options):
            said[some[row]] += piece
    return [text.strip() for text in said]


def heard(messages: Sequence[Any], text: str, system: str | None) -> Conversation:
    """The turns that a caller means, the last of them the user's.

    Args:
        messages: {"role", "content"} each, what was said before; or all of it, where there is no text.
        text: what the user says last.
        system: a system turn to put first.

    Raises:
        UserError: a fault in them, or nothing that the user says last.
    """
    turns = list(conversation(list(messages), "messages", answered=False)) if messages else []
    if text.strip():
        turns.append(Turn("user", text))
    if system:
        if turns and turns[0].role == "system":
            raise UserError("system: the messages begin with a system turn already")
        turns.insert(0, Turn("system", system))
    found = conversation(turns, "the conversation", answered=False) if turns else ()
    if not found or found[-1].role != "user":
        raise UserError("chat: expected a text, or messages that end with a turn of the user")
    return found


def context(run: Run) -> int:
    """Tokens that a run's model reads at once, which may be more than the windows that it was trained on."""
    return int(run.model.window)  # type: ignore[arg-type]


def fitted(run: Run, turns: Conversation, reserve: int) -> tuple[list[int], int]:
    """The tokens that ask for an answer, without the earliest exchanges where the context does not hold all.

    Args:
        run: whose template and context it is.
        turns: the last is the user's.
        reserve: places to keep free for the answer.

    Returns:
        The tokens, and how many turns are left out.

    Raises:
        UserError: the last turn alone does not fit.
    """
    data, window = templated(run.data), context(run)
    first = 1 if turns[0].role == "system" else 0
    for begin in range(first, len(turns), 2):
        kept = (*turns[:first], *turns[begin:])
        if kept[first].role != "user":  # a conversation that the assistant began
            kept = (*turns[:first], *turns[begin + 1 :])
        prompt = data.prompt(kept)
        if len(prompt) + reserve <= window:
            break
    if len(prompt) >= window:
        raise UserError(
            f"a prompt of {len(prompt)} tokens: the context holds {window}, the answer included; shorten the text"
        )
    if unknown := prompt.count(-1 if data.vocabulary.unknown is None else data.vocabulary.unknown):
        run.console.say(f"{unknown} of {len(prompt)} tokens are not in the vocabulary.")
    return prompt, len(turns) - len(kept)


def primed(vocabulary: Vocabulary, prompt: Sequence[int]) -> Any:
    """A decoder that knows what precedes, which decides about spaces and half characters."""
    decoder = vocabulary.decoder()
    for token in prompt[-16:]:
        if token != vocabulary.end:
            decoder.push(token)
    return decoder


def _within(stream: Any, ends: set[int], left: list[int]) -> Iterator[tuple[int, int]]:
    """A stream of tokens whose rows end before any of some tokens, and after so many; see `generate`."""
    answer: bool | None = None
    while True:
        try:
            row, token = stream.send(answer)
        except StopIteration:
            return
        left[row] -= 1
        answer = True if token in ends else (yield row, token) or left[row] <= 0


class Lead:
    """Takes away what the template sets between its prompt and an answer, as a space, where the model says it."""

    def __init__(self, lead: str) -> None:
        self.lead, self.held = lead, ""

    def push(self, piece: str) -> str:
        """What of a piece is the answer's."""
        if not self.lead:
            return piece
        self.held += piece
        if self.held.startswith(self.lead):
            return self._all(self.held[len(self.lead) :])
        return "" if self.lead.startswith(self.held) else self._all(self.held)

    def finish(self) -> str:
        """What is left when nothing follows."""
        return self._all(self.held)

    def _all(self, text: str) -> str:
        self.lead, self.held = "", ""
        return text
