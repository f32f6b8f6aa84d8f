"""A request to a verb, from its body to its answer; given up when its client leaves."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from fourfold.serve import encode
from fourfold.serve.calls import Calls
from fourfold.serve.requests import arguments

GONE = 499
"""The client left before its answer: a status for the log and the numbers; nobody reads it."""


async def call_verb(request: Request, name: str, verb: str) -> Response:
    """One request to a verb: whole, or in pieces."""
    calls: Calls = request.app.state.calls
    form = calls.form(name, verb)
    given, streams = await arguments(request, form)
    if not streams:
        result = await until_gone(request, calls.run(name, verb, given))
        if result is None:
            return Response(status_code=GONE)
        accept = request.headers.get("accept", "")
        return await run_in_threadpool(encode.respond, result, accept)
    stream = calls.stream(name, verb, given)
    # the first piece is waited for, so that what is wrong has its status
    first = await until_gone(request, _first(stream))
    if first is None:
        return Response(status_code=GONE)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(
        encode.events(first, stream), media_type=encode.EVENTS, headers=headers
    )


async def _first(stream: Any) -> list[str]:
    """The first piece, in a list; an empty list of an empty answer."""
    async for piece in stream:
        return [piece]
    return []


async def until_gone(request: Request, work: Any) -> Any:
    """Wait for some work, or give it up when the client leaves; then None."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        return None
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
