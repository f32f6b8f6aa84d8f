"""Models behind servers: OpenAI's API, which llama.cpp, vLLM, LM Studio and `fourfold serve` speak too, and ollama's own.

https://platform.openai.com/docs/api-reference; https://github.com/ollama/ollama/blob/main/docs/api.md.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from fourfold.core.addresses import Address
from fourfold.core.errors import UserError, nearest
from fourfold.tasks.foreign_http import Refused, Server

OPENAI = "api.openai.com"
TOGETHER = 64
"""Texts that are embedded in one request."""
CONTEXT = 8192
"""Tokens that ollama is asked to read at once, where neither its Modelfile nor its model says fewer: it would take 4,096, and
leave out what does not fit without a word."""
Message = dict[str, str]


class Asked(NamedTuple):
    """How a text is drawn; what is None is left to the server."""

    tokens: int
    temperature: float
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    schema: dict[str, Any] | None = None
    """JSON Schema that the text is valid by."""

    def fields(self) -> dict[str, Any]:
        """By OpenAI's and ollama's names, but for `tokens`, which each calls by its own."""
        told = {**self._asdict(), "stop": list(self.stop) or None}
        return {n: v for n, v in told.items() if n not in ("tokens", "schema") and v is not None}


class Foreign(ABC):
    """A model of somebody else's, as something that answers."""

    address: Address
    window: int | None = None
    """Tokens that it reads at once, where that is known."""

    @abstractmethod
    def chat(self, messages: Sequence[Message], asked: Asked) -> Iterator[str]:
        """The answer to a conversation, in pieces."""

    @abstractmethod
    def complete(self, prompt: str, asked: Asked) -> Iterator[str]:
        """How a text goes on, in pieces, without any template."""

    @abstractmethod
    def probabilities(self, text: str) -> list[tuple[str, float | None]]:
        """The tokens of a text, each with its log-probability in nats given those before; the first's may be unknown.

        Raises:
            UserError: it does not say.
        """

    @abstractmethod
    def vectors(self, texts: Sequence[str]) -> list[list[float]]:
        """A vector for each text."""


class OpenAI(Foreign):
    """A model behind OpenAI's API. FOURFOLD_API_KEY is sent as the token; OPENAI_API_KEY to OpenAI alone."""

    def __init__(self, address: Address, timeout: float) -> None:
        host = urlsplit(address.base).hostname
        variable = "OPENAI_API_KEY" if host == OPENAI else "FOURFOLD_API_KEY"
        port = urlsplit(address.base).port or 8080
        self.address = address
        self.limit = "max_completion_tokens" if host == OPENAI else "max_tokens"
        self.server = Server(
            address.base, name=address.base, token=os.environ.get(variable, ""), variable=variable, timeout=timeout,
            absent=f"start it (as `fourfold serve RUN --port {port}`, or `llama-server -m FILE.gguf --port {port}`) or mend the address",
        )  # fmt: skip
        self.model = self._found(address.model)

    def chat(self, messages: Sequence[Message], asked: Asked) -> Iterator[str]:
        """See `Foreign.chat`."""
        yield from self._pieces("/chat/completions", {"messages": list(messages)}, asked)

    def complete(self, prompt: str, asked: Asked) -> Iterator[str]:
        """See `Foreign.complete`."""
        yield from self._pieces("/completions", {"prompt": prompt}, asked)

    def probabilities(self, text: str) -> list[tuple[str, float | None]]:
        """See `Foreign.probabilities`: the server repeats the text and says how likely each token was (`echo`)."""
        body = {"model": self.model, "prompt": text, "echo": True, "logprobs": 0, "temperature": 0}
        why = f"{self.address.name}: its server does not tell log-probabilities of a given text (`echo`); `fourfold serve` and vLLM do"
        try:
            found = self._ask("/completions", {**body, "max_tokens": 0})
        except Refused as error:
            if error.status != 400:
                raise
            found = self._ask("/completions", {**body, "max_tokens": 1})
        try:
            told = found["choices"][0]["logprobs"]
            rows = list(zip(told["tokens"], told["token_logprobs"], strict=True))
        except (KeyError, IndexError, TypeError, ValueError):
            raise UserError(why) from None
        kept: list[tuple[str, float | None]] = []
        length = 0
        for token, value in rows:
            if length >= len(text):
                break  # what was drawn behind the text
            kept.append((token, value))
            length += len(token)
        if not "".join(token for token, _ in kept).startswith(text[:20]):
            raise UserError(why)
        return kept

    def vectors(self, texts: Sequence[str]) -> list[list[float]]:
        """See `Foreign.vectors`."""
        rows: list[list[float]] = []
        for begin in range(0, len(texts), TOGETHER):
            some = list(texts[begin : begin + TOGETHER])
            found = self._ask("/embeddings", {"model": self.model, "input": some, "encoding_format": "float"})  # fmt: skip
            try:
                ordered = sorted(found["data"], key=lambda row: row["index"])
                rows += [row["embedding"] for row in ordered]
            except (KeyError, TypeError):
                raise self.server.unlike("/embeddings") from None
        return _even(rows, len(texts), self.server)

    def _pieces(self, path: str, body: dict[str, Any], asked: Asked) -> Iterator[str]:
        body = {
            "model": self.model, **body, self.limit: asked.tokens, "stream": True, **asked.fields(),
        }  # fmt: skip
        if asked.schema is not None:
            named = {"name": "answer", "schema": asked.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        ended, stream = False, self.server.stream(path, body, events=True)
        try:
            for told in stream:
                for choice in told.get("choices") or ():
                    part = choice.get("delta") or choice.get("message") or choice
                    piece = part.get("content") or part.get("text")
                    if isinstance(piece, str) and piece:
                        yield sound(piece)
                    ended = ended or choice.get("finish_reason") is not None
        except Refused as error:
            raise self._explained(error, path) from None
        if not ended:
            raise UserError(f"{self.address.name}: its answer broke off before its end")

    def _ask(self, path: str, body: dict[str, Any]) -> Any:
        try:
            return self.server.ask(path, body)
        except Refused as error:
            raise self._explained(error, path) from None

    def _explained(self, error: Refused, path: str) -> Refused:
        """What the server has, where it does not know the model; what to ask instead, where it has no such endpoint."""
        if error.status == 404:
            known = self._models()
            if known and self.model not in known:
                text = f"{self.address.name}: the server has no model {self.model}; it has {_listed(known)}{nearest(self.model, known)}"
                return Refused(text, 404, error.said)
            return Refused(f"{error}; such a server may lack {path}", 404, error.said)
        return error

    def _found(self, model: str) -> str:
        """The model's name as the server says it: where none was given, the only one."""
        known = self._models()
        if known is None:
            if not model:
                raise UserError(
                    f"{self.address.name}: names no model, and the server does not list its own; expected {self.address.base}#NAME"
                )
            return model
        if not model and len(known) == 1:
            return known[0]
        if model not in known:
            said = f"has no model {model}; it has" if model else "has several models:"
            if not known:
                raise UserError(f"{self.address.name}: the server has no models")
            raise UserError(
                f"{self.address.name}: the server {said} {_listed(known)}; write it behind a #, as {self.address.base}#{known[0]}"
            )
        return model

    def _models(self) -> list[str] | None:
        """Names of the server's models; None where it does not list them."""
        try:
            told = self.server.ask("/models")
            rows = [row for row in told["data"] if isinstance(row["id"], str)]
        except Refused as error:
            if error.status in (401, 403) or error.status == 200:
                raise
            return None
        except (KeyError, TypeError):
            raise self.server.unlike("/models") from None
        for row in rows:
            if row["id"] == self.address.model or len(rows) == 1:
                self.window = _window(row)
        return [row["id"] for row in rows]


class Ollama(Foreign):
    """A model that ollama runs."""

    def __init__(self, address: Address, timeout: float) -> None:
        self.address = address
        self.server = Server(
            address.base, name=address.name, token=os.environ.get("OLLAMA_API_KEY", ""), variable="OLLAMA_API_KEY",
            absent="start it with `ollama serve`, or say where it is with OLLAMA_HOST", timeout=timeout,
        )  # fmt: skip
        self._check(address.model)
        self.window = self._context()

    def chat(self, messages: Sequence[Message], asked: Asked) -> Iterator[str]:
        """See `Foreign.chat`."""
        for told in self._told("/api/chat", {"messages": list(messages)}, asked):
            yield from _piece((told.get("message") or {}).get("content"))

    def complete(self, prompt: str, asked: Asked) -> Iterator[str]:
        """See `Foreign.complete`."""
        for told in self._told("/api/generate", {"prompt": prompt, "raw": True}, asked):
            yield from _piece(told.get("response"))

    def probabilities(self, text: str) -> list[tuple[str, float | None]]:
        """See `Foreign.probabilities`."""
        raise UserError(
            f"{self.address.name}: ollama does not tell log-probabilities of a given text; a GGUF file (FILE.gguf) or a server "
            "with `echo`, as `fourfold serve` and vLLM have, does"
        )

    def vectors(self, texts: Sequence[str]) -> list[list[float]]:
        """See `Foreign.vectors`."""
        rows: list[list[float]] = []
        for begin in range(0, len(texts), TOGETHER):
            body = {
                "model": self.address.model, "input": list(texts[begin : begin + TOGETHER]), "truncate": False,
            }  # fmt: skip
            found = self.server.ask("/api/embed", body)
            rows += found.get("embeddings") or [] if isinstance(found, dict) else []
        return _even(rows, len(texts), self.server)

    def _told(self, path: str, body: dict[str, Any], asked: Asked) -> Iterator[dict[str, Any]]:
        options = {"num_predict": asked.tokens, "num_ctx": self.window, **asked.fields()}
        body = {"model": self.address.model, "stream": True, **body, "options": options}
        if asked.schema is not None:
            body["format"] = asked.schema
        for told in self.server.stream(path, body, events=False):
            yield told
            if told.get("done"):
                return
        raise UserError(f"{self.address.name}: its answer broke off before its end")

    def _check(self, model: str) -> None:
        try:
            known = [row["name"] for row in self.server.ask("/api/tags")["models"]]
        except (KeyError, TypeError):
            raise self.server.unlike("/api/tags") from None
        short = [name.removesuffix(":latest") for name in known]
        if model not in (*known, *short):
            have = f"it has {_listed(short)}{nearest(model, short)}" if known else "it has none yet"
            raise UserError(
                f"{self.address.name}: ollama has no model {model}; {have}; `ollama pull {model}` fetches one of its library"
            )

    def _context(self) -> int:
        told = self.server.ask("/api/show", {"model": self.address.model})
        found = re.search(r"^num_ctx\s+(\d+)", str(told.get("parameters", "")), re.MULTILINE)
        if found:
            return int(found[1])
        info = told.get("model_info") or {}
        most = [v for n, v in info.items() if n.endswith(".context_length") and isinstance(v, int)]
        return min([CONTEXT, *most])


def sound(piece: str) -> str:
    """A text without halves of characters, which JSON can hold and no file."""
    return piece if piece.isascii() else piece.encode("utf-8", "replace").decode()


def _piece(text: Any) -> Iterator[str]:
    if isinstance(text, str) and text:
        yield sound(text)


def _window(row: dict[str, Any]) -> int | None:
    """Tokens read at once, as vLLM and `fourfold serve` (max_model_len) and llama.cpp (meta.n_ctx) say."""
    meta = row.get("meta") if isinstance(row.get("meta"), dict) else {}
    found = row.get("max_model_len") or meta.get("n_ctx") or meta.get("n_ctx_train")  # type: ignore[union-attr]
    return found if isinstance(found, int) and found > 0 else None


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return ", ".join(names[:12]) + more


def _even(rows: list[list[float]], count: int, server: Server) -> list[list[float]]:
    """Rows of one length, one for each text.

    Raises:
        UserError: they are not.
    """
    good = all(isinstance(row, list) and len(row) == len(rows[0]) and row for row in rows)
    if len(rows) != count or not good:
        raise UserError(f"{server.name}: does not answer with one vector for each of {count} texts")
    return rows
