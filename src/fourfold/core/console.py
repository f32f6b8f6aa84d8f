"""Where progress is said: a live display, plain lines, JSON lines, or nothing.

Everything for people goes to stderr, so that stdout stays free for pipes; JSON lines, which are for
machines, go to stdout. `rich` is imported only when a live display is made.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Self, TextIO

from fourfold.core.types import Picture
from fourfold.core.words import duration, encodable, named, printable, short

SAMPLE_LINES = 8  # of a preview, on the terminal
SAMPLE_PAUSE = 20.0  # seconds between two samples in plain lines


class Console(ABC):
    """What the search, the verbs and the command line say, without knowing who listens."""

    @abstractmethod
    def say(self, sentence: str) -> None:
        """A sentence for the user: a note, what comes next, where something was written."""

    @abstractmethod
    def start(self, title: str, unit: str, total: str) -> None:
        """A search begins.

        Args:
            title: what is learned from what.
            unit: what the rate counts, in the plural: "tokens", "rows", "images".
            total: the budget in words: "3 minutes", "2,000 steps".
        """

    @abstractmethod
    def step(
        self, progress: float, step: int, values: Mapping[str, float], rate: float | None
    ) -> None:
        """Steps were made; cheap, may be called many times a second.

        Args:
            progress: 0..1 of the budget.
            step: the number of steps so far.
            values: "loss" and whatever else was logged.
            rate: units a second, once known.
        """

    @abstractmethod
    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """The model was measured on examples that it does not learn from."""

    @abstractmethod
    def preview(self, sample: str | Picture) -> None:
        """What the model makes at this point."""

    @abstractmethod
    def stop(self, sentence: str = "") -> None:
        """The search ended; the sentence says why and where the result is."""

    @abstractmethod
    def error(self, sentence: str) -> None:
        """What went wrong, in one sentence; the command line calls it once."""

    def close(self) -> None:  # noqa: B027  most have nothing to give back
        """Give the terminal back; safe to call at any time, and twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Silent(Console):
    """Says nothing: for use as a library."""

    def say(self, sentence: str) -> None:
        pass

    def start(self, title: str, unit: str, total: str) -> None:
        pass

    def step(
        self, progress: float, step: int, values: Mapping[str, float], rate: float | None
    ) -> None:
        pass

    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def preview(self, sample: str | Picture) -> None:
        pass

    def stop(self, sentence: str = "") -> None:
        pass

    def error(self, sentence: str) -> None:
        pass


class Quiet(Silent):
    """Says nothing but errors: `--quiet`."""

    def error(self, sentence: str) -> None:
        _write(sys.stderr, f"error: {printable(sentence)}")


class Clock:
    """Time since a search began and, once progress has been seen, time left."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self._first: tuple[float, float] | None = None  # a resumed run begins past 0
        self.left: float | None = None

    @property
    def elapsed(self) -> float:
        """Seconds since the search began."""
        return time.monotonic() - self.began

    def see(self, progress: float) -> None:
        """Note how far the search is, 0..1."""
        now = time.monotonic()
        if self._first is None:
            self._first = (now, progress)
        since, before = self._first
        if progress > before and now > since:
            self.left = (now - since) * max(0.0, 1 - progress) / (progress - before)


class _Paced(Console):
    """Lines at most every few seconds; the last step of a search is always said."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._clock, self._unit, self._step = Clock(), "examples", 0
        self._said = self._sampled = -math.inf
        self._pending: tuple[float, int, Mapping[str, float], float | None] | None = None

    def start(self, title: str, unit: str, total: str) -> None:
        self._clock, self._unit, self._said = Clock(), unit, -math.inf
        self._sampled = -math.inf
        self._pending = None

    def step(
        self, progress: float, step: int, values: Mapping[str, float], rate: float | None
    ) -> None:
        self._clock.see(progress)
        self._pending, self._step = (progress, step, values, rate), step
        now = time.monotonic()
        if now - self._said >= self._pause():
            self._said = now
            self._flush()

    def _flush(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._line(*pending)

    @abstractmethod
    def _pause(self) -> float:
        """Seconds between two lines."""

    @abstractmethod
    def _line(
        self, progress: float, step: int, values: Mapping[str, float], rate: float | None
    ) -> None:
        """Say one step."""


class Plain(_Paced):
    """Plain lines on stderr: for log files, pipes, dumb terminals and notebooks."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream or sys.stderr)

    def say(self, sentence: str) -> None:
        _write(self._stream, printable(sentence))

    def start(self, title: str, unit: str, total: str) -> None:
        super().start(title, unit, total)
        self.say(f"{title}: {total}" if total else title)

    def _pause(self) -> float:
        return max(5.0, self._clock.elapsed / 30)  # a night's log stays readable

    def _line(
        self, progress: float, step: int, values: Mapping[str, float], rate: float | None
    ) -> None:
        parts = [f"{progress:4.0%}", f"step {step:,}", *named(values)]
        parts += [f"{short(rate)} {self._unit}/s"] if rate is not None else []
        left = self._clock.left
        parts += [f"{duration(left)} left"] if left is not None and progress < 1 else []
        self.say("  ".join(parts))

    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        self.say("  ".join([f"      evaluated at step {step:,}", *named(values)]))

    def preview(self, sample: str | Picture) -> None:
        if isinstance(sample, Picture):
            return  # it is in the run's folder; a log has no use for its name
        now = time.monotonic()
        if now - self._sampled < SAMPLE_PAUSE:
            return
        self._sampled = now
        lines = printable(sample).split("\n")
        more = ["…"] if len(lines) > SAMPLE_LINES else []
        for line in [*lines[:SAMPLE_LINES], *more]:
            _write(self._stream, f"      | {line if len(line) <= 200 else line[:200] + '…'}")

    def stop(self, sentence: str = "") -> None:
        self._flush()
        if sentence:
            self.say(sentence)

    def error(self, sentence: str) -> None:
        self.say(f"error: {sentence}")


class Json(_Paced):
    """One JSON object a line on stdout, named by "event": for machines. Values that are not finite are null."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream or sys.stdout)

    def emit(self, event: str, **values: Any) -> None:
        """Write one line."""
        _write(self._stream, json.dumps({"event": event, **_finite(values)}, allow_nan=False))

    def say(self, sentence: str) -> None:
        self.emit("note", text=sentence)

    def start(self, title: str, unit: str, total: str) -> None:
        super().start(title, unit, total)
        self.emit("start", title=title, unit=unit, total=total)

    def _pause(self) -> float:
        return 1.0

    def _line(
        self, progress: float, step: int, values: Mapping[str, float], rate: float | None
    ) -> None:
        self.emit(
            "step",
            step=step,
            progress=progress,
            values=dict(values),
            rate=rate,
            unit=self._unit,
            seconds=round(self._clock.elapsed, 3),
            seconds_left=self._clock.left,
        )

    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        self._step = step
        self.emit("evaluation", step=step, values=dict(values))

    def preview(self, sample: str | Picture) -> None:
        if isinstance(sample, Picture):
            self.emit("sample", step=self._step, picture=sample.title)
        else:
            self.emit("sample", step=self._step, text=sample)

    def stop(self, sentence: str = "") -> None:
        self._flush()
        self.emit("stop", text=sentence)

    def error(self, sentence: str) -> None:
        self.emit("error", text=sentence)


_heard: ContextVar[Console | None] = ContextVar("heard", default=None)


@contextlib.contextmanager
def heard(console: Console) -> Iterator[None]:
    """Let a console hear what is said by `say` while entered."""
    token = _heard.set(console)
    try:
        yield
    finally:
        _heard.reset(token)


def say(sentence: str) -> None:
    """A sentence for whoever waits, from where no console is at hand: of long work of the data."""
    console = _heard.get()
    if console is not None:
        console.say(sentence)


def make_console(quiet: bool = False, json: bool = False) -> Console:
    """The console that fits where the program runs.

    A live display needs a terminal on stderr that is not TERM=dumb; NO_COLOR takes its colours only.
    """
    if json:
        return Json()
    if quiet:
        return Quiet()
    if "ipykernel" in sys.modules:
        return Plain(sys.stdout)  # a notebook paints stderr red
    if (
        sys.stderr is None
        or not sys.stderr.isatty()
        or os.environ.get("TERM") in ("dumb", "unknown")
    ):
        return Plain()
    from fourfold.core.live import Rich

    return Rich()


def _write(stream: TextIO | None, line: str) -> None:
    """One line; a stream that is closed or cannot be written must not cost the training."""
    try:
        if stream is not None:
            stream.write(encodable(line, stream.encoding or "utf-8") + "\n")
            stream.flush()
    except (OSError, ValueError):
        pass


def _finite(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {str(k): _finite(v) for k, v in tree.items()}
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
