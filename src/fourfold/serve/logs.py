"""Following a run's log while it is written: whole lines only, each read once."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

TAIL = 64 << 10
"""Bytes at a log's end that the newest values are looked for in."""


class Log:
    """The lines of `metrics.jsonl` so far; `lines()` reads only what was added.

    A fit that goes on replaces the file by one that is cut back: then it is read anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._lines: list[dict[str, Any]] = []
        self._file: tuple[int, int] = (0, 0)
        self._offset = 0
        self.age = 0
        """How often the log was begun anew; a reader that counts lines starts over with it."""

    def lines(self) -> list[dict[str, Any]]:
        """Every whole line, oldest first; empty while there is no log."""
        with self._lock:
            try:
                self._read()
            except OSError:  # not there yet, or being replaced
                pass
            return self._lines

    def _read(self) -> None:
        with self.path.open("rb") as file:
            status = os.fstat(file.fileno())
            same = self._file == (status.st_dev, status.st_ino)
            if not same or status.st_size < self._offset:
                self.age += bool(self._offset)
                self._file, self._offset, self._lines = (status.st_dev, status.st_ino), 0, []
            if status.st_size == self._offset:
                return
            file.seek(self._offset)
            content = file.read()
        end = content.rfind(b"\n") + 1  # a line under way is read when it is whole
        self._offset += end
        # a new list: whoever holds the old one may be walking over it
        self._lines = self._lines + parsed(content[:end])


def parsed(content: bytes) -> list[dict[str, Any]]:
    """The objects among some lines of JSON; what is torn or no object is passed over."""
    found = []
    for line in content.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            found.append(row)
    return found


def newest(path: Path) -> list[dict[str, Any]]:
    """The last lines of a log, without reading the others."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - TAIL))
            content = file.read(TAIL)
    except OSError:
        return []
    begin = content.find(b"\n") + 1 if size > TAIL else 0
    return parsed(content[begin : content.rfind(b"\n") + 1])
