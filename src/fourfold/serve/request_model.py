"""A form as a pydantic model: what a request's JSON must be, and the schema that says so.

Values that are content (texts, tables, images, sound, files) have JSON forms of their own; every other
value is judged by the verb's own annotation, as on the command line.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, PlainValidator, create_model
from pydantic import Field as Described
from pydantic.errors import PydanticSchemaGenerationError
from pydantic.json_schema import SkipJsonSchema

from fourfold.serve.schema import CONTENT, Field, Upload, VerbForm


def _upload(value: Any) -> Upload:
    if not isinstance(value, Upload):
        raise ValueError("an upload")
    return value


# not by its fields: a JSON object that has them is none, only a form has uploads
File = SkipJsonSchema[Annotated[Upload, PlainValidator(_upload)]]
Cell = str | int | float | bool | None
TEXTS = Annotated[str, Described(description="the text itself; never the name of a file")]
ENCODED = Annotated[
    str, Described(description="the file's bytes in base64", json_schema_extra={"format": "byte"})
]
SOURCES: dict[str, Any] = {
    "table": Annotated[list[dict[str, Cell]], Described(description="rows")]
    | Annotated[dict[str, list[Cell]], Described(description="columns of equal length")]
    | Annotated[str, Described(description="CSV with a header")],
    "text": TEXTS | list[str],
    "pairs": Annotated[
        str, Described(description="a line for each pair, a tab between source and target")
    ]
    | Annotated[list[str], Described(description="the sources, a line each, and the targets")],
    "images": ENCODED | list[str],
    "boxes": ENCODED | list[str],
}
"""JSON forms of a source by what the system reads; of others, the content of one file as text."""


@functools.cache
def model(form: VerbForm) -> type[BaseModel]:
    """The request model of a verb: its fields by their names, and nothing else."""
    fields: dict[str, Any] = {}
    for item in form.fields:
        # a name of its own inside, so that no field hides one of pydantic's
        fields[f"value_{item.name}"] = (_annotation(form, item), _described(item))
    if form.streams:
        text = "Answer in pieces, as server-sent events, as they are made."
        fields["value_stream"] = (bool, Described(default=False, alias="stream", description=text))
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)
    name = f"{form.system}.{form.verb}".replace("-", "_")
    try:
        return create_model(name, __config__=config, __doc__=form.summary, **fields)
    except PydanticSchemaGenerationError:
        # a type that JSON has no word for: any JSON is taken, and the verb itself judges it
        plain = tuple(replace(f, annotation=Any) if f.kind == "json" else f for f in form.fields)
        if plain == form.fields and all(f.annotation is Any for f in plain if f.kind == "json"):
            raise
        return model.__wrapped__(replace(form, fields=plain))


def _described(item: Field) -> Any:
    default = ... if item.required else item.default
    return Described(default=default, alias=item.name, description=item.help or None)


def _annotation(form: VerbForm, item: Field) -> Any:
    if item.kind == "integer" and not item.many:
        whole: Any = Annotated[int, Described(ge=item.minimum, le=item.maximum)]
        return whole | None if item.optional else whole
    if item.kind not in CONTENT:
        return item.annotation
    plain: Any = {
        "document": TEXTS,
        "source": SOURCES.get(item.reads, TEXTS),
        "array": float | list[Any],
        "path": TEXTS,
        "image": ENCODED,
        "audio": ENCODED,
    }[item.kind]
    plain = plain | File
    if item.kind == "source":
        plain = plain | SkipJsonSchema[list[File]]
    if item.many:
        plain = plain | list[plain] if item.single else list[plain]
    if item.optional or not item.required:
        plain = plain | None
    return plain
