"""Endpoints of OpenAI's API over the same runs: models, chats, completions, embeddings.

Texts grow in their run's batch (`lanes.py`); embeddings are the verb `embed`. Who may ask, how much, how many and how long
is what the other endpoints allow; errors are in OpenAI's shape.
"""

from __future__ import annotations

import base64
import datetime
import json
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from fourfold.core.registry import load_system
from fourfold.core.run import Run
from fourfold.data.vocabulary import Vocabulary
from fourfold.models.sampling import Sampling
from fourfold.serve.asking import GONE, until_gone
from fourfold.serve.calls import Calls
from fourfold.serve.encode import EVENTS, dumped
from fourfold.serve.lanes import Growth, Said
from fourfold.serve.openai_answers import Shape
from fourfold.serve.openai_models import (
    Answer,
    ChatRequest,
    CompletionRequest,
    Drawing,
    EmbeddingRequest,
    Embeddings,
    Model,
    ModelList,
    WrongBody,
)
from fourfold.serve.problems import Wrong
from fourfold.serve.shelf import NoSuchRun, RunInfo, Shelf
from fourfold.tasks.continuous import Growing
from fourfold.tasks.language import LanguageModel, vocabulary_of
from fourfold.tasks.prompts import Drawn, answer, continuation
from fourfold.tasks.transformer_language import TransformerLanguage

USUAL = 16
"""Tokens of a completion, unless said otherwise: OpenAI's own default."""
ENDPOINTS = {"chat": "/v1/chat/completions", "generate": "/v1/completions", "embed": "/v1/embeddings"}  # fmt: skip
"""By the verb that a run must have."""
REFUSED: dict[int | str, dict[str, Any]] = {
    status: {"model": WrongBody} for status in (400, 401, 403, 404, 408, 409, 413, 429, 500)
}
STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"content": {EVENTS: {"schema": {"type": "string"}}}}
}

router = APIRouter(prefix="/v1", tags=["openai"], responses=REFUSED)


def _json(value: Any) -> Response:
    return Response(dumped(value), media_type="application/json")


# --- models ----------------------------------------------------------------------------------------


@router.get("/models", response_model=ModelList, summary="Runs that can be asked here.")
def models(request: Request) -> Response:
    shelf: Shelf = request.app.state.shelf
    found = [_model(info) for info in shelf.all() if info.ready]
    return _json(ModelList(data=[model for model in found if model.endpoints]))


@router.get("/models/{name}", response_model=Model, summary="One of them.")
def one_model(request: Request, name: str) -> Response:
    info = request.app.state.shelf.status(name)
    model = _model(info)
    if not info.ready or not model.endpoints:
        raise NoSuchRun(f"{name[:80]}: {info.reason or f'a run of {info.system} answers none of these endpoints'}")  # fmt: skip
    return _json(model)


def _model(info: RunInfo) -> Model:
    cls = load_system(info.system)
    language = issubclass(cls, LanguageModel)
    asked = [
        place for verb, place in ENDPOINTS.items() if verb in info.verbs and (language or verb == "embed")
    ]  # fmt: skip
    try:
        created = int(datetime.datetime.fromisoformat(info.created).timestamp())
    except ValueError:
        created = 0
    length = _window(info) if issubclass(cls, TransformerLanguage) else None
    return Model(id=info.name, created=created, system=info.system, endpoints=asked, max_model_len=length)  # fmt: skip


def _window(info: RunInfo) -> int | None:
    """Tokens that a run reads at once, as its folder says it without opening the run; None where it does not."""
    data = info.options.get("data")
    said = info.options.get("context_length") or (data.get("window") if isinstance(data, dict) else None)  # fmt: skip
    if said is None:  # that of the run it began from
        try:
            said = json.loads((info.folder / "data" / "data.json").read_text("utf-8"))["window"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
    return said if isinstance(said, int) else None


# --- texts -----------------------------------------------------------------------------------------


@router.post(
    "/chat/completions", response_model=Answer, responses=STREAMED,
    summary="Answers to a conversation, in the run's chat template.",
)  # fmt: skip
async def chat(request: Request, asked: ChatRequest) -> Response:
    calls: Calls = request.app.state.calls
    drawn = _drawn(calls, asked, asked.most, (asked.top_logprobs or 0) if asked.logprobs else None)
    return await _texts(request, asked, True, drawn, [""], lambda run: answer(run, asked.messages, drawn))  # fmt: skip


@router.post(
    "/completions", response_model=Answer, responses=STREAMED,
    summary="How prompts go on, without any template.",
)  # fmt: skip
async def completions(request: Request, asked: CompletionRequest) -> Response:
    calls: Calls = request.app.state.calls
    most = USUAL if asked.max_tokens is None else asked.max_tokens
    drawn = _drawn(calls, asked, most, asked.logprobs, bool(asked.echo))
    prompts = asked.prompts
    if not prompts or len(prompts) * drawn.count > calls.limits.most["count"]:
        raise Wrong(
            f"prompt: {len(prompts)} prompts of {drawn.count} texts each, expected 1 to {calls.limits.most['count']} texts", "prompt"
        )  # fmt: skip

    def wanted(run: Run) -> list[Growing]:
        return [growing for prompt in prompts for growing in continuation(run, prompt, drawn)]

    return await _texts(request, asked, False, drawn, prompts, wanted)


def _drawn(
    calls: Calls, asked: Drawing, tokens: int | None, alternatives: int | None, echo: bool = False
) -> Drawn:
    """How the texts of a request are drawn.

    Raises:
        Wrong: it asks for more than is allowed here, or for what is not done here.
    """
    most = calls.limits.most
    for name, value, limit in (("max_tokens", tokens, most["tokens"]), ("n", asked.n, most["count"])):  # fmt: skip
        if value is not None and value > limit:
            raise Wrong(f"{name}: {value}, expected {limit:,} at most", name)
    for name in ("presence_penalty", "frequency_penalty"):
        if getattr(asked, name):
            raise Wrong(f"{name}: is not done here; repetition_penalty is", name)
    seed = secrets.randbits(31) if asked.seed is None else asked.seed % 2**31
    try:
        bias = {int(token): value for token, value in (asked.logit_bias or {}).items()}
    except ValueError:
        raise Wrong("logit_bias: expected numbers of tokens as keys", "logit_bias") from None
    sampling = Sampling(
        1.0 if asked.temperature is None else asked.temperature, asked.top_k, asked.top_p, asked.min_p,
        asked.repetition_penalty or 1.0, bias or None,
    )  # fmt: skip
    return Drawn(
        tokens, sampling, asked.stops, seed, asked.n or 1, alternatives, echo, most["tokens"], _schema(asked),
    )  # fmt: skip


def _schema(asked: Drawing) -> str | None:
    """The JSON Schema that an answer is to be valid by; None where it is free.

    Raises:
        Wrong: a type of answer that there is not, or no schema.
    """
    said = asked.response_format
    if said is None or said.get("type") == "text":
        return None
    if said.get("type") == "json_object":
        return json.dumps({"type": "object"})
    if said.get("type") != "json_schema":
        raise Wrong(
            f"response_format: type {said.get('type')!r}, expected text, json_object or json_schema", "response_format",
        )  # fmt: skip
    told = said.get("json_schema")
    schema = told.get("schema") if isinstance(told, dict) else None
    if not isinstance(schema, dict):
        raise Wrong("response_format: expected json_schema with its schema", "response_format")
    return json.dumps(schema)


async def _texts(
    request: Request, asked: Drawing, chat: bool, drawn: Drawn, prompts: Sequence[Any], wanted: Any
) -> Response:
    """Grow texts and answer with them, whole or in pieces; given up when the client leaves."""
    calls: Calls = request.app.state.calls
    what, streams = ("v1.chat" if chat else "v1.completions"), bool(asked.stream)
    begun = await until_gone(request, _begun(calls, asked.model, what, wanted, streams))
    if begun is None:
        return Response(status_code=GONE)
    call, first = begun
    assert call.run is not None  # noqa: S101
    vocabulary = vocabulary_of(call.run.data)
    told = drawn.alternatives is not None
    usage = not streams or bool(asked.stream_options and asked.stream_options.include_usage)
    shape = Shape(asked.model, chat, vocabulary, told, _echo(drawn, prompts, vocabulary), usage)
    if not streams:
        return _json(await run_in_threadpool(shape.whole, call.whole, len(prompts)))
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(shape.events(first, call, len(prompts)), media_type=EVENTS, headers=headers)  # fmt: skip


async def _begun(
    calls: Calls, name: str, what: str, wanted: Any, streams: bool
) -> tuple[Growth, list[Said]]:
    """A call with its first words, which are waited for so that what is wrong has its status; without streaming the whole."""
    call = await calls.grow(name, what, wanted, streaming=streams)
    try:
        first = await call.said.get() if streams else None
        if first is None:
            await call.future
        return call, first or []
    except BaseException:
        calls.give_up(call)
        raise


def _echo(drawn: Drawn, prompts: Sequence[Any], vocabulary: Vocabulary) -> list[str]:
    texts = [p if isinstance(p, str) else vocabulary.decode(p) for p in prompts]
    return [text if drawn.echo else "" for text in texts for _ in range(drawn.count)]


# --- vectors ---------------------------------------------------------------------------------------


@router.post("/embeddings", response_model=Embeddings, summary="A vector for each text.")
async def embeddings(request: Request, asked: EmbeddingRequest) -> Response:
    calls: Calls = request.app.state.calls
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    info = calls.shelf.status(asked.model)
    if "embed" not in info.verbs:
        raise Wrong(f"model: {asked.model} is a run of {info.system}, which makes no vectors of texts", "model")  # fmt: skip
    if not texts:
        raise Wrong("input: expected one text or several, got none", "input")
    field = calls.form(asked.model, "embed").fields[0].name
    result = await until_gone(request, calls.run(asked.model, "embed", {field: texts}))
    if result is None:
        return Response(status_code=GONE)
    return await run_in_threadpool(_vectors, asked, result.value, calls.shelf.open(asked.model), texts)  # fmt: skip


def _vectors(asked: EmbeddingRequest, table: Any, run: Run, texts: Sequence[str]) -> Response:
    matrix = table.drop(table.columns[0]).to_numpy().astype("<f4")
    if asked.dimensions not in (None, matrix.shape[1]):
        raise Wrong(f"dimensions: {asked.dimensions}, this run's vectors have {matrix.shape[1]}", "dimensions")  # fmt: skip
    vocabulary = getattr(run.data, "vocabulary", None)
    tokens = len(texts)
    if isinstance(vocabulary, Vocabulary):
        tokens = sum(len(vocabulary.encode(text)) for text in texts)
    data = [
        {"object": "embedding", "index": n, "embedding": _said(row, asked.encoding_format)}
        for n, row in enumerate(matrix)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return _json({"object": "list", "model": asked.model, "data": data, "usage": usage})


def _said(row: np.ndarray, how: str | None) -> Any:
    return base64.b64encode(np.ascontiguousarray(row).tobytes()).decode() if how == "base64" else row.tolist()  # fmt: skip
