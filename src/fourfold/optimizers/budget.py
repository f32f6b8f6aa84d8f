"""How much searching is paid for: steps, epochs or minutes, as a progress from 0 to 1.

Progress, not the clock, drives the schedule. Under a minutes budget the progress of each step is
written down as it is taken, so that a step which is done again after a kill takes the same value.
The log is float64: the minutes, then the progress after each step.
"""

from __future__ import annotations

import array
import errno
import os
import time
from pathlib import Path
from typing import Any, BinaryIO

from fourfold.core.errors import UserError
from fourfold.core.parts import Data
from fourfold.core.state import atomically


class Budget:
    """Progress of a search; only time spent in steps counts towards minutes."""

    def __init__(self, steps: int | None, minutes: float | None, log: Path | None = None) -> None:
        self.steps, self.minutes, self.log = steps, minutes, log
        self.progress = 0.0
        self.seconds = 0.0
        """Training time so far, without evaluations, previews and checkpoints."""
        self._logged: array.array[float] = array.array("d")
        self._file: BinaryIO | None = None
        self._since: float | None = None

    @classmethod
    def of(
        cls,
        steps: int | None,
        epochs: float | None,
        minutes: float | None,
        data: Data,
        accumulate: int,
        log: Path | None,
    ) -> Budget:
        """A budget in steps or minutes; epochs are counted out in steps over this data."""
        if epochs is not None:
            whole, part = int(epochs), epochs % 1
            lengths = [-(-data.length("train", e) // accumulate) for e in range(whole + (part > 0))]
            steps = max(1, sum(lengths[:whole]) + round(part * (lengths[-1] if part else 0)))
        return cls(steps, minutes, log if minutes is not None else None)

    @property
    def logged(self) -> int:
        """Steps whose progress an interrupted process has written down."""
        return len(self._logged)

    @property
    def total(self) -> str:
        """The budget in words."""
        return f"{self.steps:,} steps" if self.steps is not None else f"{self.minutes:g} minutes"

    def start(self) -> None:
        """Let the clock run."""
        self._since = time.perf_counter()

    def pause(self) -> None:
        """Stop the clock for what is not training."""
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
            self._since = None

    def elapsed(self) -> float:
        """Training seconds until now."""
        running = time.perf_counter() - self._since if self._since is not None else 0.0
        return self.seconds + running

    def advance(self, step: int) -> None:
        """Set the progress after `step` steps are done."""
        if self.steps is not None:
            self.progress = min(1.0, step / self.steps)
            return
        assert self.minutes is not None  # noqa: S101
        if step <= len(self._logged):
            self.progress = self._logged[step - 1]
            # the clock goes on from what the interrupted process had reached
            self.seconds = self.progress * 60 * self.minutes
            self._since = time.perf_counter() if self._since is not None else None
            return
        self.progress = min(1.0, self.elapsed() / (60 * self.minutes))
        self._write(self.progress)

    def _write(self, progress: float) -> None:
        if self.log is None:
            return
        try:
            if self._file is None:
                self._file = self.log.open("ab", buffering=0)
            if self._file.write(array.array("d", [progress]).tobytes()) != 8:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise UserError(
                f"{self.log}: cannot be written ({error.strerror}); earlier checkpoints are intact"
            ) from error

    @property
    def spent(self) -> bool:
        """Whether nothing is left."""
        return self.progress >= 1.0

    def state_dict(self) -> dict[str, Any]:
        return {"progress": self.progress, "seconds": self.elapsed(), "minutes": self.minutes}

    def load_state_dict(self, state: dict[str, Any], step: int) -> None:
        """Go on after `step` steps; a changed budget keeps the time and forgets the logged progress."""
        self.seconds = state["seconds"]
        self.begin(step)
        if self.steps is not None:
            self.progress = min(1.0, step / self.steps)
        elif state["minutes"] == self.minutes:
            self.progress = state["progress"]
        else:
            self.progress = min(1.0, self.seconds / (60 * (self.minutes or 1)))

    def begin(self, step: int = 0) -> None:
        """Take over the progress that a killed process logged; its first number is its budget.

        Args:
            step: steps done; under another budget only their places are kept.
        """
        if self.log is None or self.minutes is None:
            return
        raw = self.log.read_bytes() if self.log.exists() else b""
        values = array.array("d")
        values.frombytes(raw[: len(raw) // 8 * 8])
        same = len(values) > 0 and values.pop(0) == self.minutes
        kept = values if same else values[:step]
        kept.extend([0.0] * (step - len(kept)))  # steps done under a budget that is not logged
        whole = array.array("d", [self.minutes, *kept]).tobytes()
        if whole != raw:
            atomically(self.log, lambda temporary: temporary.write_bytes(whole))
        self._logged = kept if same else array.array("d")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
