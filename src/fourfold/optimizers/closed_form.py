"""Least squares in one pass, by orthogonal triangularization of blocks of rows.

Householder QR of row blocks stacked below the factor so far (Golub 1965; "TSQR", Demmel et al. 2012)
never forms X'X, whose condition number is the square of X's: nearly collinear columns keep their
digits, and memory is one block. Ridge: Hoerl and Kennard 1970. Shapes: n rows, D features, K outputs.
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

BLOCK = 2048  # rows at least: with 50 columns they stay in the cache
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
        found = least_squares(
            ((batch["features"], batch["targets"]) for batch in data.batches("train")), self.ridge
        )
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
        loss = float(found.residual.sum() / (rows * len(found.residual)))
        run.metrics.log(
            step=1,
            seconds=round(seconds, 6),
            seen=rows,
            loss=loss,
            **_validated(objective, model, data, run),
        )
        run.keep_weights()
        run.metrics.close()


def least_squares(blocks: Iterable[tuple[Tensor, Tensor]], ridge: float = 0.0) -> Solution:
    """Minimize the sum of |y - W x - b|^2 plus ridge |W|^2.

    Args:
        blocks: rows in any order and number: features (B, D) and targets (B, K) or (B,).
        ridge: alpha >= 0.

    Raises:
        UserError: there are no rows.
    """
    threads = torch.get_num_threads()
    try:
        factor, shift, rows, outputs = _factorize(blocks)
    finally:
        torch.set_num_threads(threads)
    return _solve(factor, shift, rows, outputs, ridge)


def _factorize(blocks: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, int, int]:
    """The triangular factor of all rows, what was subtracted from them, and how many rows and outputs."""
    factor = shift = None
    rows, held, waiting = 0, 0, list[Tensor]()
    for features, targets in blocks:
        targets = targets[:, None] if targets.ndim == 1 else targets
        block = torch.cat([features.double().cpu(), targets.double().cpu()], dim=1)
        if shift is None:
            outputs, shift = targets.shape[1], block.mean(dim=0)
            if block.shape[1] <= NARROW:
                torch.set_num_threads(1)  # restored by the caller
        waiting.append(block)
        rows, held = rows + len(block), held + len(block)
        if held >= max(BLOCK, 4 * block.shape[1]):
            factor = _absorb(factor, waiting, shift)
            held, waiting = 0, []
    if shift is None:
        raise UserError("the training split has no rows")
    if waiting:
        factor = _absorb(factor, waiting, shift)
    return cast(Tensor, factor), shift, rows, outputs


def _absorb(factor: Tensor | None, blocks: list[Tensor], shift: Tensor) -> Tensor:
    """The triangular factor of [1, X, Y], all rows so far.

    The column of ones comes first, so that what remains below it is centred exactly; the shift by the
    first block's means keeps columns far from zero (years) from losing digits before that.
    """
    count = sum(map(len, blocks))
    above = 0 if factor is None else len(factor)
    stacked = torch.empty(len(shift) + 1, above + count, dtype=torch.float64).T  # LAPACK's order
    if factor is not None:
        stacked[:above] = factor
    stacked[above:, 0] = 1
    at = above
    for block in blocks:
        torch.sub(block, shift, out=stacked[at : at + len(block), 1:])
        at += len(block)
    reflected, _ = torch.geqrf(stacked)
    return reflected[: stacked.shape[1]].triu()


def _solve(factor: Tensor, shift: Tensor, rows: int, outputs: int, ridge: float) -> Solution:
    features = factor.shape[1] - 1 - outputs
    if len(factor) < factor.shape[1]:  # fewer rows than columns
        factor = torch.cat(
            [factor, factor.new_zeros(factor.shape[1] - len(factor), factor.shape[1])]
        )
    root = torch.tensor(rows, dtype=torch.float64).sqrt() * torch.sign(factor[0, 0])
    means = factor[0, 1:] / root + shift  # of X and Y
    inner = factor[1 : features + 1, 1 : features + 1]  # R of centred X
    # a constant column leaves rounding of its mean, which must not pass for a direction
    level = 10 * torch.finfo(torch.float64).eps * means[:features].abs() * rows**0.5
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
    corner = 1 / rows + means[:features] @ spread @ means[:features]
    covariance = torch.cat(
        [torch.cat([spread, across[:, None]], 1), torch.cat([across, corner[None]])[None]]
    )
    bias = means[features:] - means[:features] @ weight
    return Solution(weight.T.contiguous(), bias, covariance, noise, residual, rank, rows)


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
