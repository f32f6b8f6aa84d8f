"""The loss of each row, by which a model, a constant and a reference are compared.

Shapes: N rows, C classes or labels.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from fourfold.core.targets import Target
from fourfold.objectives.metrics import decided
from fourfold.tasks.gathering import Predictions

MOST = 20_000
"""Rows on which errors are measured and the reference is fitted; of more, as many in even steps."""


def measure_of(target: Target, probable: bool) -> str:
    """What `rowwise` gives, in words."""
    if target.kind == "number":
        return "mean squared error"
    return "log loss (nats)" if probable else "share of wrong decisions"


def shown(measure: str, loss: float) -> float:
    """A loss as it is told: of squared errors the root, in the target's units."""
    return math.sqrt(max(loss, 0.0)) if measure == "mean squared error" else loss


def rowwise(target: Target, found: Predictions, probable: bool) -> np.ndarray:
    """(N,) the loss of each row."""
    values, true = found.values, found.true
    assert true is not None  # noqa: S101
    if target.kind == "number":
        return (values - true) ** 2
    if not probable:
        wrong = decided(values, true) != true
        return wrong.astype(float) if true.ndim == 1 else wrong.mean(axis=1)
    tiny = 1e-15  # a reference of trees says 0 now and then
    if target.kind == "category":
        return -np.log(np.clip(values[np.arange(len(true)), true], tiny, 1))
    return -np.log(np.clip(np.where(true > 0.5, values, 1 - values), tiny, 1)).mean(axis=1)


def constant(target: Target, train: Predictions, held: Predictions) -> Predictions:
    """The training rows' mean or frequencies, as a prediction of every held-out row."""
    assert train.true is not None and held.true is not None  # noqa: S101
    if target.kind == "category":
        known = train.true[:, None] == np.arange(len(target.classes))
        average = np.average(known, axis=0, weights=train.weight)
    else:
        average = np.average(train.true, axis=0, weights=train.weight)
    return replace(held, values=np.broadcast_to(average, (len(held.true), *np.shape(average))))


def some(found: Predictions) -> Predictions:
    """At most MOST of the rows, in even steps."""
    assert found.true is not None  # noqa: S101
    rows = places(len(found.true))
    weight = None if found.weight is None else found.weight[rows]
    return Predictions(found.values[rows], {}, found.true[rows], weight)


def places(count: int) -> np.ndarray:
    """Numbers of at most MOST of so many rows, in even steps."""
    return np.linspace(0, count - 1, min(count, MOST)).astype(int)


def mean(losses: np.ndarray, weights: np.ndarray | None) -> float:
    """Of rows, each as much as it weighs."""
    return float(np.average(losses, weights=weights))


def standard_error(losses: np.ndarray) -> float:
    """Of the mean over rows."""
    return float(losses.std() / max(1, len(losses) - 1) ** 0.5)
