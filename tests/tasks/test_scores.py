"""Measures against scikit-learn, with weights; what the rows do not define is left out and said."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from fourfold.core.targets import Target
from fourfold.objectives.classification import CrossEntropy, Focal, Hinge
from fourfold.objectives.regression import AbsoluteError, Huber, Poisson, Quantile, SquaredError
from fourfold.objectives.supervised import Supervised
from fourfold.tasks.scores import scores, units


@pytest.mark.parametrize("weighted", [False, True])
def test_numbers(weighted: bool) -> None:
    random = np.random.default_rng(0)
    true, predicted = random.normal(size=(2, 50))
    w = random.uniform(0.1, 3, 50) if weighted else None
    found, notes = scores(Target("y", "number"), predicted, true, w)
    wanted = {
        "rmse": metrics.root_mean_squared_error(true, predicted, sample_weight=w),
        "mae": metrics.mean_absolute_error(true, predicted, sample_weight=w),
        "r2": metrics.r2_score(true, predicted, sample_weight=w),
        "mse": metrics.mean_squared_error(true, predicted, sample_weight=w),
    }
    assert list(found) == list(wanted) and notes == []
    assert found == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("count", [2, 4])
def test_classes(count: int, weighted: bool) -> None:
    random = np.random.default_rng(count)
    told = random.dirichlet(np.ones(count), 80)
    true = random.integers(0, count, 80)
    w = random.uniform(0.1, 3, 80) if weighted else None
    names = tuple("abcd"[:count])
    found, notes = scores(Target("y", "category", names), told, true, w)
    hard = told.argmax(axis=1)
    score = told[:, 1] if count == 2 else told
    each = {"average": "macro"} if count > 2 else {}
    known = np.eye(count)[true]
    wanted = {
        "accuracy": metrics.accuracy_score(true, hard, sample_weight=w),
        "balanced_accuracy": metrics.balanced_accuracy_score(true, hard, sample_weight=w),
        "auroc": metrics.roc_auc_score(
            true if count == 2 else known, score, sample_weight=w, **each
        ),
        "average_precision": metrics.average_precision_score(
            true if count == 2 else known, score, sample_weight=w
        ),
        "log_loss": metrics.log_loss(true, told, sample_weight=w, labels=range(count)),
        "f1": metrics.f1_score(
            true, hard, sample_weight=w, average="binary" if count == 2 else "macro"
        ),
        "mcc": metrics.matthews_corrcoef(true, hard, sample_weight=w),
        "f1_macro": metrics.f1_score(true, hard, sample_weight=w, average="macro"),
    }
    assert notes == [] and {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-9)
    assert set(found) == {*wanted, "brier", "ece"}


def test_labels() -> None:
    random = np.random.default_rng(0)
    told = random.uniform(size=(60, 3))
    true = random.integers(0, 2, (60, 3))
    target = Target("tag_*", "labels", ("tag_a", "tag_b", "tag_c"))
    found, _ = scores(target, told, true)
    hard = (told > 0.5).astype(int)
    wanted = {
        "f1": metrics.f1_score(true, hard, average="macro"),
        "f1_micro": metrics.f1_score(true, hard, average="micro"),
        "average_precision": metrics.average_precision_score(true, told, average="macro"),
        "accuracy": metrics.accuracy_score(true, hard),
        "hamming": metrics.hamming_loss(true, hard),
    }
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-9)


def test_what_rows_of_one_class_do_not_define_is_said() -> None:
    told = np.array([[0.2, 0.8], [0.4, 0.6]])
    found, notes = scores(Target("side", "category", ("l", "r")), told, np.array([1, 1]))
    assert "auroc" not in found and found["accuracy"] == 1
    assert len(notes) == 1 and "auroc" in notes[0] and "side" in notes[0]


def test_scores_that_are_no_probabilities_are_not_judged_as_such() -> None:
    told, true = np.array([[0.2, 0.8], [0.6, 0.4]]), np.array([1, 0])
    found, _ = scores(Target("y", "category", ("a", "b")), told, true, probabilistic=False)
    assert not {"log_loss", "brier", "ece"} & set(found) and found["auroc"] == 1


def test_units_name_the_target() -> None:
    told = units(Target("rent", "number"), {"rmse": 1.0, "r2": 0.5})
    assert told == {"rmse": "of rent", "r2": "of the variance explained"}


@pytest.mark.parametrize(
    ("loss", "wanted"),
    [
        (SquaredError(), {"loss": "deviations of rent, squared", "mse": "rent, squared"}),
        (Huber(), {"loss": "deviations of rent, squared", "huber": "rent, squared"}),
        (AbsoluteError(), {"loss": "deviations of rent", "mae": "rent"}),
        (Quantile(), {"loss": "deviations of rent", "pinball": "rent"}),
        (Poisson(), {"loss": "nats", "mae": "rent"}),
    ],
)
def test_losses_tell_their_units(loss: Supervised, wanted: dict[str, str]) -> None:
    found = loss.chosen(Target("rent", "number", mean=3.0, scale=2.0)).units()
    assert {name: found[name] for name in wanted} == wanted
    plain = loss.chosen(Target("rent", "number")).units()
    assert plain["loss"] == wanted["loss"].replace("deviations of ", "")


def test_losses_of_classes_are_in_nats_where_they_are_likelihoods() -> None:
    two = Target("side", "category", ("left", "right"), (3, 4), 7)
    for loss, unit in ((CrossEntropy(), "nats"), (Focal(), "nats"), (Hinge(), None)):
        assert loss.chosen(two).units().get("loss") == unit
