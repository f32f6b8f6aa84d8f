"""Least squares in one pass over blocks of rows, each reduced to its triangular factor.

The factors of row blocks are stacked and reduced again ("TSQR": Golub 1965; Demmel et al. 2012), so that
memory is one block. A block's factor comes from its products X'X where their condition allows (Cholesky),
and otherwise from Householder's reflections: X'X has the square of X's condition number, and nearly
collinear columns would lose their digits. Ridge: Hoerl and Kennard 1970.
Shapes: n rows, D features, K outputs, p = 1 + D + K.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from fourfold.core.errors import UserError
from fourfold.core.parts import Data, Objective, Optimizer

if TYPE_CHECKING:
    from fourfold.core.run import Run

BLOCK = 4096  # rows at least: with 50 columns they stay in the cache
CONDITION = 1e3
"""Condition number up to which a block of rows is factorized through its products."""
NARROW = 256
"""Columns up to which a factorization runs on one thread: its panels are too small to share, and on a
busy machine threads that wait for one another made it 30 times slower."""
RANK = 1000 * torch.finfo(torch.float64).eps
"""Singular values, of columns scaled to length 1, below this share of the largest count as zero."""


@dataclass(frozen=True)
class Solution:
    """Least squares of centred columns."""

    weight: Tensor
    """(K, D) float64; of all minimizers the one of least norm."""
    bias: Tensor
    """(K,) float64."""
    covariance: Tensor
    """(D + 1, D + 1) float64, bias last: that of one output's estimate for noise of variance 1."""
    noise: Tensor
    """(K,) float64: residual sum of squares by degrees of freedom; NaN where there are none left."""
    residual: Tensor
    """(K,) float64: residual sum of squares."""
    rank: int
    rows: int
    """That count."""
    total: float
    """Sum of the rows' weights."""


class ClosedForm(Optimizer):
    """Least squares in closed form: one pass over the rows, any number of them in bounded memory."""

    kind: Literal["closed-form"] = "closed-form"
    ridge: NonNegativeFloat = 0.0
    """Weight alpha of the penalty alpha |w|^2 beside the sum of squares, on the prepared (usually
    standardized) columns and never on the bias; as scikit-learn's Ridge."""

    def minimize(self, objective: Objective, model: nn.Module, data: Data, run: Run) -> None:
        """Set the model's `weight` (K, D) and `bias` (K,), and its `covariance` and `noise` where it has them.

        Raises:
            ValueError: the objective is not the squared error, or the model not linear in `weight` and `bias`.
            UserError: the training split has no rows.
        """
        if not getattr(objective, "quadratic", False):
            raise ValueError(
                f"a closed form minimizes the squared error, not {type(objective).__name__}"
            )
        if not isinstance(getattr(model, "weight", None), nn.Parameter) or not hasattr(
            model, "bias"
        ):
            raise ValueError(
                f"a closed form sets a linear model's weight and bias, {type(model).__name__} has none"
            )
        run.metrics.cut(0)  # of a run that is solved again
        started = time.perf_counter()
        names = ("features", "targets", "weight")
        blocks = (tuple(b[n] for n in names if n in b) for b in data.blocks("train"))
        found = least_squares(blocks, self.ridge)
        _set(model, found)
        rows, columns = found.rows, found.weight.shape[1]
        if found.rank < columns and self.ridge == 0:
            run.note(
                f"{columns - found.rank} of {columns} prepared columns follow from the others: "
                "of all best coefficients those of least norm are taken; --ridge 1 also makes them unique"
            )
        if not bool(torch.isfinite(found.noise).all()):
            run.note(f"{rows} rows are too few for {columns} columns to tell standard errors")
        seconds = time.perf_counter() - started
        loss = float(found.residual.sum() / (found.total * len(found.residual)))
        run.metrics.log(
            step=1,
            seconds=round(seconds, 6),
            seen=rows,
            loss=loss,
            **_validated(objective, model, data, run),
        )
        run.keep_weights()
        run.metrics.close()


def least_squares(blocks: Iterable[tuple[Tensor, ...]], ridge: float = 0.0) -> Solution:
    """Minimize the sum of w |y - W x - b|^2 plus ridge |W|^2.

    Args:
        blocks: rows in any order and number: features (B, D), targets (B, K) or (B,), and where rows
            do not all count once (w = 1), how much each does, (B,).
        ridge: alpha >= 0.

    Raises:
        UserError: there are no rows, or none that counts.
    """
    threads = torch.get_num_threads()
    found = None
    try:
        for features, targets, *weight in blocks:
            targets = targets[:, None] if targets.ndim == 1 else targets
            if found is None:
                found = _Triangle(features, targets)
                if found.width <= NARROW:
                    torch.set_num_threads(1)
            found.add(features, targets, *weight)
        if found is None:
            raise UserError("the training split has no rows")
        factor = found.finish()
    finally:
        torch.set_num_threads(threads)
    if not bool(factor[0, 0] != 0):
        raise UserError("no row of the training split counts: all weights are 0")
    return _solve(factor, found.shift, found.count, found.outputs, ridge)


class _Triangle:
    """The triangular factor R of [1, X, Y], R'R = [1, X, Y]'[1, X, Y], of all rows so far.

    The column of ones comes first, so that what remains below it is centred exactly; the shift by the
    first block's means keeps columns far from zero (years) from losing digits before that. Rows with
    weight w are multiplied by its root.
    """

    def __init__(self, features: Tensor, targets: Tensor) -> None:
        self.features, self.outputs = features.shape[1], targets.shape[1]
        self.width = 1 + self.features + self.outputs
        first = [part.double().cpu().mean(dim=0) for part in (features, targets)]
        self.shift = torch.cat(first)
        self.count = 0
        size = max(BLOCK, 4 * self.width)
        self._rows = torch.empty(
            self.width, size, dtype=torch.float64
        )  # transposed: columns lie together
        self._held = 0
        self._factor: Tensor | None = None

    def add(self, features: Tensor, targets: Tensor, weight: Tensor | None = None) -> None:
        """Take in rows: features (B, D), targets (B, K), weight (B,)."""
        self.count += len(features) if weight is None else int((weight > 0).sum())
        start = 0
        while start < len(features):
            end = min(len(features), start + self._rows.shape[1] - self._held)
            self._copy(
                features[start:end],
                targets[start:end],
                None if weight is None else weight[start:end],
            )
            start = end
            if self._held == self._rows.shape[1]:
                self._absorb()

    def finish(self) -> Tensor:
        """The factor of all rows, (width, width) or fewer rows where there are fewer."""
        if self._held:
            self._absorb()
        return cast(Tensor, self._factor)

    def _copy(self, features: Tensor, targets: Tensor, weight: Tensor | None) -> None:
        into = self._rows[:, self._held : self._held + len(features)]
        into[0] = 1
        split = 1 + self.features
        torch.sub(features.T.cpu(), self.shift[: self.features, None], out=into[1:split])
        torch.sub(targets.T.cpu(), self.shift[self.features :, None], out=into[split:])
        if weight is not None:
            into *= weight.double().cpu().sqrt()
        self._held += len(features)

    def _absorb(self) -> None:
        rows, self._held = self._rows[:, : self._held], 0
        new = _by_cholesky(rows) if rows.shape[1] >= 2 * self.width else None
        if new is None:
            new = _by_reflections(rows.T)
        self._factor = (
            new if self._factor is None else _by_reflections(torch.cat([self._factor, new]))
        )


def _by_reflections(rows: Tensor) -> Tensor:
    """R of rows (n, p), (min(n, p), p), by Householder's reflections."""
    reflected, _ = torch.geqrf(rows)
    return reflected[: rows.shape[1]].triu()


def _by_cholesky(rows: Tensor) -> Tensor | None:
    """R of rows given as (p, n), from their products; None where these would lose digits.

    A third of the time of reflections. The products square the condition number: the bound on it, of
    columns scaled to length 1, keeps the relative error of what is solved below 1e-9.
    """
    products = rows @ rows.T
    lengths = products.diagonal().sqrt()
    if not bool((lengths > 0).all()):
        return None
    lower, failed = torch.linalg.cholesky_ex(products / torch.outer(lengths, lengths))
    if int(failed):
        return None
    eye = torch.eye(len(lower), dtype=torch.float64)
    inverse = torch.linalg.solve_triangular(lower, eye, upper=False)
    if not bool(lower.norm() * inverse.norm() < CONDITION):
        return None
    return lower.T * lengths


def _solve(factor: Tensor, shift: Tensor, rows: int, outputs: int, ridge: float) -> Solution:
    features = factor.shape[1] - 1 - outputs
    if len(factor) < factor.shape[1]:  # fewer rows than columns
        factor = torch.cat(
            [factor, factor.new_zeros(factor.shape[1] - len(factor), factor.shape[1])]
        )
    total = float(factor[0, 0] ** 2)  # of the weights
    means = factor[0, 1:] / factor[0, 0] + shift  # of X and Y
    inner = factor[1 : features + 1, 1 : features + 1]  # R of centred X
    # a constant column leaves rounding of its mean, which must not pass for a direction
    level = 10 * torch.finfo(torch.float64).eps * means[:features].abs() * total**0.5
    inner = torch.where(inner.norm(dim=0) > level, inner, 0.0)
    right = factor[1 : features + 1, features + 1 :]  # Q'Y
    rest = factor[features + 1 :, features + 1 :]  # what X cannot explain of Y
    inverse, rank = _pseudo_inverse(inner, ridge)
    weight = inverse @ right  # (D, K)
    residual = (right - inner @ weight).square().sum(dim=0) + rest.square().sum(dim=0)
    # effective parameters: the trace of the hat matrix, which is the rank without a penalty
    used = float(rank) if ridge == 0 else float(torch.trace(inner @ inverse))
    freedom = rows - 1 - used
    noise = residual / freedom if freedom > 1e-9 else torch.full_like(residual, torch.nan)
    spread = inverse @ inverse.T  # that of (X'X + alpha)^-1 X' e for noise e of variance 1
    across = -(spread @ means[:features])
    corner = 1 / total + means[:features] @ spread @ means[:features]
    covariance = torch.cat(
        [torch.cat([spread, across[:, None]], 1), torch.cat([across, corner[None]])[None]]
    )
    bias = means[features:] - means[:features] @ weight
    return Solution(weight.T.contiguous(), bias, covariance, noise, residual, rank, rows, total)


def _pseudo_inverse(inner: Tensor, ridge: float) -> tuple[Tensor, int]:
    """What maps Q'Y to the minimizer of least norm, (D, D), and the rank.

    The rank is decided on columns scaled to length 1, so that it does not depend on units.
    """
    size = len(inner)
    penalty = torch.eye(size, dtype=torch.float64) * ridge**0.5
    stacked = torch.cat([inner, penalty]) if ridge else inner
    lengths = stacked.norm(dim=0)
    lengths = torch.where(lengths > 0, lengths, 1.0)
    left, values, right = torch.linalg.svd(stacked / lengths, full_matrices=False)
    kept = values > RANK * values[:1]
    inverse = (right[kept].T / values[kept]) @ left[:, kept].T[:, :size] / lengths[:, None]
    if not bool(kept.all()):
        free = torch.linalg.qr(
            right[~kept].T / lengths[:, None]
        ).Q  # directions that change no prediction
        inverse = inverse - free @ (free.T @ inverse)
    return inverse, int(kept.sum())


def _set(model: nn.Module, found: Solution) -> None:
    with torch.no_grad():
        for name, value in (("weight", found.weight), ("bias", found.bias)):
            parameter = cast(nn.Parameter, getattr(model, name))
            if parameter.shape != value.shape:
                raise ValueError(
                    f"the model's {name} is {tuple(parameter.shape)}, the data want {tuple(value.shape)}"
                )
            parameter.copy_(value)
    for name, value in (("covariance", found.covariance), ("noise", found.noise)):
        if name in dict(model.named_buffers(recurse=False)):
            model.register_buffer(name, value.to(model.get_buffer(name).device))


def _validated(objective: Objective, model: nn.Module, data: Data, run: Run) -> dict[str, float]:
    if not data.size("valid"):
        return {}
    from fourfold.core.evaluation import measure

    values = measure(objective, model, data, "valid", run.device, run.seed)
    return {f"valid.{name}": value for name, value in values.items()}
