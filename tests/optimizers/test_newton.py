"""Newton's method in a trust region: curvature by hand, optima against scikit-learn and closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.core.targets import Target
from fourfold.models.linear import Linear
from fourfold.objectives.classification import CrossEntropy, Focal, Hinge
from fourfold.objectives.regression import Poisson, SquaredError
from fourfold.optimizers.full_batch import FullBatch
from fourfold.optimizers.newton import Newton, Smooth, trust_region
from helpers import Rows, RowSystem

DOUBLE = torch.float64


def made(x: Any, y: Any, objective: Any, target: Target, weight: Any = None) -> tuple[Any, ...]:
    """A chosen objective, a fresh linear model, the rows and a run."""
    loss = objective.chosen(target)
    train = {"features": torch.as_tensor(x, dtype=DOUBLE), "targets": torch.as_tensor(y)}
    if weight is not None:
        train["weight"] = torch.as_tensor(weight, dtype=DOUBLE)
    model = Linear(train["features"].shape[1], loss.outputs(target), DOUBLE)
    data, run = Rows({"train": train}, 64, 0), Run(RowSystem())
    run.data, run.model = data, model
    return loss, model, data, run


def classes(count: int) -> Target:
    return Target("y", "category", tuple("abcdefghij"[:count]))


def tables() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    from sklearn.datasets import load_breast_cancer, load_iris, load_wine

    found = {}
    for name, load in (("iris", load_iris), ("wine", load_wine), ("cancer", load_breast_cancer)):
        x, y = load(return_X_y=True)
        found[name] = ((x - x.mean(0)) / x.std(0), y)
    return found


def total(loss: Any, x: np.ndarray, y: np.ndarray, w: np.ndarray, b: np.ndarray, s: Any) -> float:
    """The sum of losses at some coefficients."""
    rows = loss.rowwise(torch.from_numpy(x @ w.T + b), torch.from_numpy(y)).numpy()
    return float(rows.sum() if s is None else (rows * s).sum())


@pytest.mark.parametrize("name", ["iris", "wine", "cancer"])
@pytest.mark.parametrize("ridge, weighted", [(1.0, False), (0.05, True)])
def test_reaches_the_optimum_of_sklearn(name: str, ridge: float, weighted: bool) -> None:
    from sklearn.linear_model import LogisticRegression

    x, y = tables()[name]
    weight = np.random.default_rng(0).random(len(y)) if weighted else None
    loss, model, data, run = made(x, y, CrossEntropy(), classes(int(y.max()) + 1), weight)
    Newton(ridge=ridge).minimize(loss, model, data, run)
    oracle = LogisticRegression(C=1 / ridge, tol=1e-10, max_iter=5000)
    oracle.fit(x, y, sample_weight=weight)
    w, b = model.weight.detach().numpy(), model.bias.detach().numpy()
    ours = total(loss, x, y, w, b, weight) + ridge / 2 * (w**2).sum()
    coef = oracle.coef_
    theirs = total(loss, x, y, coef, oracle.intercept_, weight) + ridge / 2 * (coef**2).sum()
    assert ours <= theirs * (1 + 1e-9)
    assert ours == pytest.approx(theirs, rel=1e-6)
    np.testing.assert_allclose(w, coef, atol=1e-3 * np.abs(coef).max())
    assert not run.notes and run.metrics.lines[-1]["grad_norm"] <= 1e-8


def test_class_weights_equal_sklearn() -> None:
    from sklearn.linear_model import LogisticRegression

    x, y = tables()["wine"]
    counts = tuple(int(n) for n in np.bincount(y))
    target = Target("y", "category", ("a", "b", "c"), counts=counts, rows=len(y))
    loss, model, data, run = made(x, y, CrossEntropy(class_weights="balanced"), target)
    Newton(ridge=1.0).minimize(loss, model, data, run)
    oracle = LogisticRegression(class_weight="balanced", tol=1e-10, max_iter=5000).fit(x, y)
    np.testing.assert_allclose(model.weight.detach(), oracle.coef_, atol=1e-5)
    np.testing.assert_allclose(model.bias.detach(), oracle.intercept_, atol=1e-5)


def test_units_of_columns_do_not_matter_but_to_the_penalty() -> None:
    x, y = tables()["cancer"]
    units, far = 10.0 ** np.arange(-15, 15), 5.0
    found = []
    for scale, shift in ((np.ones(30), 0.0), (units, far)):
        given = (x + shift) * scale
        loss, model, data, run = made(given, y, CrossEntropy(), classes(2))
        problem = FullBatch(loss, model, data, run)
        smooth = Smooth(problem)
        smooth.penalty[:-1] = 1e-3  # on standardized coefficients in both
        problem.write(trust_region(smooth, problem.start(), 1e-10, 100).theta)
        found.append(given @ model.weight.detach().numpy().T + model.bias.detach().numpy())
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-7)


def test_squared_error_with_a_ridge_is_the_closed_form() -> None:
    from sklearn.linear_model import Ridge

    x, _ = tables()["wine"]
    y = x @ np.arange(13.0) + 3 + np.random.default_rng(0).normal(size=len(x))
    loss, model, data, run = made(x, y, SquaredError(), Target("y", "number"))
    Newton(ridge=8.0, tolerance=1e-12).minimize(loss, model, data, run)
    oracle = Ridge(4.0).fit(x, y)  # the sum of squares has twice its curvature
    np.testing.assert_allclose(model.weight.detach()[0], oracle.coef_, rtol=1e-8)


def test_poisson_regression_equals_sklearn() -> None:
    from sklearn.linear_model import PoissonRegressor

    random = np.random.default_rng(0)
    x = random.normal(size=(300, 4))
    y = random.poisson(np.exp(x @ [0.5, -0.3, 0.0, 0.2] + 1)).astype(float)
    loss, model, data, run = made(x, y, Poisson(), Target("y", "number"))
    Newton(ridge=0.3).minimize(loss, model, data, run)
    oracle = PoissonRegressor(alpha=0.3 / 300, tol=1e-10, max_iter=1000).fit(x, y)
    np.testing.assert_allclose(model.weight.detach()[0], oracle.coef_, rtol=1e-6)
    assert model.bias.item() == pytest.approx(oracle.intercept_, rel=1e-6)


@pytest.mark.parametrize("objective", [CrossEntropy(label_smoothing=0.1), Focal(), SquaredError()])
def test_gradient_and_curvature_are_those_of_autograd(objective: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 2, generator=generator, dtype=DOUBLE) * torch.tensor([1.0, 50.0]) + 7
    number = isinstance(objective, SquaredError)
    target = Target("y", "number") if number else classes(3)
    y = torch.randn(9, dtype=DOUBLE) if number else torch.tensor([0, 1, 2] * 3)
    loss, model, data, run = made(x, y, objective, target, torch.rand(9))
    weight, bias = torch.randn_like(model.weight), torch.randn_like(model.bias)
    with torch.no_grad():
        model.weight.copy_(weight), model.bias.copy_(bias)
    problem = FullBatch(loss, model, data, run)
    theta = problem.start()
    torch.testing.assert_close(problem.original(theta), (weight.detach(), bias.detach()))

    def mean(place: Tensor) -> Tensor:
        w, b = place[:, :-1] / problem.scale, place[:, -1]
        outputs = (x - problem.mean) @ w.T + b
        counts = data.splits["train"]["weight"]
        return (loss.rowwise(outputs, y) * counts).sum() / counts.sum()

    value, slope = problem.gradient(theta)
    leaf = theta.clone().requires_grad_()
    torch.testing.assert_close(value, mean(leaf).detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        slope, torch.autograd.grad(mean(leaf), leaf)[0], rtol=1e-9, atol=1e-12
    )
    direction = torch.randn(theta.shape, generator=generator, dtype=DOUBLE)
    hessian = torch.autograd.functional.hessian(mean, theta)
    wanted = torch.einsum("ijkl,kl->ij", hessian, direction)
    found = problem.curvature(theta).times(direction)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    streamed = FullBatch(loss, model, data, run, memory=0)
    torch.testing.assert_close(streamed.gradient(theta), (value, slope), rtol=1e-12, atol=1e-14)
    again = streamed.curvature(theta).times(direction)
    torch.testing.assert_close(again, wanted, rtol=1e-9, atol=1e-12)


def test_a_loss_that_is_not_convex_still_falls_to_a_stationary_point() -> None:
    x, y = tables()["iris"]
    loss, model, data, run = made(x, y, Focal(gamma=5.0), classes(3))
    problem = FullBatch(loss, model, data, run)
    far = 5 * torch.randn(problem.start().shape, dtype=DOUBLE)
    smooth = Smooth(problem, ridge=1.0)
    found = trust_region(smooth, far, 1e-9, 200)
    assert found.converged and found.value < smooth.value(far)
    assert float(smooth.gradient(found.theta)[1].abs().max()) <= 1e-8


def test_separable_classes_without_a_penalty_are_said() -> None:
    x = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    loss, model, data, run = made(x, np.array([0, 0, 1, 1]), CrossEntropy(), classes(2))
    Newton(ridge=0.0).minimize(loss, model, data, run)
    assert "separable" in run.notes[0] and "--ridge 1" in run.notes[0]
    assert model.weight.isfinite().all()


def test_a_constant_column_and_columns_that_repeat_are_no_trouble() -> None:
    x, y = tables()["iris"]
    wide = np.column_stack([x, np.full(len(x), 0.1), x[:, 0]])
    loss, model, data, run = made(wide, y, CrossEntropy(), classes(3))
    Newton().minimize(loss, model, data, run)
    weight = model.weight.detach()
    torch.testing.assert_close(weight[:, 0], weight[:, 5], rtol=1e-6, atol=1e-8)
    assert float(weight[:, 4].abs().max()) < 1e-9


def test_too_few_steps_are_said() -> None:
    x, y = tables()["iris"]
    loss, model, data, run = made(x, y, CrossEntropy(), classes(3))
    Newton(iterations=2).minimize(loss, model, data, run)
    assert "Stopped after 2 steps" in run.notes[0] and "--iterations" in run.notes[0]


def test_refusals() -> None:
    x, y = tables()["iris"]
    loss, model, data, run = made(x, y, Hinge(), classes(3))
    with pytest.raises(ValueError, match="Hinge has no curvature"):
        Newton().minimize(loss, model, data, run)
    with pytest.raises(ValueError, match="no weight and bias"):
        Newton().minimize(CrossEntropy(), torch.nn.Identity(), data, run)
    empty = Rows({"train": {n: v[:0] for n, v in data.splits["train"].items()}}, 64, 0)
    with pytest.raises(UserError, match="has no rows"):
        Newton().minimize(CrossEntropy().chosen(classes(3)), model, empty, run)


def test_fits_are_equal_and_logged() -> None:
    from sklearn.datasets import load_iris

    frame = {f"x{i}": c for i, c in enumerate(load_iris().data.T)}
    frame["y"] = np.array(["a", "b", "c"])[load_iris().target]
    one, two = (fourfold.fit("softmax", frame, target="y", out=False) for _ in range(2))
    assert torch.equal(one.model.weight, two.model.weight)
    lines = one.metrics.lines
    assert lines[0]["loss"] == pytest.approx(np.log(3)) and lines[-2]["loss"] < lines[0]["loss"]
    assert {"valid.loss", "valid.accuracy"} <= set(lines[-1])
