"""What a system is: a frozen pydantic model whose fields are options and whose methods are verbs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from fourfold.core.parts import Data, DataOptions, Objective, Optimizer, Part
from fourfold.core.types import Picture, Score, Source, Table

if TYPE_CHECKING:
    from torch import nn

    from fourfold.core.run import Run

NOT_VERBS = {
    "preview", "pictures", "tables", "suited", "begin", "advance", "finish", "reader", "word_vectors",
    "vector_of", "stepper", "encoder", "embedding",
}  # fmt: skip
"""Methods that take a run but are asked by the fit, its loop, the report and other verbs, not by users."""


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
    search_space: ClassVar[dict[str, str]] = {}
    """What `fourfold search` tries, by field path: {"optimizer.lr": "1e-4..1e-2:log", "layers": "1..4",
    "activation": "relu,gelu"}."""

    imports: ClassVar[str] = ""
    """What files `fourfold import` can make a run of, in words, as a literal; empty if none."""

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

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """Whether a file or folder looks like one that `imported` reads; whether it is whole, that says."""
        return False

    @classmethod
    def imported(cls, path: Path) -> tuple[Self, Data, nn.Module, Sequence[str]]:
        """What a file or folder of another program holds: a configured system, prepared data, a model, and notes.

        Raises:
            UserError: it is damaged or of another kind.
        """
        raise NotImplementedError

    @classmethod
    def inherits(cls, other: Run) -> dict[str, Any]:
        """Options that a run of this system takes over from a run of another system that it begins from.

        They are this system's fields by path, as {"layers": 4}; explicit options win over them. A run of the
        same system hands over all its options, and data of the same kind theirs, without this.
        """
        return {}

    def prepared_by(self) -> str | None:
        """Another run whose preparation of the data holds here, as a teacher's vocabulary; --from's wins over it."""
        return None

    def accepts(self, other: Run) -> None:  # noqa: B027  # what does not fit is found when weights are read
        """Before anything is built on another run's weights: refuse, in a sentence, what cannot go on from it."""

    def take_over(self, model: nn.Module, other: Run) -> None:
        """Give a fresh model the weights of the run that it begins from.

        Raises:
            UserError: they do not fit.
        """
        from fourfold.core.state import load_weights

        assert other.folder is not None  # noqa: S101  # only runs with a folder are begun from
        load_weights(other.folder / "weights.safetensors", model)

    def suited(self, run: Run) -> Self:
        """The configuration that a new run keeps, once its data is there: what was left to the data is decided."""
        return self

    def begin(self, run: Run) -> None:  # noqa: B027  # most have nothing to say
        """Before the search of a new run, once data and model are there: note what the user should know."""

    def advance(self, run: Run, progress: float) -> Iterable[nn.Parameter]:
        """After every step of a gradient search: what the system changes by itself on the way, as a tree that is learned anew.

        It is asked again after a step that is done again; what it goes by must be kept in the model's buffers.

        Args:
            progress: from 0 to 1, how much of the budget is spent.

        Returns:
            The parameters that begin anew: what the optimizer knew of them is forgotten.
        """
        return ()

    def finish(self, run: Run) -> None:  # noqa: B027  # most keep the weights alone
        """Once the search of a run with a folder has ended: keep what later verbs need of its examples."""

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
    return dict(_verbs(system if isinstance(system, type) else type(system)))


@functools.cache  # reading signatures takes a millisecond, which every call of a verb would pay
def _verbs(cls: type[System]) -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {}
    for name, method in inspect.getmembers(cls, inspect.isfunction):
        parameters = list(inspect.signature(method).parameters)
        if not name.startswith("_") and name not in NOT_VERBS and parameters[1:2] == ["run"]:
            found[name] = method
    return found


S = TypeVar("S", bound=type[System])


def system(name: str, *, reads: str) -> Callable[[S], S]:
    """Name a system and say what it reads: "text", "table", "images", "boxes", ..."""

    def decorate(cls: S) -> S:
        cls.name, cls.reads = name, reads
        return cls

    return decorate


@dataclass(frozen=True)
class Batching:
    """How several calls of a verb are made as one."""

    argument: str
    when: Callable[[Any, Mapping[str, Any]], bool]


F = TypeVar("F", bound=Callable[..., Any])


def batchable(
    argument: str,
    *,
    when: Callable[[Any, Mapping[str, Any]], bool] = lambda system, arguments: True,
) -> Callable[[F], F]:
    """Mark a verb whose calls that differ in one argument only may be made as one, as a server does.

    What is said to one caller must not depend on the others. Tables are put below one another, and the
    answer is a table of as many rows in the same order. Texts are given as a list, and the answer is as
    many texts in the same order, each ended by a newline of its own.

    Args:
        argument: the one that may differ.
        when: whether it holds for a configured system and the arguments by name.
    """

    def mark(method: F) -> F:
        method.batching = Batching(argument, when)  # type: ignore[attr-defined]
        return method

    return mark
