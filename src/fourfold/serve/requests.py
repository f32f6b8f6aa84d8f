"""From a request's body to the arguments of a verb, by its media type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from fourfold.core.errors import UserError
from fourfold.serve.content import TABLE_TYPES
from fourfold.serve.decode import Arguments, from_json, from_values, uploads
from fourfold.serve.problems import UnknownType, Unreadable
from fourfold.serve.schema import CONTENT, Field, Upload, VerbForm

FORM = "multipart/form-data"
WORDS = "application/x-www-form-urlencoded"
LONG = 1 << 16
"""Bytes of a body from which on it is read beside the event loop."""
MOST_PARTS = 1000
"""Fields, and files, of a form."""


async def arguments(request: Request, form: VerbForm) -> tuple[Arguments, bool]:
    """The arguments in a request, and whether the answer is to come in pieces.

    The body is JSON, or a form with uploads, or the content itself (a table, a text, an image), with the
    other arguments in the query. What `curl -d '{...}'` sends is JSON, whatever curl calls it.

    Raises:
        UserError: anything wrong with them.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    query = dict(request.query_params)
    if kind == FORM:
        values = await _form(request, form)
    else:
        body = await request.body()
        as_json = kind in ("", "application/json") or kind.endswith("+json")
        if as_json or (kind == WORDS and body.lstrip()[:1] == b"{"):
            _no_query(query)
            if len(body) > LONG:
                found = await run_in_threadpool(from_json, form, body)
            else:
                found = from_json(form, body)
            return found, _streams(request, form, found)
        if kind == WORDS:
            values = _words(form, body)
        else:
            values = {**query, **_content(form, kind, body, query)}
            query = {}
    _no_query(query)
    found = from_values(form, values)
    return found, _streams(request, form, found)


def _no_query(query: Mapping[str, str]) -> None:
    if query:
        name = next(iter(query))[:80]
        raise UserError(f"{name}: stands in the address, expected in the body with the others")


def _streams(request: Request, form: VerbForm, found: Arguments) -> bool:
    asked = bool(found.pop("stream", False))
    return form.streams and (asked or "text/event-stream" in request.headers.get("accept", ""))


async def _form(request: Request, form: VerbForm) -> dict[str, Any]:
    try:
        parsed = await request.form(
            max_files=MOST_PARTS, max_fields=MOST_PARTS, max_part_size=1 << 40
        )  # the whole body is bounded already
    except HTTPException as error:
        raise Unreadable(f"the form cannot be read: {error.detail}") from None
    except (KeyError, ValueError, LookupError) as error:  # a header of a part, a charset
        raise Unreadable(f"the form cannot be read: {error}") from None
    try:
        values: dict[str, list[Any]] = {}
        for name, value in parsed.multi_items():
            found = values.setdefault(name, [])
            if isinstance(value, UploadFile):
                content = await value.read()
                found.append(Upload(value.filename or "", content, value.content_type or ""))
            else:
                found.append(value)
    finally:
        await parsed.close()
    return {name: _one(form, name, found) for name, found in values.items()}


def _one(form: VerbForm, name: str, found: list[Any]) -> Any:
    """A form's field: the upload or uploads, the word or, of a field that takes many, the words."""
    if all(isinstance(value, Upload) for value in found):
        field = next((f for f in form.fields if f.name == name), None)
        many = field is not None and field.many and not field.single
        return found if many else uploads(found)
    if len(found) > 1:
        return found
    return found[0]


def _words(form: VerbForm, body: bytes) -> dict[str, Any]:
    try:
        text = body.decode("utf-8")
        found = parse_qs(text, keep_blank_values=True, max_num_fields=MOST_PARTS, errors="strict")
    except ValueError as error:
        raise Unreadable(f"the form cannot be read: {error}") from None
    return {name: _one(form, name, list(values)) for name, values in found.items()}


def _content(form: VerbForm, kind: str, body: bytes, query: Mapping[str, str]) -> dict[str, Upload]:
    """A body that is the content of the verb's one content field."""
    fields = [f for f in form.fields if f.kind in CONTENT and f.name not in query]
    if not fields or not _readable(fields[0], kind):
        known = ["application/json", FORM]
        known += list(TABLE_TYPES) if fields and fields[0].reads == "table" else []
        raise UnknownType(f"{kind[:80]}: {form.verb} takes {', '.join(known)}")
    field = fields[0]
    upload = Upload("", body, kind)
    return {field.name: [upload] if field.many and not field.single else upload}  # type: ignore[dict-item]


def _readable(field: Field, kind: str) -> bool:
    """Whether a media type can be the content of a field."""
    if kind == "application/octet-stream":
        return True
    family = kind.split("/")[0]
    if field.kind in ("image", "audio"):
        return family == field.kind
    if field.reads == "table":
        return kind in TABLE_TYPES
    if field.reads in ("images", "boxes"):
        return family == "image"
    return family == "text"
