"""Bodies of requests, bounded while they come: in size, in time, and all together."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fourfold.core.errors import UserError
from fourfold.serve.limits import Busy, Limits, TooLarge, TooSlow
from fourfold.serve.problems import Unreadable, refusal


class Bounded:
    """ASGI middleware that counts a body's bytes as they come, whether or not their number was said."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app, self.limits = app, limits
        self.held = 0
        """Bytes of all bodies of requests under way."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        body = _Body(self, scope, receive)
        begun = False

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            body.check_length()
            await self.app(scope, body.receive, sent)
        except UserError as error:
            if begun:
                raise
            await refusal(error, scope["path"])(scope, receive, send)
        finally:
            self.held -= body.count


class _Body:
    def __init__(self, owner: Bounded, scope: Scope, receive: Receive) -> None:
        self.owner, self.limits = owner, owner.limits
        self.headers = dict(scope["headers"])
        self._receive = receive
        self.count = 0
        self.whole = False
        self.until = asyncio.get_running_loop().time() + self.limits.receive

    def check_length(self) -> None:
        """Refuse at once what says that it is too large."""
        said = self.headers.get(b"content-length")
        if said is None:
            return
        if not said.isdigit():
            raise Unreadable("Content-Length: expected a number of bytes")
        if int(said) > self.limits.body:
            raise self._too_large(f"of {int(said):,} bytes")

    def _too_large(self, what: str) -> TooLarge:
        return TooLarge(f"a body {what}, expected {self.limits.body:,} bytes at most")

    async def receive(self) -> Message:
        if self.whole:
            return await self._receive()  # whoever asks now waits for the client to leave
        left = self.until - asyncio.get_running_loop().time()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, left))
        except TimeoutError:
            raise TooSlow(f"the body has not come within {self.limits.receive:g} seconds") from None
        size = len(message.get("body", b""))
        self.count += size
        self.owner.held += size
        self.whole = message["type"] != "http.request" or not message.get("more_body", False)
        if self.count > self.limits.body:
            raise self._too_large("of more bytes")
        if self.owner.held > self.limits.bodies:
            raise Busy("the server holds too many large requests; come again later", 2.0)
        return message
