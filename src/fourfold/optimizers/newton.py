"""Newton's method in a trust region, for linear models with a smooth loss: exact to the last digits.

Each step minimizes the local quadratic by conjugate gradients, stopped at the region's edge or where the
curvature is not positive (Steihaug 1983), as LIBLINEAR does (Lin, Weng and Keerthi 2008,
https://www.jmlr.org/papers/v9/lin08b.html). Shapes: D features, K outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from fourfold.core.parts import Data, Objective, Optimizer
from fourfold.core.run import Run
from fourfold.optimizers.full_batch import FullBatch
from fourfold.optimizers.progress import shown

INNER = 0.1
"""How far conjugate gradients reduce the residual: further near the end, by the square root of the gradient."""

ENDLESS = 15.0
"""Coefficients per deviation of a column from which they are taken to grow without end: odds of 3 million."""


class Newton(Optimizer):
    """Newton's method on all rows at once: reaches the optimum to as many digits as the format has."""

    kind: Literal["newton"] = "newton"
    ridge: NonNegativeFloat = 1.0
    """Weight of the penalty ridge/2 |w|^2 beside the sum of losses, on the prepared (usually standardized)
    columns and never on the bias; 1 / ridge is scikit-learn's C."""
    tolerance: PositiveFloat = 1e-9
    """Largest entry of the mean objective's gradient at which the search ends."""
    iterations: PositiveInt = 200
    """Steps at most."""

    def minimize(self, objective: Objective, model: nn.Module, data: Data, run: Run) -> None:
        """Set the model's `weight` (K, D) and `bias` (K,).

        Raises:
            ValueError: the objective is not smooth, or the model not linear in `weight` and `bias`.
            UserError: the training split has no rows.
        """
        with shown(run, data, f"{self.iterations} steps at most") as search:
            problem = FullBatch(objective, model, data, run)
            first: list[float] = []

            def log(step: int, value: float, slope: float) -> None:
                first.append(max(slope, self.tolerance))
                fallen = math.log(first[0] / max(slope, self.tolerance))
                far = fallen / math.log(first[0] / self.tolerance) if fallen > 0 else 0.0
                search.step(far, step, loss=value, grad_norm=slope)

            smooth = Smooth(problem, ridge=self.ridge)
            found = trust_region(smooth, problem.start(), self.tolerance, self.iterations, log)
            problem.write(found.theta)
            self._say(run, found)
            search.finish(objective, model, data, found.steps)

    def _say(self, run: Run, found: Found) -> None:
        """What a user should know of the optimum."""
        if not found.converged:
            run.note(
                f"Stopped after {found.steps} steps with a gradient of {found.slope:.1e} "
                f"(tolerance {self.tolerance:.1e}); --iterations allows more."
            )
        if self.ridge == 0 and bool(found.theta[:, :-1].abs().max() > ENDLESS):
            run.note(
                "Coefficients as large as these mean that some class is separable from the rest, where no finite "
                "ones are best and the search only stopped; --ridge 1 makes them finite."
            )


class Smooth:
    """The mean loss with a quadratic penalty and, on some coordinates held at their sign, a linear one.

    `free`, (K, D + 1) of 0 and 1, says which coordinates move; None is all.
    """

    def __init__(
        self,
        problem: FullBatch,
        ridge: float = 0.0,
        linear: Tensor | None = None,
        free: Tensor | None = None,
    ) -> None:
        self.problem, self.linear, self.free = problem, linear, free
        # the penalty is on the model's own weights, theta / scale, and not on the bias
        own = problem.scale.new_zeros(len(problem.scale) + 1)
        own[:-1] = ridge / problem.weight / problem.scale.square()
        self.penalty = own

    def value(self, theta: Tensor) -> float:
        """The objective."""
        return float(self.problem.value(theta) + self._extra(theta))

    def gradient(self, theta: Tensor) -> tuple[float, Tensor]:
        """The objective and its gradient."""
        value, slope = self.problem.gradient(theta)
        slope = slope + self.penalty * theta
        if self.linear is not None:
            slope = slope + self.linear
        return float(value + self._extra(theta)), self._moving(slope)

    def curvature(self, theta: Tensor) -> Callable[[Tensor], Tensor]:
        """The Hessian as a function of a direction."""
        hessian = self.problem.curvature(theta)
        return lambda d: self._moving(hessian.times(d) + self.penalty * d)

    def _extra(self, theta: Tensor) -> Tensor:
        extra = (self.penalty * theta.square()).sum() / 2
        return extra if self.linear is None else extra + (self.linear * theta).sum()

    def _moving(self, values: Tensor) -> Tensor:
        return values if self.free is None else values * self.free


@dataclass(frozen=True)
class Found:
    """Where a search ended."""

    theta: Tensor
    value: float
    slope: float
    """Largest entry of the gradient."""
    steps: int
    converged: bool


def trust_region(
    function: Smooth,
    theta: Tensor,
    tolerance: float,
    limit: int,
    log: Callable[[int, float, float], None] = lambda *_: None,
) -> Found:
    """Minimize a smooth function from `theta` (K, D + 1) on.

    Args:
        function: value, gradient and curvature.
        theta: where to begin.
        tolerance: largest entry of the gradient at which to end.
        limit: steps at most.
        log: is told each step's number, value and largest entry of the gradient.
    """
    value, slope = function.gradient(theta)
    radius = max(1.0, float(slope.norm()))
    for step in range(limit + 1):
        largest = float(slope.abs().max())
        log(step, value, largest)
        if largest <= tolerance or step == limit:
            return Found(theta, value, largest, step, largest <= tolerance)
        hessian = function.curvature(theta)
        taken = False
        while not taken:
            move, gain = _steihaug(hessian, slope, radius)
            if gain <= 4 * torch.finfo(torch.float64).eps * abs(value):
                # what is left to gain is below the rounding of the value: the step cannot be judged any more
                theta, slope = _last(function, theta, slope, move)
                largest = float(slope.abs().max())
                log(step + 1, value, largest)
                return Found(theta, value, largest, step + 1, largest <= max(tolerance, 1e-8))
            new = function.value(theta + move)
            ratio = (value - new) / gain if new == new else -1.0  # not where it overflowed
            length = float(move.norm())
            if ratio < 0.25:
                radius = 0.25 * length
            elif ratio > 0.75 and length > 0.99 * radius:
                radius *= 4
            taken = ratio > 1e-4
        theta = theta + move
        value, slope = function.gradient(theta)
    raise AssertionError("the last step returns")


def _last(function: Smooth, theta: Tensor, slope: Tensor, move: Tensor) -> tuple[Tensor, Tensor]:
    """A step whose gain rounding hides is taken if the gradient shrinks."""
    after = function.gradient(theta + move)[1]
    return (theta + move, after) if after.norm() < slope.norm() else (theta, slope)


def _steihaug(
    hessian: Callable[[Tensor], Tensor], slope: Tensor, radius: float
) -> tuple[Tensor, float]:
    """The step within the radius by truncated conjugate gradients, and what the quadratic gains by it."""
    size = float(slope.norm())
    enough = size * min(INNER, size**0.5)
    move, turned = (
        torch.zeros_like(slope),
        torch.zeros_like(slope),
    )  # the step, and the Hessian times it
    residual, direction = -slope, -slope
    square = float(residual.square().sum())
    for _ in range(slope.numel()):
        bent = hessian(direction)
        curve = float((direction * bent).sum())
        length = square / curve if curve > 0 else float("inf")
        reached = _to_edge(move, direction, radius)
        if length >= reached:  # over the edge, or downhill without end
            move, turned = move + reached * direction, turned + reached * bent
            break
        move, turned = move + length * direction, turned + length * bent
        residual = residual - length * bent
        before, square = square, float(residual.square().sum())
        if square**0.5 <= enough:
            break
        direction = residual + square / before * direction
    return move, -float((slope * move).sum() + (move * turned).sum() / 2)


def _to_edge(move: Tensor, direction: Tensor, radius: float) -> float:
    """How far along the direction the region ends."""
    a, b = float(direction.square().sum()), float((move * direction).sum())
    c = radius**2 - float(move.square().sum())
    return (-b + (b * b + a * max(c, 0.0)) ** 0.5) / a if a > 0 else 0.0
