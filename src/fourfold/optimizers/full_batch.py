"""A smooth loss of a linear model over all training rows: its value, gradient and curvature, one pass each.

Columns are shifted and scaled inside, so that a search does not depend on their units; penalties are
those of the model's own weights. Shapes: n rows, D features, K outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from fourfold.core.errors import UserError
from fourfold.core.evaluation import to_device
from fourfold.core.parts import Batch, Data, Objective
from fourfold.core.run import Run

IN_MEMORY = 1 << 30
"""Bytes of features up to which all rows are held as one block; beyond they are read in every pass."""


class Outputs(nn.Module):
    """Stands for the model where its outputs are known: the objective is differentiated by them alone."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = values

    def forward(self, features: Tensor) -> Tensor:
        return self.values


class Block(NamedTuple):
    """Rows with what the objective reads of them."""

    features: Tensor
    """(m, D + 1) float64: standardized, then a column of ones."""
    batch: Batch


class FullBatch:
    """The mean loss as a function of `theta`, (K, D + 1): weights of standardized columns, bias last."""

    def __init__(
        self,
        objective: Objective,
        model: nn.Module,
        data: Data,
        run: Run,
        *,
        memory: int = IN_MEMORY,
    ) -> None:
        """Reads the rows once for the moments of their columns.

        Args:
            objective: smooth.
            model: linear, with `weight` and `bias`.
            data: whose training split counts.
            run: says the device.
            memory: bytes of features that may be held.

        Raises:
            ValueError: the objective is not smooth, or the model not linear in `weight` and `bias`.
            UserError: the training split has no rows.
        """
        if not getattr(objective, "smooth", False):
            raise ValueError(f"{type(objective).__name__} has no curvature to follow")
        if not isinstance(getattr(model, "weight", None), nn.Parameter) or not hasattr(
            model, "bias"
        ):
            raise ValueError(f"{type(model).__name__} has no weight and bias of a linear model")
        self.objective, self.data, self.device = objective, data, run.device
        self.model = model
        self.outputs, width = cast(Tensor, model.weight).shape
        self.mean, self.scale = torch.zeros(width), torch.ones(width)
        self._held: list[Block] | None = None
        self._moments()
        rows = data.size("train")
        if rows * width * 8 <= memory:
            self._held = [_joined(self._blocks(), rows)]
        self.weight = self._weight()
        """How much all rows count together."""

    # --- the function -----------------------------------------------------------------------------

    def value(self, theta: Tensor) -> Tensor:
        """() the mean loss."""
        losses = [self._loss(block, block.features @ theta.T)[0] for block in self._rows()]
        return torch.stack(losses).sum() / self.weight

    def gradient(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """() the mean loss and its gradient, (K, D + 1)."""
        total, slope = theta.new_zeros(()), torch.zeros_like(theta)
        for block in self._rows():
            outputs = (block.features @ theta.T).requires_grad_()
            loss = self._loss(block, outputs, graph=True)[0]
            (by_outputs,) = torch.autograd.grad(loss, outputs)
            total, slope = total + loss.detach(), slope + by_outputs.T @ block.features
        return total / self.weight, slope / self.weight

    def curvature(self, theta: Tensor) -> Curvature:
        """The Hessian at a place, as what it does to a direction."""
        return Curvature(self, theta)

    # --- parameters -------------------------------------------------------------------------------

    def start(self) -> Tensor:
        """theta of the model as it is."""
        weight, bias = (self._doubled(getattr(self.model, name)) for name in ("weight", "bias"))
        return torch.cat([weight * self.scale, (bias + weight @ self.mean)[:, None]], dim=1)

    def original(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (K, D) and bias (K,) of the model's own columns."""
        weight = theta[:, :-1] / self.scale
        return weight, theta[:, -1] - weight @ self.mean

    def write(self, theta: Tensor) -> None:
        """Set the model's parameters."""
        weight, bias = self.original(theta)
        with torch.no_grad():
            cast(nn.Parameter, self.model.weight).copy_(weight)
            cast(nn.Parameter, self.model.bias).copy_(bias)

    # --- rows -------------------------------------------------------------------------------------

    def _rows(self) -> Iterator[Block]:
        return iter(self._held) if self._held is not None else self._blocks()

    def _blocks(self) -> Iterator[Block]:
        for batch in self.data.blocks("train"):
            moved = to_device(batch, self.device)
            features = (self._doubled(moved["features"]) - self.mean) / self.scale
            ones = features.new_ones(len(features), 1)
            yield Block(torch.cat([features, ones], dim=1), moved)

    def _loss(self, block: Block, outputs: Tensor, graph: bool = False) -> tuple[Tensor, float]:
        with torch.set_grad_enabled(graph):
            (move,) = self.objective.losses(Outputs(outputs), block.batch)
        return move.loss, float(move.weight)

    def _weight(self) -> float:
        zeros = ((b, b.features.new_zeros(len(b.features), self.outputs)) for b in self._rows())
        total = sum(self._loss(block, outputs)[1] for block, outputs in zeros)
        if not total > 0:
            raise UserError("the training split has no rows that count")
        return total

    def _moments(self) -> None:
        """Means and deviations of the columns, by Chan's update (1979), which keeps far columns' digits."""
        count, mean, squares = 0, self.mean.double(), torch.zeros(len(self.mean)).double()
        for batch in self.data.blocks("train"):
            features = batch["features"].double()
            here, fresh = len(features), features.mean(dim=0)
            shift, share = fresh - mean, here / (count + here)
            squares += (features - fresh).square().sum(dim=0) + shift.square() * count * share
            mean, count = mean + shift * share, count + here
        if not count:
            raise UserError("the training split has no rows")
        scale = (squares / count).sqrt()
        constant = scale <= 1e-12 * mean.abs()  # rounding of its mean is no spread
        self.mean = self._doubled(mean)
        self.scale = self._doubled(torch.where(constant | (scale == 0), 1.0, scale))

    def _doubled(self, values: Tensor) -> Tensor:
        return values.detach().to(self.device, torch.float64)


class Curvature:
    """The Hessian of the mean loss at one place, times a direction."""

    def __init__(self, problem: FullBatch, theta: Tensor) -> None:
        self.problem, self.theta = problem, theta
        # of rows that are held the first derivative is kept with its graph, and differentiated again
        self._kept = None if problem._held is None else [self._first(b) for b in problem._held]

    def times(self, direction: Tensor) -> Tensor:
        """(K, D + 1)."""
        problem, total = self.problem, torch.zeros_like(direction)
        kept = iter(self._kept or ())
        for block in problem._rows():
            outputs, slope = next(kept, None) or self._first(block)
            along = block.features @ direction.T
            (turned,) = torch.autograd.grad(slope, outputs, along, retain_graph=True)
            total += turned.T @ block.features
        return total / problem.weight

    def _first(self, block: Block) -> tuple[Tensor, Tensor]:
        outputs = (block.features @ self.theta.T).requires_grad_()
        loss = self.problem._loss(block, outputs, graph=True)[0]
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(loss, outputs, create_graph=True)
        return outputs, slope


def _joined(blocks: Iterator[Block], rows: int) -> Block:
    """All blocks as one; their rows are copied one block after another, so that few lie twice in memory."""
    features, others, at = torch.empty(0), dict[str, list[Tensor]](), 0
    for block in blocks:
        if not at:
            features = block.features.new_empty(rows, block.features.shape[1])
        features[at : at + len(block.features)] = block.features
        at += len(block.features)
        for name, values in block.batch.items():
            if name != "features":
                others.setdefault(name, []).append(values)
    batch = {name: torch.cat(pieces) for name, pieces in others.items()}
    return Block(features, {**batch, "features": features})
