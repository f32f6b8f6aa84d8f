"""Models of somebody else's where a run is named: the same verbs, answered by ollama, by a server, or by llama.cpp.

A run of `ForeignModel` has no folder, data or weights of its own; its verbs ask the other side.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import NonNegativeFloat, PositiveInt, PrivateAttr

from fourfold.core.addresses import Address
from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, Data, DataOptions, Move, Objective, Optimizer
from fourfold.core.run import Run
from fourfold.core.system import System
from fourfold.core.types import Document, Score, Source
from fourfold.tasks.answering import context, heard
from fourfold.tasks.embedding_texts import to_embed, vector_table
from fourfold.tasks.foreign_servers import Asked, Foreign, Ollama, OpenAI
from fourfold.tasks.language import Probability, language_score, vocabulary_of

if TYPE_CHECKING:
    import polars as pl
    from torch import nn

TIMEOUT = 120.0
"""Seconds without a byte after which a server is given up: it may have to load its model first."""


class Elsewhere(DataOptions, Objective, Optimizer):
    """What stands where a run of our own has its data, objective and optimizer: nothing, and a sentence."""

    def open(self, sources: Any, *, seed: int = 0, valid: Any = None) -> Data:
        """See `DataOptions.open`."""
        raise self._nothing()

    def restore(self, folder: Path) -> Data:
        """See `DataOptions.restore`."""
        raise self._nothing()

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """See `Objective.losses`."""
        raise self._nothing()

    def minimize(self, objective: Objective, model: nn.Module, data: Data, run: Run) -> None:
        """See `Optimizer.minimize`."""
        raise self._nothing()

    def _nothing(self) -> UserError:
        return UserError("a model of somebody else's has its data and weights elsewhere")


class ForeignModel(System):
    """A language model that somebody else runs."""

    name = "foreign"
    reads = "text"

    data: DataOptions = Elsewhere()
    objective: Objective = Elsewhere()
    optimizer: Optimizer = Elsewhere()
    _model: Foreign = PrivateAttr()

    @property
    def model(self) -> Foreign:
        """The other side."""
        return self._model

    def chat(
        self,
        run: Run,
        text: Document = "",
        *,
        messages: list[dict[str, str]] | None = None,
        system: str | None = None,
        tokens: PositiveInt = 256,
        temperature: NonNegativeFloat = 0.7,
        top_k: PositiveInt | None = None,
        top_p: Probability | None = None,
        min_p: Probability | None = None,
        stop: tuple[str, ...] = (),
        schema: Document | None = None,
        seed: int | None = None,
    ) -> Iterator[str]:
        """Answer what is said, in pieces as they come. On the command line, without a text, a whole conversation.

        Args:
            text: what the user says.
            messages: what was said before, {"role": "user", "content": "..."} each; without a text they end with the
                user's turn.
            system: what the assistant is told before all else.
            tokens: most tokens of the answer.
            temperature: 0 always takes the most likely token; higher is more surprising.
            top_k: draw from the k most likely tokens only.
            top_p: draw from the most likely tokens that together have this probability.
            min_p: draw from tokens at least this share as likely as the most likely one.
            stop: texts before which to end.
            schema: the answer is JSON, valid by this JSON Schema, where the other side can hold to one.
            seed: where the other side keeps to it, the same seed gives the same answer.
        """
        said = [{"role": t.role, "content": t.content} for t in heard(messages or (), text, system)]
        form = _schema(schema)
        asked = Asked(tokens, temperature, top_k, top_p, min_p, stop, seed, form)
        yield from self.model.chat(said, asked)

    chat.converses = True  # type: ignore[attr-defined]

    def generate(
        self,
        run: Run,
        prompt: Document | list[Document] = "",
        *,
        tokens: PositiveInt = 200,
        temperature: NonNegativeFloat = 0.8,
        top_k: PositiveInt | None = None,
        top_p: Probability | None = None,
        min_p: Probability | None = None,
        stop: tuple[str, ...] = (),
        schema: Document | None = None,
        count: PositiveInt = 1,
        seed: int | None = None,
    ) -> Iterator[str]:
        """Continue a prompt, without any template. A single continuation comes in pieces, as they come.

        Several (more prompts, or a count) come whole, in order, each ended by a newline.

        Args:
            prompt: one text or several.
            tokens: most tokens to add.
            temperature: 0 always takes the most likely token; higher is more surprising.
            top_k: draw from the k most likely tokens only.
            top_p: draw from the most likely tokens that together have this probability.
            min_p: draw from tokens at least this share as likely as the most likely one.
            stop: texts before which to end.
            schema: what is added is JSON, valid by this JSON Schema, where the other side can hold to one.
            count: continuations of each prompt; with a seed the n-th is drawn with seed + n.
            seed: where the other side keeps to it, the same seed gives the same continuations.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt) or [""]
        single, form = len(prompts) * count == 1, _schema(schema)
        for text in prompts:
            for number in range(count):
                own = None if seed is None else seed + number
                asked = Asked(tokens, temperature, top_k, top_p, min_p, stop, own, form)
                pieces = self.model.complete(text, asked)
                if single:
                    yield from pieces
                else:
                    yield "".join(pieces) + "\n"

    def score(self, run: Run, text: Document, *, per_token: bool = False) -> Score | pl.DataFrame:
        """How likely a text is, where the other side says so: each token given all that precedes it.

        Args:
            text: the text. Whether its first token is predicted too is the other side's to say.
            per_token: each token with its surprise, as a table, instead of the sums.
        """
        if not text:
            raise UserError("text: is empty; there is nothing to score")
        rows = self.model.probabilities(text)
        told = [(token, -value) for token, value in rows if value is not None]
        if not told:
            raise UserError("text: is one token, of which no probability is told")
        if per_token:
            import polars as pl

            nats = np.array([math.nan if v is None else -v for _, v in rows])
            measured = {"bits": nats / math.log(2), "nats": nats, "probability": np.exp(-nats)}
            return pl.DataFrame({"text": [t for t, _ in rows], **measured}, nan_to_null=True)
        size = len(text.encode())
        notes: tuple[str, ...] = ()
        if len(told) < len(rows):
            size -= len(rows[0][0].encode())
            notes = (
                f"no probability of the first token, {rows[0][0]!r}, is told: it does not count",
            )
        return language_score(sum(nats for _, nats in told), len(told), max(size, 1), notes)

    def embed(
        self,
        run: Run,
        texts: Document | list[Document],
        *,
        normalize: bool = True,
        lines: bool = False,
    ) -> pl.DataFrame:
        """A vector for each text.

        Args:
            texts: one or several.
            normalize: to length 1, so that products are cosines.
            lines: whether each line is a text of its own; empty ones are none.
        """
        given = to_embed(texts, lines)
        vectors: np.ndarray = np.array(self.model.vectors(given), np.float32)
        if normalize:
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = vectors / np.where(lengths > 0, lengths, 1)
        return vector_table(given, vectors)

    def evaluate(self, run: Run, source: Source = None) -> Score:
        """Not told by other sides: `score` measures a text, where they say how likely it is."""
        raise UserError(f"{run.place}: has no test split of its own; score measures a text")


def foreign(address: Address, *, timeout: float | None = None) -> Run:
    """A model of somebody else's as a run, once it has been found there.

    Args:
        address: a server's or, for llama.cpp, a file's.
        timeout: seconds without a byte after which a server is given up; None takes FOURFOLD_TIMEOUT, or `TIMEOUT`.

    Raises:
        UserError: the server does not answer, or has no such model; it says what to do.
    """
    seconds = _timeout() if timeout is None else timeout
    made: Foreign
    if address.kind == "gguf":
        from fourfold.tasks.foreign_llama import Llama

        made = Llama(address)
    else:
        made = (Ollama if address.kind == "ollama" else OpenAI)(address, seconds)
    system = ForeignModel()
    system._model = made
    return Run(system, about={"address": address.name})


def has_llama() -> bool:
    """Whether llama-cpp-python is installed."""
    return importlib.util.find_spec("llama_cpp") is not None


# --- what is the same of every model, ours or not ---------------------------------------------------


def room(run: Run) -> int | None:
    """Tokens that a language model reads at once, its answer included; None where the other side does not say."""
    if isinstance(run.system, ForeignModel):
        return run.system.model.window
    return context(run) if hasattr(run.model, "window") else None


def length(run: Run, text: str) -> int:
    """Tokens of a text: exact of a run of our own, otherwise estimated, rather too many than too few.

    Byte-level tokenizers of a hundred thousand entries take some 4 bytes of English a token, and about a token for each
    Chinese character of 3 bytes.
    """
    if isinstance(run.system, ForeignModel):
        wide = sum(ord(character) > 0x2E7F for character in text)
        return wide + -(-(len(text) - wide) // 3)
    return len(vocabulary_of(run.data).encode(text))


# --- private ----------------------------------------------------------------------------------------


def _schema(text: str | None) -> dict[str, Any] | None:
    """A JSON Schema from its text.

    Raises:
        UserError: it is no JSON object.
    """
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UserError(f"schema: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"schema: expected a JSON object, got {type(found).__name__}")
    return found


def _timeout() -> float:
    said = os.environ.get("FOURFOLD_TIMEOUT")
    try:
        seconds = TIMEOUT if not said else float(said)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise UserError(f"FOURFOLD_TIMEOUT: expected seconds above 0, got {said!r}")
    return seconds
