"""What a system is: a frozen pydantic model whose fields are options and whose methods are verbs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from fourfold.core.parts import Data, DataOptions, Objective, Optimizer, Part
from fourfold.core.types import Picture, Score, Source, Table

if TYPE_CHECKING:
    from torch import nn

    from fourfold.core.run import Run

NOT_VERBS = {"preview", "pictures", "tables"}
"""Methods that take a run but are asked by the loop and the report, not by users."""


class System(Part):
    """Base of every system.

    A subclass names its four parts as fields (`data`, `objective`, `optimizer`, and the model through
    `build`) and its verbs as public methods whose first argument is the run.
    """

    name: ClassVar[str] = ""
    reads: ClassVar[str] = ""
    sizes: ClassVar[dict[str, dict[str, Any]]] = {}
    """Presets for --size: overrides by field path, as {"layers": 4, "optimizer.lr": 1e-3}."""
    exempt: ClassVar[dict[str, str]] = {}
    """Checks of `check_system` that this system cannot keep, each with its reason."""

    data: DataOptions
    objective: Objective
    optimizer: Optimizer

    def build(self, data: Data) -> nn.Module:
        """The model, fresh, for this data (vocabulary size, number of columns, image shape)."""
        raise NotImplementedError

    def evaluate(self, run: Run, source: Source = None) -> Score:
        """Measure the run: on its own test split, or on other data."""
        from fourfold.core.evaluation import evaluate

        return evaluate(run, source)

    def preview(self, run: Run) -> str | Picture | None:
        """A short sample, shown while learning; drawn from its own generator."""
        return None

    def pictures(self, run: Run) -> Iterator[Picture]:
        """For the report."""
        yield from ()

    def tables(self, run: Run) -> Iterator[Table]:
        """For the report: small tables such as coefficients."""
        yield from ()

    @classmethod
    def toy(cls) -> tuple[Self, Any]:
        """A small configuration and a source (None for the embedded data), for `check_system`."""
        raise NotImplementedError


def verbs(system: type[System] | System) -> dict[str, Callable[..., Any]]:
    """The verbs of a system: public methods whose first argument after self is `run`."""
    cls = system if isinstance(system, type) else type(system)
    found: dict[str, Callable[..., Any]] = {}
    for name, method in inspect.getmembers(cls, inspect.isfunction):
        parameters = list(inspect.signature(method).parameters)
        if not name.startswith("_") and name not in NOT_VERBS and parameters[1:2] == ["run"]:
            found[name] = method
    return found


S = TypeVar("S", bound=type[System])


def system(name: str, *, reads: str) -> Callable[[S], S]:
    """Name a system and say what it reads: "text", "table", "images", ..."""

    def decorate(cls: S) -> S:
        cls.name, cls.reads = name, reads
        return cls

    return decorate
