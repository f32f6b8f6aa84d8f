"""Texts that grew, in the shapes of OpenAI's API: whole answers, and chunks of a stream."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fourfold.data.vocabulary import Decoder, Vocabulary
from fourfold.serve.encode import dumped
from fourfold.serve.lanes import Grown, Growth, Said
from fourfold.serve.problems import openai_problem
from fourfold.tasks.continuous import Growing, Told

DONE = b"data: [DONE]\n\n"


@dataclass
class Shape:
    """How the texts of one request are answered.

    Args:
        model: the run's name, as it was asked for.
        chat: whether a conversation was answered; otherwise prompts were continued.
        vocabulary: of the tokens that are told.
        logprobs: whether they are told.
        echo: the prompt of each text, told before it; "" where it is not.
        usage: whether a stream ends with what it took.
    """

    model: str
    chat: bool
    vocabulary: Vocabulary
    logprobs: bool
    echo: Sequence[str]
    usage: bool = True

    def __post_init__(self) -> None:
        kind = "chatcmpl" if self.chat else "cmpl"
        self.id, self.created = f"{kind}-{uuid.uuid4().hex}", int(time.time())
        self._telling: dict[int, _Telling] = {}

    def whole(self, grown: Sequence[Grown], prompts: int) -> dict[str, Any]:
        """The body of an answer that does not stream."""
        choices = []
        for index, each in enumerate(grown):
            text = self.echo[index] + each.text
            said = {"message": {"role": "assistant", "content": text, "refusal": None}} if self.chat else {"text": text}  # fmt: skip
            told = self._told(index, each.told) if self.logprobs else None
            choices.append({"index": index, **said, "logprobs": told, "finish_reason": each.finish})
        usage = used([each.growing for each in grown], prompts)
        return {**self._head("chat.completion" if self.chat else "text_completion"), "choices": choices, "usage": usage}  # fmt: skip

    async def events(self, first: list[Said], call: Growth, prompts: int) -> AsyncIterator[bytes]:
        """The chunks of a stream, the first of which was waited for; then what it took, and [DONE].

        Args:
            first: what was said first.
            call: says the rest; it is given up when its reader leaves.
            prompts: how many prompts its texts go on from.
        """
        begun: set[int] = set()
        said: list[Said] | None = first
        try:
            while said is not None:
                yield b"".join(self._chunks(said, begun))
                said = await call.said.get()
                while said is not None and not call.said.empty():  # what has gathered goes at once
                    more = call.said.get_nowait()
                    if more is None:
                        call.said.put_nowait(None)
                        break
                    said = said + more
            await call.future  # raises what went wrong
            if self.usage:
                usage = used(call.texts, prompts)
                yield _event({**self._head(self._kind), "choices": [], "usage": usage})
            yield DONE
        except Exception as error:
            yield _event(openai_problem(error)[1])
        finally:
            if not call.future.done():
                call.end()

    # --- private ----------------------------------------------------------------------------------

    @property
    def _kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunks(self, said: Sequence[Said], begun: set[int]) -> Iterator[bytes]:
        """A chunk for each text that said something; pieces of one text that came together are one."""
        for index in sorted({piece.number for piece in said}):
            some = [piece for piece in said if piece.number == index]
            text = "".join(piece.text for piece in some)
            told = [each for piece in some for each in piece.told]
            if index not in begun:
                text = self.echo[index] + text
            delta: dict[str, Any] = {"content": text} if text or index not in begun else {}
            if index not in begun:
                delta = {"role": "assistant", **delta}
            begun.add(index)
            body = {"delta": delta} if self.chat else {"text": text}
            logprobs = self._told(index, told) if self.logprobs and told else None
            choice = {"index": index, **body, "logprobs": logprobs, "finish_reason": some[-1].finish}  # fmt: skip
            yield _event({**self._head(self._kind), "choices": [choice]})

    def _told(self, index: int, told: Sequence[Told]) -> dict[str, Any]:
        """Log-probabilities of more of a text, as chats tell them or as completions do."""
        telling = self._telling.setdefault(index, _Telling(self.vocabulary.decoder()))
        begins, words = telling.more([each.token for each in told])
        if self.chat:
            content = [
                {
                    **self._entry(each.token, word, each.logprob),
                    "top_logprobs": [self._entry(t, self._word(t), v) for t, v in each.top],
                }
                for word, each in zip(words, told, strict=True)
            ]
            return {"content": content, "refusal": None}
        top = [{self._word(t): v for t, v in each.top} if each.logprob is not None else None for each in told]  # fmt: skip
        return {
            "tokens": words, "token_logprobs": [each.logprob for each in told],
            "top_logprobs": top, "text_offset": begins,
        }  # fmt: skip

    def _entry(self, token: int, word: str, value: float | None) -> dict[str, Any]:
        spelled = self.vocabulary.token_bytes(token)
        return {"token": word, "logprob": value, "bytes": list(word.encode() if spelled is None else spelled)}  # fmt: skip

    def _word(self, token: int) -> str:
        return self.vocabulary.decode([token])


@dataclass
class _Telling:
    """How far one text has been told, token by token."""

    decoder: Decoder
    place: int = 0
    """Characters so far."""

    def more(self, tokens: Sequence[int]) -> tuple[list[int], list[str]]:
        """Where each token begins, and what it adds: half a character comes with the token that ends it."""
        begins, words = [], []
        for token in tokens:
            begins.append(self.place)
            words.append(self.decoder.push(token))
            self.place += len(words[-1])
        return begins, words


def used(texts: Sequence[Growing], prompts: int) -> dict[str, Any]:
    """Tokens that were read and made; a prompt counts once, however many texts go on from it."""
    each = max(1, len(texts) // prompts)
    read = sum(len(text.prompt) for text in texts[::each])
    made, reused = sum(text.made for text in texts), sum(text.reused for text in texts[::each])
    return {
        "prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made,
        "prompt_tokens_details": {"cached_tokens": reused},
    }  # fmt: skip


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + dumped(body) + b"\n\n"
