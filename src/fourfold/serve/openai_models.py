"""Bodies of requests and answers of OpenAI's API, as the document says them.

https://platform.openai.com/docs/api-reference. What a client may send and what means nothing here is taken and left
(`user`, `store`, ...); what would change the answer and is not done here is refused by name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
Entry = Annotated[int, Field(ge=0, lt=2**31)]
Prompt = Annotated[str, Field(max_length=16 << 20)]


class StreamOptions(BaseModel, extra="ignore"):
    """What a stream tells."""

    include_usage: bool = False


class Drawing(BaseModel, extra="forbid"):
    """What requests for text have in common."""

    model: str = Field(max_length=200, description="a run's name")
    temperature: float | None = Field(
        None, ge=0, le=100, description="1 unless said; 0 takes the most likely token"
    )
    top_p: Share | None = None
    top_k: int | None = Field(None, ge=1, lt=2**31, description="not OpenAI's own")
    min_p: Share | None = Field(None, description="not OpenAI's own")
    n: int | None = Field(None, ge=1, le=128, description="texts for each prompt")
    stop: Stop | list[Stop] | None = Field(None, description="texts before which to end")
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    repetition_penalty: float | None = Field(None, gt=0, le=100, description="not OpenAI's own")
    response_format: dict[str, Any] | None = Field(
        None, description="{type: text | json_object | json_schema, json_schema: {schema}}"
    )
    # taken and left
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ChatRequest(Drawing):
    """A conversation to answer."""

    messages: list[dict[str, Any]] = Field(
        min_length=1, max_length=10_000, description="{role, content} each; the last is the user's"
    )
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: Any = None
    functions: Any = None
    modalities: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.tools or self.functions:
            raise ValueError("tools: no run here calls any; leave them out")
        if self.modalities not in (None, ["text"]):
            raise ValueError("modalities: expected text alone")
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs: expected beside logprobs true")
        return self

    @property
    def most(self) -> int | None:
        """Most tokens of an answer."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(Drawing):
    """A prompt to go on from, or several."""

    prompt: Prompt | list[Prompt] | list[Entry] | list[list[Entry]] = ""
    max_tokens: int | None = Field(None, ge=0, lt=2**31, description="16 unless said; 0 with echo")
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = Field(None, description="whether the prompt is told too, first")
    best_of: int | None = Field(None, ge=1, le=128)
    suffix: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.best_of not in (None, 1, self.n):
            raise ValueError("best_of: expected what n is; texts are not made to be thrown away")
        if self.suffix:
            raise ValueError("suffix: runs here continue texts at their end only")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: expected 1 or more, or echo true")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each by itself."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]  # type: ignore[list-item]
        return list(self.prompt)  # type: ignore[arg-type]


class EmbeddingRequest(BaseModel, extra="forbid"):
    """Texts to make vectors of."""

    model: str = Field(max_length=200, description="a run's name")
    input: Prompt | list[Prompt] = Field(description="one text or several")
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1, description="as many as the run's vectors have")
    user: Any = None


class Model(BaseModel):
    """A run that can be asked here."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "fourfold"
    system: str = Field(description="the run's system")
    endpoints: list[str] = Field(description="which of the endpoints it answers")
    max_model_len: int | None = Field(
        description="tokens that it reads at once, its answer included"
    )


class ModelList(BaseModel):
    """Every run that can be asked here."""

    object: Literal["list"] = "list"
    data: list[Model]


class Wrong(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class WrongBody(BaseModel):
    """An error in OpenAI's shape."""

    error: Wrong


class Usage(BaseModel):
    """Tokens that were read and made."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Answer(BaseModel, extra="allow"):
    """Texts, as OpenAI answers; with `stream` in pieces, as server-sent events."""

    id: str
    object: str
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: Usage | None = None


class Embeddings(BaseModel):
    """Vectors, in the order of the texts."""

    object: Literal["list"] = "list"
    model: str
    data: list[dict[str, Any]]
    usage: dict[str, int]
