"""Losses of several labels at once, each there or not.

Shapes: B rows, K labels, P labels that are there in one row at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from pydantic import PositiveFloat, PrivateAttr
from torch import Tensor
from torch.nn import functional as F

from fourfold.core.errors import UserError, nearest
from fourfold.core.parts import Batch
from fourfold.core.targets import Target
from fourfold.objectives.classification import ClassWeights, Smoothing
from fourfold.objectives.supervised import Supervised, mean_over


class Labels(Supervised):
    """Losses of labels: one output each, positive for a label that is there."""

    reads: ClassVar[frozenset[str]] = frozenset({"labels"})

    def outputs(self, target: Target) -> int:
        """One a label."""
        return len(target.classes)

    def predict(self, outputs: Tensor) -> Tensor:
        """(B, K) logistic function of the outputs."""
        return outputs.sigmoid()

    def sums(self, outputs: Tensor, batch: Batch) -> Mapping[str, tuple[Tensor, Tensor | float]]:
        """The loss and the share of labels that are decided wrongly."""
        wrong = ((outputs > 0) != (batch["targets"] > 0.5)).to(outputs.dtype).mean(dim=1)
        return {**super().sums(outputs, batch), "hamming": mean_over(wrong, batch)}


class BinaryCrossEntropy(Labels):
    """Binary cross-entropy of each label from its logit, in nats, averaged over the labels of a row.

    As torch.nn.BCEWithLogitsLoss(weight=label_weights, pos_weight=...): finite and exact at logits of ±10,000.
    """

    kind: Literal["binary-cross-entropy"] = "binary-cross-entropy"
    class_weights: ClassWeights = "none"
    """How much presence counts against absence: none, alike; balanced, each of a label's two sides
    rows / (2 x rows of that side); or the weight of presence by label, as "rare=5"."""
    label_weights: dict[str, PositiveFloat] = {}
    """How much each label's loss counts, as "important=3"; the others count once."""
    label_smoothing: Smoothing = 0.0
    """A label's target is 1 - s/2 or s/2 instead of 1 or 0."""

    unit: ClassVar[str] = "nats"
    _sides: tuple[tuple[float, ...], ...] | None = PrivateAttr(None)  # of absence, of presence

    def chosen(self, target: Target) -> Self:
        """See `Supervised.chosen`.

        Raises:
            UserError: a weight for a label that is not there.
        """
        fresh = super().chosen(target)
        for option, given in (("class", self.class_weights), ("label", self.label_weights)):
            for name in given if isinstance(given, dict) else ():
                if name not in target.classes:
                    raise UserError(
                        f"--{option}-weights: there is no label {name!r}{nearest(name, target.classes)}"
                    )
        fresh._sides = self._of_sides(target)
        return fresh

    def rowwise(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(B,) nats, means over the labels."""
        soft = targets.to(outputs.dtype)
        if self.label_smoothing:
            soft = soft * (1 - self.label_smoothing) + self.label_smoothing / 2
        if self._sides is None:
            return F.binary_cross_entropy_with_logits(outputs, soft, reduction="none").mean(dim=1)
        absent, present = outputs.new_tensor(self._sides)  # each (K,)
        # not through pos_weight, which weighs the smoothed share of presence with absence's weight
        there, gone = present * F.logsigmoid(outputs), absent * F.logsigmoid(-outputs)
        return -(soft * there + (1 - soft) * gone).mean(dim=1)

    def sums(self, outputs: Tensor, batch: Batch) -> Mapping[str, tuple[Tensor, Tensor | float]]:
        """The loss, the share of wrong labels and, where the metric is that, the log loss, exact from the logits."""
        found = dict(super().sums(outputs, batch))
        if self.metric == "log_loss":
            known = batch["targets"].to(outputs.dtype)
            each = F.binary_cross_entropy_with_logits(outputs, known, reduction="none")
            found["log_loss"] = mean_over(each.mean(dim=1), batch)
        return found

    def _of_sides(self, target: Target) -> tuple[tuple[float, ...], ...] | None:
        given = self.class_weights
        if given in ("none", {}) and not self.label_weights:
            return None
        absent, present = [1.0] * len(target.classes), [1.0] * len(target.classes)
        if given == "balanced":
            if len(target.counts) != len(target.classes):
                raise ValueError(f"the counts of {target.name}'s labels are not known")
            absent = [target.rows / (2 * max(1, target.rows - n)) for n in target.counts]
            present = [target.rows / (2 * max(1, n)) for n in target.counts]
        elif isinstance(given, dict):
            present = [given.get(name, 1.0) for name in target.classes]
        each = [self.label_weights.get(name, 1.0) for name in target.classes]
        return tuple(
            tuple(w * s for w, s in zip(each, side, strict=True)) for side in (absent, present)
        )


class MultiLabelMargin(Labels):
    """Margin between every label that is there and every one that is not, as torch.nn.MultiLabelMarginLoss.

    Of a row with outputs x (K) and the labels Y that are there,

        loss = sum over j in Y, i not in Y of max(0, margin - (x_j - x_i)) / K,

    with margin 1 in torch. A label that is there must lie at least the margin above one that is not.
    The formula circulates with two sign errors: max(0, margin - (x_i - x_j)), which rewards the wrong
    order, and max(0, margin + (x_j - x_i)), which is the same. Both fall when absent labels rise. The
    denominator is K, not the number of pairs; a row with all labels or none has no pair and loss 0.

    Only differences within a row count, so that an output says how labels rank and not how probable
    they are: `predict` gives its logistic function, which is not calibrated.
    """

    kind: Literal["margin"] = "margin"
    margin: PositiveFloat = 1.0
    """How far labels that are there should lie above those that are not."""

    probabilistic: ClassVar[bool] = False

    def rowwise(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(B,) sums over pairs, divided by K."""
        present = targets > 0.5
        most = int(present.sum(dim=1).max()) if len(present) else 0
        there, index = present.to(torch.uint8).topk(
            most, dim=1
        )  # (B, P): those that are there first
        short = self.margin - (outputs.gather(1, index)[:, :, None] - outputs[:, None, :])
        pairs = there.bool()[:, :, None] & ~present[:, None, :]  # (B, P, K)
        return torch.where(pairs, F.relu(short), 0.0).sum(dim=(1, 2)) / outputs.shape[1]
