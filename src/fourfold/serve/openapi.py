"""The OpenAPI document: the server's own endpoints, and one for each verb of each run, with examples."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.serve.calls import Calls
from fourfold.serve.content import TABLE_TYPES
from fourfold.serve.encode import EVENTS, FORMS, JSON
from fourfold.serve.models import ANSWERS, Problem
from fourfold.serve.request_model import model
from fourfold.serve.requests import FORM
from fourfold.serve.schema import CONTENT, Field, VerbForm
from fourfold.serve.shelf import RunInfo

log = logging.getLogger("fourfold.serve")
REF = "#/components/schemas/{model}"
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
"""A PNG of one pixel, in base64."""
REFUSALS = {
    "400": "The request cannot be read.",
    "401": "No token, or another one.",
    "403": "A request of another site's page.",
    "404": "No such run or verb.",
    "408": "The body came too slowly.",
    "409": "The run is damaged, or has no weights yet.",
    "413": "The request is too large.",
    "415": "A body of a media type that is not read here.",
    "422": "What the verb was asked is wrong; the sentence says what.",
    "429": "Too much is under way; Retry-After says when to come again.",
    "500": "The verb failed inside; the server's log says more under the id.",
}


class Document:
    """Makes the document when it is asked for, and again when the runs have changed."""

    def __init__(self, app: FastAPI, calls: Calls, token: bool) -> None:
        self.app, self.calls, self.token = app, calls, token
        self._made: tuple[Any, dict[str, Any]] | None = None
        self._examples: dict[tuple[Path, str], dict[str, Any]] = {}

    def __call__(self) -> dict[str, Any]:
        """The document for the runs of now."""
        infos = [i for i in self.calls.shelf.all() if i.verbs]
        key = [(i.name, i.system, i.ready, i.created) for i in infos]
        if self._made is None or self._made[0] != key:
            self._made = (key, self._make(infos))
        return self._made[1]

    def _make(self, infos: list[RunInfo]) -> dict[str, Any]:
        document = get_openapi(
            title="fourfold", version=fourfold.__version__, routes=self.app.routes,
            summary="The verbs of trained runs.",
            description="Every answer that is not 2xx is {detail: a sentence}.",
        )  # fmt: skip
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        kinds: list[type[BaseModel]] = [Problem, *ANSWERS.values()]
        for answer in kinds:
            _add(schemas, answer.__name__, answer)
        for info in sorted(infos, key=lambda i: i.name):
            for verb in info.verbs:
                path = f"/runs/{quote(info.name, safe='')}/{verb}"
                try:
                    operation = self._operation(info, self.calls.form(info.name, verb), schemas)
                except Exception:  # a signature that cannot be read must not take the others away
                    log.warning("%s is left out of the document", path, exc_info=True)
                    continue
                document["paths"][path] = {"post": operation}
        if self.token:
            scheme = {"type": "http", "scheme": "bearer"}
            document["components"]["securitySchemes"] = {"token": scheme}
            document["security"] = [{"token": []}]
        return document

    def _operation(self, info: RunInfo, form: VerbForm, schemas: dict[str, Any]) -> dict[str, Any]:
        name = f"{form.system}.{form.verb}"
        _add(schemas, name, model(form))
        return {
            "tags": [info.name],
            "operationId": f"{info.name}.{form.verb}",
            "summary": form.summary,
            "description": form.description,
            "requestBody": {
                "required": any(f.required for f in form.fields),
                "content": self._contents(info, form, {"$ref": REF.format(model=name)}),
            },
            "responses": _responses(form),
        }

    def _contents(self, info: RunInfo, form: VerbForm, schema: dict[str, Any]) -> dict[str, Any]:
        """Media types of a request's body: JSON, a form with uploads, and the content itself."""
        contents: dict[str, Any] = {JSON: {"schema": schema, "example": self._example(info, form)}}
        content = [f for f in form.fields if f.kind in CONTENT]
        if not content:
            return contents
        binary = {"type": "string", "format": "binary"}
        properties = {f.name: binary if f.kind in CONTENT else _word(f) for f in form.fields}
        required = [f.name for f in form.fields if f.required]
        contents[FORM] = {
            "schema": {"type": "object", "properties": properties, "required": required}
        }
        if content[0].reads == "table":
            contents |= {kind: {"schema": {"type": "string"}} for kind in TABLE_TYPES}
        return contents

    def _example(self, info: RunInfo, form: VerbForm) -> dict[str, Any]:
        """A request that the run answers: required fields, and of texts a first and a length."""
        key = (info.folder, form.verb)
        if key not in self._examples:
            found = {}
            for number, item in enumerate(form.fields):
                spoken = number == 0 and item.kind in ("text", "document")
                # where the data was in memory, it is not there to be used again
                gone = item.kind == "source" and info.about.get("in_memory")
                if item.required or spoken or gone:
                    found[item.name] = self._value(info, item, form)
                elif item.name == "tokens":
                    found[item.name] = int(min(40, item.maximum or 40))
            self._examples[key] = found
        return self._examples[key]

    def _value(self, info: RunInfo, item: Field, form: VerbForm) -> Any:
        if item.choices:
            return item.choices[0]
        if item.reads == "table":
            return [_row(info)]
        one: Any = {
            "integer": max(item.minimum or 0, min(1, item.maximum or 1)), "number": item.minimum or 1.0,
            "boolean": True, "array": [0.0, 1.0], "image": DOT, "json": {}, "audio": "",
        }.get(item.kind, "It was the best of times.")  # fmt: skip
        if item.reads in ("images", "boxes"):
            one = DOT
        if item.reads == "pairs":
            one = "7\tseven"
        return [one] if item.many and not item.single else one


def _row(info: RunInfo) -> dict[str, Any]:
    """A row such as the run was fitted on: mean numbers, first categories."""
    from fourfold.data.table import TableData

    try:
        data = Run.open(info.folder).data
    except UserError:
        return {}
    if not isinstance(data, TableData):
        return {}
    row: dict[str, Any] = {}
    for column in data.schema.encodings:
        if column.kind == "number":
            row[column.name] = float(f"{column.mean:.4g}")
        elif column.categories:
            first = column.categories[0]
            row[column.name] = float(first) if column.numeric else first
    return row


def _word(item: Field) -> dict[str, Any]:
    """A field of a form, where every value is a word."""
    kinds = {"integer": "integer", "number": "number", "boolean": "boolean"}
    schema: dict[str, Any] = {"type": kinds.get(item.kind, "string")}
    if item.choices:
        schema["enum"] = list(item.choices)
    if item.help:
        schema["description"] = item.help
    return schema


def _responses(form: VerbForm) -> dict[str, Any]:
    contents: dict[str, Any] = {}
    for kind in FORMS[form.result]:
        if kind == JSON:
            answer = ANSWERS[form.result].__name__
            contents[kind] = {"schema": {"$ref": REF.format(model=answer)}}
        else:
            contents[kind] = {"schema": {"type": "string"}}
    if form.streams:
        text = "`piece` events with `text`, then `end` with `notes` and `seconds`, or `error` with `detail`"
        contents[EVENTS] = {"schema": {"type": "string", "description": text}}
    problem = {JSON: {"schema": {"$ref": REF.format(model="Problem")}}}
    refused = {s: {"description": text, "content": problem} for s, text in REFUSALS.items()}
    return {"200": {"description": "The answer.", "content": contents}, **refused}


def _add(schemas: dict[str, Any], name: str, kind: type[BaseModel]) -> None:
    """Add a model's schema, and those it speaks of."""
    schema = kind.model_json_schema(ref_template=REF)
    schemas.update(schema.pop("$defs", {}))
    schemas[name] = schema
