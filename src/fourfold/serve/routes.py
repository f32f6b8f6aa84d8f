"""Endpoints: runs, their logs and reports, their verbs; systems; fits."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from fourfold.core.errors import UserError
from fourfold.core.options import literal_choices, options
from fourfold.core.registry import index, load_system
from fourfold.data.catalog import CATALOG
from fourfold.serve import models
from fourfold.serve.asking import call_verb
from fourfold.serve.encode import dumped, plain
from fourfold.serve.jobs import Jobs
from fourfold.serve.problems import Unreadable
from fourfold.serve.requests import FORM, MOST_PARTS
from fourfold.serve.schema import Field, Upload, VerbForm, field_of
from fourfold.serve.shelf import NoSuchRun, RunInfo, Shelf

REFUSED: dict[int | str, dict[str, Any]] = {
    status: {"model": models.Problem} for status in (400, 401, 403, 404, 409, 413, 422, 429)
}
LINES = 10_000
"""Lines of a log in one answer."""
SANDBOX = "sandbox allow-scripts; default-src 'unsafe-inline' data:"
"""A report is a document of its own: its scripts may not speak with the server in the reader's name."""

router = APIRouter(responses=REFUSED)
verbs = APIRouter(include_in_schema=False)
"""Outside the document, which has a concrete path for each run and verb."""


def _json(value: Any, status: int = 200) -> Response:
    return Response(dumped(value), status, media_type="application/json")


# --- runs ------------------------------------------------------------------------------------------


@router.get(
    "/runs", tags=["runs"], response_model=list[models.Run], summary="Every run, newest first."
)
def all_runs(request: Request) -> Response:
    shelf: Shelf = request.app.state.shelf
    return _json([_summary(info) for info in shelf.all()])


@router.get(
    "/runs/{name}", tags=["runs"], response_model=models.Details, summary="One run in full."
)
def one_run(request: Request, name: str) -> Response:
    calls = request.app.state.calls
    info: RunInfo = request.app.state.shelf.status(name)
    forms = [_form(calls.form(name, verb)) for verb in info.verbs]
    return _json({**_summary(info), "about": info.about, "options": info.options, "forms": forms})


@router.get(
    "/runs/{name}/metrics", tags=["runs"], response_model=models.Lines, summary="Lines of its log.",
)  # fmt: skip
def log_lines(
    request: Request,
    name: str,
    after: Annotated[int, Query(ge=0, lt=2**53, description="lines that are known already")] = 0,
) -> Response:
    log = request.app.state.shelf.log(name)
    lines = log.lines()[after : after + LINES]
    return _json({"lines": lines, "next": after + len(lines), "age": log.age})


@router.get(
    "/runs/{name}/report", tags=["runs"], response_class=Response, summary="Its report, as HTML.",
    responses={200: {"content": {"text/html": {}}}},
)  # fmt: skip
def report(request: Request, name: str) -> Response:
    path = request.app.state.shelf.folder_of(name) / "report.html"
    try:
        content = path.read_bytes()
    except OSError:
        raise NoSuchRun(f"{name}: has no report yet; it is written when the fit ends") from None
    return Response(content, media_type="text/html", headers={"Content-Security-Policy": SANDBOX})


@verbs.post("/runs/{name}/{verb}")
async def ask(request: Request, name: str, verb: str) -> Response:
    return await call_verb(request, name, verb)


def _summary(info: RunInfo) -> dict[str, Any]:
    return {
        "name": info.name, "system": info.system, "state": info.state, "reason": info.reason,
        "created": info.created, "steps": info.steps, "seconds": info.seconds, "last": info.last,
        "verbs": info.verbs, "ready": info.ready,
    }  # fmt: skip


def _form(form: VerbForm) -> dict[str, Any]:
    return {
        "verb": form.verb, "summary": form.summary, "description": form.description,
        "result": form.result, "streams": form.streams, "writes": form.writes,
        "fields": [_field(item) for item in form.fields],
    }  # fmt: skip


def _field(item: Field) -> dict[str, Any]:
    return {
        "name": item.name, "kind": item.kind, "required": item.required, "default": plain(item.default),
        "choices": plain(item.choices), "minimum": item.minimum, "maximum": item.maximum,
        "many": item.many, "help": item.help,
    }  # fmt: skip


# --- systems -----------------------------------------------------------------------------------------


@router.get(
    "/systems", tags=["fits"], response_model=list[models.System], summary="What can be fitted."
)
def systems() -> Response:
    return _json([_system(entry) for entry in index().values()])


@router.get(
    "/systems/{name}", tags=["fits"], response_model=models.SystemDetails,
    summary="A system with its options.",
)  # fmt: skip
def one_system(name: str) -> Response:
    if name not in index():
        raise NoSuchRun(f"{name[:80]}: no such system")
    cls, entry = load_system(name), index()[name]
    fields = []
    for option in options(cls).values():
        field = field_of(option.name, option.annotation, option.default, help=option.help)
        choices = tuple(literal_choices(option.annotation)) or field.choices
        fields.append(_field(dataclasses.replace(field, choices=choices)))
    data = [key for key, found in CATALOG.items() if found.kind == entry.reads]
    return _json({**_system(entry), "sizes": list(cls.sizes), "options": fields, "data": data})


def _system(entry: Any) -> dict[str, Any]:
    return {key: getattr(entry, key) for key in ("name", "reads", "summary", "source", "verbs")}


# --- fits --------------------------------------------------------------------------------------------


@router.get("/fits", tags=["fits"], response_model=list[models.Fit], summary="Fits started here.")
def fits(request: Request) -> Response:
    return _json(plain(request.app.state.jobs.all()))


UPLOADED = {
    "requestBody": {
        "content": {
            FORM: {
                "schema": {
                    "type": "object",
                    "required": ["fit", "file"],
                    "properties": {
                        "fit": {"type": "string", "description": "the JSON object"},
                        "file": {"type": "array", "items": {"type": "string", "format": "binary"}},
                    },
                }
            },
            "application/json": {
                "schema": models.NewFit.model_json_schema(),
                "example": {"system": "linear", "options": {"data.missing": "median"}},
            },
        },
        "required": True,
    }
}


@router.post(
    "/fits", tags=["fits"], status_code=201, response_model=models.Fit, openapi_extra=UPLOADED,
    summary="Start a fit: JSON, or a form with the JSON in `fit` and the data in `file`.",
)  # fmt: skip
async def start(request: Request) -> Response:
    jobs: Jobs = request.app.state.jobs
    body, files = await _new_fit(request)
    try:
        asked = models.NewFit.model_validate_json(body, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the body"
        raise UserError(f"{place[:200]}: {first['msg'][0].lower()}{first['msg'][1:]}") from None
    if files and asked.data is not None:
        raise UserError("data: a data set of the catalog, or uploads; not both")
    name = await jobs.start(
        asked.system, files or asked.data, name=asked.name, options=asked.options,
        seed=asked.seed, size=asked.size,
    )  # fmt: skip
    return _json(plain(jobs.fit(name)), 201)


async def _new_fit(request: Request) -> tuple[bytes, list[Upload]]:
    if not request.headers.get("content-type", "").lower().startswith(FORM):
        return await request.body(), []
    try:
        form = await request.form(
            max_files=MOST_PARTS, max_fields=MOST_PARTS, max_part_size=1 << 40
        )
    except (KeyError, ValueError, LookupError) as error:
        raise Unreadable(f"the form cannot be read: {error}") from None
    files, body = [], b"{}"
    try:
        for name, value in form.multi_items():
            if name == "file" and isinstance(value, UploadFile):
                content = await value.read()
                files.append(Upload(value.filename or "", content, value.content_type or ""))
            elif name == "fit":
                body = await value.read() if isinstance(value, UploadFile) else value.encode()
            else:
                raise UserError(f"{name[:80]}: expected the fields fit and file")
    finally:
        await form.close()
    return body, files


@router.post(
    "/fits/{name}/stop", tags=["fits"], status_code=202, response_model=models.Fit,
    summary="Stop a fit after its step, with a checkpoint.",
)  # fmt: skip
async def stop(request: Request, name: str) -> Response:
    jobs: Jobs = request.app.state.jobs
    await jobs.stop(name)
    return _json(plain(jobs.fit(name)), 202)


@router.post(
    "/fits/{name}/resume", tags=["fits"], status_code=202, response_model=models.Fit,
    summary="Go on exactly where a run was stopped.",
)  # fmt: skip
async def resume(request: Request, name: str, budget: models.Budget | None = None) -> Response:
    jobs: Jobs = request.app.state.jobs
    given = budget.model_dump(exclude_none=True) if budget else {}
    if len(given) > 1:
        raise UserError(f"{', '.join(given)}: expected one of them")
    await jobs.resume(name, given)
    return _json(plain(jobs.fit(name)), 202)
