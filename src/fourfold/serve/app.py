"""The application: endpoints over a shelf of runs, with who may ask, how much and how long around them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import fourfold
from fourfold.core.errors import UserError
from fourfold.serve import openai, reference, routes, security
from fourfold.serve.bodies import Bounded
from fourfold.serve.calls import Calls
from fourfold.serve.jobs import Jobs
from fourfold.serve.limits import Limits
from fourfold.serve.metrics import CONTENT_TYPE, Measures
from fourfold.serve.openapi import Document
from fourfold.serve.problems import Wrong, refusal, short
from fourfold.serve.shelf import Shelf
from fourfold.serve.work import Failed


def create_app(
    shelf: Shelf, *, token: str | None = None, limits: Limits | None = None, page: bool = True
) -> FastAPI:
    """The application.

    Args:
        shelf: the runs.
        token: the bearer token that every request needs; None takes requests to loopback names only.
        limits: what is allowed.
        page: whether to add the page. A process can have one.

    Raises:
        UserError: the page's library is not installed.
    """
    limits = limits or Limits()
    measures = Measures()
    calls = Calls(shelf, limits, measures)
    jobs = Jobs(shelf, limits)

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        app.state.idle, _ = await asyncio.gather(calls.close(), jobs.close())

    app = FastAPI(
        title="fourfold", version=fourfold.__version__, lifespan=life, docs_url=None, redoc_url=None
    )
    app.state.shelf, app.state.calls, app.state.jobs = shelf, calls, jobs
    app.state.limits, app.state.token = limits, token
    document = Document(app, calls, token is not None)
    app.openapi = document  # type: ignore[method-assign]
    _gauges(measures, shelf, calls, jobs)
    app.include_router(routes.router)
    app.include_router(routes.verbs)
    app.include_router(openai.router)
    _server(app, measures, token)
    _elsewhere(app)
    app.add_exception_handler(UserError, _refused)
    app.add_exception_handler(Failed, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _unread)
    app.add_exception_handler(Exception, _refused)
    if page:
        from fourfold.serve.page import attach

        attach(app, shelf, calls, jobs)
    # the last one added is the outermost
    app.add_middleware(Bounded, limits=limits)
    app.add_middleware(security.Gate, token=token)
    app.add_middleware(Counted, measures=measures)
    return app


def _gauges(measures: Measures, shelf: Shelf, calls: Calls, jobs: Jobs) -> None:
    measures.gauge("calls_present", "Calls that work or wait.", lambda: calls.present)
    measures.gauge("calls_working", "Calls that are being worked on.", lambda: calls.working)
    measures.gauge("texts_growing", "Texts that grow.", lambda: calls.lanes.growing)
    measures.gauge("runs_open", "Runs whose weights are in memory.", lambda: shelf.opened)
    measures.gauge(
        "fits_running", "Fits under way that were started here.", lambda: len(jobs.running)
    )


def _server(app: FastAPI, measures: Measures, token: str | None) -> None:
    """Endpoints about the server itself."""
    calls: Calls = app.state.calls

    @app.get("/health", tags=["server"], summary="Whether the server lives.")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready", tags=["server"], summary="Whether it takes requests; 503 while it stops.")
    def ready(response: Response) -> dict[str, bool]:
        response.status_code = 503 if calls.closing else 200
        return {"ready": not calls.closing}

    @app.get(
        "/metrics", tags=["server"], summary="Numbers for Prometheus.", response_class=Response
    )
    def metrics() -> Response:
        return Response(measures.text(), media_type=CONTENT_TYPE)

    @app.get("/docs", include_in_schema=False)
    def docs(request: Request) -> HTMLResponse:
        text = reference.page(app.openapi(), str(request.base_url).rstrip("/"))
        return HTMLResponse(
            text,
            headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"},
        )

    @app.get("/login", include_in_schema=False)
    def login_form(request: Request) -> Response:
        return security.login_form(request)

    @app.post("/login", include_in_schema=False)
    async def login(request: Request) -> Response:
        return await security.login(request, token)


def _elsewhere(app: FastAPI) -> None:
    """What no endpoint takes below the endpoints' addresses is told to a program: the page would answer in HTML."""
    listed = [*app.routes, *routes.router.routes, *routes.verbs.routes, *openai.router.routes]
    taken = [r for r in listed if isinstance(r, APIRoute)]
    methods = [*METHODS, "TRACE"]

    def nothing(request: Request) -> Response:
        path = request.url.path
        takes = {m for r in taken if r.path_regex.match(path) for m in r.methods or ()}
        if not takes:
            return short(404, "Not Found", path)
        return short(405, "Method Not Allowed", path, {"Allow": ", ".join(sorted(takes))})

    for first in sorted({r.path.split("/")[1] for r in taken}):
        for path in (f"/{first}", f"/{first}/{{rest:path}}"):
            app.router.add_route(path, nothing, methods=methods, include_in_schema=False)


async def _refused(request: Request, error: Exception) -> Response:
    return refusal(error, request.url.path)


async def _unread(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    return short(error.status_code, str(error.detail), request.url.path, error.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:])[:200]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":  # of a check over several fields, which names its own
        sentence, field = message, message.partition(":")[0]
    elif not place or first["type"] == "json_invalid":
        sentence, field = "the body: expected a JSON object, sent as application/json", None
    else:
        sentence, field = f"{place}: {message[0].lower()}{message[1:]}", place.partition(".")[0]
    return refusal(Wrong(sentence, field), request.url.path)


class Counted:
    """ASGI middleware that counts requests by route and times them to the last byte."""

    def __init__(self, app: ASGIApp, measures: Measures) -> None:
        self.app, self.measures = app, measures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, status = time.perf_counter(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, sent)
        finally:
            # the route's template, not its address: a client may make up any number of those
            route = getattr(scope.get("route"), "path", "") or "other"
            method = scope["method"] if scope["method"] in METHODS else "other"
            self.measures.answered(route, method, status, time.perf_counter() - began)


METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
