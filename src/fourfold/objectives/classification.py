"""Losses of one of several classes, in nats, from logits.

Everything goes through log-sum-exp, so that value and gradient are finite and exact at logits of
±10,000. Focal loss: Lin et al. 2017, https://arxiv.org/abs/1708.02002; multi-class hinge: Crammer and
Singer 2001. Shapes: B rows, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

import torch
from annotated_types import Ge, Lt
from pydantic import NonNegativeFloat, PositiveFloat, PrivateAttr
from torch import Tensor
from torch.nn import functional as F

from fourfold.core.errors import UserError, nearest
from fourfold.core.parts import Batch
from fourfold.core.targets import Target
from fourfold.objectives.supervised import Supervised, mean_over, widest

ClassWeights = Literal["none", "balanced"] | dict[str, PositiveFloat]
Smoothing = Annotated[float, Ge(0), Lt(1)]


class Classes(Supervised):
    """Losses of a category: class weights, log loss and accuracy.

    A row of class c counts batch["weight"] times w_c, in the sum and in the denominator, as
    torch.nn.CrossEntropyLoss(weight=...) has it.
    """

    class_weights: ClassWeights = "none"
    """How much rows of each class count: none, all alike; balanced, rows / (classes x rows of the class);
    or by name, as ">50K=3" (the others count once)."""

    reads: ClassVar[frozenset[str]] = frozenset({"category"})
    _weights: tuple[float, ...] | None = PrivateAttr(None)  # of the classes

    def chosen(self, target: Target) -> Self:
        """See `Supervised.chosen`.

        Raises:
            UserError: too few classes, a weight for a class that is not there.
        """
        fresh = super().chosen(target)
        if len(target.classes) < 2:
            only = f" ({target.classes[0]})" if target.classes else ""
            raise UserError(
                f"{target.name}: the training rows have one class only{only}; a classifier needs two"
            )
        fresh._weights = class_weights(self.class_weights, target)
        return fresh

    def importance(self, batch: Batch) -> Tensor:
        """See `Supervised.importance`: the row's weight times its class's."""
        counts = super().importance(batch)
        if self._weights is None:
            return counts
        wide = counts.to(torch.promote_types(counts.dtype, widest(counts.device)))
        return wide * wide.new_tensor(self._weights)[batch["targets"]]

    def sums(self, outputs: Tensor, batch: Batch) -> Mapping[str, tuple[Tensor, Tensor | float]]:
        """The loss and the accuracy, of which class weights are no part."""
        right = (self.predict(outputs).argmax(-1) == batch["targets"]).to(outputs.dtype)
        return {**super().sums(outputs, batch), "accuracy": mean_over(right, batch)}

    def _weighted(self, batch: Batch) -> bool:
        return self._weights is not None or super()._weighted(batch)


class Likelihood(Classes):
    """Losses whose outputs are log-odds: one output for two classes, otherwise one for each class."""

    unit: ClassVar[str] = "nats"

    def outputs(self, target: Target) -> int:
        """Two classes: one, the log-odds of the second; otherwise one a class."""
        return 1 if len(target.classes) == 2 else len(target.classes)

    def predict(self, outputs: Tensor) -> Tensor:
        """(B, C) probabilities."""
        if outputs.shape[1] == 1:
            return torch.cat([torch.sigmoid(-outputs), torch.sigmoid(outputs)], dim=1)
        return outputs.softmax(dim=1)

    def sums(self, outputs: Tensor, batch: Batch) -> Mapping[str, tuple[Tensor, Tensor | float]]:
        """The loss, the accuracy and, where the metric is that, the log loss, exact from the logits."""
        found = dict(super().sums(outputs, batch))
        if self.metric == "log_loss":
            found["log_loss"] = mean_over(negative_log(outputs, batch["targets"]), batch)
        return found


class CrossEntropy(Likelihood):
    """Cross-entropy, -log p(class): of two classes through one sigmoid output, of more through softmax.

    With label smoothing s the target is 1 - s + s/C at the class and s/C elsewhere (Szegedy et al.
    2016), weighted by class as torch.nn.CrossEntropyLoss does.
    """

    kind: Literal["cross-entropy"] = "cross-entropy"
    label_smoothing: Smoothing = 0.0
    """Share of the target that is spread evenly over all classes."""

    def rowwise(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(B,) nats."""
        rows = negative_log(outputs, targets)
        if not self.label_smoothing:
            return rows
        every = -log_probabilities(outputs)  # (B, C)
        if self._weights is None:
            spread = every.mean(dim=1)
        else:  # divided by the class's own weight, by which the row is multiplied afterwards
            weights = every.new_tensor(self._weights)
            spread = (every * weights).mean(dim=1) / weights[targets]
        return (1 - self.label_smoothing) * rows + self.label_smoothing * spread


class Focal(Likelihood):
    """Focal loss, -(1 - p)^gamma log p of the class: rows that are right already count less.

    The paper's alpha is a weight by class (`class_weights`).
    """

    kind: Literal["focal"] = "focal"
    gamma: NonNegativeFloat = 2.0
    """How much less; 0 is the cross-entropy."""

    def rowwise(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(B,) nats."""
        return torch.exp(self.gamma * self._log_rest(outputs, targets)) * negative_log(
            outputs, targets
        )

    def _log_rest(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(B,) log(1 - p) of the class, exact where p is close to 1."""
        if outputs.shape[1] == 1:
            return F.logsigmoid(outputs[:, 0] * (1 - 2 * targets))
        shifted = outputs - outputs.detach().amax(
            dim=1, keepdim=True
        )  # keeps the digits of float32
        others = shifted.scatter(1, targets[:, None], -torch.inf)
        return others.logsumexp(dim=1) - shifted.logsumexp(dim=1)


class Hinge(Classes):
    """Hinge loss, max(0, 1 - s f) with s = ±1 of a decision value f: the loss of support vector machines.

    Decision values are no probabilities: `predict` gives the softmax (of two classes the sigmoid) of
    the values, which decides and ranks as they do and is not calibrated.
    """

    kind: Literal["hinge"] = "hinge"
    multiclass: Literal["one-vs-rest", "one-vs-one", "crammer-singer"] = "one-vs-rest"
    """More than two classes: each against the rest; each pair of classes on the rows of both, and a vote;
    or the class against the best of the others."""
    squared: bool = False
    """Square each term."""

    probabilistic: ClassVar[bool] = False

    @property
    def smooth(self) -> bool:
        """Squared it is; otherwise it has a corner at the margin."""
        return self.squared

    def outputs(self, target: Target) -> int:
        """Two classes: one, positive for the second; one a class; or one a pair."""
        classes = len(target.classes)
        if classes == 2:
            return 1
        return classes * (classes - 1) // 2 if self.multiclass == "one-vs-one" else classes

    def rowwise(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(B,) sums over the terms of a row."""
        if outputs.shape[1] == 1:
            return self._terms(outputs * (2 * targets - 1)[:, None]).sum(dim=1)
        if self.multiclass == "one-vs-one":
            first, second = self._pairs(outputs)
            signs = (targets[:, None] == first).to(outputs) - (targets[:, None] == second).to(
                outputs
            )
            return (self._terms(outputs * signs) * signs.abs()).sum(dim=1)
        if self.multiclass == "crammer-singer":
            others = outputs.scatter(1, targets[:, None], -torch.inf).amax(dim=1)
            return self._terms(outputs.gather(1, targets[:, None])[:, 0] - others)
        signs = torch.full_like(outputs, -1.0).scatter(1, targets[:, None], 1.0)
        return self._terms(outputs * signs).sum(dim=1)

    def predict(self, outputs: Tensor) -> Tensor:
        """(B, C) scores that sum to 1; not calibrated."""
        if outputs.shape[1] == 1:
            return torch.cat([torch.sigmoid(-outputs), torch.sigmoid(outputs)], dim=1)
        if self.multiclass != "one-vs-one":
            return outputs.softmax(dim=1)
        return self._votes(outputs).softmax(dim=1)

    def _terms(self, margins: Tensor) -> Tensor:
        terms = F.relu(1 - margins)
        return terms.square() if self.squared else terms

    def _votes(self, outputs: Tensor) -> Tensor:
        """(B, C) pairs won; equal votes are told apart by the sum of decision values, squashed below 1/3."""
        first, second = self._pairs(outputs)
        classes = int(second.max()) + 1
        won = torch.where(outputs >= 0, first, second)
        votes = torch.zeros(len(outputs), classes, dtype=outputs.dtype, device=outputs.device)
        votes.scatter_add_(1, won, torch.ones_like(outputs))
        sums = torch.zeros_like(votes)
        sums.index_add_(1, first, outputs).index_add_(1, second, -outputs)
        return votes + sums / (3 * (sums.abs() + 1))

    @staticmethod
    def _pairs(outputs: Tensor) -> tuple[Tensor, Tensor]:
        """The two classes of each output, in the order (0, 1), (0, 2), ..., (1, 2), ...; positive is the first."""
        classes = (1 + int((1 + 8 * outputs.shape[1]) ** 0.5)) // 2
        first, second = torch.triu_indices(classes, classes, 1, device=outputs.device)
        return first, second


class Perceptron(Classes):
    """Rosenblatt's criterion, max(0, -s f) with s = ±1 of a decision value f: what lies on the wrong side, and how far."""

    kind: Literal["perceptron"] = "perceptron"

    probabilistic: ClassVar[bool] = False

    @property
    def smooth(self) -> bool:
        """It has a corner at 0."""
        return False

    def outputs(self, target: Target) -> int:
        """One, positive for the second class.

        Raises:
            UserError: more than two classes.
        """
        if len(target.classes) > 2:
            raise UserError(
                f"--target {target.name}: the perceptron tells two classes apart, this has "
                f"{len(target.classes)}; fourfold fit softmax takes more"
            )
        return 1

    def rowwise(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(B,) distances on the wrong side, times the length of the weights."""
        return F.relu(-outputs[:, 0] * (2 * targets - 1))

    def predict(self, outputs: Tensor) -> Tensor:
        """(B, 2) scores that sum to 1; not calibrated."""
        return torch.cat([torch.sigmoid(-outputs), torch.sigmoid(outputs)], dim=1)


def negative_log(outputs: Tensor, targets: Tensor) -> Tensor:
    """(B,) -log p of the classes (B,), from outputs (B, 1), the log-odds of class 1, or (B, C) logits."""
    if outputs.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(
            outputs[:, 0], targets.to(outputs.dtype), reduction="none"
        )
    return F.cross_entropy(outputs, targets, reduction="none")


def log_probabilities(outputs: Tensor) -> Tensor:
    """(B, C) log p of all classes, from the same."""
    if outputs.shape[1] == 1:
        return torch.cat([F.logsigmoid(-outputs), F.logsigmoid(outputs)], dim=1)
    return outputs.log_softmax(dim=1)


def class_weights(given: ClassWeights, target: Target) -> tuple[float, ...] | None:
    """(C,) weights of the classes; None where all count once.

    Raises:
        UserError: a name that is no class of the target, or a class to balance that has no training row.
    """
    if given == "none" or given == {}:
        return None
    if given == "balanced":
        classes = len(target.classes)
        if len(target.counts) != classes:
            raise ValueError(f"the counts of {target.name}'s classes are not known")
        if 0 in target.counts:
            name = target.classes[target.counts.index(0)]
            raise UserError(
                f"--class-weights balanced: no training row is of the class {name}; give it some, or weights by name"
            )
        return tuple(target.rows / (classes * count) for count in target.counts)
    assert isinstance(given, dict)  # noqa: S101
    for name in given:
        if name not in target.classes:
            raise UserError(
                f"--class-weights: {target.name} has no class {name!r}{nearest(name, target.classes)}"
            )
    return tuple(given.get(name, 1.0) for name in target.classes)
