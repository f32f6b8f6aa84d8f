"""What every loss of a predicted target shares: how many outputs it takes, its sums and weights, and predictions.

Shapes: B rows, K outputs, C classes, Q quantiles.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from pydantic import PrivateAttr

from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, Move, Objective
from fourfold.core.targets import Target

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fourfold.core.run import Run


class Supervised(Objective):
    """A loss for each row of batch["features"], (B, D), against batch["targets"] (see `Target`).

    The model maps features to `outputs(target)` numbers a row. Rows count as batch["weight"], (B,),
    says, or once each where there is none.
    """

    reads: ClassVar[frozenset[str]] = frozenset()
    """Kinds of target (`Target.kind`) that this loss is for."""
    _target: Target | None = PrivateAttr(None)

    def prepare(self, run: Run) -> Self:
        """Takes the target of the run's data.

        Raises:
            UserError: the target is of a kind that this loss is not for.
        """
        target = getattr(run.data, "target", None)
        return self if target is None else self.chosen(target)

    def chosen(self, target: Target) -> Self:
        """This loss for one target: a fresh copy that knows it.

        Raises:
            UserError: the target is of a kind that this loss is not for.
        """
        if target.kind not in self.reads:
            wanted = " or ".join(sorted(self.reads))
            raise UserError(
                f"--objective {getattr(self, 'kind', type(self).__name__)} is for a target that is a {wanted}; "
                f"{target.name} is a {target.kind}"
            )
        fresh = self.model_copy()
        fresh._target = target
        return fresh

    @abstractmethod
    def outputs(self, target: Target) -> int:
        """Numbers that the model gives for a row."""

    @abstractmethod
    def rowwise(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(B,) losses of rows, from outputs (B, K) and targets as `Target` tells them."""

    @abstractmethod
    def predict(self, outputs: Tensor) -> Tensor:
        """What the outputs (B, K) mean: a number's prepared values (B,), or probabilities of classes or labels (B, C)."""

    def importance(self, batch: Batch) -> Tensor:
        """(B,) how much each row counts."""
        given = batch.get("weight")
        return (
            torch.ones(len(batch["targets"]), device=batch["targets"].device)
            if given is None
            else given
        )

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """See `Objective.losses`."""
        rows = self.rowwise(model(batch["features"]), batch["targets"])
        counts = self.importance(batch).to(rows.dtype)
        yield Move("model", (rows * counts).sum(), counts.sum())

    def measure(
        self, model: nn.Module, batch: Batch
    ) -> Mapping[str, tuple[Tensor, Tensor | float]]:
        """The mean loss; subclasses add the field's measures."""
        (move,) = self.losses(model, batch)
        return {"loss": (move.loss, move.weight)}
