"""Calls of verbs: who may come in, who waits, who is answered together, and when a call is given up.

Verbs work in a few threads. Of one run one call works at a time, others wait in its line; those that may
be made as one are taken together. All of this is decided on the event loop, so nothing here is locked.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

from fourfold.core.errors import UserError
from fourfold.core.registry import load_system
from fourfold.core.run import Run
from fourfold.serve.call import Call, Result
from fourfold.serve.content import prepare
from fourfold.serve.decode import Arguments, from_values
from fourfold.serve.lanes import Growth, Lanes
from fourfold.serve.limits import Busy, Limits, TooLarge
from fourfold.serve.metrics import Measures
from fourfold.serve.schema import VerbForm, describe
from fourfold.serve.shelf import NotReady, Shelf
from fourfold.serve.work import Failed, argument_of, key_of, logged, work
from fourfold.tasks.continuous import Growing


class TooLong(UserError):
    """A verb worked longer than it may: 422."""


class Calls:
    """Runs verbs for whoever asks: HTTP and the page alike.

    Args:
        shelf: the runs.
        limits: how many, how long, how large.
        measures: where it is counted.
    """

    def __init__(
        self, shelf: Shelf, limits: Limits | None = None, measures: Measures | None = None
    ) -> None:
        self.shelf, self.limits = shelf, limits or Limits()
        self.measures = measures or Measures()
        self._workers = ThreadPoolExecutor(self.limits.concurrency, "verb")
        self._readers = ThreadPoolExecutor(4, "content")
        self._slots: asyncio.Semaphore | None = None
        self._present: Counter[str] = Counter()
        self._calls: set[Call] = set()
        self._lines: dict[str, list[Call]] = {}
        self._drains: dict[str, asyncio.Task[None]] = {}
        self.lanes = Lanes(self)
        self._mean = 0.5  # seconds of work, running mean
        self.working = 0
        """Calls that are being worked on."""
        self.closing = False

    @property
    def present(self) -> int:
        """Calls that work or wait."""
        return self._present.total()

    def form(self, name: str, verb: str) -> VerbForm:
        """The form of a run's verb, with this server's bounds.

        Raises:
            NoSuchRun: there is no such run.
            NotReady: it is damaged.
            UserError: it has no such verb.
        """
        info = self.shelf.status(name)
        if info.system == "?":
            raise NotReady(f"{name}: {info.reason}")
        return describe(load_system(info.system), verb, self.limits.most)

    async def run(self, name: str, verb: str, arguments: Mapping[str, Any]) -> Result:
        """Call a verb and wait for its whole answer.

        Args:
            name: the run.
            verb: the verb.
            arguments: by field name, as JSON has them, uploads among them.

        Raises:
            Busy: too many calls.
            UserError: anything wrong with the arguments, or that the verb finds wrong, or that takes too long.
            Failed: the verb failed inside.
        """
        call = await self._begin(name, verb, arguments, streaming=False)
        try:
            return await call.future
        finally:
            if call.future.cancelled():
                self.give_up(call)

    def stream(self, name: str, verb: str, arguments: Mapping[str, Any]) -> Stream:
        """Call a verb that answers in pieces; see `run` for arguments and errors, raised with the first piece."""
        return Stream(self, name, verb, arguments)

    # --- coming in ---------------------------------------------------------------------------------

    async def _begin(
        self, name: str, verb: str, arguments: Mapping[str, Any], *, streaming: bool
    ) -> Call:
        form = self.form(name, verb)
        self._admit(name)
        call = Call(name, form, streaming)
        await self._come_in(call, lambda: self._read(call, arguments))
        self._lines.setdefault(name, []).append(call)
        if name not in self._drains:
            self._drains[name] = asyncio.create_task(self._drain(name))
        return call

    async def grow(
        self, name: str, what: str, wanted: Callable[[Run], list[Growing]], *, streaming: bool
    ) -> Growth:
        """Begin texts of a run that grow beside those of others.

        Args:
            name: the run.
            what: by which name they are counted.
            wanted: the texts, made in a thread of its own; more than `limits.batch` never grow at once.
            streaming: whether they are wanted as they grow.

        Raises:
            Busy: too many calls.
            UserError: there is no such run, or `wanted` finds something wrong.
        """
        system = self.shelf.status(name).system
        self._admit(name)
        call = Growth(name, VerbForm(what, "", (), "text", True, system=system), streaming)

        def read() -> None:
            call.run = self.shelf.open(name)
            try:
                call.texts = wanted(call.run)
            except UserError as error:
                sentence = str(error).replace(str(call.run.folder), name)
                raise type(error)(sentence) from None

        await self._come_in(call, read)
        self.lanes.join(call)
        return call

    def begun(self, call: Growth) -> None:
        """The texts of a call grow now: it no longer waits."""
        if call.timer is not None:
            call.timer.cancel()
        self.working += 1

    def left(self, call: Growth) -> None:
        """The texts of a call grow no more."""
        if call.until:
            self.working -= 1
            # as many grow at once as a batch has texts, where `concurrency` verbs work
            self._took(
                (time.monotonic() - call.began) * self.limits.concurrency / self.limits.batch
            )
        self._leave(call)

    def _took(self, seconds: float) -> None:
        self._mean += 0.1 * (seconds - self._mean)

    async def _come_in(self, call: Call, read: Callable[[], None]) -> None:
        """Read what is asked in a thread of its own: a table, or a run's weights, must not hold up the others."""
        reading = self._readers.submit(self._prepare, call, read)
        try:
            await asyncio.wrap_future(reading)
        except BaseException:
            # one who has left may leave a thread behind that still reads
            reading.add_done_callback(lambda _: call.say(self._leave, call))
            raise
        self._calls.add(call)
        late = self._busy("has not come to this one in time")
        call.timer = call.loop.call_later(self.limits.seconds, self.give_up, call, late)

    def _admit(self, name: str) -> None:
        limits = self.limits
        if self.closing:
            raise self._busy("is being stopped")
        if self.present >= limits.concurrency + limits.queue:
            raise self._busy(f"has {self.present} requests under way")
        if self._present[name] >= limits.per_run:
            raise self._busy(f"has {self._present[name]} requests to {name} under way")
        self._present[name] += 1

    def _busy(self, why: str) -> Busy:
        rounds = self.present / self.limits.concurrency
        return Busy(f"the server {why}; come again later", min(60.0, max(1.0, rounds * self._mean)))

    def _prepare(self, call: Call, read: Callable[[], None]) -> None:
        try:
            read()
        except UserError:
            raise
        except Exception:
            raise logged(call) from None

    def _read(self, call: Call, arguments: Mapping[str, Any]) -> None:
        run = self.shelf.open(call.name)
        given = arguments if isinstance(arguments, Arguments) else from_values(call.form, arguments)
        try:
            call.values = prepare(call.form, given, run.system, self.limits, call.scratch)
        except UserError as error:
            kind = TooLarge if isinstance(error, TooLarge) else UserError
            raise kind(call.scratch.without(str(error))) from None
        if call.pieces is None:
            call.key = key_of(run, call.form, call.values)
            call.argument = argument_of(run, call) if call.key else None

    def give_up(self, call: Call, error: Exception | None = None) -> None:
        """Nobody waits for a call any more: it leaves its line, or ends where its work next looks."""
        call.end(error)
        line = self._lines.get(call.name, [])
        if call in line:
            line.remove(call)
            self._leave(call)

    def _leave(self, call: Call) -> None:
        self._present[call.name] -= 1
        if not self._present[call.name]:
            del self._present[call.name]
        if call.timer is not None:
            call.timer.cancel()
        call.scratch.close()
        self._calls.discard(call)

    # --- being worked on ------------------------------------------------------------------------------

    async def _drain(self, name: str) -> None:
        """Work off a run's line."""
        if self._slots is None:
            self._slots = asyncio.Semaphore(self.limits.concurrency)
        try:
            while self._lines[name]:
                async with self._slots:
                    batch = self._take(self._lines[name])
                    await self._work(name, batch)
        finally:
            del self._lines[name], self._drains[name]

    def _take(self, line: list[Call]) -> list[Call]:
        """The next call, and those behind it that may be made as one with it."""
        batch: list[Call] = []
        rest: list[Call] = []
        rows, texts = 0, set()
        for call in line:
            height = getattr(call.argument, "height", 0)
            text = call.argument if isinstance(call.argument, str) else None
            fits = not batch or (
                call.key is not None
                and call.key == batch[0].key
                and len(batch) < self.limits.batch
                and rows + height <= self.limits.rows
                and (text is None or text not in texts)  # noise is drawn by the text's place
            )
            if not fits:
                rest.append(call)
                continue
            batch.append(call)
            rows += height
            texts.add(text)
        line[:] = rest
        return batch

    async def _work(self, name: str, batch: list[Call]) -> None:
        if not batch:
            return
        loop, began = asyncio.get_running_loop(), time.perf_counter()
        for call in batch:
            self._clock(call)
        self.working += len(batch)
        try:
            await loop.run_in_executor(self._workers, self._answer, name, batch)
        finally:
            self.working -= len(batch)
            seconds = time.perf_counter() - began
            self._took(seconds)
            self.measures.worked(batch[0].form, len(batch), seconds)
            for call in batch:
                self._leave(call)

    def _answer(self, name: str, batch: list[Call]) -> None:
        """In a worker's thread: open the run as it is now, and work."""
        try:
            work(self.shelf.open(name), batch)
        except BaseException as error:  # nobody may be left waiting
            for call in batch:
                call.failed(error if isinstance(error, UserError) else logged(call))

    def _clock(self, call: Call) -> None:
        """From here on the work is timed, no longer the waiting."""
        if call.timer is not None:
            call.timer.cancel()
        limit = self.limits.seconds
        sentence = f"{call.form.verb}: took longer than {limit:g} s, the most that is allowed here; ask for less"
        call.timer = call.loop.call_later(limit, call.end, TooLong(sentence))

    # --- the end ---------------------------------------------------------------------------------------

    async def close(self) -> bool:
        """Take no more calls, let those under way end, give up what has not ended in time.

        Returns:
            Whether all threads are idle.
        """
        self.closing = True
        until = time.monotonic() + self.limits.stop
        while self.present and time.monotonic() < until:
            await asyncio.sleep(0.02)
        for call in list(self._calls):
            self.give_up(call, self._busy("is being stopped"))
        until = time.monotonic() + 1.0  # what looks whether it is still wanted ends now
        while self.working and time.monotonic() < until:
            await asyncio.sleep(0.02)
        self.lanes.close()
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._workers.shutdown(wait=False, cancel_futures=True)
        return not self.working


class Stream:
    """The pieces of an answer, as they are made: an async iterator; `aclose` ends the work behind it."""

    def __init__(self, calls: Calls, name: str, verb: str, arguments: Mapping[str, Any]) -> None:
        self._calls, self._asked = calls, (name, verb, arguments)
        self._call: Call | None = None
        self.notes: tuple[str, ...] = ()
        """What the verb said beside its answer; known at the end."""
        self.seconds = 0.0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        if self._call is None:
            self._call = await self._calls._begin(*self._asked, streaming=True)
        call = self._call
        assert call.pieces is not None  # noqa: S101
        try:
            piece = await call.pieces.get()
        except asyncio.CancelledError:
            self._calls.give_up(call)
            raise
        if piece is not None:
            return piece
        result = await call.future
        self.notes, self.seconds = result.notes, result.seconds
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End it: the work stops where it next looks, and its place is free."""
        if self._call is not None and not self._call.future.done():
            self._calls.give_up(self._call)


__all__ = ["Call", "Calls", "Failed", "Result", "Stream", "TooLong"]
