"""A verb's signature as a form: fields for a page, for requests and for OpenAPI.

Nothing here knows of a single system or verb.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

import annotated_types

from fourfold.core.errors import UserError, nearest
from fourfold.core.options import admits_none, hints, literal_choices
from fourfold.core.signatures import argument_help, marks, takes_many
from fourfold.core.system import System, verbs
from fourfold.core.types import AUDIO, DOCUMENT, ROWS, RUN, SOURCE

Kind = Literal[
    "text", "document", "source", "integer", "number", "boolean", "choice", "array", "path",
    "image", "audio", "json",
]  # fmt: skip
Result = Literal[
    "text", "number", "table", "picture", "pictures", "score", "explanation", "array", "file", "json",
    "drawn",
]  # fmt: skip


class NoSuchVerb(UserError):
    """A run has no verb of this name: 404."""


CONTENT: tuple[Kind, ...] = ("document", "source", "array", "path", "image", "audio")
"""Kinds whose value may come as an uploaded file."""
SAFE = 2**53 - 1
"""Whole numbers that every JSON reader keeps exactly (RFC 8259, section 6)."""


@dataclass(frozen=True)
class Upload:
    """A file that came with a request or from the page: its content, never its place."""

    name: str
    """What the sender calls it; only its extension is looked at."""
    content: bytes
    type: str = ""
    """Media type, where one was said."""


@dataclass(frozen=True)
class Field:
    """One argument of a verb."""

    name: str
    """As users write it: `from` for the parameter `from_`."""
    kind: Kind
    required: bool
    default: Any = None
    choices: tuple[Any, ...] = ()
    minimum: float | None = None
    """Smallest number; of a fraction that must be greater, the bound itself."""
    maximum: float | None = None
    many: bool = False
    """Whether a list is taken too (or, where `single` is not set, only)."""
    help: str = ""
    single: bool = True
    """Whether one value alone is taken."""
    optional: bool = False
    """Whether None is a value."""
    parameter: str = ""
    """The name in Python."""
    reads: str = ""
    """Of a source, what it holds: "table", "text", "images", ..."""
    annotation: Any = field(default=Any, repr=False, compare=False)


@dataclass(frozen=True)
class VerbForm:
    """A verb, ready to be asked for."""

    verb: str
    summary: str
    fields: tuple[Field, ...]
    result: Result
    streams: bool
    """Whether the answer comes in pieces of text, as it is made."""
    description: str = ""
    writes: bool = False
    """Whether it writes files, into a folder that the server names."""
    reads: str = ""
    """What its system reads: "table", "text", "images", ..."""
    system: str = ""

    def field(self, name: str) -> Field:
        """A field by its name.

        Raises:
            UserError: there is none; the nearest is offered.
        """
        for item in self.fields:
            if item.name == name:
                return item
        known = [item.name for item in self.fields]
        raise UserError(f"{self.verb}: unknown field {name}{nearest(name, known)}")


def describe(
    system: type[System] | System, verb: str, most: Mapping[str, int] | None = None
) -> VerbForm:
    """The form of a verb.

    Args:
        system: which system's.
        verb: its name.
        most: upper bounds of whole numbers by name, beside those that the verb itself has.

    Raises:
        NoSuchVerb: the system has none of this name.
    """
    cls = system if isinstance(system, type) else type(system)
    return _describe(cls, verb, tuple(sorted((most or {}).items())))


@functools.cache
def _describe(cls: type[System], verb: str, most: tuple[tuple[str, int], ...]) -> VerbForm:
    known = verbs(cls)
    if verb not in known:
        verb = verb[:80]
        raise NoSuchVerb(f"a run of {cls.name} has no verb {verb}{nearest(verb, known)}")
    method = known[verb]
    annotations = hints(method)
    fields, writes = [], False
    for parameter in list(inspect.signature(method).parameters.values())[2:]:
        if RUN in marks(annotations[parameter.name]):
            continue  # what a server opens is its owner's to say
        made = _field(method, parameter, annotations[parameter.name], dict(most), cls.reads)
        if made.kind == "path" and made.name == "out":
            # the server says where to; where there is an answer without any file, that one is given
            writes = not _said(method).endswith("|Path")
        else:
            fields.append(made)
    result, streams = _result(method)
    paragraphs = (inspect.getdoc(method) or verb).split("Args:")[0].strip().split("\n\n")
    return VerbForm(
        verb, " ".join(paragraphs[0].split()), tuple(fields), result, streams,
        "\n\n".join(paragraphs[1:]), writes, cls.reads, cls.name,
    )  # fmt: skip


def _field(
    method: Any, parameter: inspect.Parameter, annotation: Any, most: Mapping[str, int], reads: str
) -> Field:
    required = parameter.default is inspect.Parameter.empty
    default = None if required else parameter.default
    text = argument_help(method, parameter.name)
    return field_of(
        parameter.name, annotation, default, required=required, help=text, most=most, reads=reads
    )


def field_of(
    parameter: str,
    annotation: Any,
    default: Any = None,
    *,
    required: bool = False,
    help: str = "",
    most: Mapping[str, int] | None = None,
    reads: str = "",
) -> Field:
    """A field of any typed value: an argument of a verb, an option of a system.

    Args:
        parameter: its name in Python.
        annotation: its type.
        default: the value if none is given.
        required: whether one must be given.
        help: what it means.
        most: upper bounds of whole numbers by name.
        reads: what the system reads.
    """
    name = parameter.rstrip("_")
    kind = _kind(annotation)
    low, high = _bounds(annotation) if kind in ("integer", "number") else (None, None)
    if kind == "integer":
        low = max(-SAFE, -SAFE if low is None else low)
        high = min(SAFE, SAFE if high is None else high, (most or {}).get(name, SAFE))
        if name == "seed":
            low = max(0, low)  # generators take no negative ones
        if isinstance(default, int):
            default = int(min(default, high))
    many = kind != "source" and takes_many(annotation)
    members = _members(annotation)  # Any admits None too, but does not say so
    optional = type(None) in members or (Any not in members and admits_none(annotation))
    return Field(
        name, kind, required, default, tuple(_choices(annotation)), low, high, many, help,
        not many or _single(annotation), optional, parameter,
        "" if kind != "source" else "table" if ROWS in marks(annotation) else reads, annotation,
    )  # fmt: skip


def _kind(annotation: Any) -> Kind:
    said = marks(annotation)
    for mark, marked in ((SOURCE, "source"), (DOCUMENT, "document"), (AUDIO, "audio")):
        if mark in said:
            return cast(Kind, marked)
    plain = {_item(member) for member in _members(annotation)} - {type(None)}
    if all(get_origin(p) is Literal for p in plain):
        return "choice"
    names = {getattr(p, "__name__", "") for p in plain}
    modules = {getattr(p, "__module__", "").split(".")[0] for p in plain}
    if plain <= {Path, str} and Path in plain:
        return "path"
    if "PIL" in modules:
        return "image"
    if names & {"ndarray", "Tensor"}:
        return "array"
    if plain == {bool}:
        return "boolean"
    if plain == {int}:
        return "integer"
    if plain <= {int, float} and plain:
        return "number"
    return "text" if plain == {str} else "json"


def _members(annotation: Any) -> list[Any]:
    """The alternatives of a union; what Annotated says beside them is left out."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [m for a in get_args(annotation) for m in _members(a)]
    return [annotation]


def _item(annotation: Any) -> Any:
    """Of a list or a tuple of one type, that type."""
    if get_origin(annotation) in (list, tuple, set) or takes_many(annotation):
        inner = [a for a in get_args(annotation) if a is not Ellipsis]
        if len(set(inner)) == 1:
            return _members(inner[0])[0]
    return annotation


def _single(annotation: Any) -> bool:
    return any(not takes_many(m) for m in _members(annotation) if m is not type(None))


def _choices(annotation: Any) -> list[Any]:
    if not literal_choices(annotation):
        return []
    found = []
    for member in _members(annotation):
        found += [c for c in get_args(_item(member)) if c is not None]
    return found


def _bounds(annotation: Any) -> tuple[float | None, float | None]:
    low: float | None = None
    high: float | None = None
    whole = int in {_item(m) for m in _members(annotation)} and float not in _members(annotation)
    for mark in _constraints(annotation):
        if isinstance(mark, annotated_types.Gt):
            low = float(mark.gt) + whole  # type: ignore[arg-type]
        elif isinstance(mark, annotated_types.Ge):
            low = float(mark.ge)  # type: ignore[arg-type]
        elif isinstance(mark, annotated_types.Lt):
            high = float(mark.lt) - whole  # type: ignore[arg-type]
        elif isinstance(mark, annotated_types.Le):
            high = float(mark.le)  # type: ignore[arg-type]
    if not whole:
        return low, high
    return None if low is None else int(low), None if high is None else int(high)


def _constraints(annotation: Any) -> list[Any]:
    found: list[Any] = []
    for mark in marks(annotation):
        # pydantic's Field(ge=...) holds such marks in its metadata
        found += [*getattr(mark, "metadata", ()), mark]
    return found


RESULTS: dict[str, Result] = {
    "str": "text", "int": "number", "float": "number", "DataFrame": "table", "Picture": "picture",
    "Image": "picture", "Score": "score", "Explanation": "explanation", "ndarray": "array",
    "Tensor": "array", "Path": "file", "Drawn": "drawn",
}  # fmt: skip


def _said(method: Any) -> str:
    """The words of a verb's annotation, without spaces."""
    said = method.__annotations__.get("return", "")
    words = said if isinstance(said, str) else getattr(said, "__name__", str(said))
    return words.replace(" ", "")


def _result(method: Any) -> tuple[Result, bool]:
    """What a verb returns, by the words of its annotation: they may name what is imported late."""
    words = _said(method).removesuffix("|Path")
    outer, _, inner = words.partition("[")
    if outer in ("Iterator", "Generator", "Iterable") and inner.startswith("str"):
        return "text", True
    if outer in ("Iterator", "list", "tuple", "Sequence") and inner.startswith("Picture"):
        return "pictures", False
    return RESULTS.get(outer.split(".")[-1], "json"), False
