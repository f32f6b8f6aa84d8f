"""Which address shows which page."""

from __future__ import annotations

import warnings

from fastapi import FastAPI, Request
from fastapi.responses import Response
from nicegui import ui
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fourfold.serve.page import compare, explain, fit, run, runs, samples, shell
from fourfold.serve.page.entrance import STYLE
from fourfold.serve.page.house import House

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'self'"
)
"""What a browser may load: from this server only. NiceGUI's templates are compiled in the page, hence 'unsafe-eval'."""
CACHED = {"Cache-Control": "public, max-age=31536000, immutable"}


class Policed:
    """ASGI middleware: every HTML page that has no policy of its own gets this one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if headers.get("content-type", "").startswith("text/html"):
                    headers.setdefault("Content-Security-Policy", POLICY)
            await send(message)

        await self.app(scope, receive, sent if scope["type"] == "http" else send)


def add(app: FastAPI, house: House) -> None:
    """Add every page, and what pages load, to the application."""

    @app.get(shell.STYLE_PATH, include_in_schema=False)
    def style() -> Response:
        return Response(STYLE, media_type="text/css", headers=CACHED)

    @app.get("/page/samples/{name}/{picture}", include_in_schema=False)
    def sample(name: str, picture: str) -> Response:
        return samples.picture(house, name, picture)

    @ui.page("/")
    def all_runs(request: Request) -> None:
        runs.show(house, request)

    @ui.page("/run/{name}", response_timeout=60.0)
    async def one_run(request: Request, name: str) -> None:
        await run.show(house, request, name)

    @ui.page("/compare")
    def comparison(request: Request) -> None:
        compare.show(house, request)

    @ui.page("/fit")
    def new_fit(request: Request) -> None:
        fit.show(house, request)

    @ui.page("/explain")
    def explanation(request: Request) -> None:
        explain.show(house, request)

    def nowhere(request: Request) -> None:
        shell.missing(request)

    app.add_middleware(Policed)
    with warnings.catch_warnings():
        # it asks every object of the process whether it is a server; torch warns of some that are looked at
        warnings.simplefilter("ignore", FutureWarning)
        ui.run_with(
            app, root=nowhere, title="fourfold", favicon=shell.FAVICON, dark=None, tailwind=False,
            binding_refresh_interval=None, reconnect_timeout=10.0, show_welcome_message=False,
        )  # fmt: skip
