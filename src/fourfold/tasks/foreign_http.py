"""JSON over HTTP with somebody else's server, by the standard library: whole answers and streams, bounded in time and size."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

from fourfold.core.errors import UserError

CONNECT = 10.0
"""Seconds in which a connection must be there."""
LINE, BODY = 16 << 20, 256 << 20
"""Bytes of a streamed line, and of a whole answer, at most."""
PATIENCE = 20.0
"""Longest wait, in seconds, that a busy server may ask for."""
TRIES = 4
BUSY = (429, 503)


class Refused(UserError):
    """The server answered, and not with what was asked for."""

    def __init__(self, sentence: str, status: int, said: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.said = said
        """The server's own words."""


class Server:
    """A server that speaks JSON.

    Args:
        base: its address, http or https.
        name: what messages call it.
        absent: what to do where nothing answers, as the end of a sentence.
        token: the bearer token; "" sends none.
        variable: where the token comes from.
        timeout: seconds without a byte after which it is given up.
    """

    def __init__(
        self, base: str, *, name: str, absent: str, token: str, variable: str, timeout: float
    ) -> None:
        self.base, self.name, self.absent = base, name, absent
        self.variable, self.timeout = variable, timeout
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One question, one answer in JSON.

        Raises:
            Refused: a status that is not 200, or no JSON.
            UserError: nothing answers, or not in time.
        """
        with closing(self._sent(path, body)) as connection:
            content = self._read(lambda: connection.answer.read(BODY + 1), path)
            if len(content) > BODY:
                raise UserError(f"{self.name}: answers {path} with more than {BODY >> 20} MiB")
            return self._json(content, path)

    def stream(
        self, path: str, body: Mapping[str, Any], *, events: bool
    ) -> Iterator[dict[str, Any]]:
        """The objects of an answer as they come; closing the iterator ends the request.

        Args:
            path: below the base.
            body: what is asked.
            events: whether they are server-sent events, which end with [DONE]; otherwise a line each.

        Raises:
            Refused, UserError: as `ask`, and where the answer breaks off.
        """
        with closing(self._sent(path, body)) as connection:
            answer = connection.answer
            if events and "json" in answer.headers.get("content-type", ""):
                yield self._object(self._read(lambda: answer.read(BODY), path), path)
                return
            while line := self._read(lambda: answer.readline(LINE), path):
                text = line.strip()
                if events:
                    if not text.startswith(b"data:"):
                        continue  # a comment that keeps the connection, or an event's name
                    text = text[5:].strip()
                    if text == b"[DONE]":
                        return
                if text:
                    yield self._object(text, path)

    # --- private ----------------------------------------------------------------------------------

    def _sent(self, path: str, body: Mapping[str, Any] | None) -> _Connection:
        """A request whose answer has begun with status 200; a busy server is asked again a few times."""
        for left in reversed(range(TRIES)):
            connection = _Connection(self.base, self.timeout)
            try:
                self._reach(connection)
                data = None if body is None else json.dumps(body).encode()
                self._read(lambda c=connection, d=data: c.send(path, d, self._headers), path)  # type: ignore[misc]
                status = connection.answer.status
                if status == 200:
                    return connection
                content = self._read(lambda c=connection: c.answer.read(LINE), path)  # type: ignore[misc]
                wait = _seconds(connection.answer.headers.get("retry-after"))
            except BaseException:
                connection.close()
                raise
            connection.close()
            if status not in BUSY or not left or wait > PATIENCE:
                raise self._refused(path, status, content)
            time.sleep(wait)
        raise AssertionError  # the last try returns or raises

    def _reach(self, connection: _Connection) -> None:
        try:
            connection.connect()
        except TimeoutError:
            raise UserError(
                f"{self.name}: nothing answers at {self.base} within {CONNECT:g} s; {self.absent}"
            ) from None
        except OSError as error:
            why = error.strerror or str(error)
            raise UserError(
                f"{self.name}: no server answers at {self.base} ({why}); {self.absent}"
            ) from None

    def _read(self, work: Any, path: str) -> Any:
        try:
            return work()
        except TimeoutError:
            raise UserError(
                f"{self.name}: has not answered within {self.timeout:g} s; FOURFOLD_TIMEOUT allows more"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            said = str(error) or type(error).__name__
            raise UserError(
                f"{self.name}: its answer to {path} broke off ({said[:200]}); is it still running?"
            ) from None

    def _refused(self, path: str, status: int, content: bytes) -> Refused:
        said = _said(content)
        if status in (401, 403):
            how = f"set {self.variable} to its token"
            text = f"{self.name}: refuses the request ({status}{said and ': ' + said}); {how}"
        elif status in BUSY:
            text = f"{self.name}: is busy ({status}{said and ': ' + said}); come again later"
        elif 300 <= status < 400:
            text = f"{self.name}: points elsewhere ({status}); name the address that it points to"
        else:
            text = f"{self.name}: answers {path} with status {status}{said and ': ' + said}"
        return Refused(text, status, said)

    def _json(self, content: bytes, path: str) -> Any:
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            shown = content[:60].decode("utf-8", "replace")
            raise Refused(
                f"{self.name}: answers {path} with no JSON ({shown!r}); is it the address of such a server?", 200, ""
            ) from None  # fmt: skip

    def _object(self, content: bytes, path: str) -> dict[str, Any]:
        found = self._json(content, path)
        if not isinstance(found, dict):
            raise self.unlike(path)
        if found.get("error"):  # one that comes in the middle of a stream
            said = _said(content)
            raise Refused(f"{self.name}: broke off: {said}", 200, said)
        return found

    def unlike(self, path: str) -> UserError:
        """An answer that is JSON of another shape."""
        return UserError(f"{self.name}: its answer to {path} is not what such a server answers")


class _Connection:
    """One request and its answer."""

    answer: http.client.HTTPResponse

    def __init__(self, base: str, timeout: float) -> None:
        parts = urlsplit(base)
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        self._timeout, self._path = timeout, parts.path
        self._http = kind(parts.hostname or "", parts.port, timeout=min(CONNECT, timeout))

    def connect(self) -> None:
        self._http.connect()
        self._http.sock.settimeout(self._timeout)

    def send(self, path: str, data: bytes | None, headers: dict[str, str]) -> None:
        self._http.request("GET" if data is None else "POST", self._path + path, data, headers)
        self.answer = self._http.getresponse()

    def close(self) -> None:
        self._http.close()


def _said(content: bytes) -> str:
    """A server's own words for what is wrong: OpenAI's {"error": {"message"}}, ollama's {"error"}, FastAPI's {"detail"}."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    for key in ("error", "message", "detail"):
        if isinstance(found, dict):
            found = found.get(key) or found
    text = found if isinstance(found, str) else json.dumps(found)
    return text[:300].strip().rstrip(".")


def _seconds(text: str | None) -> float:
    try:
        return max(0.1, float(text or 1.0))
    except ValueError:
        return 1.0
