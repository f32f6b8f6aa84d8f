"""L1 and elastic penalties for linear models with a smooth loss: exact zeros, and the path along the penalty.

FISTA (Beck and Teboulle 2009) with restarts (O'Donoghue and Candès 2015) finds which coefficients are
zero; Newton's method on the others makes them exact. Lasso: Tibshirani 1996; elastic net: Zou and Hastie
2005; the path from the strength at which all are zero: Friedman, Hastie and Tibshirani 2010.
Shapes: D features, K outputs, S strengths.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from fourfold.core.errors import UserError
from fourfold.core.evaluation import measure
from fourfold.core.parts import Data, Objective, Optimizer
from fourfold.core.run import Run
from fourfold.optimizers.full_batch import FullBatch
from fourfold.optimizers.newton import Smooth, trust_region
from fourfold.optimizers.progress import shown

SHARE = 1e-3
"""The weakest strength of a path, of the strongest."""
FIRST_ROUND, LAST_ROUND = 10, 160
"""Steps of FISTA before Newton's method is tried on the coefficients that are not zero; they double."""


class Proximal(Optimizer):
    """L1 (lasso) or elastic penalty: coefficients that do not help are exactly zero."""

    kind: Literal["proximal"] = "proximal"
    lasso: NonNegativeFloat | None = None
    """Weight of the penalty lasso |w| beside the sum of losses, on the prepared (usually standardized) columns
    and never on the bias; 1 / lasso is scikit-learn's C. None tries a path and keeps the strength that measures
    best on the validation rows."""
    ridge: NonNegativeFloat = 0.0
    """Weight of a further penalty ridge/2 |w|^2; both together are the elastic net."""
    strengths: PositiveInt = 30
    """Strengths of the path, from where every coefficient is zero to the one asked for or to a thousandth."""
    tolerance: PositiveFloat = 1e-8
    """Largest violation of the optimality conditions of the mean objective at which the search ends."""
    iterations: PositiveInt = 5000
    """Gradient steps for a strength at most."""

    def minimize(self, objective: Objective, model: nn.Module, data: Data, run: Run) -> None:
        """Set the model's `weight` (K, D) and `bias` (K,), and its `strengths` and `path` where it has them.

        Raises:
            ValueError: the objective is not smooth, or the model not linear in `weight` and `bias`.
            UserError: the training split has no rows, or no validation rows to choose a strength by.
        """
        if self.lasso is None and not data.size("valid"):
            raise UserError(
                "the strength of the lasso is chosen on validation rows, and there are none: "
                "--lasso 1 names one, a larger --data.split makes some"
            )
        with shown(run, data, f"{self.strengths} strengths at most") as search:
            problem = FullBatch(objective, model, data, run)
            path: list[Point] = []
            best: tuple[float, int] = (math.inf, -1)
            for number, (progress, point) in enumerate(self._path(problem)):
                path.append(point)
                problem.write(point.theta)
                line = {"lasso": point.lasso, "loss": point.loss, "nonzero": point.nonzero}
                if self.lasso is None:
                    found = measure(objective, model, data, "valid", run.device, run.seed)
                    first, value = next(iter(found.items()))
                    best = min(best, (-value if first in objective.higher else value, number))
                    line |= {f"valid.{name}": v for name, v in found.items()}
                search.step(progress, number + 1, **line)
            chosen = best[1] % len(path)  # -1, the last, where the strength is given
            problem.write(path[chosen].theta)
            _keep_path(problem, model, path)
            _say(run, self, path, path[chosen])
            search.finish(objective, model, data, chosen + 1)

    def _path(self, problem: FullBatch) -> Iterator[tuple[float, Point]]:
        """The optimum for each strength, each begun from the one before, and how far along the path it is."""
        solver = _Solver(problem, self.ridge, self.tolerance, self.iterations)
        theta, most = solver.without_columns()
        last = SHARE * most if self.lasso is None else self.lasso
        count = self.strengths if 0 < last < most else 1
        ratios = torch.linspace(0, 1, count, dtype=torch.float64)
        for share in ratios.tolist() if count > 1 else [1.0]:
            lasso = last if share == 1 else most * (last / most) ** share
            theta, converged, loss = solver.solve(theta, lasso)
            nonzero = int((theta[:, :-1] != 0).sum())
            yield share, Point(lasso, theta, loss, nonzero, converged)


@dataclass(frozen=True)
class Point:
    """The optimum at one strength."""

    lasso: float
    theta: Tensor
    loss: float
    """The mean loss without penalties."""
    nonzero: int
    converged: bool


class _Solver:
    """Minimizes mean loss + ridge/2 |w|^2 / n + lasso |w| / n for one strength after another."""

    def __init__(self, problem: FullBatch, ridge: float, tolerance: float, limit: int) -> None:
        self.problem, self.tolerance, self.limit = problem, tolerance, limit
        self.ridge, self.smooth = ridge, Smooth(problem, ridge)
        self.steepness = 1.0
        """Estimate of the gradient's Lipschitz constant; steps are its inverse."""

    def without_columns(self) -> tuple[Tensor, float]:
        """The optimum of the bias alone, and the least strength at which it is the optimum of all."""
        theta = torch.zeros_like(self.problem.start())
        bias = torch.zeros_like(theta)
        bias[:, -1] = 1
        theta = trust_region(Smooth(self.problem, free=bias), theta, self.tolerance, 100).theta
        slope = self.problem.gradient(theta)[1][:, :-1] * self.problem.scale
        return theta, float(slope.abs().max()) * self.problem.weight

    def solve(self, theta: Tensor, lasso: float) -> tuple[Tensor, bool, float]:
        """The optimum for a strength from a start on, whether it was reached, and the mean loss there."""
        weight = theta.new_zeros(theta.shape[1])  # of each column's penalty; none of the bias
        weight[:-1] = lasso / self.problem.weight / self.problem.scale
        taken, round_ = 0, FIRST_ROUND
        while self._violation(theta, weight) > self.tolerance:
            if taken >= self.limit:
                return theta, False, float(self.problem.value(theta))
            theta = self._polished(self._fista(theta, weight, round_), weight)
            taken, round_ = taken + round_, min(2 * round_, LAST_ROUND)
        return theta, True, float(self.problem.value(theta))

    def _fista(self, theta: Tensor, weight: Tensor, steps: int) -> Tensor:
        """A round of accelerated proximal steps, each as long as the curvature allows."""
        ahead, momentum = theta, 1.0
        for _ in range(steps):
            value, slope = self.smooth.gradient(ahead)
            new = self._step(ahead, value, slope, weight)
            if float(((ahead - new) * (new - theta)).sum()) > 0:  # the momentum points uphill
                momentum, ahead = 1.0, new
            else:
                after = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
                ahead = new + (momentum - 1) / after * (new - theta)
                momentum = after
            theta = new
        return theta

    def _step(self, ahead: Tensor, value: float, slope: Tensor, weight: Tensor) -> Tensor:
        """The proximal step; the steepness grows until the quadratic above the loss holds."""
        self.steepness *= 0.9
        while True:
            far = ahead - slope / self.steepness
            new = far.sign() * (far.abs() - weight / self.steepness).clamp(min=0)
            move = new - ahead
            above = (
                value + float((slope * move).sum()) + self.steepness / 2 * float((move**2).sum())
            )
            rounding = 1e-14 * abs(value)
            if self.smooth.value(new) <= above + rounding:
                return new
            self.steepness *= 2

    def _polished(self, theta: Tensor, weight: Tensor) -> Tensor:
        """Newton's method on the coefficients that are not zero, if it ends where their signs still hold."""
        free = (theta != 0).to(theta)
        free[:, -1] = 1
        linear = weight * theta.sign()
        function = Smooth(self.problem, self.ridge, linear=linear, free=free)
        found = trust_region(function, theta, self.tolerance / 10, 20)
        holds = found.theta.sign()[:, :-1] == theta.sign()[:, :-1]
        return found.theta if bool(holds.all()) else theta

    def _violation(self, theta: Tensor, weight: Tensor) -> float:
        """The largest entry of the least subgradient."""
        slope = self.smooth.gradient(theta)[1]
        moving = (slope + weight * theta.sign()).abs()
        resting = (slope.abs() - weight).clamp(min=0)
        return float(torch.where(theta != 0, moving, resting).max())


def _keep_path(problem: FullBatch, model: nn.Module, path: list[Point]) -> None:
    buffers = dict(model.named_buffers(recurse=False))
    if "path" not in buffers or "strengths" not in buffers:
        return
    device = buffers["path"].device
    weights = torch.stack([problem.original(point.theta)[0] for point in path])
    model.register_buffer("path", weights.to(device))
    strengths = torch.tensor([point.lasso for point in path], dtype=torch.float64)
    model.register_buffer("strengths", strengths.to(device))


def _say(run: Run, options: Proximal, path: list[Point], chosen: Point) -> None:
    if not all(point.converged for point in path):
        run.note(
            f"{sum(not p.converged for p in path)} of {len(path)} strengths stopped above the tolerance "
            f"{options.tolerance:.1e}; --iterations allows more."
        )
    if options.lasso is None:
        run.note(
            f"A lasso of {chosen.lasso:.4g} measured best on the validation rows, "
            f"of {len(path)} from {path[0].lasso:.4g} to {path[-1].lasso:.4g}."
        )
