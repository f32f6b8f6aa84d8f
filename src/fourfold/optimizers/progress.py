"""What searches that are no gradient loop share: progress on the console, and the end of a run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from torch import nn

from fourfold.core.evaluation import measure
from fourfold.core.metrics import KEPT
from fourfold.core.parts import Data, Objective
from fourfold.core.run import Run
from fourfold.core.sources import describe


class Shown:
    """The log and the console of a search under way."""

    def __init__(self, run: Run) -> None:
        self.run, self.began = run, time.perf_counter()

    def step(self, progress: float, step: int, **values: Any) -> None:
        """Log a step and show it.

        Args:
            progress: 0..1.
            step: its number.
            values: what is known of it.
        """
        seconds = round(time.perf_counter() - self.began, 6)
        self.run.metrics.log(step=step, seconds=seconds, **values)
        self.run.console.step(min(1.0, max(0.0, progress)), step, values, None)

    def finish(self, objective: Objective, model: nn.Module, data: Data, step: int) -> None:
        """Measure the validation rows, where there are any, and keep the weights."""
        run = self.run
        if data.size("valid"):
            values = measure(objective, model, data, "valid", run.device, run.seed)
            told = {f"valid.{name}": value for name, value in values.items()}
            run.metrics.log(step=step, **told, **{KEPT: next(iter(values))})
        run.keep_weights()


@contextlib.contextmanager
def shown(run: Run, data: Data, total: str) -> Iterator[Shown]:
    """A search that begins anew: an empty log, which is closed at the end, and the console.

    Args:
        run: of the search.
        data: whose unit the console names.
        total: the budget in words.
    """
    run.metrics.cut(0)  # of a run that is solved again
    run.console.start(f"{run.system.name} · {describe(run.sources)}", data.unit, total)
    try:
        yield Shown(run)
        run.console.stop()
    finally:
        run.metrics.close()
        run.console.close()
