"""Losses of predicted numbers. Shapes: B rows, K outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import PrivateAttr

from fourfold.core.parts import Batch, Move, Objective

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fourfold.core.run import Run


class SquaredError(Objective):
    """Squared error, (y - y')^2 summed over rows and outputs.

    The model maps batch["features"], (B, D), to (B, K); batch["targets"] is (B, K), or (B,) where K = 1.
    The weight is the number of targets, so the mean is scikit-learn's mean_squared_error.

    Raises:
        ValueError: predictions and targets differ in shape.
    """

    quadratic: ClassVar[bool] = True
    """Closed forms minimize this objective."""
    _scale: float = PrivateAttr(1.0)

    def prepare(self, run: Run) -> Self:
        """Takes the scale by which the data standardized its target, where it did."""
        fresh = self.model_copy()
        fresh._scale = float(getattr(getattr(run.data, "target", None), "scale", 1.0))
        return fresh

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """See `Objective.losses`."""
        residuals = self._residuals(model, batch)
        yield Move("model", residuals.square().sum(), residuals.numel())

    def measure(
        self, model: nn.Module, batch: Batch
    ) -> Mapping[str, tuple[Tensor, Tensor | float]]:
        """Mean squared and mean absolute error, in the units of the data's target before it was standardized."""
        residuals = self._residuals(model, batch).double() * self._scale
        count = residuals.numel()
        return {"mse": (residuals.square().sum(), count), "mae": (residuals.abs().sum(), count)}

    def _residuals(self, model: nn.Module, batch: Batch) -> Tensor:
        predictions, targets = model(batch["features"]), batch["targets"]
        if targets.ndim == predictions.ndim - 1 and predictions.shape[-1] == 1:
            predictions = predictions.squeeze(-1)
        if predictions.shape != targets.shape:
            got = f"{tuple(predictions.shape)} and {tuple(targets.shape)}"
            raise ValueError(
                f"SquaredError expects predictions and targets of one shape, got {got}"
            )
        return predictions - targets
