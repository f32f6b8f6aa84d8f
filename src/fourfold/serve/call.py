"""One call of a verb, between the event loop, where it waits, and the thread that works on it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fourfold.core.errors import UserError
from fourfold.serve.content import Scratch
from fourfold.serve.schema import Result as Kind
from fourfold.serve.schema import VerbForm


@dataclass
class Result:
    """What a verb answered."""

    value: Any
    kind: Kind
    notes: tuple[str, ...] = ()
    """Sentences that the verb said beside it."""
    seconds: float = 0.0
    scratch: Scratch = field(default_factory=Scratch, repr=False)
    """Holds the files of a verb that writes some, until `close`."""

    def close(self) -> None:
        """Remove the files that were written for this answer."""
        self.scratch.close()


class Call:
    """One call under way."""

    def __init__(self, name: str, form: VerbForm, streaming: bool) -> None:
        self.name, self.form = name, form
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Result] = self.loop.create_future()
        self.pieces: asyncio.Queue[str | None] | None = asyncio.Queue() if streaming else None
        self.values: dict[str, Any] = {}
        """Keyword arguments of the verb."""
        self.key: tuple[Any, ...] | None = None
        self.argument: Any = None
        self.scratch = Scratch()
        self.stopped = False
        """Whether nobody waits any more; looked at by the thread that works."""
        self.timer: asyncio.TimerHandle | None = None

    # from the worker's thread

    def piece(self, text: str) -> None:
        """Hand on a piece of text."""
        if self.pieces is not None:
            self.say(self.pieces.put_nowait, text)

    def done(self, value: Any, notes: tuple[str, ...], seconds: float) -> None:
        """Hand over the answer."""
        result = Result(value, self.form.result, notes, seconds)
        if isinstance(value, Path):
            result.scratch, self.scratch = self.scratch, Scratch()
        self.say(self._settle, result)

    def failed(self, error: Exception) -> None:
        """Hand over why there is none."""
        self.say(self._settle, error)

    def say(self, function: Any, *arguments: Any) -> None:
        """Call a function on the loop."""
        try:
            self.loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            pass  # the loop is closed: the server has ended without waiting

    # on the loop

    def _settle(self, outcome: Result | Exception) -> None:
        if self.future.done():
            if isinstance(outcome, Result):
                outcome.close()
        elif isinstance(outcome, Result):
            self.future.set_result(outcome)
        else:
            self.future.set_exception(outcome)
            self.future.exception()  # seen: who has left must not be complained of
        if self.pieces is not None:
            self.pieces.put_nowait(None)

    def end(self, error: Exception | None = None) -> None:
        """Nobody waits any more; the work ends where it next looks."""
        self.stopped = True
        self._settle(error or UserError("stopped"))
