"""A run's log as the page shows it: each measure in a few hundred points, read on as the file grows.

Reading on costs what was added, whatever the length of the log: a series that reaches twice its
number of points merges neighbours and takes means of twice as many from then on.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourfold.look.curves import LARGEST
from fourfold.serve.logs import parsed

POINTS = 300  # of a series, at most twice as many are kept
NAMES = 64  # measures of one run
SAMPLES = 200
CHUNK = 1 << 20  # bytes read at once
KEPT = 256  # histories in memory


class Series:
    """One measure: means of `stride` neighbours, with the step and the training time they lie at."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.seconds: list[float] = []
        self.values: list[float] = []
        self.stride = 1
        self.count = 0
        self.missing = 0
        """Values that were not finite; they are not drawn."""
        self._open: list[tuple[float, float, float]] = []
        self._lock = threading.Lock()

    def add(self, step: float, seconds: float, value: float) -> None:
        """Take one logged value."""
        if not abs(value) <= LARGEST:
            self.missing += 1
            return
        with self._lock:
            self.count += 1
            self._open.append((step, seconds, value))
            if len(self._open) < self.stride:
                return
            for column, mean in zip(self._columns(), _means(self._open), strict=True):
                column.append(mean)
            self._open = []
            if len(self.values) == 2 * POINTS:
                self._halve()

    def points(self) -> tuple[list[float], list[float], list[float]]:
        """Steps, seconds and values, the newest included; copies, for the series may grow meanwhile."""
        with self._lock:
            newest = [[mean] for mean in _means(self._open)] if self._open else [[], [], []]
            pairs = zip(self._columns(), newest, strict=True)
            steps, seconds, values = ([*column, *more] for column, more in pairs)
        return steps, seconds, values

    def _columns(self) -> tuple[list[float], list[float], list[float]]:
        return self.steps, self.seconds, self.values

    def _halve(self) -> None:
        for column in self._columns():
            pairs = zip(column[::2], column[1::2], strict=True)
            column[:] = [(a + b) / 2 for a, b in pairs]
        self.stride *= 2


def _means(rows: list[tuple[float, float, float]]) -> list[float]:
    return [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]


@dataclass(frozen=True)
class Sample:
    """What the model made at a step: a text, or the name of a picture in the run's folder."""

    step: int
    text: str = ""
    picture: str = ""


class History:
    """The log of one run folder. Safe to update from several threads."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "metrics.jsonl"
        self._lock = threading.Lock()
        self.version = 0
        """Grows with every change, so that a viewer knows whether to draw again."""
        self._begin()

    def _begin(self) -> None:
        self._series: dict[str, Series] = {}
        self.samples: list[Sample] = []
        self._every, self._made = 1, 0
        self._file, self._offset, self._seconds = 0, 0, 0.0

    @property
    def series(self) -> dict[str, Series]:
        """Every measure by name; a copy, for further ones may come meanwhile."""
        return dict(self._series)

    def update(self) -> int:
        """Read what was added since; begin anew where the log was replaced or cut (a resumed run).

        Returns:
            The version after it.
        """
        with self._lock:
            try:
                stat = self.path.stat()
            except OSError:
                return self.version
            if stat.st_ino != self._file or stat.st_size < self._offset:
                self._begin()
                self._file = stat.st_ino
                self.version += 1
            if stat.st_size > self._offset:
                self._read()
            return self.version

    def _read(self) -> None:
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                while chunk := file.read(CHUNK):
                    if not chunk.endswith(b"\n"):
                        chunk += file.readline()
                    whole, _, _ = chunk.rpartition(b"\n")  # a line being written is taken later
                    if not whole:
                        return
                    self._offset += len(whole) + 1
                    for row in parsed(whole):
                        self._take(row)
                    self.version += 1
        except OSError:
            return  # replaced in this moment: the next update sees the new one

    def _take(self, row: dict[str, Any]) -> None:
        step = _place(row.pop("step", 0), 0.0)
        self._seconds = _place(row.pop("seconds", None), self._seconds)
        for name, value in row.items():
            number = _number(value)
            if number is None or (name not in self._series and len(self._series) >= NAMES):
                continue
            self._series.setdefault(name, Series()).add(step, self._seconds, number)
        if isinstance(row.get("sample"), str):
            self._sample(Sample(int(step), text=row["sample"]))
        elif isinstance(row.get("picture"), str):
            self._sample(Sample(int(step), picture=row["picture"]))

    def _sample(self, sample: Sample) -> None:
        # every so many, and always the newest, which the next one replaces unless it is one of those
        if self._made and (self._made - 1) % self._every:
            self.samples.pop()
        self.samples.append(sample)
        self._made += 1
        if len(self.samples) > SAMPLES:
            self.samples = self.samples[::2]
            self._every *= 2


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) <= LARGEST else math.nan


def _place(value: Any, otherwise: float) -> float:
    number = _number(value)
    return otherwise if number is None or math.isnan(number) else number


class Histories:
    """The histories of the runs that were looked at last."""

    def __init__(self) -> None:
        self._known: OrderedDict[Path, History] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, folder: Path) -> History:
        """The history of a run folder, read as far as the last `update`."""
        with self._lock:
            history = self._known.pop(folder, None) or History(folder)
            self._known[folder] = history
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
            return history
