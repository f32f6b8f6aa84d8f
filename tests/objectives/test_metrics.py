"""Metrics against scikit-learn's, with and without weights of rows, and what they choose."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as oracle
import torch
from torch import Tensor, nn

from fourfold.core.errors import UserError
from fourfold.core.evaluation import measure
from fourfold.core.targets import Target
from fourfold.objectives.classification import CrossEntropy, Hinge
from fourfold.objectives.labels import BinaryCrossEntropy
from fourfold.objectives.metrics import METRICS, compute, decided
from fourfold.objectives.regression import SquaredError
from helpers import Rows

RANDOM = np.random.default_rng(3)
TWO, FOUR = RANDOM.integers(0, 2, 60), RANDOM.integers(0, 4, 60)
LABELS = RANDOM.integers(0, 2, (60, 3))
P_TWO, P_FOUR = RANDOM.dirichlet(np.ones(2), 60), RANDOM.dirichlet(np.ones(4), 60)
P_LABELS = RANDOM.random((60, 3)).round(1)  # rounded: equal scores are one step of a curve
NUMBERS = RANDOM.normal(size=60)
NEAR = NUMBERS + RANDOM.normal(size=60)
WEIGHTS = RANDOM.random(60)


def both(score: Callable[..., Any], p: np.ndarray, y: np.ndarray, w: Any, **options: Any) -> float:
    return float(score(y, p, sample_weight=w, **options))


def sides(y: np.ndarray, classes: int) -> np.ndarray:
    return (y[:, None] == np.arange(classes)).astype(int)


CASES: list[tuple[str, np.ndarray, np.ndarray, Callable[[np.ndarray, np.ndarray, Any], float]]] = [
    ("mse", NEAR, NUMBERS, lambda p, y, w: both(oracle.mean_squared_error, p, y, w)),
    ("rmse", NEAR, NUMBERS, lambda p, y, w: both(oracle.root_mean_squared_error, p, y, w)),
    ("mae", NEAR, NUMBERS, lambda p, y, w: both(oracle.mean_absolute_error, p, y, w)),
    ("mape", NEAR, NUMBERS, lambda p, y, w: both(oracle.mean_absolute_percentage_error, p, y, w)),
    ("r2", NEAR, NUMBERS, lambda p, y, w: both(oracle.r2_score, p, y, w)),
    ("accuracy", P_FOUR, FOUR, lambda p, y, w: both(oracle.accuracy_score, p.argmax(1), y, w)),
    ("accuracy", P_LABELS, LABELS, lambda p, y, w: both(oracle.accuracy_score, p > 0.5, y, w)),
    (
        "balanced_accuracy",
        P_FOUR,
        FOUR,
        lambda p, y, w: both(oracle.balanced_accuracy_score, p.argmax(1), y, w),
    ),
    ("auroc", P_TWO, TWO, lambda p, y, w: both(oracle.roc_auc_score, p[:, 1], y, w)),
    (
        "auroc",
        P_FOUR,
        FOUR,
        lambda p, y, w: both(oracle.roc_auc_score, p, y, w, multi_class="ovr"),
    ),
    ("auroc", P_LABELS, LABELS, lambda p, y, w: both(oracle.roc_auc_score, p, y, w)),
    (
        "average_precision",
        P_TWO,
        TWO,
        lambda p, y, w: both(oracle.average_precision_score, p[:, 1], y, w),
    ),
    (
        "average_precision",
        P_FOUR,
        FOUR,
        lambda p, y, w: both(oracle.average_precision_score, p, sides(y, 4), w),
    ),
    (
        "average_precision",
        P_LABELS,
        LABELS,
        lambda p, y, w: both(oracle.average_precision_score, p, y, w),
    ),
    ("f1", P_TWO, TWO, lambda p, y, w: both(oracle.f1_score, p.argmax(1), y, w)),
    ("f1", P_FOUR, FOUR, lambda p, y, w: both(oracle.f1_score, p.argmax(1), y, w, average="macro")),
    ("f1", P_LABELS, LABELS, lambda p, y, w: both(oracle.f1_score, p > 0.5, y, w, average="macro")),
    ("mcc", P_FOUR, FOUR, lambda p, y, w: both(oracle.matthews_corrcoef, p.argmax(1), y, w)),
    ("hamming", P_LABELS, LABELS, lambda p, y, w: both(oracle.hamming_loss, p > 0.5, y, w)),
    ("log_loss", P_TWO, TWO, lambda p, y, w: both(oracle.log_loss, p, y, w)),
    ("log_loss", P_FOUR, FOUR, lambda p, y, w: both(oracle.log_loss, p, y, w)),
    ("brier", P_TWO, TWO, lambda p, y, w: both(oracle.brier_score_loss, p[:, 1], y, w)),
    ("brier", P_FOUR, FOUR, lambda p, y, w: both(oracle.brier_score_loss, p, y, w)),
]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}-{c[1].shape}")
def test_metrics_equal_sklearn(case: Any, weighted: bool) -> None:
    name, predicted, true, wanted = case
    weights = WEIGHTS if weighted else None
    assert compute(name, predicted, true, weights) == pytest.approx(
        wanted(predicted, true, weights), rel=1e-10
    )


def test_log_loss_and_brier_of_labels_are_means_over_labels() -> None:
    p = np.clip(P_LABELS, 0.05, 0.95)
    for name, score in (("log_loss", oracle.log_loss), ("brier", oracle.brier_score_loss)):
        wanted = np.mean([score(LABELS[:, k], p[:, k], sample_weight=WEIGHTS) for k in range(3)])
        assert compute(name, p, LABELS, WEIGHTS) == pytest.approx(wanted, rel=1e-10)


def test_every_metric_is_held_against_an_oracle() -> None:
    assert {c[0] for c in CASES} == set(METRICS)


def test_a_row_of_weight_zero_is_no_row() -> None:
    weights = WEIGHTS.copy()
    weights[::3] = 0
    kept = weights > 0
    for name, predicted, true, _ in CASES:
        some = compute(name, predicted[kept], true[kept], weights[kept])
        assert compute(name, predicted, true, weights) == pytest.approx(some, rel=1e-12)


def test_what_is_not_defined_is_said() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("auroc", "average_precision"):
            with pytest.raises(UserError, match=f"--metric {name} is not defined on these 60 rows"):
                compute(name, P_TWO, np.zeros(60, int))
        with pytest.raises(UserError, match="--metric r2 is not defined"):
            compute("r2", NEAR, np.ones(60))


def test_a_prediction_that_is_no_number_is_no_error() -> None:
    broken = P_TWO.copy()
    broken[3] = np.nan
    assert all(np.isnan(compute(name, broken, TWO)) for name in ("auroc", "accuracy", "f1"))


def test_a_class_without_rows_is_left_out_of_the_mean() -> None:
    five = np.column_stack([P_FOUR, np.zeros(60)])
    assert compute("auroc", five, FOUR) == pytest.approx(compute("auroc", P_FOUR, FOUR))


def test_hard_decisions() -> None:
    assert decided(np.array([[0.2, 0.8], [0.9, 0.1]]), np.array([0, 0])).tolist() == [1, 0]
    assert decided(np.array([[0.2, 0.8]]), np.array([[0, 0]])).tolist() == [[0, 1]]


# --- through the objectives and the evaluation ------------------------------------------------


class Given(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features


def rows(outputs: Tensor, targets: Any, batch: int = 7) -> Rows:
    values = {
        "features": outputs,
        "targets": torch.as_tensor(targets),
        "weight": torch.from_numpy(WEIGHTS),
    }
    return Rows({"valid": values}, batch, 0)


def found(objective: Any, outputs: Tensor, targets: Any) -> dict[str, float]:
    return measure(objective, Given(), rows(outputs, targets), "valid", torch.device("cpu"))


def test_the_metric_comes_first_and_is_that_of_the_whole_split() -> None:
    two = Target("y", "category", ("no", "yes"), counts=(30, 30), rows=60)
    outputs = torch.from_numpy(np.log(P_TWO[:, 1:] / P_TWO[:, :1]))
    plain = found(CrossEntropy().chosen(two), outputs, TWO)
    assert list(plain) == ["loss", "accuracy"]
    for name in ("auroc", "average_precision", "f1", "mcc", "brier", "balanced_accuracy"):
        told = found(CrossEntropy(metric=name).chosen(two), outputs, TWO)
        assert list(told) == [name, "loss", "accuracy"]
        assert told[name] == pytest.approx(compute(name, P_TWO, TWO, WEIGHTS), rel=1e-9)
        assert told["loss"] == plain["loss"]
    first = found(CrossEntropy(metric="accuracy").chosen(two), outputs, TWO)
    assert list(first) == ["accuracy", "loss"] and first["loss"] == plain["loss"]
    smooth = CrossEntropy(metric="log_loss", label_smoothing=0.3, class_weights={"no": 2.0})
    told = found(smooth.chosen(two), outputs, TWO)
    assert list(told) == ["log_loss", "loss", "accuracy"]
    assert told["log_loss"] == pytest.approx(plain["loss"], rel=1e-12)
    assert found(CrossEntropy(metric="loss").chosen(two), outputs, TWO) == plain


def test_a_log_loss_is_exact_where_probabilities_are_not() -> None:
    two = Target("y", "category", ("no", "yes"))
    outputs = torch.full((60, 1), 10_000.0)
    told = found(CrossEntropy(metric="log_loss").chosen(two), outputs, np.zeros(60, int))
    assert told["log_loss"] == pytest.approx(10_000)
    labels = Target("y_*", "labels", ("y_a",))
    told = found(BinaryCrossEntropy(metric="log_loss").chosen(labels), outputs, np.zeros((60, 1)))
    assert told["log_loss"] == pytest.approx(10_000)


def test_scores_of_a_hinge_rank() -> None:
    two = Target("y", "category", ("no", "yes"))
    outputs = torch.from_numpy(NEAR[:, None])
    told = found(Hinge(metric="auroc").chosen(two), outputs, TWO)
    wanted = oracle.roc_auc_score(TWO, NEAR, sample_weight=WEIGHTS)
    assert told["auroc"] == pytest.approx(wanted, rel=1e-9)


def test_numbers_are_told_in_the_targets_units() -> None:
    told = Target("y", "number", mean=50.0, scale=20.0)
    outputs = torch.from_numpy(NEAR[:, None])
    values = found(SquaredError(metric="r2").chosen(told), outputs, NUMBERS)
    assert list(values) == ["r2", "mse", "mae"]
    assert values["r2"] == pytest.approx(compute("r2", NEAR, NUMBERS, WEIGHTS), rel=1e-9)
    assert values["mse"] == pytest.approx(400 * compute("mse", NEAR, NUMBERS, WEIGHTS), rel=1e-9)
    values = found(SquaredError(metric="mape").chosen(told), outputs, NUMBERS)
    wanted = compute("mape", 20 * NEAR + 50, 20 * NUMBERS + 50, WEIGHTS)
    assert values["mape"] == pytest.approx(wanted, rel=1e-9)
