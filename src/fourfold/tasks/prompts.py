"""What a run is asked, as texts that grow in one batch (`tasks/continuous.py`): prompts to go on from, and conversations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fourfold.core.device import available_memory, own_cores
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.data.templated import Templated
from fourfold.data.vocabulary import Vocabulary
from fourfold.models.decoder import Decoder
from fourfold.models.generation import Voice
from fourfold.models.sampling import Sampler, Sampling
from fourfold.models.transformer import Transformer
from fourfold.tasks.answering import Lead, heard, primed
from fourfold.tasks.continuous import Batch, Growing
from fourfold.tasks.engines import EngineName, Precision, chosen
from fourfold.tasks.grammar import Grammar, grammar
from fourfold.tasks.language import LanguageModel, noise, vocabulary_of
from fourfold.tasks.reader import Reader
from fourfold.tasks.transformer_gguf import chat_of

OPEN = 1 << 20
"""Tokens that a text has at most where the model itself sets no bound."""
SHARE = 4
"""The part of the free memory that keys and values may take is one in so many."""
FORMAT = "response_format"
"""The field of a request that says by which schema its answer is valid."""
MANY = 1000
"""Tokens that a text is expected to have when an engine is chosen."""


class BeyondContext(UserError):
    """A prompt that leaves no place for an answer."""


@dataclass(frozen=True)
class Drawn:
    """How some texts are drawn and what is told of them."""

    tokens: int | None
    """Most of each; None as many as the context holds, `most` at most."""
    sampling: Sampling
    stop: tuple[str, ...] = ()
    seed: int = 0
    count: int = 1
    """Texts for each prompt; the n-th draws from noise of its own."""
    alternatives: int | None = None
    """How many likely tokens are told beside each; None tells no probabilities."""
    echo: bool = False
    most: int = 4096
    schema: str | None = None
    """JSON Schema that a text is valid by."""


def window_of(run: Run) -> int:
    """Tokens that a run of a language model reads at once, its answer included.

    Raises:
        UserError: it is no language model.
    """
    if not isinstance(run.system, LanguageModel):
        raise UserError(f"{run.place}: is a run of {run.system.name}, which continues no text")
    return run.model.window if isinstance(run.model, Transformer) else OPEN


def frame_of(run: Run) -> Templated:
    """The chat template that a run is asked in: its data's, or the one that its model came with.

    Raises:
        UserError: it has none.
    """
    if isinstance(run.data, Templated):
        return run.data
    window_of(run)
    chat = chat_of(run)
    if chat is None:
        raise UserError(
            f"{run.place}: is a run of {run.system.name} without a chat template, so it only continues texts"
        )
    return Templated(vocabulary_of(run.data), chat)


def answer(run: Run, messages: Sequence[Any], drawn: Drawn) -> list[Growing]:
    """Answers to a conversation.

    Raises:
        UserError: the run has no template, or the messages are no conversation that ends with the user's turn.
        BeyondContext: it leaves no place for an answer.
    """
    frame = frame_of(run)
    prompt = frame.prompt(heard(messages, "", None), "messages")
    stop, token = frame.stop
    ends = {*frame.vocabulary.ends, *([] if token is None else [token])}
    stops = drawn.stop if token is not None else (stop, *drawn.stop)
    return _texts(run, prompt, ends, stops, drawn, frame.chat.lead)


def continuation(run: Run, prompt: str | Sequence[int], drawn: Drawn) -> list[Growing]:
    """Texts that go on from a prompt; an empty one begins a text.

    Raises:
        UserError: the run is no language model, or a number is no token of its.
        BeyondContext: the prompt leaves no place for a token.
    """
    window_of(run)
    vocabulary = vocabulary_of(run.data)
    if isinstance(prompt, str):
        tokens = vocabulary.encode(prompt).tolist()
    else:
        tokens = _checked(prompt, vocabulary)
    if not isinstance(run.model, Transformer) or drawn.tokens == 0:
        begun = [
            vocabulary.opening,
            *tokens,
        ]  # as a text is scored: its first token is predicted too
    else:
        begun = ([] if vocabulary.begin is None else [vocabulary.begin]) + tokens
    begun = begun or [vocabulary.end]
    opened = len(begun) > len(tokens)
    return _texts(run, begun, {*vocabulary.ends}, drawn.stop, drawn, opened=opened)


def batch_of(run: Run, slots: int, engine: EngineName, precision: Precision) -> Batch:
    """A batch in which a run's texts grow, with as many slots as its memory allows.

    Args:
        run: of a language model; says which engine it is.
        slots: texts that grow at once, at most.
        engine: see `tasks.engines.chosen`.
        precision: as engine; auto takes int8 where its cost is small, for what is drawn and for what is most likely alike.
    """
    model = run.model
    if not isinstance(model, Transformer):
        system = run.system
        assert isinstance(system, LanguageModel)  # noqa: S101
        return Batch(ReaderDecoder(system.reader(run), slots), reuse=False)
    # torch has fewer threads here than there are cores, since verbs work beside one another; a batch is alone in its run
    taken = chosen(run, model, engine, precision, tokens=MANY, temperature=1.0, threads=cores())
    each = 2 * len(model.blocks) * model.kv_heads * model.head_dim * model.window * 4
    room = available_memory(model.embedding.weight.device) // SHARE
    return Batch(taken.make(max(1, min(slots, room // each)), model.window))


def cores() -> int:
    """Threads that may compute: OMP_NUM_THREADS, or the cores that this process may use."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    if said.isdigit() and int(said):
        return int(said)
    return own_cores()


class ReaderDecoder(Decoder):
    """Any language model as a decoder: each slot has a reader's state of its own, and reads a token at a time.

    A slot's first token is the one that opens a text, which a reader has read when it starts.
    """

    def __init__(self, reader: Reader, slots: int) -> None:
        self.reader, self.slots, self.window = reader, slots, OPEN
        self.vocabulary, self.lengths = len(reader.vocabulary), [0] * slots
        self.states: list[Any] = [None] * slots
        self.device = reader.next(reader.start()).device

    def _read(self, slots: Sequence[int], tokens: Sequence[Sequence[int]], every: bool) -> Tensor:
        found = []
        for slot, some in zip(slots, tokens, strict=True):
            for place, token in enumerate(some):
                if self.lengths[slot] + place == 0:
                    self.states[slot] = self.reader.start()
                else:
                    self.states[slot] = self.reader.push(self.states[slot], torch.tensor([token]))
                if every or place == len(some) - 1:
                    found.append(self.reader.next(self.states[slot])[0].clone())
        return torch.stack(found)

    def _copy(self, source: int, target: int, length: int) -> None:
        raise NotImplementedError("a reader's state cannot be cut")


# --- private ----------------------------------------------------------------------------------------


def _texts(
    run: Run, prompt: list[int], ends: set[int], stop: Sequence[str], drawn: Drawn, lead: str = "", *, opened: bool = False,
) -> list[Growing]:  # fmt: skip
    window, vocabulary = window_of(run), vocabulary_of(run.data)
    if len(prompt) > window - (drawn.tokens != 0):
        raise BeyondContext(
            f"the prompt has {len(prompt):,} tokens, {run.place} reads {window:,} at once and must answer in them; shorten it"
        )
    made = _grammar(vocabulary, drawn.schema, tuple(sorted(ends)))
    for number in drawn.sampling.logit_bias or ():
        if not 0 <= number < len(vocabulary):
            raise UserError(
                f"logit_bias: token {number}, expected 0 to {len(vocabulary) - 1}, the vocabulary's entries"
            )
    tokens = min(window - len(prompt), drawn.most) if drawn.tokens is None else drawn.tokens
    return [
        Growing(
            prompt, tokens, Sampler(
                drawn.sampling, noise(run, drawn.seed, number), prompt, vocabulary.never, made.guide() if made else None,
            ), frozenset(ends), Voice(primed(vocabulary, prompt), stop), Lead(lead), drawn.alternatives, drawn.echo, opened,
        )
        for number in range(drawn.count)
    ]  # fmt: skip


def _grammar(vocabulary: Vocabulary, schema: str | None, ends: tuple[int, ...]) -> Grammar | None:
    """See `tasks.grammar`; messages name the field of a request."""
    try:
        made = grammar(vocabulary, schema=schema, ends=ends)
    except UserError as error:
        raise UserError(str(error).replace("--schema", FORMAT)) from error
    return made and made._replace(name=FORMAT)


def _checked(numbers: Sequence[int], vocabulary: Vocabulary) -> list[int]:
    for number in numbers:
        if not 0 <= number < len(vocabulary):
            raise UserError(
                f"prompt: token {number}, expected 0 to {len(vocabulary) - 1}, the vocabulary's entries"
            )
    return list(numbers)
