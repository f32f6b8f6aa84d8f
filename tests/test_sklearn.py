"""Table systems as scikit-learn estimators: its own checks, and what its tools do with them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import fourfold
from fourfold import sklearn as estimators

WEIGHTS = {
    "check_sample_weight_equivalence_on_dense_data": "rows are taken one after the other (or in mini-batches), so a row "
    "of weight 2 is one larger step, not two; scikit-learn's MLP declares the same"
}
SMALL = {"width": 16, "members": 1, "epochs": 25, "dropout": 0.0}
MODELS: list[Any] = [
    estimators.LinearRegressor(),
    estimators.SoftmaxClassifier(),
    estimators.PerceptronClassifier(),
    estimators.MLPRegressor(**SMALL),
    estimators.MLPClassifier(**SMALL),
    estimators.MultilabelClassifier(**SMALL),
]


def expected(estimator: Any) -> dict[str, str]:
    exact = (estimators.LinearRegressor, estimators.SoftmaxClassifier)
    return {} if isinstance(estimator, exact) else WEIGHTS


@pytest.mark.filterwarnings("ignore")  # the checks warn about what they feed on purpose
@parametrize_with_checks(MODELS, expected_failed_checks=expected)
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def test_linear_regressor_equals_scikit_learn() -> None:
    X, y = load_diabetes(return_X_y=True)
    ours, oracle = estimators.LinearRegressor().fit(X, y), LinearRegression().fit(X, y)
    np.testing.assert_allclose(ours.predict(X), oracle.predict(X), rtol=1e-8)
    weight = np.random.default_rng(0).uniform(0, 3, len(y))
    ours, oracle = ours.fit(X, y, sample_weight=weight), oracle.fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(ours.predict(X), oracle.predict(X), rtol=1e-8)


def test_softmax_classifier_equals_scikit_learn() -> None:
    X, y = load_iris(return_X_y=True)
    y = np.array(["setosa", "versicolor", "virginica"])[y]
    ours = estimators.SoftmaxClassifier(ridge=2.0).fit(X, y)
    oracle = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, tol=1e-10, max_iter=1000))
    np.testing.assert_allclose(ours.predict_proba(X), oracle.fit(X, y).predict_proba(X), atol=1e-5)
    assert ours.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    assert (ours.predict(X) == oracle.predict(X)).all()


def test_they_work_in_pipelines_searches_and_cross_validation() -> None:
    X, y = load_iris(return_X_y=True)
    model = make_pipeline(StandardScaler(), estimators.SoftmaxClassifier(random_state=0))
    assert cross_val_score(model, X, y, cv=3).mean() > 0.9
    grid = GridSearchCV(model, {"softmaxclassifier__ridge": [0.1, 1e6]}, cv=3).fit(X, y)
    assert grid.best_params_ == {"softmaxclassifier__ridge": 0.1}
    assert clone(grid.best_estimator_[-1]).get_params()["ridge"] == 0.1


@pytest.mark.parametrize("library", [pd.DataFrame, pl.DataFrame])
def test_frames_bring_names_categories_and_gaps(library: Any) -> None:
    random = np.random.default_rng(0)
    town = random.choice(["Bern", "北京"], 300)
    size = random.normal(80, 20, 300)
    y = size + 50 * (town == "北京")
    size[::10] = np.nan
    frame = library({"size": size, "town": town})
    model = estimators.LinearRegressor().fit(frame, y)
    assert model.feature_names_in_.tolist() == ["size", "town"]
    assert model.score(frame, y) > 0.8
    with pytest.raises(ValueError, match="feature names"):
        model.predict(library({"town": town, "length": size}))


@pytest.mark.parametrize("model", MODELS, ids=lambda m: type(m).__name__)
def test_a_fit_writes_nothing_and_goes_to_a_run_folder_and_back(model: Any, tmp_path: Path) -> None:
    X, y = load_iris(return_X_y=True)
    X, y = X[:100], y[:100]
    fitted = clone(model).fit(X, y)
    assert not any(tmp_path.iterdir()) and not Path("runs").exists()
    folder = fitted.save(tmp_path / "run")
    assert fourfold.open(folder).system.name == model.system
    back = type(model).load(folder)
    np.testing.assert_array_equal(back.predict(X), fitted.predict(X))
    assert back.get_params() == fitted.get_params()
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict(X), fitted.predict(X))
    with pytest.raises(fourfold.UserError, match="opens"):
        other = (
            estimators.LinearRegressor if model.system != "linear" else estimators.SoftmaxClassifier
        )
        other.load(folder)


def test_what_is_loaded_is_fitted_again_as_it_was(tmp_path: Path) -> None:
    X, y = load_iris(return_X_y=True)
    options = {**SMALL, "patience": None, "lr": np.float64(0.01), "random_state": np.int64(4)}
    fitted = estimators.MLPClassifier(**options, options={"data.missing": "frequent"}).fit(X, y)
    back = estimators.MLPClassifier.load(fitted.save(tmp_path / "run"))
    assert back.get_params() == fitted.get_params() and back.patience is None
    np.testing.assert_array_equal(clone(back).fit(X, y).predict_proba(X), fitted.predict_proba(X))
    drawn = estimators.SoftmaxClassifier(random_state=np.random.RandomState(0)).fit(X, y)
    assert estimators.SoftmaxClassifier.load(drawn.save(tmp_path / "drawn")).random_state is None


def test_networks_learn_what_lines_cannot() -> None:
    random = np.random.default_rng(0)
    X = random.normal(size=(600, 2))
    product = X[:, 0] * X[:, 1]
    number = estimators.MLPRegressor(members=2, random_state=0).fit(X[:500], product[:500])
    assert number.score(X[500:], product[500:]) > 0.8
    side = np.where(product > 0, "same", "other")
    sign = estimators.MLPClassifier(members=2, random_state=0).fit(X[:500], side[:500])
    assert sign.score(X[500:], side[500:]) > 0.9


def test_labels_are_predicted_together() -> None:
    random = np.random.default_rng(0)
    X = random.normal(size=(600, 2))
    y = np.stack([X[:, 0] > 0, X[:, 0] + X[:, 1] > 0.5, X[:, 1] > 1], 1).astype(int)
    model = estimators.MultilabelClassifier(members=2, random_state=0).fit(X[:500], y[:500])
    assert model.predict(X).shape == (600, 3) and model.predict_proba(X).shape == (600, 3)
    assert (model.predict(X[500:]) == y[500:]).mean() > 0.93


def test_a_seed_fixes_a_fit_and_leaves_the_callers_generators_alone() -> None:
    X, y = load_iris(return_X_y=True)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fits = [
        estimators.MLPClassifier(**SMALL, random_state=s).fit(X, y).predict_proba(X)
        for s in (0, 0, 1)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(fits[0], fits[1])
    assert np.abs(fits[0] - fits[2]).max() > 1e-6


def test_a_wrong_option_is_a_value_error() -> None:
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match="did you mean"):
        estimators.SoftmaxClassifier(options={"tolerence": 1}).fit(X, y)
