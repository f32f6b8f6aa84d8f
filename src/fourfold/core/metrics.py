"""The log of a run."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fourfold.core.errors import UserError

KEPT = "kept_by"
"""In the log, on the line of an evaluation whose weights were kept as the best so far: the measure that said so."""


def best_line(lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The evaluation that decided which weights were kept; None if there was none."""
    for line in reversed(lines):
        if KEPT in line:
            return line
    names = [name for line in lines for name in line if name.startswith("valid.")]
    rows = [line for line in lines if names and _is_number(line.get(names[0]))]
    return min(rows, key=lambda line: line[names[0]], default=None)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


class Metrics:
    """The log of a run: in memory and, where there is a folder, one JSON line a step."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []
        self._file: Any = None
        if path and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    self.lines.append(json.loads(line))
                except ValueError:
                    continue  # the torn last line of a killed process
        self.watchers: list[Any] = []

    def log(self, **values: Any) -> None:
        """Add a line; numbers are stored as given, so that equal runs have equal files."""
        self.lines.append(values)
        if self.path:
            try:
                if self._file is None:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    self._file = self.path.open("a", encoding="utf-8")
                self._file.write(json.dumps(values) + "\n")
                self._file.flush()
            except OSError as error:
                with contextlib.suppress(OSError):  # what is buffered cannot be written either
                    self.close()
                raise UserError(
                    f"{self.path}: cannot be written ({error.strerror}); earlier checkpoints are intact"
                ) from error
        for watcher in self.watchers:
            watcher(values)

    def cut(self, count: int) -> None:
        """Keep the first lines only (the others will be written again)."""
        self.lines = self.lines[:count]
        if self.path:
            self.close()
            from fourfold.core.state import write_text

            write_text(self.path, "".join(json.dumps(line) + "\n" for line in self.lines))

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """Steps and values of one logged name."""
        rows = [(line.get("step", 0), line[name]) for line in self.lines if name in line]
        return [float(s) for s, _ in rows], [float(v) for _, v in rows]

    def close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.close()
