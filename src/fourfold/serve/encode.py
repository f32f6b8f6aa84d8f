"""Answers as HTTP has them: JSON always, and what the client asks for where the answer has such a form."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
import zipfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from fastapi import Response
from fastapi.responses import FileResponse
from pydantic_core import to_json
from starlette.background import BackgroundTask

from fourfold.core.types import Drawn, Explanation, Picture, Score
from fourfold.serve.calls import Result, Stream
from fourfold.serve.problems import problem

JSON = "application/json"
CSV = "text/csv"
ARROW = "application/vnd.apache.arrow.stream"
EVENTS = "text/event-stream"
PNG = "image/png"
SVG = "image/svg+xml"
TEXT = "text/plain"
NPY = "application/x-npy"
NOTES = "X-Fourfold-Notes"
"""Header with what the verb said beside an answer that is no JSON; a JSON list in ASCII."""

FORMS: dict[str, tuple[str, ...]] = {
    "text": (JSON, TEXT),
    "table": (JSON, CSV, ARROW),
    "drawn": (JSON, PNG, CSV, ARROW),
    "picture": (JSON, PNG, SVG),
    "pictures": (JSON,),
    "explanation": (JSON,),
    "array": (JSON, NPY),
    "score": (JSON,),
    "number": (JSON,),
    "json": (JSON,),
    "file": ("application/octet-stream", "application/zip"),
}
"""Media types of each kind of answer; the first where the client does not say."""


def accepted(header: str, offered: tuple[str, ...]) -> str:
    """The media type to answer in: the client's first choice among those offered (RFC 9110, section 12.5.1).

    Where it wants none of them it gets the first: an answer in another form is of more use than none.
    """
    best, weight = offered[0], -1.0
    for number, part in enumerate(header.split(",")):
        kind, *parameters = (p.strip().lower() for p in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                quality = _number(parameter[2:])
        exact = [o for o in offered if o == kind]
        loose = [o for o in offered if kind in ("*/*", f"{o.split('/')[0]}/*")]
        # earlier ones win among equals, and a named type wins over a wildcard
        score = quality * 1000 + bool(exact) * 500 - number
        if (exact or loose) and quality > 0 and score > weight:
            best, weight = (exact or loose)[0], score
    return best


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if 0 <= value <= 1 else 0.0


def respond(result: Result, accept: str) -> Response:
    """The response to a finished call."""
    value = result.value
    if isinstance(value, Path):
        return _file(result, value)
    wanted = accepted(accept, FORMS.get(kind_of(value), (JSON,)))
    notes = {NOTES: json.dumps(result.notes)[:4000]} if result.notes else {}
    if isinstance(value, Drawn) and wanted != JSON:
        value = value.draw() if wanted == PNG else value.table
    if wanted == CSV:
        return Response(value.write_csv(), media_type=CSV, headers=notes)
    if wanted == ARROW:
        file = io.BytesIO()
        value.write_ipc_stream(file)
        return Response(file.getvalue(), media_type=ARROW, headers=notes)
    if wanted == PNG:
        return Response(_picture(value).png, media_type=PNG, headers=notes)
    if wanted == SVG and _picture(value).svg:
        return Response(_picture(value).svg, media_type=SVG, headers=notes)
    if wanted == TEXT:
        return Response(value, media_type=TEXT, headers=notes)
    if wanted == NPY:
        return Response(_npy(value), media_type=NPY, headers=notes)
    return Response(dumped(answer(result)), media_type=JSON)


def kind_of(value: Any) -> str:
    """What an answer is, by its type: an annotation may promise less."""
    module = type(value).__module__.split(".")[0]
    if isinstance(value, str):
        return "text"
    if module == "polars":
        return "table"
    if module == "PIL" or isinstance(value, Picture):
        return "picture"
    if module in ("numpy", "torch") and value.ndim:
        return "array"
    if isinstance(value, Drawn):
        return "drawn"
    if isinstance(value, Score):
        return "score"
    if isinstance(value, Explanation):
        return "explanation"
    if isinstance(value, (list, tuple)) and value and all(kind_of(v) == "picture" for v in value):
        return "pictures"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "number"
    return "json"


def answer(result: Result) -> dict[str, Any]:
    """An answer as a JSON object, with the sentences said beside it."""
    value, kind = result.value, kind_of(result.value)
    body: dict[str, Any]
    if kind == "text":
        body = {"text": value}
    elif kind == "table":
        body = {"columns": value.columns, "rows": value.to_dicts()}
    elif kind == "drawn":
        rows = value.table.to_dicts()
        body = {"columns": value.table.columns, "rows": rows, "picture": _drawn(value.draw())}
    elif kind == "picture":
        body = _drawn(_picture(value))
    elif kind == "pictures":
        body = {"pictures": [_drawn(_picture(v)) for v in value]}
    elif kind == "array":
        array = value.detach().cpu().numpy() if hasattr(value, "detach") else value
        body = {"array": array.tolist(), "shape": list(array.shape), "dtype": str(array.dtype)}
    else:
        body = plain(value) if kind in ("score", "explanation") else {"value": plain(value)}
    if kind == "score":  # has notes of its own
        return {**body, "notes": [*body["notes"], *result.notes], "seconds": result.seconds}
    return {**body, "notes": list(result.notes), "seconds": result.seconds}


def plain(value: Any) -> Any:
    """A value in JSON's own types, as far down as it goes."""
    if isinstance(value, Picture):
        return _drawn(value)
    if isinstance(value, Drawn):
        return plain(value.table)
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int, bool)):
        return value
    if hasattr(value, "to_dicts"):
        return [plain(row) for row in value.to_dicts()]
    if hasattr(value, "tolist"):  # arrays, tensors and their numbers
        return plain(value.tolist())
    if hasattr(value, "model_dump"):
        return plain(value.model_dump(mode="json"))
    return str(value)


def dumped(value: Any) -> bytes:
    """JSON in UTF-8; what is not finite is null."""
    return to_json(value, inf_nan_mode="null", fallback=plain)


def _picture(value: Any) -> Picture:
    if isinstance(value, Picture):
        return value
    file = io.BytesIO()
    value.save(file, "PNG")
    return Picture("", file.getvalue())


def _drawn(picture: Picture) -> dict[str, str]:
    return {
        "title": picture.title,
        "caption": picture.caption,
        "png": base64.b64encode(picture.png).decode("ascii"),
        "svg": picture.svg,
    }


def _npy(value: Any) -> bytes:
    import numpy as np

    file = io.BytesIO()
    array = value.detach().cpu().numpy() if hasattr(value, "detach") else value
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _file(result: Result, path: Path) -> Response:
    """The file that a verb wrote, several as one archive; the folder goes when it is sent."""
    if path.is_dir():
        path = zipped(path)
    kind = "application/zip" if path.suffix == ".zip" else "application/octet-stream"
    gone = BackgroundTask(result.close)
    return FileResponse(path, media_type=kind, filename=path.name, background=gone)


def zipped(folder: Path) -> Path:
    """A folder as an archive beside it."""
    archive = folder.with_name(f"{folder.name}.zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:  # weights do not compress
        for path in _files(folder):
            file.write(path, f"{folder.name}/{path.relative_to(folder)}")
    return archive


def _files(folder: Path) -> Iterator[Path]:
    yield from sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


# --- server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html) --------------


def event(name: str, body: dict[str, Any]) -> bytes:
    """One event; its data is one line of JSON, so that no line of the text can be taken for a field."""
    return b"event: " + name.encode() + b"\ndata: " + dumped(body) + b"\n\n"


async def events(first: list[str], stream: Stream) -> AsyncIterator[bytes]:
    """`piece` events, each with some text, then `end` with notes and seconds, or `error` with a sentence.

    Args:
        first: the first piece, which was waited for; empty where there is none.
        stream: those that follow.
    """
    try:
        for piece in first:
            yield event("piece", {"text": piece})
        if first:
            async for piece in stream:
                yield event("piece", {"text": piece})
        yield event("end", {"notes": list(stream.notes), "seconds": stream.seconds})
    except Exception as error:
        yield event("error", problem(error)[1])
    finally:
        await stream.aclose()
