"""Servers in processes of their own, and how they are asked."""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Callable
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
        text = self.ask("/metrics")[1].decode()
        found = re.search(rf"^{name} ([\d.e+-]+)$", text, re.MULTILINE)
        assert found, text
        return float(found[1])

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
