"""Servers in processes of their own, and how they are asked."""

from __future__ import annotations

import asyncio
import http.client
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from children import Child

Client = Callable[..., Any]
"""Makes a test client of an application in this process: the fixture `client`."""


class Server:
    """A server in a process of its own."""

    def __init__(self, child: Child) -> None:
        self.child = child
        child.until(lambda: "http://" in said(child))
        found = re.search(r"http://127.0.0.1:(\d+)", child.stderr)
        assert found, child.stderr
        self.port = int(found[1])

    def ask(
        self, path: str, body: bytes | None = None, method: str | None = None, **headers: str
    ) -> tuple[int, bytes]:
        """One request: its status and the answer's body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method or ("GET" if body is None else "POST"), path, body, named)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def number(self, name: str) -> float:
        """A number of `/metrics`."""
        return metric(self.ask("/metrics")[1].decode(), name)

    def until(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        """Wait for something."""
        limit = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < limit and not self.child.ended, self.child.stderr
            time.sleep(0.01)


def said(child: Child) -> str:
    """What a child has said so far; it may not have begun."""
    try:
        return child.stderr
    except FileNotFoundError:
        return ""


class Threaded:
    """A server in a thread of this process, on a real socket, over a folder of runs."""

    def __init__(self, folder: Path, **given: Any) -> None:
        from fourfold.serve.app import create_app
        from fourfold.serve.listen import Patient, bound
        from fourfold.serve.shelf import Shelf

        self.app = create_app(Shelf([folder]), page=False, **given)
        self._socket = bound("127.0.0.1", 0)
        self.port = int(self._socket.getsockname()[1])
        import uvicorn

        config = uvicorn.Config(self.app, http=Patient, log_config=None, ws="none")
        self._server = uvicorn.Server(config)
        serve = self._server.serve(sockets=[self._socket])
        self._thread = threading.Thread(target=lambda: asyncio.run(serve))

    def __enter__(self) -> Threaded:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()

    def number(self, name: str) -> float:
        """A number of its metrics."""
        return metric(self.app.state.calls.measures.text().decode(), name)

    def until(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        """Wait for something."""
        limit = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < limit
            time.sleep(0.01)


def metric(text: str, name: str) -> float:
    """A number among Prometheus' lines."""
    found = re.search(rf"^{name} ([\d.e+-]+)$", text, re.MULTILINE)
    assert found, text
    return float(found[1])
