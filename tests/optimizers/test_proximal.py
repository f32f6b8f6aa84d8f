"""Lasso and elastic net: optima and zeros against scikit-learn, optimality conditions, the path."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.core.targets import Target
from fourfold.models.linear import PathLinear
from fourfold.objectives.classification import CrossEntropy
from fourfold.objectives.regression import SquaredError
from fourfold.optimizers.proximal import Proximal
from helpers import Rows, RowSystem

DOUBLE = torch.float64


def table(name: str) -> tuple[np.ndarray, np.ndarray]:
    from sklearn import datasets

    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return (x - x.mean(0)) / x.std(0), y


def solved(x: Any, y: Any, options: Proximal, objective: Any = None, weight: Any = None) -> Any:
    """A fitted model and its run."""
    count = int(np.max(y)) + 1
    target = Target("y", "category", tuple("abc"[:count]))
    if objective is not None:
        target = Target("y", "number")
    loss = (objective or CrossEntropy()).chosen(target)
    rows = {"features": torch.as_tensor(x, dtype=DOUBLE), "targets": torch.as_tensor(y)}
    if weight is not None:
        rows["weight"] = torch.as_tensor(weight)
    model = PathLinear(x.shape[1], loss.outputs(target), DOUBLE)
    run = Run(RowSystem())
    run.data, run.model = Rows({"train": rows, "valid": rows}, 64, 0), model
    options.minimize(loss, model, run.data, run)
    return model, run


def oracle(x: np.ndarray, y: np.ndarray, lasso: float, ridge: float, weight: Any) -> Any:
    from sklearn.linear_model import LogisticRegression

    both = lasso + ridge
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # penalty is named otherwise since 1.8
        return LogisticRegression(
            penalty="elasticnet", solver="saga", C=1 / both, l1_ratio=lasso / both,
            tol=1e-9, max_iter=20_000, random_state=0,
        ).fit(x, y, sample_weight=weight)  # fmt: skip


def objective_of(x: Any, y: Any, w: Any, b: Any, lasso: float, ridge: float, weight: Any) -> float:
    z = torch.from_numpy(np.asarray(x) @ w.T + b)
    rows = CrossEntropy().rowwise(z, torch.from_numpy(y)).numpy()
    loss = rows.sum() if weight is None else (rows * weight).sum()
    return float(loss + ridge / 2 * (w**2).sum() + lasso * np.abs(w).sum())


CASES = [
    ("iris", 2.0, 0.0, False),
    ("iris", 0.5, 1.5, True),
    ("wine", 5.0, 0.0, False),
    ("wine", 1.0, 1.0, True),
    ("breast_cancer", 8.0, 0.0, False),
]


@pytest.mark.parametrize("name, lasso, ridge, weighted", CASES)
def test_optimum_and_zeros_equal_sklearn(
    name: str, lasso: float, ridge: float, weighted: bool
) -> None:
    x, y = table(name)
    weight = 0.5 + np.random.default_rng(0).random(len(y)) if weighted else None
    options = Proximal(lasso=lasso, ridge=ridge, strengths=5)
    model, run = solved(x, y, options, weight=weight)
    theirs = oracle(x, y, lasso, ridge, weight)
    w, b = model.weight.detach().numpy(), model.bias.detach().numpy()
    ours = objective_of(x, y, w, b, lasso, ridge, weight)
    wanted = objective_of(x, y, theirs.coef_, theirs.intercept_, lasso, ridge, weight)
    assert ours <= wanted * (1 + 1e-9)
    assert ours == pytest.approx(wanted, rel=1e-6)
    assert ((w != 0) == (theirs.coef_ != 0)).all() and (w == 0).any()
    np.testing.assert_allclose(w, theirs.coef_, atol=2e-3)
    assert not run.notes


@pytest.mark.parametrize("lasso", [0.5, 5.0, 20.0])
def test_optimality_conditions_hold(lasso: float) -> None:
    x, y = table("breast_cancer")
    model, _ = solved(x, y, Proximal(lasso=lasso, strengths=3))
    w, b = model.weight.detach().numpy()[0], model.bias.item()
    slope = x.T @ (1 / (1 + np.exp(-(x @ w + b))) - y)
    moving = w != 0
    np.testing.assert_allclose(slope[moving], -lasso * np.sign(w[moving]), atol=1e-5)
    assert (np.abs(slope[~moving]) <= lasso + 1e-5).all()
    assert np.sum(1 / (1 + np.exp(-(x @ w + b))) - y) == pytest.approx(0, abs=1e-5)


def test_lasso_regression_equals_sklearn() -> None:
    from sklearn.linear_model import ElasticNet

    x, _ = table("wine")
    y = x @ np.r_[3.0, -2.0, np.zeros(11)] + np.random.default_rng(0).normal(size=len(x))
    model, _ = solved(x, y, Proximal(lasso=60.0, ridge=20.0), SquaredError())
    # the sum of squares is 2 n times its half mean
    both, n = (60 + 20) / (2 * len(x)), len(x)
    theirs = ElasticNet(alpha=both, l1_ratio=60 / 2 / n / both, tol=1e-12, max_iter=100_000).fit(
        x, y
    )
    np.testing.assert_allclose(model.weight.detach()[0], theirs.coef_, atol=1e-7)
    assert model.bias.item() == pytest.approx(theirs.intercept_, rel=1e-7)


def test_the_path_begins_where_the_first_column_leaves_zero() -> None:
    x, y = table("wine")
    model, run = solved(x, y, Proximal(lasso=1.0, strengths=8))
    strengths, path = model.strengths.numpy(), model.path.numpy()
    assert strengths.shape == (8,) and path.shape == (8, 3, 13) and strengths[-1] == 1.0
    assert (np.diff(strengths) < 0).all()
    assert (path[0] == 0).all() and (path[1] != 0).any()
    just = Proximal(lasso=float(strengths[0]) * 0.999, strengths=1)
    assert int((solved(x, y, just)[0].weight != 0).sum()) == 1
    assert torch.equal(model.path[-1], model.weight.detach())
    for number in (3, 6):  # begun from the point before, or alone
        alone, _ = solved(x, y, Proximal(lasso=float(strengths[number]), strengths=1))
        np.testing.assert_allclose(alone.weight.detach(), path[number], atol=1e-5)
    counts = [line["nonzero"] for line in run.metrics.lines if "nonzero" in line]
    assert counts == [(p != 0).sum() for p in path]


def test_stronger_than_the_strongest_leaves_the_bias_alone() -> None:
    x, y = table("iris")
    weight = np.where(y == 0, 2.0, 1.0)
    model, _ = solved(x, y, Proximal(lasso=1e4), weight=weight)
    assert (model.weight == 0).all()
    shares = model.bias.softmax(0).detach().numpy()
    np.testing.assert_allclose(shares, [0.5, 0.25, 0.25], atol=1e-8)


def test_the_penalty_is_on_the_models_own_columns() -> None:
    x, y = table("wine")
    scale = np.linspace(0.2, 5, 13)
    model, _ = solved(x * scale + 3, y, Proximal(lasso=2.0, strengths=1))
    theirs = oracle(x * scale, y, 2.0, 0.0, None)  # shifted, which the bias takes up
    w, b = model.weight.detach().numpy(), model.bias.detach().numpy()
    ours = objective_of(x * scale + 3, y, w, b, 2.0, 0.0, None)
    wanted = objective_of(x * scale, y, theirs.coef_, theirs.intercept_, 2.0, 0.0, None)
    assert ours == pytest.approx(wanted, rel=1e-6)


def sparse(rows: int = 400) -> dict[str, np.ndarray]:
    """Two classes that follow from two of twelve columns."""
    random = np.random.default_rng(1)
    x = random.normal(size=(12, rows))
    p = 1 / (1 + np.exp(-(1.5 * x[0] - 2 * x[5])))
    side = np.where(random.random(rows) < p, "yes", "no")
    return {**{f"x{i}": c for i, c in enumerate(x)}, "side": side}


def test_without_a_strength_the_best_on_the_validation_rows_is_kept() -> None:
    run = fourfold.fit("softmax", sparse(), target="side", out=False, optimizer="proximal")
    tried = [line for line in run.metrics.lines if "lasso" in line]
    best = min(tried, key=lambda line: line["valid.loss"])
    index = tried.index(best)
    assert torch.equal(run.model.path[index], run.model.weight.detach())
    assert run.metrics.lines[-1]["valid.loss"] == best["valid.loss"]
    assert f"A lasso of {best['lasso']:.4g} measured best" in " ".join(run.notes)
    metric = fourfold.fit(
        "softmax", sparse(), target="side", out=False, optimizer="proximal", metric="auroc"
    )
    scores = [line["valid.auroc"] for line in metric.metrics.lines if "lasso" in line]
    chosen = int(np.argmax(scores))  # of equal ones the strongest penalty
    assert torch.equal(metric.model.path[chosen], metric.model.weight.detach())


def test_validation_rows_are_needed_to_choose() -> None:
    with pytest.raises(UserError, match="chosen on validation rows, and there are none: --lasso 1"):
        fourfold.fit(
            "softmax", sparse(), target="side", out=False, optimizer="proximal",
            split=(0.8, 0.0, 0.2),
        )  # fmt: skip
