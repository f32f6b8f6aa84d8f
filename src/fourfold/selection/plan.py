"""What a search compares, and what it found, in plain values.

search.json in the run's folder holds both, for going on and for the report.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.core.sources import stored
from fourfold.core.space import Dimension
from fourfold.core.state import write_text
from fourfold.core.system import System
from fourfold.core.words import number
from fourfold.objectives.metrics import HIGHER

FILE = "search.json"


@dataclass(frozen=True)
class Plan:
    """What is searched, and how."""

    configured: System
    source: Any
    space: Mapping[str, Dimension]
    seed: int = 0
    valid: Any = None
    device: str = "auto"
    folds: int = 0
    repeats: int = 1
    outer: int = 0
    keep: bool = False
    prune: bool = True
    storage: str | None = None
    study: str | None = None
    place: Path | None = None
    """The run's folder; None keeps everything in memory."""

    @property
    def measure(self) -> str:
        """What chooses: the objective's metric, or its loss."""
        return getattr(self.configured.objective, "metric", None) or "loss"

    @property
    def higher(self) -> bool:
        """Whether more of it is better."""
        return self.measure in HIGHER

    def compared(self) -> dict[str, Any]:
        """What trials of one study have in common."""
        return {
            "system": self.configured.name,
            "options": self.configured.model_dump(mode="json"),
            "space": [str(dimension) for dimension in self.space.values()],
            "folds": self.folds,
            "repeats": self.repeats,
            "seed": self.seed,
        }

    def to_json(self) -> dict[str, Any]:
        """What going on takes."""
        rest = ("device", "outer", "keep", "prune", "storage", "study")
        return {
            **self.compared(),
            "source": stored(self.source),
            "in_memory": self.source is not None and stored(self.source) is None,
            "valid": stored(self.valid),
            **{name: getattr(self, name) for name in rest},
        }


@dataclass(frozen=True)
class Tried:
    """One finished trial."""

    number: int
    state: str
    """complete, pruned or failed."""
    value: float | None
    options: dict[str, Any]
    seconds: float
    why: str = ""


@dataclass(frozen=True)
class Found:
    """What a search found, and the run that was fitted with it."""

    run: Run
    measure: str
    value: float
    options: dict[str, Any]
    """The best ones, by full path."""
    trials: tuple[Tried, ...]
    importance: dict[str, float]
    outer: tuple[float, ...] = ()
    """The measure on the rows that each outer fold held out of its own search."""

    def __str__(self) -> str:
        chosen = ", ".join(f"{name} {plain(value)}" for name, value in self.options.items())
        lines = [
            f"best {self.measure} of {len(self.trials)} trials: {number(self.value)} with {chosen}"
        ]
        if len(self.outer) > 1:
            mean, spread = statistics.fmean(self.outer), statistics.stdev(self.outer)
            lines.append(
                f"{self.measure} of searches on rows that they never saw: {number(mean)} ± {number(spread)} "
                f"over {len(self.outer)} outer folds"
            )
        return "\n".join(lines)


def plain(value: Any) -> str:
    """An option's value in words."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def read(place: Path) -> dict[str, Any] | None:
    """What search.json holds; None where there is none.

    Raises:
        UserError: it is damaged.
    """
    path = place / FILE
    if not path.exists():
        return None
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error})") from error
    return told


def write(
    plan: Plan,
    measure: str,
    trials: int,
    done: list[Tried],
    importance: dict[str, float],
    outer: tuple[float, ...],
) -> None:
    """Keep what was searched and found; a search in memory writes nothing."""
    if plan.place is None:
        return
    told = {
        "plan": plan.to_json(),
        "trials_wanted": trials,
        "measure": measure,
        "higher": plan.higher,
        "trials": [asdict(trial) for trial in done],
        "importance": importance,
        "outer": list(outer),
    }
    plan.place.mkdir(parents=True, exist_ok=True)
    write_text(plan.place / FILE, json.dumps(told, ensure_ascii=False))
