"""The four contracts: data, model, objective, optimizer. Nothing else lives here.

A model is a plain torch.nn.Module. Objectives, optimizers and data configurations are frozen
pydantic models, so that they are options too (flags, TOML, HTTP, page form); whatever they learn,
count or open lives in what `prepare` and `open` return, fresh for each run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

if (
    TYPE_CHECKING
):  # the contracts are read by the command line's --help, which must not import torch
    from torch import Tensor, nn

    from fourfold.core.run import Run
    from fourfold.core.shares import Share

Split = Literal["train", "valid", "test"]
Batch = Mapping[str, "Tensor"]
"""Names are the field's: "tokens", "targets", "image", "boxes", ..."""


class Move(NamedTuple):
    """One player's move: a sum of losses and how much counted.

    `Gradient` alone divides, by the weight of the whole step (all micro-batches, all devices).
    """

    player: str
    """Names a child of the model; "model" is all of it."""
    loss: Tensor
    """() sum over what counts, with its graph."""
    weight: Tensor | float
    """() how much counted: tokens, rows, pixels. No graph."""
    logs: Mapping[str, Tensor] = {}
    """Further scalars to log, detached, already means."""


class Part(BaseModel):
    """Base of everything that is configured: frozen, no unknown names, field docstrings as help."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )

    exclusive: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Groups of fields of which one at a time is set: overriding one clears the others."""
    chosen_by: ClassVar[frozenset[str]] = frozenset()
    """Of a part that is one of several choices: fields that choose it where they are given without a kind."""

    def altered(self, names: Iterable[str]) -> list[str]:
        """Of these fields those that are not at their defaults, in the order given: who has no use for one can refuse it."""
        fields = type(self).model_fields
        return [name for name in names if getattr(self, name) != fields[name].default]


class Data(ABC):
    """Opened examples, split into train, valid and test."""

    unit: str = "examples"
    """What `Move.weight` counts, in the plural: the console's rate is in these a second."""
    divisible: bool = True
    """Whether the first n of every tensor of a batch are a batch of n examples; packed ones are not."""
    undivided: str = ""
    """Why several processes cannot share its batches; empty where they can."""
    mine: Callable[[int], Share] | None = None
    """Which rows of a batch of so many this process computes, where there are several. Data that gather no others
    hand out a `SharedBatch`; of other data the rows are taken from the whole batch."""
    fingerprint: str = ""
    digests: Mapping[str, str] = {}
    """What tells whether a file that was read is still the same, by its name; empty where that is not kept."""
    """SHA-256 of the source's content and of what prepared it; resuming refuses another."""

    @abstractmethod
    def batches(
        self, split: Split, *, epoch: int | None = None, model: nn.Module | None = None
    ) -> Iterator[Batch]:
        """One pass over the split, every example once, the last batch short.

        Args:
            split: which part.
            epoch: None means stored order (closed forms, evaluation); otherwise a permutation
                fixed by (seed, epoch), continued after the batches that `load_state_dict` says
                are consumed already.
            model: for data that the model itself makes: roll-outs, sampled answers.
        """

    def blocks(self, split: Split, *, model: nn.Module | None = None) -> Iterator[Batch]:
        """The split in stored order, in pieces of whatever size is quickest to read; by default its batches.

        A piece may be overwritten when the next is asked for.
        """
        return self.batches(split, model=model)

    @abstractmethod
    def size(self, split: Split) -> int:
        """Examples in the split (windows, rows, images)."""

    def length(self, split: Split, epoch: int | None = None) -> int:
        """Batches in one pass over the split; a budget in epochs is counted with it."""
        return self.size(split)

    @abstractmethod
    def reopen(
        self, sources: Any, *, seed: int = 0, valid: Any = None, whole: bool = False
    ) -> Data:
        """Other sources under the same preparation (vocabulary, schema, statistics).

        Args:
            sources: as for `DataOptions.open`.
            seed: fixes the split and the order.
            valid: sources of the validation split, if it is a file of its own.
            whole: everything becomes the test split (evaluate and predict on new data).
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what a later predict needs: schema, vocabulary, statistics. JSON or safetensors."""

    def state_dict(self) -> dict[str, Any]:
        """Epoch and batches consumed by finished steps (not those prefetched), generators."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027  # most data keep none
        """Continue where `state_dict` was taken."""

    def summary(self) -> dict[str, Any]:
        """For the report: sizes, split, what was dropped, imputed or truncated, and why."""
        return {}


class DataOptions(Part, ABC):
    """A data configuration: makes `Data`."""

    loose: ClassVar[frozenset[str]] = frozenset(
        {"batch", "split", "strict", "window", "context", "ordered"}
    )
    """Fields that may change under an old preparation; the others went into it."""
    of_vocabulary: ClassVar[frozenset[str]] = frozenset(
        {"unit", "vocabulary", "min_count", "tokenizer"}
    )
    """Fields, where there are such, that a vocabulary is made by: of none is any use where one is taken over."""

    @abstractmethod
    def open(self, sources: Any, *, seed: int = 0, valid: Any = None) -> Data:
        """Read the sources and fit the preparation on the training split only.

        Args:
            sources: None (the embedded default), one or several paths, globs, catalog names, "-",
                or in-memory data (arrays, tensors, frames).
            seed: fixes the split and the order.
            valid: sources of the validation split, if it is a file of its own.

        Raises:
            UserError: something about the sources is wrong.
        """

    def adopt(
        self, prepared: Data, sources: Any, *, seed: int = 0, valid: Any = None
    ) -> Data | None:
        """As `open`, under what data of another kind has prepared, as the vocabulary of the run that is begun from.

        None, the default, where nothing of it serves: the preparation is then fitted anew.

        Raises:
            UserError: something about the sources is wrong, or they do not go with that preparation.
        """
        return None

    @abstractmethod
    def restore(self, folder: Path) -> Data:
        """The preparation that `Data.save` wrote, without examples; `reopen` brings examples."""


class Objective(Part, ABC):
    """What is better."""

    higher: ClassVar[frozenset[str]] = frozenset()
    """Names of measures of which more is better; of all others less is."""
    carries: ClassVar[bool] = False
    """Whether a batch goes on from the one before, row by row: the tensors of `state_dict` are then (rows, ...)."""
    compares: ClassVar[bool] = False
    """Whether the loss of a row depends on the other rows of its batch, which several processes then do not cut."""

    def prepare(self, run: Run) -> Objective:
        """A fresh one for this run: opens a teacher, reference or reward run; holds state."""
        return self.model_copy()

    @abstractmethod
    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """Yield one Move per player, in the order of play; each is stepped before the next is asked for."""

    def measure(
        self, model: nn.Module, batch: Batch
    ) -> Mapping[str, tuple[Tensor, Tensor | float | None]]:
        """Sums and weights for evaluation, under no_grad; the first name decides which checkpoint is best.

        Where the weight is None, the tensor holds one entry for each example: it is kept whole, joined
        over the split, and handed to `conclude`.
        """
        moves = list(self.losses(model, batch))
        if len(moves) == 1:
            return {"loss": (moves[0].loss, moves[0].weight)}
        return {f"{m.player}_loss": (m.loss, m.weight) for m in moves}

    def conclude(
        self, means: Mapping[str, float], kept: Mapping[str, Tensor]
    ) -> Mapping[str, float]:
        """The measures of a whole split, for those that are no mean of sums, as the area under a curve.

        Args:
            means: the sums of `measure` divided by their weights, in its order.
            kept: what it kept, joined over the split, on the CPU.
        """
        return means

    def units(self) -> Mapping[str, str]:
        """Units of the measures that have one, by name, for axes and tables: {"loss": "nats"}."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What the objective learns or counts: a controller's integral, a whitening's moments."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""


class Optimizer(Part, ABC):
    """How it is found. Owns the whole search, from the first parameter to the last checkpoint."""

    shared: ClassVar[bool] = False
    """Whether several processes can search together."""

    @abstractmethod
    def minimize(self, objective: Objective, model: nn.Module, data: Data, run: Run) -> None:
        """Search, changing the model in place; log, preview, checkpoint and keep the best through `run`."""
