"""Listening on a port until asked to stop: connections bounded in time, what runs is finished."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from fourfold.core.errors import UserError
from fourfold.serve.limits import Limits

HEADERS = 64 << 10
"""Bytes of a request's line and headers."""
BACKLOG = 1024
"""Connections that wait to be taken."""


class Patient(H11Protocol):
    """A connection that is closed if no request has come within a time.

    uvicorn bounds the time between two requests of a connection, but not the time that the first, or one
    whose headers trickle in, may take: a client that opens many connections could hold them for good.
    """

    seconds = Limits.header

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._late = self.loop.call_later(self.seconds, self._close)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before or self.transport.get_protocol() is not self:
            self._late.cancel()  # a request has begun (its body has a time of its own), or a web socket
        elif self.cycle is None or self.cycle.response_complete:
            self._watch()

    def _watch(self) -> None:
        """Bytes of a next request have come: from the first of them on its time runs."""
        if self._late.cancelled():
            self._late = self.loop.call_later(self.seconds, self._close)

    def _close(self) -> None:
        waiting = self.cycle is None or self.cycle.response_complete
        if waiting and not self.transport.is_closing():
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._late.cancel()
        super().connection_lost(exc)


def bound(host: str, port: int) -> socket.socket:
    """A socket on this address.

    Raises:
        UserError: the port is in use or not allowed, or the host is not this machine's.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, OverflowError, UnicodeError):
        raise UserError(f"--host {host}: no such address") from None
    try:
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        code = getattr(error, "errno", None)
        if code == errno.EADDRINUSE:
            text = f"--port {port}: in use on {host} already; --port 0 takes a free one"
        elif code == errno.EACCES:
            text = f"--port {port}: not allowed; ports from 1024 on are"
        elif code == errno.EADDRNOTAVAIL:
            text = f"--host {host}: not an address of this machine"
        else:
            text = f"--host {host} --port {port}: {getattr(error, 'strerror', None) or error}"
        raise UserError(text) from None


def serve(
    app: FastAPI, listening: socket.socket, limits: Limits, ready: Callable[[], None]
) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish what runs, within `limits.stop` seconds.

    Args:
        app: the application.
        listening: from `bound`.
        limits: of this server.
        ready: called once requests are taken.
    """
    protocol = type("Patient", (Patient,), {"seconds": limits.header})
    config = uvicorn.Config(
        app, http=protocol, log_config=None, access_log=False, backlog=BACKLOG, server_header=False,
        h11_max_incomplete_event_size=HEADERS, timeout_keep_alive=math.ceil(limits.idle),
        timeout_graceful_shutdown=math.ceil(limits.stop), ws_max_size=limits.body,
        proxy_headers=False,  # who asks is told by the connection, not by what it says of itself
    )  # fmt: skip
    _log()
    server = _Server(config, ready)
    with _stopped_without_a_trace():
        server.run(sockets=[listening])
    if not server.started:
        raise UserError("the server could not be started; its log says why")
    if not getattr(app.state, "idle", False):
        # a second Ctrl-C, or a verb that does not look whether it is still wanted: it would hold the
        # process for as long as it likes
        app.state.jobs.ask_all_to_stop()
        sys.stderr.flush()
        os._exit(0)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()


@contextlib.contextmanager
def _stopped_without_a_trace() -> Iterator[None]:
    """uvicorn raises the signal again that stopped it: a server that was asked to stop has done well."""
    asked = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: None) for number in asked}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _log() -> None:
    """Warnings and errors go to stderr, with the time and, of failures, the trace."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("uvicorn", "fourfold"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.WARNING)
        logger.propagate = False
