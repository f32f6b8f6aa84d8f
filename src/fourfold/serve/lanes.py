"""Texts that are asked for grow together: for each run a batch, in a thread of its own (`tasks/continuous.py`).

A lane's thread works beside those of the verbs and shares the cores with them. What it says is handed to the event loop a
few times a second, for all calls at once: a crossing for each token would cost more than the token.
"""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from fourfold.core.console import Silent
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.serve.call import Call
from fourfold.serve.schema import VerbForm
from fourfold.serve.work import log, logged
from fourfold.tasks.continuous import Batch, Finish, Growing, Told
from fourfold.tasks.prompts import batch_of

if TYPE_CHECKING:
    from fourfold.serve.calls import Calls

HAND = 0.02
"""Seconds between two crossings to the event loop; first words and ends cross at once."""


class Logged(Silent):
    """What is said for the server's own log."""

    def __init__(self, name: str) -> None:
        self.name = name

    def say(self, sentence: str) -> None:
        log.info("%s: %s", self.name, sentence)


class Said(NamedTuple):
    """More of one text of a call."""

    number: int
    text: str
    told: list[Told]
    finish: Finish | None


@dataclass
class Grown:
    """A text of a call, whole."""

    text: str
    told: list[Told]
    finish: Finish
    growing: Growing


class Growth(Call):
    """A call whose answer is texts that grow."""

    def __init__(self, name: str, form: VerbForm, streaming: bool) -> None:
        super().__init__(name, form, streaming)
        self.run: Run | None = None
        self.texts: list[Growing] = []
        self.said: asyncio.Queue[list[Said] | None] = asyncio.Queue()
        self.whole: list[Grown] = []
        self.asked = time.monotonic()
        self.until = 0.0
        """When its time is up; 0 while it waits."""
        self.began = 0.0

    def _settle(self, outcome: object) -> None:
        super()._settle(outcome)  # type: ignore[arg-type]
        self.said.put_nowait(None)


class Lanes:
    """The lanes of a server.

    Args:
        calls: whose they are.
    """

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self._lanes: dict[str, Lane] = {}

    def join(self, call: Growth) -> None:
        """One more call, on the event loop."""
        lane = self._lanes.get(call.name)
        assert call.run is not None  # noqa: S101
        if lane is None or lane.run is not call.run or not lane.join(call):
            if lane is not None:
                lane.close()
            lane = self._lanes[call.name] = Lane(call.run, self.calls)
            lane.join(call)
        self._lanes[call.name] = self._lanes.pop(call.name)  # the last used is the last
        while len(self._lanes) > self.calls.limits.open_runs:
            self._lanes.pop(next(iter(self._lanes))).close()

    def close(self) -> None:
        """Let every lane end once its calls have."""
        for lane in self._lanes.values():
            lane.close()

    @property
    def growing(self) -> int:
        """Texts that grow."""
        return sum(lane.alive for lane in self._lanes.values())


class Lane:
    """A run's batch and its thread.

    Args:
        run: whose texts grow.
        calls: counts them, and is told when they begin and leave.
    """

    def __init__(self, run: Run, calls: Calls) -> None:
        self.run, self.calls = run, calls
        self.alive = 0
        self._coming: deque[Growth] = deque()
        self._here: list[Growth] = []
        self._owners: dict[Growing, tuple[Growth, int]] = {}
        self._pending: dict[Growth, list[Said]] = {}
        self._handed = 0.0
        self._closed = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="lane", daemon=True)
        self._thread.start()

    def join(self, call: Growth) -> bool:
        """One more call; False where the lane has ended."""
        with self._news:
            if self._closed:
                return False
            self._coming.append(call)
            self._news.notify()
            return True

    def close(self) -> None:
        """End once the calls have that are there."""
        with self._news:
            self._closed = True
            self._news.notify()

    # --- in its thread --------------------------------------------------------------------------------

    def _work(self) -> None:
        batch: Batch | None = None
        while self._wait():
            try:
                if batch is None:
                    limits, own = self.calls.limits, copy.copy(self.run)
                    own.console = Logged(self.run.place)  # not the one that a verb speaks to now
                    batch = batch_of(own, limits.batch, limits.engine, limits.precision)
                self._round(batch)
            except BaseException as error:  # one step fails for all: no slot is trusted any more
                said = error if batch is None and isinstance(error, UserError) else None
                batch = None
                for call in self._here:
                    call.failed(said or logged(call))
                    self._gone(call)
                self._here.clear()
                self._owners.clear()
            self.alive = 0 if batch is None else batch.alive

    def _wait(self) -> bool:
        """Until there is work; False at the end."""
        with self._news:
            while not (self._coming or self._here):
                if self._closed:
                    return False
                self._news.wait()
            while self._coming:
                self._here.append(self._coming.popleft())
        return True

    def _round(self, batch: Batch) -> None:
        """Let who has come join, everybody grow, and who has ended leave."""
        for call in self._here:
            if call.texts[0] not in self._owners and not call.stopped:
                for number, growing in enumerate(call.texts):
                    self._owners[growing] = call, number
                    batch.join(growing)
        changed = batch.step()
        now = time.monotonic()
        changed += self._late(batch, now)
        for growing in changed:
            self._say(growing)
        self._hand(now)
        for call in [c for c in self._here if c.stopped or all(g.finish for g in c.texts)]:
            self._here.remove(call)
            for growing in call.texts:
                batch.leave(growing)
                self._owners.pop(growing, None)
            self._end(call, batch)

    def _late(self, batch: Batch, now: float) -> list[Growing]:
        """Begin the time of calls whose texts grow now, and end the texts of those whose time is up."""
        ended = []
        for call in self._here:
            if not call.until:
                if any(batch.holds(g) or g.finish for g in call.texts):
                    call.until, call.began = now + self.calls.limits.seconds, now
                    call.say(self.calls.begun, call)
            elif now > call.until:
                for growing in call.texts:
                    if not growing.finish:
                        growing.end("length")
                        ended.append(growing)
        return ended

    def _say(self, growing: Growing) -> None:
        """Keep what a text has said until it is handed over; of a call that does not stream until its end."""
        call, number = self._owners[growing]
        if call.stopped or (call.pieces is None and not growing.finish):
            return
        text, told = growing.take()
        if text or told or growing.finish:
            self._pending.setdefault(call, []).append(Said(number, text, told, growing.finish))

    def _hand(self, now: float) -> None:
        """Hand over what was said, at once where somebody waits for the first word or the last."""
        urgent = any(s.finish or not c.whole for c, said in self._pending.items() for s in said)
        if not self._pending or (now - self._handed < HAND and not urgent):
            return
        self._handed = now
        some, self._pending = list(self._pending.items()), {}
        for call, said in some:
            if not call.whole:
                call.whole = [Grown("", [], "stop", g) for g in call.texts]
                self.calls.measures.first.observe(now - call.asked)
            for piece in said:
                grown = call.whole[piece.number]
                grown.text += piece.text if call.pieces is None else ""
                grown.told += piece.told if call.pieces is None else []
                grown.finish = piece.finish or grown.finish
        streamed = [(call.said, said) for call, said in some if call.pieces is not None]
        if streamed:
            some[0][0].say(_deliver, streamed)

    def _end(self, call: Growth, batch: Batch) -> None:
        if call.until:
            self.calls.measures.grown(call.form, call.texts, batch.alive, time.monotonic() - call.began)  # fmt: skip
        wrong = next((g.wrong for g in call.texts if g.wrong), None)
        if wrong is not None:
            call.failed(wrong)
        elif not call.stopped:
            call.done(call.whole, (), time.monotonic() - call.began)
        self._gone(call)

    def _gone(self, call: Growth) -> None:
        self._pending.pop(call, None)
        call.say(self.calls.left, call)


def _deliver(some: Sequence[tuple[asyncio.Queue[list[Said] | None], list[Said]]]) -> None:
    """On the event loop."""
    for queue, said in some:
        queue.put_nowait(said)
