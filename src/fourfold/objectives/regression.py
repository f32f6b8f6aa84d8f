"""Losses of predicted numbers.

Numbers are learned as the data prepared them, usually at mean 0 and deviation 1; measures are told in
the target's own units. Huber 1964; quantile regression: Koenker and Bassett 1978.
Shapes: B rows, K outputs, Q quantiles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

import torch
from annotated_types import Gt, Len, Lt
from pydantic import PositiveFloat, model_validator
from torch import Tensor
from torch.nn import functional as F

from fourfold.core.errors import UserError
from fourfold.core.parts import Batch
from fourfold.core.targets import Target
from fourfold.objectives.supervised import Supervised, mean_over, widest

Level = Annotated[float, Gt(0), Lt(1)]


class Numbers(Supervised):
    """Losses of a number: one output, the prepared number."""

    reads: ClassVar[frozenset[str]] = frozenset({"number"})
    power: ClassVar[int] = 1
    """Of the target's unit, in which the loss is."""

    def units(self) -> Mapping[str, str]:
        """See `Objective.units`: measures are told in the target's units, the loss in prepared ones."""
        if self._target is None:
            return {}
        name = self._target.name
        prepared = name if self._target.scale == 1 else f"deviations of {name}"
        found = {"loss": self.unit or _to_the(self.power, prepared)}
        squared = dict.fromkeys(("mse", "huber"), _to_the(2, name))
        return {**found, **squared, **dict.fromkeys(("mae", "rmse", "pinball"), name)}

    def outputs(self, target: Target) -> int:
        """One."""
        return 1

    def predict(self, outputs: Tensor) -> Tensor:
        """(B,) prepared numbers."""
        return outputs[:, 0]

    def sums(self, outputs: Tensor, batch: Batch) -> Mapping[str, tuple[Tensor, Tensor | float]]:
        """The loss in the target's units; mean squared and mean absolute error."""
        error = wide(self.predict(outputs) - batch["targets"]) * self._scale
        return {
            "mse": mean_over(error.square(), batch),
            "mae": mean_over(error.abs(), batch),
        }

    @property
    def _scale(self) -> float:
        """The target's deviation, by which the data divided it."""
        return 1.0 if self._target is None else self._target.scale

    @property
    def _mean(self) -> float:
        return 0.0 if self._target is None else self._target.mean


class SquaredError(Numbers):
    """Squared error, (y - y')^2.

    The model maps batch["features"], (B, D), to (B, K); batch["targets"] is (B, K), or (B,) where K = 1.
    The mean is scikit-learn's mean_squared_error, over rows and outputs.

    Raises:
        ValueError: predictions and targets differ in shape.
    """

    kind: Literal["squared"] = "squared"
    power: ClassVar[int] = 2

    quadratic: ClassVar[bool] = True
    """Closed forms minimize this objective."""

    def rowwise(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(B,) squared errors, means over the outputs."""
        squares = _residuals(outputs, targets).square()
        return squares if squares.ndim == 1 else squares.mean(dim=1)

    def sums(self, outputs: Tensor, batch: Batch) -> Mapping[str, tuple[Tensor, Tensor | float]]:
        """Mean squared and mean absolute error."""
        error = wide(_residuals(outputs, batch["targets"])) * self._scale
        both = {"mse": error.square(), "mae": error.abs()}
        flat = {n: v if v.ndim == 1 else v.mean(dim=1) for n, v in both.items()}
        return {name: mean_over(values, batch) for name, values in flat.items()}


class AbsoluteError(Numbers):
    """Absolute error, |y - y'|: its minimum is the median, which a few wild rows do not move."""

    kind: Literal["absolute"] = "absolute"

    @property
    def smooth(self) -> bool:
        """It has a corner at 0."""
        return False

    def rowwise(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(B,) absolute errors."""
        return _residuals(outputs, targets).abs()

    def sums(self, outputs: Tensor, batch: Batch) -> Mapping[str, tuple[Tensor, Tensor | float]]:
        """Mean absolute and mean squared error."""
        found = super().sums(outputs, batch)
        return {"mae": found["mae"], "mse": found["mse"]}


class Huber(Numbers):
    """Huber's loss: squared, e^2/2, up to an error of delta and linear, delta (|e| - delta/2), beyond."""

    kind: Literal["huber"] = "huber"
    power: ClassVar[int] = 2
    delta: PositiveFloat = 1.0
    """Error at which it becomes linear, in prepared units: deviations of the target."""

    def rowwise(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(B,) losses."""
        zero = torch.zeros((), dtype=outputs.dtype, device=outputs.device)
        residuals = _residuals(outputs, targets)
        return F.huber_loss(
            residuals, zero.expand_as(residuals), reduction="none", delta=self.delta
        )

    def sums(self, outputs: Tensor, batch: Batch) -> Mapping[str, tuple[Tensor, Tensor | float]]:
        """The loss in squared units of the target; mean squared and mean absolute error."""
        rows = wide(self.rowwise(outputs, batch["targets"])) * self._scale**2
        return {"huber": mean_over(rows, batch), **super().sums(outputs, batch)}


class Quantile(Numbers):
    """Quantiles of the target, each by the pinball loss max(q e, (q - 1) e) of e = y - y'.

    Several levels share a model, one output each; where the outputs cross they are sorted when
    predicting (Chernozhukov, Fernandez-Val and Galichon 2010), which makes none of them worse.
    """

    kind: Literal["quantile"] = "quantile"
    levels: Annotated[tuple[Level, ...], Len(1)] = (0.05, 0.5, 0.95)
    """Shares of the target that should lie below each, in rising order."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if any(a >= b for a, b in zip(self.levels, self.levels[1:], strict=False)):
            raise ValueError(f"levels: expected rising shares, got {self.levels}")
        return self

    @property
    def smooth(self) -> bool:
        """It has a corner at each quantile."""
        return False

    def outputs(self, target: Target) -> int:
        """One a level."""
        return len(self.levels)

    def rowwise(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(B,) sums over the levels."""
        error = targets[:, None] - outputs
        levels = torch.tensor(self.levels, dtype=outputs.dtype, device=outputs.device)
        return torch.maximum(levels * error, (levels - 1) * error).sum(dim=1)

    def predict(self, outputs: Tensor) -> Tensor:
        """(B,) prepared numbers: the level nearest to the median."""
        middle = min(range(len(self.levels)), key=lambda i: abs(self.levels[i] - 0.5))
        return self.quantiles(outputs)[:, middle]

    def quantiles(self, outputs: Tensor) -> Tensor:
        """(B, Q) prepared numbers that do not cross."""
        return outputs.sort(dim=1).values

    def further(self, outputs: Tensor) -> dict[str, Tensor]:
        """See `Supervised.further`: "quantile_0.05" and so on."""
        values = self.quantiles(outputs)
        return {f"quantile_{level:g}": values[:, i] for i, level in enumerate(self.levels)}

    def sums(self, outputs: Tensor, batch: Batch) -> Mapping[str, tuple[Tensor, Tensor | float]]:
        """The pinball loss of the sorted quantiles in the target's units, mean over levels; errors of the median."""
        rows = self.rowwise(self.quantiles(outputs), batch["targets"]) / len(self.levels)
        pinball = mean_over(wide(rows) * self._scale, batch)
        return {"pinball": pinball, **super().sums(outputs, batch)}


class Poisson(Numbers):
    """Counts: the negative log-likelihood of a Poisson distribution, rate - y log rate (without log y!), in nats.

    The output is the log of the rate over the training rows' mean. Beyond exp(50) times the mean the
    rate goes on as a straight line, so that it does not overflow.
    """

    kind: Literal["poisson"] = "poisson"
    unit: ClassVar[str] = "nats"

    def rowwise(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(B,) nats.

        Raises:
            UserError: a negative target.
        """
        counts = self._counts(outputs, targets)
        return self._rate(outputs) - counts * (outputs[:, 0] + self._offset)

    def predict(self, outputs: Tensor) -> Tensor:
        """(B,) rates as prepared numbers."""
        return (self._rate(outputs) - self._mean) / self._scale

    def sums(self, outputs: Tensor, batch: Batch) -> Mapping[str, tuple[Tensor, Tensor | float]]:
        """The loss; mean Poisson deviance, mean squared and mean absolute error."""
        move = self._move(outputs, batch)
        counts, rate = wide(self._counts(outputs, batch["targets"])), wide(self._rate(outputs))
        log_rate = wide(outputs[:, 0]) + self._offset
        deviance = 2 * (torch.special.xlogy(counts, counts) - counts * log_rate - counts + rate)
        return {
            "loss": (move.loss, move.weight),
            "deviance": mean_over(deviance, batch),
            **super().sums(outputs, batch),
        }

    @property
    def _offset(self) -> float:
        return math.log(self._mean) if self._mean > 0 else 0.0

    def _rate(self, outputs: Tensor) -> Tensor:
        bounded = outputs[:, 0].clamp(max=STEEPEST)
        return (bounded + self._offset).exp() * (1 + outputs[:, 0] - bounded)

    def _counts(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(B,) targets in their own units."""
        if outputs.shape != (len(targets), 1):
            got = f"{tuple(outputs.shape)} and {tuple(targets.shape)}"
            raise ValueError(f"Poisson expects outputs (B, 1) and targets (B,), got {got}")
        counts = targets * self._scale + self._mean
        lowest = float(counts.min()) if len(counts) else 0.0
        if lowest < -1e-5 * self._scale:
            name = self._target.name if self._target else "the target"
            raise UserError(
                f"--objective poisson: {name} holds {lowest:.6g}; counts are not negative"
            )
        return counts.clamp(min=0)


STEEPEST = 50.0


def _to_the(power: int, unit: str) -> str:
    return f"{unit}, squared" if power == 2 else unit


def wide(values: Tensor) -> Tensor:
    """float64, where the device has it: the digits of large units."""
    return values.to(widest(values.device))


def _residuals(outputs: Tensor, targets: Tensor) -> Tensor:
    """Predictions less targets, (B,) or (B, K)."""
    if targets.ndim == outputs.ndim - 1 and outputs.shape[-1] == 1:
        outputs = outputs.squeeze(-1)
    if outputs.shape != targets.shape:
        got = f"{tuple(outputs.shape)} and {tuple(targets.shape)}"
        raise ValueError(f"expected predictions and targets of one shape, got {got}")
    return outputs - targets
