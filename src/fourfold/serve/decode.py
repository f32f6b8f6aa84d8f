"""From what a request says to a verb's arguments, checked against its form; faults become one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from fourfold.core.errors import UserError, nearest
from fourfold.core.options import parse
from fourfold.serve.request_model import model
from fourfold.serve.schema import CONTENT, Upload, VerbForm


class Arguments(dict[str, Any]):
    """Arguments by field name, checked against their form; content is still as it came."""


def from_json(form: VerbForm, body: bytes) -> Arguments:
    """A JSON body: types as the schema says them, without conversions.

    Raises:
        UserError: not JSON, an unknown field, a wrong type or a value out of range.
    """
    try:
        made = model(form).model_validate_json(body or b"{}", strict=True)
    except ValidationError as error:
        raise UserError(sentence(form, error)) from None
    return _given(form, made)


def from_values(form: VerbForm, values: Mapping[str, Any]) -> Arguments:
    """Values of a form or a page: words are read as the command line reads them; uploads pass through.

    Raises:
        UserError: an unknown field, a wrong type or a value out of range.
    """
    # content is what it is, and so is a text: a comma in it does not make it two
    words = {
        item.name: item.annotation
        for item in form.fields
        if item.kind not in CONTENT and not (item.kind == "text" and item.single)
    }
    read = {
        name: parse(value, words[name]) if name in words else value
        for name, value in values.items()
    }
    try:
        made = model(form).model_validate(read)
    except ValidationError as error:
        raise UserError(sentence(form, error)) from None
    return _given(form, made)


def _given(form: VerbForm, made: Any) -> Arguments:
    """What was given; what was not keeps the verb's own default, except where that is beyond a limit."""
    arguments = Arguments()
    for item in form.fields:
        name = f"value_{item.name}"
        bounded = item.kind == "integer" and isinstance(item.default, int)
        if name in made.model_fields_set or bounded:
            arguments[item.name] = getattr(made, name)
    if form.streams and made.value_stream:
        arguments["stream"] = True
    return arguments


def sentence(form: VerbForm, error: ValidationError) -> str:
    """The first fault as one sentence: which field, what was expected, what was found."""
    faults = error.errors(include_url=False)
    first = faults[0]
    message = first["msg"][0].lower() + first["msg"][1:]
    if first["type"] == "json_invalid":
        return f"the body is not valid JSON: {message.removeprefix('invalid JSON: ')}"
    if not first["loc"]:
        return f"expected a JSON object with the fields of {form.verb}"
    name = str(first["loc"][0])
    names = [item.name for item in form.fields]
    if first["type"] == "extra_forbidden":
        return f"{form.verb}: unknown field {name[:80]}{nearest(name[:80], names)}"
    if first["type"] == "missing":
        return f"{name}: is missing; {form.verb} needs it"
    place, faults = _innermost(faults, name)
    # of a union every member complains: the alternatives in one sentence
    said = [f["msg"].removeprefix("Input should be ") for f in faults]
    alternatives = [m for m in dict.fromkeys(said) if "an upload" not in m]
    wanted = " or ".join(m[0].lower() + m[1:] for m in alternatives[:5]) or message
    return f"{place}: expected {wanted}, got {_short(faults[0]['input'])}"


def _innermost(faults: Sequence[Any], name: str) -> tuple[str, list[Any]]:
    """Where a table's cell is at fault, or else the field; and what is said of that place."""
    own = [f for f in faults if f["loc"][0] == name]
    for fault in own:
        at = next((i for i, part in enumerate(fault["loc"]) if isinstance(part, int)), None)
        if at is not None and len(fault["loc"]) > at + 1:
            row, column = fault["loc"][at], fault["loc"][at + 1]
            same = [f for f in own if f["loc"][: at + 2] == fault["loc"][: at + 2]]
            return f"{name}, row {row + 1}, column {column}", same
    return name, own


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def uploads(values: Sequence[Upload]) -> Any:
    """One upload as it is, several as a list."""
    return values[0] if len(values) == 1 else list(values)
