"""Metrics of predictions by name, as scikit-learn defines them, each row counted as much as its weight says.

Shapes: N rows, C classes or labels. Numbers are in the target's own units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fourfold.core.errors import UserError

Weights = np.ndarray | None


@dataclass(frozen=True)
class Metric:
    """One metric."""

    kinds: frozenset[str]
    """Kinds of target that it is for."""
    higher: bool
    """Whether more is better."""
    function: Callable[[np.ndarray, np.ndarray, Weights], float]
    """Of predictions, (N,) numbers or (N, C) probabilities; truth, (N,) or (N, C) of 0 and 1; weights (N,)."""
    probabilities: bool = False
    """Whether it judges probabilities, not only their order."""


def compute(name: str, predicted: np.ndarray, true: np.ndarray, weights: Weights = None) -> float:
    """A metric over rows; not a number where a prediction is none.

    Args:
        name: a key of `METRICS`.
        predicted: (N,) numbers in the target's units, or (N, C) probabilities of classes or labels.
        true: (N,) numbers or numbers of classes, or (N, C) of 0 and 1.
        weights: (N,) how much each row counts; None is once each.

    Raises:
        UserError: these rows do not define it, as the area under the curve of a single class.
    """
    if weights is not None:
        counted = weights > 0  # rows of weight 0 must not lend their class
        predicted, true, weights = predicted[counted], true[counted], weights[counted]
    if not np.isfinite(predicted).all():
        return float("nan")
    value = METRICS[name].function(predicted, true, weights) if len(predicted) else float("nan")
    if not np.isfinite(value):
        raise UserError(
            f"--metric {name} is not defined on these {len(true):,} rows: "
            "it needs rows with and without what is predicted, or targets that differ; give more rows"
        )
    return float(value)


# --- numbers ----------------------------------------------------------------------------------


def _mse(predicted: np.ndarray, true: np.ndarray, weights: Weights) -> float:
    return float(np.average((predicted - true) ** 2, weights=weights))


def _mae(predicted: np.ndarray, true: np.ndarray, weights: Weights) -> float:
    return float(np.average(np.abs(predicted - true), weights=weights))


def _mape(predicted: np.ndarray, true: np.ndarray, weights: Weights) -> float:
    share = np.abs(predicted - true) / np.maximum(np.abs(true), np.finfo(np.float64).eps)
    return float(np.average(share, weights=weights))


def _r2(predicted: np.ndarray, true: np.ndarray, weights: Weights) -> float:
    spread = _mse(np.average(true, weights=weights), true, weights)
    return 1 - _mse(predicted, true, weights) / spread if spread else float("nan")


# --- classes and labels -----------------------------------------------------------------------


def decided(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The hard decision: the most probable class (N,), or of labels (N, C) those above one half."""
    return predicted.argmax(axis=1) if true.ndim == 1 else (predicted > 0.5).astype(int)


def _accuracy(predicted: np.ndarray, true: np.ndarray, weights: Weights) -> float:
    right = decided(predicted, true) == true
    return float(np.average(right if true.ndim == 1 else right.all(axis=1), weights=weights))


def _balanced_accuracy(predicted: np.ndarray, true: np.ndarray, weights: Weights) -> float:
    right, counts = decided(predicted, true) == true, _counts(true, weights)
    return float(
        np.mean([np.average(right[true == c], weights=counts[true == c]) for c in np.unique(true)])
    )


def _hamming(predicted: np.ndarray, true: np.ndarray, weights: Weights) -> float:
    return float(np.average((decided(predicted, true) != true).mean(axis=1), weights=weights))


def _f1(predicted: np.ndarray, true: np.ndarray, weights: Weights) -> float:
    from sklearn.metrics import f1_score

    average = "binary" if true.ndim == 1 and predicted.shape[1] == 2 else "macro"
    found = decided(predicted, true)
    return float(f1_score(true, found, average=average, sample_weight=weights, zero_division=0.0))


def _mcc(predicted: np.ndarray, true: np.ndarray, weights: Weights) -> float:
    from sklearn.metrics import matthews_corrcoef

    if len(np.unique(true)) < 2:
        return float("nan")
    return float(matthews_corrcoef(true, decided(predicted, true), sample_weight=weights))


def _auroc(predicted: np.ndarray, true: np.ndarray, weights: Weights) -> float:
    from sklearn.metrics import roc_auc_score

    return _one_by_one(roc_auc_score, predicted, true, weights)


def _average_precision(predicted: np.ndarray, true: np.ndarray, weights: Weights) -> float:
    from sklearn.metrics import average_precision_score

    return _one_by_one(average_precision_score, predicted, true, weights)


def _one_by_one(
    score: Callable[..., float], predicted: np.ndarray, true: np.ndarray, weights: Weights
) -> float:
    """Of two classes the score of the second; otherwise the mean over classes or labels, each against the rest.

    A class or label that all of these rows have, or none, has no curve and is left out of the mean.
    """
    if true.ndim == 1 and predicted.shape[1] == 2:
        predicted, true = predicted[:, 1:], (true == 1)[:, None]
    elif true.ndim == 1:
        true = true[:, None] == np.arange(predicted.shape[1])
    some = [c for c in range(true.shape[1]) if 0 < true[:, c].sum() < len(true)]
    values = [score(true[:, c], predicted[:, c], sample_weight=weights) for c in some]
    return float(np.mean(values)) if values else float("nan")


def _log_loss(predicted: np.ndarray, true: np.ndarray, weights: Weights) -> float:
    tiny = np.finfo(np.float64).tiny
    if true.ndim == 1:
        rows = -np.log(np.maximum(predicted[np.arange(len(true)), true], tiny))
    else:
        rows = -np.log(np.maximum(np.where(true > 0.5, predicted, 1 - predicted), tiny)).mean(1)
    return float(np.average(rows, weights=weights))


def _brier(predicted: np.ndarray, true: np.ndarray, weights: Weights) -> float:
    if true.ndim == 2:
        return float(np.average(((predicted - true) ** 2).mean(axis=1), weights=weights))
    known = true[:, None] == np.arange(predicted.shape[1])
    rows = ((predicted - known) ** 2).sum(axis=1) / (2 if predicted.shape[1] == 2 else 1)
    return float(np.average(rows, weights=weights))


def _counts(true: np.ndarray, weights: Weights) -> np.ndarray:
    return np.ones(len(true)) if weights is None else weights


NUMBER, CLASSES = frozenset({"number"}), frozenset({"category"})
BOTH = frozenset({"category", "labels"})
METRICS: dict[str, Metric] = {
    "mse": Metric(NUMBER, False, _mse),
    "rmse": Metric(NUMBER, False, lambda p, t, w: _mse(p, t, w) ** 0.5),
    "mae": Metric(NUMBER, False, _mae),
    "mape": Metric(NUMBER, False, _mape),
    "r2": Metric(NUMBER, True, _r2),
    "accuracy": Metric(BOTH, True, _accuracy),
    "balanced_accuracy": Metric(CLASSES, True, _balanced_accuracy),
    "auroc": Metric(BOTH, True, _auroc),
    "average_precision": Metric(BOTH, True, _average_precision),
    "f1": Metric(BOTH, True, _f1),
    "mcc": Metric(CLASSES, True, _mcc),
    "hamming": Metric(frozenset({"labels"}), False, _hamming),
    "log_loss": Metric(BOTH, False, _log_loss, probabilities=True),
    "brier": Metric(BOTH, False, _brier, probabilities=True),
}
"""accuracy of labels: the share of rows with every label right. f1, auroc, average_precision: of two classes those
of the second; of more, and of labels, the mean over them."""
HIGHER = frozenset(name for name, metric in METRICS.items() if metric.higher)
