"""Who may ask at all: the token, and on loopback without one, only pages of this server's own.

A page of any other site can make a browser send requests to 127.0.0.1: plainly (cross-site request
forgery; its `Origin` gives it away), or by letting its own name point there (DNS rebinding; the `Host`
gives it away). A bearer token in a header is proof by itself, for no other site knows it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, quote, urlsplit

from fastapi import Response
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from fourfold.core.errors import UserError
from fourfold.serve.page.entrance import form
from fourfold.serve.page.words import LANGUAGE_COOKIE, chosen
from fourfold.serve.problems import Forbidden, Unauthorized, refusal

LOOPBACK = ("localhost", "127.0.0.1", "::1")
OPEN = ("/health", "/ready", "/login")
"""Paths that need no token."""
SAFE = ("GET", "HEAD", "OPTIONS")
COOKIE = "fourfold"
SHORTEST = 16
"""Characters of a token."""


def checked(token: str | None, host: str) -> str | None:
    """The token for a server on this host, None for none.

    Raises:
        UserError: it is too short or not ASCII, or there is none although others can reach the host.
    """
    if token is None:
        if host not in LOOPBACK:
            raise UserError(
                f"--host {host}: others can reach it, so it needs a token: --token, or FOURFOLD_TOKEN"
            )
        return None
    if len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(
            f"--token: expected {SHORTEST} characters or more, printable ASCII without spaces"
        )
    return token


def digest(token: str) -> str:
    """What a browser's cookie holds: it proves the token without being it."""
    return hmac.new(token.encode(), b"fourfold page", hashlib.sha256).hexdigest()


class Gate:
    """ASGI middleware that lets in who may come in; web sockets too."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        connection = HTTPConnection(scope)
        try:
            self._check(connection, scope)
        except UserError as error:
            if scope["type"] == "websocket":
                await receive()
                return await send({"type": "websocket.close", "code": 1008})
            return await self._refused(connection, error)(scope, receive, send)
        return await self.app(scope, receive, send)

    def _check(self, connection: HTTPConnection, scope: Scope) -> None:
        headers = connection.headers
        if self.token is not None and _equal(_bearer(headers), self.token):
            return
        changes = scope["type"] == "websocket" or scope["method"] not in SAFE
        if changes:
            _same_site(headers)
        if self.token is None:
            _loopback(headers)
        elif connection.url.path not in OPEN and not _equal(_cookie(headers), digest(self.token)):
            raise Unauthorized("no token, or another one: expected Authorization: Bearer TOKEN")

    def _refused(self, connection: HTTPConnection, error: UserError) -> Response:
        reads = "text/html" in connection.headers.get("accept", "")
        if isinstance(error, Unauthorized) and reads:
            return RedirectResponse(f"/login?next={quote(connection.url.path)}", 303)
        return refusal(error, connection.url.path)


def _equal(given: str, wanted: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(given.encode(), wanted.encode())


def _bearer(headers: Mapping[str, str]) -> str:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


def _cookie(headers: Mapping[str, str]) -> str:
    try:
        cookies = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return ""
    return cookies[COOKIE].value if COOKIE in cookies else ""


def _same_site(headers: Mapping[str, str]) -> None:
    """Refuse what a page of another site has a browser send.

    Raises:
        Forbidden: it comes from another origin. Programs, other than browsers, send none.
    """
    origin = headers.get("origin")
    if origin is not None and _place(origin) != headers.get("host", ""):
        raise Forbidden(f"a request of another site's page ({origin[:80]}) is not taken")
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        raise Forbidden("a request of another site's page is not taken")


def _place(origin: str) -> str | None:
    """Host and port of an origin; None if it is no address."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _loopback(headers: Mapping[str, str]) -> None:
    """Refuse a name that somebody lets point here.

    Raises:
        Forbidden: the host asked for is not this machine's own name for itself.
    """
    host = headers.get("host", "")
    if not re.fullmatch(
        rf"({'|'.join(map(re.escape, LOOPBACK))}|\[::1\])(:\d{{1,5}})?", host.lower()
    ):
        raise Forbidden(
            f"asked for {host[:80]!r}, expected localhost; with --token any name may be used"
        )


def login_form(request: Request, *, wrong: bool = False) -> HTMLResponse:
    """The page that asks a reader for the token, in the reader's language."""
    language = chosen(request.cookies.get(LANGUAGE_COOKIE), request.headers.get("accept-language"))
    wanted = quote(_inside(request.query_params.get("next", "/")))
    text = form(f"/login?next={wanted}", language, wrong=wrong)
    policy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'"
    return HTMLResponse(text, 401 if wrong else 200, {"Content-Security-Policy": policy})


async def login(request: Request, token: str | None) -> Response:
    """Take the token of a form; a right one becomes a cookie that only this site's own pages send."""
    fields = parse_qs((await request.body()).decode("utf-8", "replace"))
    given, wanted = fields.get("token", [""])[0], request.query_params.get("next", "/")
    if token is None or not _equal(given, token):
        return login_form(request, wrong=True)
    response = RedirectResponse(_inside(wanted), 303)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, digest(token), httponly=True, samesite="strict", secure=secure)
    return response


def _inside(path: str) -> str:
    """A path of this server; anything that leads elsewhere is the first page."""
    inside = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if inside else "/"
