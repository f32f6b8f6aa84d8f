"""Bodies of answers, as the OpenAPI document says them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

Cell = str | int | float | bool | None


class Problem(BaseModel):
    """What is wrong, in one sentence."""

    detail: str
    id: str | None = Field(
        None, description="of the trace in the server's log, of a failure inside"
    )


class Said(BaseModel):
    """What every answer in JSON has."""

    notes: list[str] = Field(
        description="sentences said beside the answer: what was unknown, cut or filled"
    )
    seconds: float = Field(description="of work, without waiting")


class Text(Said):
    """A text."""

    text: str


class Table(Said):
    """Rows, with missing cells as null."""

    columns: list[str]
    rows: list[dict[str, Any]]


class Drawing(BaseModel):
    """A picture."""

    title: str
    caption: str
    png: str = Field(description="base64")
    svg: str = Field(description="the same drawing as SVG, where there is one; otherwise empty")


class Picture(Drawing, Said):
    """A picture, with what was said."""


class Pictures(Said):
    """Several pictures."""

    pictures: list[Drawing]


class Drawn(Table):
    """Rows, and the same as a picture."""

    picture: Drawing


class Score(BaseModel):
    """Named numbers; one that is not finite is null."""

    values: dict[str, float | None]
    units: dict[str, str]
    notes: list[str]
    seconds: float


class Listing(BaseModel):
    """A small table."""

    title: str
    columns: list[str]
    rows: list[list[Any]]
    caption: str


class Explanation(Said):
    """A verdict in words, with tables and pictures."""

    title: str
    sentences: list[str]
    tables: list[Listing]
    pictures: list[Drawing]


class Array(Said):
    """Numbers of any depth."""

    array: Any
    shape: list[int]
    dtype: str


class Value(Said):
    """Any other value."""

    value: Any


class Run(BaseModel):
    """A run in the list."""

    name: str
    system: str
    state: str = Field(
        description="running, finished, stopped, waiting (no weights yet) or damaged"
    )
    reason: str
    created: str
    steps: int
    seconds: float = Field(description="of training")
    last: dict[str, float | None] = Field(description="the newest value of each logged number")
    verbs: list[str]
    ready: bool = Field(description="whether its verbs can be asked")


class OneField(BaseModel):
    """An argument of a verb, or an option of a system."""

    name: str
    kind: str
    required: bool
    default: Any
    choices: list[Any]
    minimum: float | None
    maximum: float | None
    many: bool
    help: str


class Form(BaseModel):
    """A verb of a run."""

    verb: str
    summary: str
    description: str
    result: str
    streams: bool
    writes: bool
    fields: list[OneField]


class Details(Run):
    """A run in full."""

    about: dict[str, Any]
    options: dict[str, Any]
    forms: list[Form]


class Lines(BaseModel):
    """Lines of a run's log."""

    lines: list[dict[str, Any]]
    next: int = Field(description="what to give as `after` for those that follow")
    age: int = Field(
        description="grows when the log is begun anew: then start again with `after` 0"
    )


class System(BaseModel):
    """A system that can be fitted."""

    name: str
    reads: str
    summary: str
    source: str
    verbs: list[str]


class SystemDetails(System):
    """A system with its options."""

    sizes: list[str]
    options: list[OneField]
    data: list[str] = Field(description="data sets of the catalog that it reads")


class Fit(BaseModel):
    """A fit that was started here."""

    name: str
    system: str
    state: str = Field(description="starting, running, finished, stopped or failed")
    started: str
    code: int | None
    error: str


class NewFit(BaseModel, extra="forbid"):
    """A fit to start."""

    system: str
    data: str | None = Field(
        None, description="a data set of the catalog; without it the system's own"
    )
    name: str | None = Field(None, description="of the run; without it <system>-<n>", max_length=64)
    size: str | None = None
    seed: int = Field(0, ge=0, lt=2**53)
    options: dict[str, Any] = Field({}, description='fields of the system by name: {"minutes": 3}')


class Budget(BaseModel, extra="forbid"):
    """Until when to go on; without one, as far as the run was to go."""

    steps: int | None = Field(None, gt=0, lt=2**53)
    epochs: float | None = Field(None, gt=0, allow_inf_nan=False)
    minutes: float | None = Field(None, gt=0, allow_inf_nan=False)


ANSWERS: dict[str, type[BaseModel]] = {
    "text": Text, "number": Value, "table": Table, "picture": Picture, "pictures": Pictures,
    "score": Score, "explanation": Explanation, "array": Array, "json": Value,
    "drawn": Drawn,
}  # fmt: skip
"""Of each kind of answer, its body in JSON."""
