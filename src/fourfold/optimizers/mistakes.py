"""Rosenblatt's rule: a row on the wrong side moves the hyperplane towards itself, all others do nothing.

Rosenblatt 1958, https://doi.org/10.1037/h0042519; its bound: Novikoff 1962; pocket: Gallant 1990; averaged:
Freund and Schapire 1999. Shapes: B rows, D columns.
"""

from __future__ import annotations

from typing import Literal, cast

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from fourfold.core.parts import Batch, Data, Objective, Optimizer
from fourfold.core.run import Run
from fourfold.optimizers.margin import Separation, separation
from fourfold.optimizers.progress import shown

DECIDABLE = 1 << 27
"""Numbers in the training rows up to which it is decided whether they are separable."""

WIDEST = 1000
"""Columns up to which it is."""


class Mistakes(Optimizer):
    """Rosenblatt's rule, until an epoch passes without a mistake."""

    kind: Literal["mistakes"] = "mistakes"
    epochs: PositiveInt = 100
    """Passes over the training rows at most; classes that are not separable take them all."""
    keep: Literal["pocket", "averaged", "last"] = "pocket"
    """What is kept where there is no end: the weights that had the fewest mistakes after an epoch; the mean
    over all rows visited; or the last ones."""

    def minimize(self, objective: Objective, model: nn.Module, data: Data, run: Run) -> None:
        """Set the `weight` (1, D) and `bias` (1,) of a linear model, and say whether the classes are separable.

        Raises:
            ValueError: the model is not linear with one output, or the objective has no weights of rows.
        """
        weight, bias = getattr(model, "weight", None), getattr(model, "bias", None)
        if not isinstance(weight, nn.Parameter) or len(weight) != 1 or bias is None:
            raise ValueError(f"{type(model).__name__} is no linear model of one output")
        with shown(run, data, f"{self.epochs} epochs at most") as shows:
            search = _Search(objective, weight.shape[1])
            for epoch in range(1, self.epochs + 1):
                mistakes = search.epoch(data, epoch - 1)
                shows.step(epoch / self.epochs, epoch, mistakes=mistakes, seen=search.seen)
                if not mistakes:
                    break
                if self.keep == "pocket":
                    search.put_in_pocket(data)
            kept = search.plane if not mistakes else search.kept(self.keep)
            with torch.no_grad():
                weight.copy_(torch.from_numpy(kept[:-1])[None])
                cast(Tensor, bias).copy_(torch.from_numpy(kept[-1:]))
            run.note(_sentence(search, data, mistakes))
            shows.finish(objective, model, data, epoch)


class _Search:
    """The hyperplane, (D + 1,) with the bias last, and what is known of it."""

    def __init__(self, objective: Objective, columns: int) -> None:
        self.objective = objective
        self.plane, self.sum = np.zeros(columns + 1), np.zeros(columns + 1)
        self.pocket, self.fewest = self.plane, np.inf
        self.mistakes = self.seen = 0
        self.even = True
        """Whether all rows count alike, as Novikoff's bound has it."""

    def epoch(self, data: Data, number: int) -> int:
        """Visit every row once, in an order fixed by (seed, number); the mistakes made."""
        before = self.mistakes
        for batch in data.batches("train", epoch=number):
            points, counts = self._points(batch)
            self.even &= bool((counts == counts[0]).all())
            self._visit(points[counts > 0], counts[counts > 0])
        return self.mistakes - before

    def _visit(self, points: np.ndarray, counts: np.ndarray) -> None:
        at = 0
        while at < len(points):
            # up to the next mistake the hyperplane does not change: one product tells them all
            wrong = points[at:] @ self.plane <= 0
            rest = int(wrong.argmax()) if wrong.any() else len(wrong)
            self.sum += rest * self.plane
            self.seen += rest
            at += rest
            if at < len(points):
                self.plane = self.plane + counts[at] * points[at]
                self.sum += self.plane
                self.mistakes, self.seen, at = self.mistakes + 1, self.seen + 1, at + 1

    def put_in_pocket(self, data: Data) -> None:
        """Keep the hyperplane if it has fewer mistakes, each as much as its row counts, than the one kept."""
        wrong = 0.0
        for batch in data.blocks("train"):
            points, counts = self._points(batch)
            wrong += float(counts[points @ self.plane <= 0].sum())
        if wrong < self.fewest:
            self.pocket, self.fewest = self.plane, wrong

    def kept(self, how: str) -> np.ndarray:
        """The hyperplane that is kept where no epoch was free of mistakes."""
        return {"pocket": self.pocket, "averaged": self.sum / self.seen, "last": self.plane}[how]

    def separation(self, data: Data) -> tuple[Separation, np.ndarray] | None:
        """Whether the rows are separable, and the sides, ±1, of those that prove it; None for too many rows."""
        if data.size("train") * len(self.plane) > DECIDABLE or len(self.plane) > WIDEST:
            return None
        both = [self._points(batch) for batch in data.blocks("train")]
        points = np.concatenate([points[counts > 0] for points, counts in both])
        found = separation(points)
        return found, points[found.rows, -1]

    def _points(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """(B, D + 1) rows with a one for the bias, times -1 in the first class; (B,) how much they count."""
        features, targets = batch["features"].double().numpy(), batch["targets"].numpy()
        counts = self.objective.importance(batch).double().numpy()  # type: ignore[attr-defined]
        ones = np.ones((len(features), 1))
        return np.concatenate([features, ones], axis=1) * (2 * targets - 1)[:, None], counts


def _sentence(search: _Search, data: Data, mistakes: int) -> str:
    """The verdict on the classes, and what it rests on."""
    made = f"{search.mistakes:,} mistake{'s' * (search.mistakes != 1)}"
    separates = "A hyperplane separates the classes of the training rows"
    decided = search.separation(data)
    if not mistakes and (decided is None or decided[0].verdict != "separable"):
        return f"{separates}; it was found after {made}."  # by less than rounding can tell
    if decided is None or decided[0].verdict == "undecided":
        return f"{made} and no end: whether a hyperplane separates the classes is not decided."
    found, sides = decided
    if found.verdict == "not separable":
        return (
            f"No hyperplane separates the classes: {_mixture(sides, data)}. Rosenblatt's rule would never end; "
            f"it made {mistakes:,} mistakes in its last epoch."
        )
    bound = f"at most (R / gamma)^2 = {found.bound:,.4g} by Novikoff's bound"
    margin = f"gamma = {found.margin:.4g}, R = {found.radius:.4g} in prepared columns"
    made += f", {bound} ({margin})" if search.even else f" ({margin})"
    if mistakes:
        return f"{separates}, but was not found yet: {made}; --epochs allows more."
    return f"{separates}; it was found after {made}."


def _mixture(sides: np.ndarray, data: Data) -> str:
    """What proves that there is none: the same point as a mean of rows of either class."""
    classes = getattr(getattr(data, "target", None), "classes", ("the first class", "the second"))
    counts = [int((sides < 0).sum()), int((sides > 0).sum())]
    rows = [f"{n} row{'s' * (n > 1)} of {name}" for n, name in zip(counts, classes, strict=True)]
    return f"a weighted mean of {rows[0]} equals one of {rows[1]}"
