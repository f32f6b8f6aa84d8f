"""What every loss of a predicted target shares: how many outputs it takes, its sums and weights, and predictions.

Shapes: B rows, K outputs, C classes, Q quantiles.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from pydantic import PrivateAttr, field_validator

from fourfold.core.errors import UserError, nearest
from fourfold.core.parts import Batch, Move, Objective
from fourfold.core.targets import Target
from fourfold.objectives.metrics import HIGHER, METRICS, compute

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fourfold.core.run import Run

Sums = Mapping[str, "tuple[Tensor, Tensor | float | None]"]
PREDICTED, TRUE, COUNTED = "_predicted", "_true", "_counted"
"""Rows that are kept of an evaluation for a metric that is no mean of sums."""


class Supervised(Objective):
    """A loss for each row of batch["features"], (B, D), against batch["targets"] (see `Target`).

    The model maps features to `outputs(target)` numbers a row. Rows count as batch["weight"], (B,),
    says, or once each where there is none. Where batch["share"], (B,), is given, a row is a mixture (mixup,
    CutMix): so much of its loss is that of its own target, the rest of the target at its place from the end.
    """

    metric: str | None = None
    """What chooses the best checkpoint: accuracy, balanced_accuracy, auroc, average_precision, f1, mcc, log_loss
    or brier of classes and labels, hamming of labels; mse, rmse, mae, mape or r2 of numbers; None means the loss."""

    reads: ClassVar[frozenset[str]] = frozenset()
    """Kinds of target (`Target.kind`) that this loss is for."""
    probabilistic: ClassVar[bool] = True
    """Whether `predict` gives probabilities; otherwise scores between 0 and 1 that only rank and decide."""
    higher: ClassVar[frozenset[str]] = HIGHER
    unit: ClassVar[str] = ""
    """Of the loss; empty where it has none."""
    _target: Target | None = PrivateAttr(None)

    @field_validator("metric")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        return known_metric(name)

    def prepare(self, run: Run) -> Self:
        """Takes the target of the run's data.

        Raises:
            UserError: the target is of a kind that this loss is not for.
        """
        target = getattr(run.data, "target", None)
        return self.model_copy() if target is None else self.chosen(target)

    def chosen(self, target: Target) -> Self:
        """This loss for one target: a fresh copy that knows it.

        Raises:
            UserError: the target is of a kind that this loss or its metric is not for.
        """
        kind = getattr(self, "kind", type(self).__name__)
        if target.kind not in self.reads:
            wanted = " or ".join(WORDS[k] for k in sorted(self.reads))
            raise UserError(
                f"--objective {kind} is for {wanted}; {target.name} is {WORDS[target.kind]}"
            )
        if self.metric is not None:
            metric = METRICS[self.metric]
            if target.kind not in metric.kinds:
                fitting = [n for n, m in METRICS.items() if target.kind in m.kinds]
                raise UserError(
                    f"--metric {self.metric} is not for {WORDS[target.kind]} such as {target.name}; "
                    f"choose from loss, {', '.join(fitting)}"
                )
            if metric.probabilities and not self.probabilistic:
                raise UserError(
                    f"--metric {self.metric} needs probabilities, and --objective {kind} gives none"
                )
        fresh = self.model_copy()
        fresh._target = target
        return fresh

    @property
    def smooth(self) -> bool:
        """Whether it has a gradient everywhere: searches that follow the curvature need one."""
        return True

    def units(self) -> Mapping[str, str]:
        """See `Objective.units`."""
        found = {"loss": self.unit, "log_loss": "nats"}
        return {name: unit for name, unit in found.items() if unit}

    @abstractmethod
    def outputs(self, target: Target) -> int:
        """Numbers that the model gives for a row."""

    @abstractmethod
    def rowwise(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(B,) losses of rows, from outputs (B, K) and targets as `Target` tells them."""

    @abstractmethod
    def predict(self, outputs: Tensor) -> Tensor:
        """What the outputs (B, K) mean: a number's prepared values (B,), or probabilities of classes or labels (B, C)."""

    def further(self, outputs: Tensor) -> dict[str, Tensor]:
        """Further predicted numbers by name, each (B,) prepared values: quantiles."""
        return {}

    def importance(self, batch: Batch) -> Tensor:
        """(B,) how much each row counts: the loss is the mean of `rowwise` with these weights."""
        given, targets = batch.get("weight"), batch["targets"]
        return torch.ones(len(targets), device=targets.device) if given is None else given

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """See `Objective.losses`."""
        yield self._move(self._given(model, batch), batch)

    def measure(self, model: nn.Module, batch: Batch) -> Sums:
        """The mean loss and the field's usual measures; the metric comes first."""
        outputs = self._given(model, batch)
        found = dict(self.sums(outputs, batch))
        if self.metric is None or self.metric in found:
            return found
        kept = {PREDICTED: self.predict(outputs), TRUE: batch["targets"]}
        if "weight" in batch:
            kept[COUNTED] = batch["weight"]
        return {**found, **{name: (rows, None) for name, rows in kept.items()}}

    def conclude(
        self, means: Mapping[str, float], kept: Mapping[str, Tensor]
    ) -> Mapping[str, float]:
        """See `Objective.conclude`."""
        if self.metric is None:
            return means
        if self.metric in means:
            return {self.metric: means[self.metric], **means}
        target = self._target
        predicted, true = kept[PREDICTED].double(), kept[TRUE]
        if target is not None and target.kind == "number":
            predicted = predicted * target.scale + target.mean
            true = true.double() * target.scale + target.mean
        counts = kept[COUNTED].double().cpu().numpy() if COUNTED in kept else None
        value = compute(self.metric, predicted.cpu().numpy(), true.cpu().numpy(), counts)
        return {self.metric: value, **means}

    def sums(self, outputs: Tensor, batch: Batch) -> Mapping[str, tuple[Tensor, Tensor | float]]:
        """Measures that are means over rows: sums and weights; the loss first."""
        move = self._move(outputs, batch)
        return {"loss": (move.loss, move.weight)}

    def _given(self, model: nn.Module, batch: Batch) -> Tensor:
        """The outputs, in float32 at least: a loss of halves loses its digits."""
        outputs: Tensor = model(batch["features"])
        return outputs.to(torch.promote_types(outputs.dtype, torch.float32))

    def _move(self, outputs: Tensor, batch: Batch) -> Move:
        if "share" in batch:
            outputs, batch = self._in_pairs(outputs, batch)
        rows = self._rows(outputs, batch["targets"])
        if not self._weighted(batch):
            return Move("model", rows.sum(), float(len(rows)))
        counts = self.importance(batch).to(rows.dtype)
        return Move("model", (rows * counts).sum(), counts.sum())

    def _in_pairs(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Batch]:
        """Rows that were mixed with the one at their place from the end: each counts for both targets, by its share."""
        share, targets, given = batch["share"], batch["targets"], batch.get("weight")
        counts = torch.cat([share, 1 - share])
        if given is not None:
            counts = counts * torch.cat([given, given])
        return torch.cat([outputs, outputs]), {
            "targets": torch.cat([targets, targets.flip(0)]),
            "weight": counts,
        }

    def _rows(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(B,) losses of rows; of M members of an ensemble that learn side by side, (B, M, K), their mean."""
        if outputs.ndim < 3:
            return self.rowwise(outputs, targets)
        members = outputs.shape[1]
        each = self.rowwise(outputs.flatten(0, 1), targets.repeat_interleave(members, 0))
        return each.view(-1, members).mean(1)

    def _weighted(self, batch: Batch) -> bool:
        """Whether rows count differently."""
        return "weight" in batch


def known_metric(name: str | None) -> str | None:
    """A metric's name as it is kept: None for the loss.

    Raises:
        ValueError: there is no such metric.
    """
    if name is not None and name != "loss" and name not in METRICS:
        raise ValueError(f"no metric is called {name!r}{nearest(name, ['loss', *METRICS])}")
    return None if name == "loss" else name


def widest(device: torch.device) -> torch.dtype:
    """float64, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


WORDS = {"number": "a number", "category": "a category", "labels": "a set of labels"}


def mean_over(values: Tensor, batch: Batch) -> tuple[Tensor, Tensor | float]:
    """Sum and weight of (B,) values of rows, each as much as batch["weight"] says."""
    if "weight" not in batch:
        return values.sum(), float(len(values))
    counts = batch["weight"].to(values.dtype)
    return (values * counts).sum(), counts.sum()
