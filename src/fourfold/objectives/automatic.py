"""The loss that follows from the target: squared error, cross-entropy, binary cross-entropy per label."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import field_validator
from torch import nn

from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, Move, Objective
from fourfold.core.run import Run
from fourfold.core.targets import Target
from fourfold.objectives.classification import ClassWeights, CrossEntropy, Smoothing
from fourfold.objectives.labels import BinaryCrossEntropy
from fourfold.objectives.regression import SquaredError
from fourfold.objectives.supervised import Supervised, known_metric


class Automatic(Objective):
    """Chooses by the target: squared error of a number, cross-entropy of a category, binary cross-entropy of labels."""

    kind: Literal["auto"] = "auto"
    metric: str | None = None
    """What chooses the best checkpoint: accuracy, balanced_accuracy, auroc, average_precision, f1, mcc, log_loss
    or brier of classes and labels, hamming of labels; mse, rmse, mae, mape or r2 of numbers; None means the loss."""
    class_weights: ClassWeights = "none"
    """How much rows of each class count: none, all alike; balanced, rows / (classes x rows of the class);
    or by name, as ">50K=3" (the others count once)."""
    label_smoothing: Smoothing = 0.0
    """Share of the target that is spread evenly over all classes."""

    @field_validator("metric")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        return known_metric(name)

    def chosen(self, target: Target) -> Supervised:
        """The loss for a target.

        Raises:
            UserError: an option that does not go with the target.
        """
        if target.kind == "number":
            for option, given in (
                ("class-weights", self.class_weights not in ("none", {})),
                ("label-smoothing", self.label_smoothing > 0),
            ):
                if given:
                    raise UserError(
                        f"--{option} is for classes and labels; {target.name} is a number"
                    )
            return SquaredError(metric=self.metric).chosen(target)
        options: dict[str, Any] = self.model_dump(exclude={"kind"})
        loss = CrossEntropy if target.kind == "category" else BinaryCrossEntropy
        return loss(**options).chosen(target)

    def prepare(self, run: Run) -> Supervised:
        """The loss for the run's target, and a sentence that says which.

        Raises:
            UserError: an option that does not go with the target.
        """
        target: Target = run.data.target  # type: ignore[attr-defined]
        run.note(f"Objective: {in_words(target)}.")
        return self.chosen(target)

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """Not before the target is known."""
        raise ValueError("Automatic has no loss of its own: chosen(target) gives one")


def in_words(target: Target) -> str:
    """What is chosen for a target and why."""
    if target.kind == "number":
        return f"squared error, because {target.name} is a number"
    if target.kind == "labels":
        return f"binary cross-entropy, one sigmoid output for each of {len(target.classes)} labels"
    if len(target.classes) == 2:
        return f"cross-entropy through one sigmoid output, because {target.name} has two classes"
    return f"cross-entropy through softmax, because {target.name} has {len(target.classes)} classes"
