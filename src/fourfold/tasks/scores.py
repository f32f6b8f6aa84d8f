"""How good predictions are: the field's measures of numbers, classes and labels, as scikit-learn defines them.

Expected calibration error: Naeini, Cooper and Hauskrecht 2015; Guo et al. 2017, https://arxiv.org/abs/1706.04599.
Shapes: N rows, C classes or labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from fourfold.core.errors import UserError
from fourfold.core.targets import Target
from fourfold.objectives.metrics import METRICS, Weights, compute, decided

BINS = 15
"""Bins of the expected calibration error, as in Guo et al."""
NUMBERS = ("rmse", "mae", "r2", "mse")
CATEGORY = (
    "accuracy",
    "balanced_accuracy",
    "auroc",
    "average_precision",
    "log_loss",
    "f1",
    "mcc",
    "brier",
)
LABELS = ("f1", "average_precision", "accuracy", "hamming", "auroc", "log_loss", "brier")


def scores(
    target: Target,
    predicted: np.ndarray,
    true: np.ndarray,
    weights: Weights = None,
    *,
    probabilistic: bool = True,
) -> tuple[dict[str, float], list[str]]:
    """Every usual measure that these rows define, and a sentence for each that they do not.

    Args:
        target: what was predicted.
        predicted: (N,) numbers in the target's units, or (N, C) probabilities.
        true: (N,) numbers or numbers of classes, or (N, C) of 0 and 1.
        weights: (N,) how much each row counts; None is once each.
        probabilistic: whether `predicted` may be judged as probabilities.
    """
    names = {"number": NUMBERS, "category": CATEGORY, "labels": LABELS}[target.kind]
    found: dict[str, float] = {}
    undefined: list[str] = []
    for name in names:
        if METRICS[name].probabilities and not probabilistic:
            continue
        try:
            found[name] = compute(name, predicted, true, weights)
        except UserError:
            undefined.append(name)
    more: Mapping[str, Callable[..., float]] = {}
    if target.kind == "category":
        more = {"f1_macro": f1_macro, **({"ece": calibration_error} if probabilistic else {})}
    elif target.kind == "labels":
        more = {"f1_micro": f1_micro, **({"ece": calibration_error} if probabilistic else {})}
    for name, function in more.items():
        found[name] = function(predicted, true, weights)
    notes = []
    if undefined:
        notes.append(
            f"{' and '.join(undefined)} need rows that differ in {target.name}, which these do not"
        )
    return found, notes


def units(target: Target, names: Mapping[str, float], loss: str = "") -> dict[str, str]:
    """The unit of each measure, or what it is the share of; that of the loss is given."""
    of = f"of {target.name}"
    several = target.kind == "labels" or len(target.classes) > 2
    known = {
        "mse": f"{of}, squared",
        "rmse": of,
        "mae": of,
        "pinball": of,
        "huber": f"{of}, squared",
        "r2": "of the variance explained",
        "mape": "of the true value",
        "log_loss": "nats",
        "loss": loss,
        "accuracy": "of rows" if target.kind == "category" else "of rows with every label right",
        "balanced_accuracy": "mean over classes",
        "hamming": "of labels wrong",
        "f1": "mean over labels" if target.kind == "labels" else "mean over classes",
        "f1_macro": "mean over classes",
        "f1_micro": "of all labels together",
        "auroc": "mean over classes, each against the rest" if several else "",
        "average_precision": "mean over classes, each against the rest" if several else "",
        "ece": "mean gap of probability and frequency",
    }
    if target.kind == "category" and len(target.classes) == 2:
        known["f1"] = f"of {target.name} {target.classes[1]}"
    return {name: known[name] for name in names if known.get(name)}


def f1_macro(predicted: np.ndarray, true: np.ndarray, weights: Weights = None) -> float:
    """The mean over classes of the harmonic mean of precision and recall."""
    from sklearn.metrics import f1_score

    hard = decided(predicted, true)
    return float(f1_score(true, hard, average="macro", sample_weight=weights, zero_division=0.0))


def f1_micro(predicted: np.ndarray, true: np.ndarray, weights: Weights = None) -> float:
    """The harmonic mean of precision and recall over all labels of all rows together."""
    from sklearn.metrics import f1_score

    hard = decided(predicted, true)
    return float(f1_score(true, hard, average="micro", sample_weight=weights, zero_division=0.0))


def confidence(
    predicted: np.ndarray, true: np.ndarray, weights: Weights = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a reliability diagram compares: a probability, whether it came true, and how much it counts.

    Of two classes and of labels these are the probabilities of the second class or of each label; of
    more classes the probability of the predicted one, as in Guo et al.
    """
    counts = np.ones(len(true)) if weights is None else weights.astype(float)
    if true.ndim == 2:
        return predicted.ravel(), true.ravel(), np.repeat(counts, true.shape[1])
    if predicted.shape[1] == 2:
        return predicted[:, 1], (true == 1).astype(float), counts
    return predicted.max(axis=1), (predicted.argmax(axis=1) == true).astype(float), counts


def reliability(
    predicted: np.ndarray, true: np.ndarray, weights: Weights = None, bins: int = BINS
) -> np.ndarray:
    """Mean probability, frequency and weight in bins of equal width that hold rows: (bins, 3)."""
    told, came, counts = confidence(predicted, true, weights)
    bin_of = np.minimum((told * bins).astype(int), bins - 1)
    sums = [np.bincount(bin_of, counts * v, bins) for v in (told, came, np.ones(len(told)))]
    some = sums[2] > 0
    return np.stack(
        [sums[0][some] / sums[2][some], sums[1][some] / sums[2][some], sums[2][some]], 1
    )


def calibration_error(
    predicted: np.ndarray, true: np.ndarray, weights: Weights = None, bins: int = BINS
) -> float:
    """Expected calibration error: the mean gap between probability and frequency over the bins."""
    told, came, counts = reliability(predicted, true, weights, bins).T
    return float((counts * np.abs(told - came)).sum() / counts.sum())
