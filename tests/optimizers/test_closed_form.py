"""Least squares against NumPy, scikit-learn and formulas, on ordinary, nearly collinear and deficient columns."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import fourfold.optimizers.closed_form as module
from fourfold.core.errors import UserError
from fourfold.optimizers.closed_form import ClosedForm, Solution, least_squares


def solve(x: np.ndarray, y: np.ndarray, ridge: float = 0.0, batch: int = 37) -> Solution:
    def blocks() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for i in range(0, len(x), batch):
            yield torch.from_numpy(x[i : i + batch]), torch.from_numpy(y[i : i + batch])

    return least_squares(blocks(), ridge)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks even for small tables."""
    monkeypatch.setattr(module, "BLOCK", 100)


size = st.integers(1, 8)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 400), size, st.integers(1, 3))
def test_equals_numpy(seed: int, rows: int, features: int, outputs: int) -> None:
    random = np.random.default_rng(seed)
    x = random.normal(
        random.normal(0, 100, features), 10 ** random.uniform(-4, 4, features), (rows, features)
    )
    y = random.normal(size=(rows, outputs))
    found = solve(x, y)
    centred, above = x - x.mean(axis=0), y - y.mean(axis=0)
    scaled = centred / (np.linalg.norm(centred, axis=0) + 1e-300)
    fitted = scaled @ np.linalg.lstsq(scaled, above, rcond=1e-12)[0] + y.mean(axis=0)
    ours = x @ found.weight.numpy().T + found.bias.numpy()
    np.testing.assert_allclose(ours, fitted, rtol=1e-6, atol=1e-7)
    left = ((y - fitted) ** 2).sum(axis=0)
    np.testing.assert_allclose(found.residual, left, rtol=1e-7, atol=1e-7)
    assert found.rows == rows and found.rank == min(features, rows - 1)


@pytest.mark.parametrize("gap", [1e-3, 1e-5, 1e-7, 1e-8])
@pytest.mark.parametrize("offset", [0.0, 2000.0])
def test_nearly_collinear_columns_equal_lstsq(gap: float, offset: float) -> None:
    from sklearn.linear_model import LinearRegression

    random = np.random.default_rng(1)
    x = random.normal(size=(500, 3))
    x[:, 2] = x[:, 0] - x[:, 1] + gap * x[:, 2]
    y = x @ [1.0, 2.0, -1.0] + 0.5 + gap * random.normal(size=500)
    found = solve(x + offset, y)
    # scikit-learn by default drops directions below 1e-6 of the largest: ask it for all of them
    oracle = LinearRegression(tol=1e-14).fit(x + offset, y)
    # the columns themselves carry only eps * offset / gap of what tells them apart
    allowed = max(1e-6, 50 * 2.2e-16 * offset / gap)
    np.testing.assert_allclose(found.weight[0], oracle.coef_, rtol=allowed)
    ours = (x + offset) @ found.weight[0].numpy() + found.bias.item()
    np.testing.assert_allclose(ours, oracle.predict(x + offset), atol=1e-6)


@pytest.mark.parametrize("alpha", [1e-6, 0.1, 10.0, 1e4])
@pytest.mark.parametrize("gap", [1.0, 1e-6])
def test_ridge_equals_sklearn(alpha: float, gap: float) -> None:
    from sklearn.linear_model import Ridge

    random = np.random.default_rng(2)
    x = random.normal(3, 2, (400, 5))
    x[:, 4] = x[:, 0] + gap * x[:, 4]
    y = x @ random.normal(size=(5, 2)) + random.normal(size=(400, 2))
    found = solve(x, y, alpha)
    oracle = Ridge(alpha=alpha, solver="svd").fit(x, y)
    np.testing.assert_allclose(found.weight, oracle.coef_, rtol=1e-6)
    np.testing.assert_allclose(found.bias, oracle.intercept_, rtol=1e-6)


def test_deficient_columns_take_the_solution_of_least_norm() -> None:
    random = np.random.default_rng(3)
    towns = np.eye(4)[random.integers(0, 4, 300)]
    x = np.column_stack(
        [towns, random.normal(0, 1e5, 300), np.full(300, 7.7), random.normal(size=300)]
    )
    x = np.column_stack([x, 2 * x[:, 6]])
    y = towns @ [1, 2, 3, 4] + x[:, 6] + random.normal(0, 0.1, 300)
    found = solve(x, y)
    assert found.rank == 5  # 3 of the towns, two numbers
    centred = x - x.mean(axis=0)
    oracle = np.linalg.lstsq(centred, y - y.mean(), rcond=1e-12)[0]
    np.testing.assert_allclose(found.weight[0], oracle, rtol=1e-8, atol=1e-9)
    assert found.weight[0, :4].sum().item() == pytest.approx(0, abs=1e-9)


def test_standard_errors_equal_the_formula() -> None:
    from scipy import stats

    random = np.random.default_rng(4)
    x, noise = random.normal(5, 3, (250, 3)), random.normal(size=250)
    y = x @ [1.0, 0.0, -2.0] + 4 + noise
    found = solve(x, y)
    design = np.column_stack([x, np.ones(250)])
    beta = np.linalg.solve(design.T @ design, design.T @ y)
    sigma2 = ((y - design @ beta) ** 2).sum() / (250 - 4)
    wanted = sigma2 * np.linalg.inv(design.T @ design)
    np.testing.assert_allclose(found.noise[0] * found.covariance, wanted, rtol=1e-8)
    one = solve(x[:, :1], y)
    line = stats.linregress(x[:, 0], y)
    errors = (one.noise[0] * one.covariance.diagonal()).sqrt()
    np.testing.assert_allclose(errors, [line.stderr, line.intercept_stderr], rtol=1e-8)


def test_standard_errors_of_ridge_equal_the_formula() -> None:
    random = np.random.default_rng(5)
    x, alpha = random.normal(1, 2, (120, 4)), 15.0
    y = x @ [1.0, 0.5, -2.0, 0.0] + random.normal(size=120)
    found = solve(x, y, alpha)
    centred = x - x.mean(axis=0)
    inverse = np.linalg.inv(centred.T @ centred + alpha * np.eye(4))
    spread = inverse @ centred.T @ centred @ inverse
    residual = ((y - x @ found.weight[0].numpy() - found.bias.item()) ** 2).sum()
    sigma2 = residual / (120 - 1 - np.trace(centred @ inverse @ centred.T))
    np.testing.assert_allclose(
        found.noise[0] * found.covariance[:4, :4], sigma2 * spread, rtol=1e-8
    )
    mean = x.mean(axis=0)
    np.testing.assert_allclose(found.covariance[4, 4], 1 / 120 + mean @ spread @ mean, rtol=1e-8)
    np.testing.assert_allclose(found.covariance[4, :4], -spread @ mean, rtol=1e-8)


def test_standard_errors_are_the_spread_of_estimates() -> None:
    random = np.random.default_rng(6)
    x = random.normal(size=(60, 2))
    found = [solve(x, x @ [1.0, 2.0] + random.normal(size=60)) for _ in range(800)]
    spread = torch.stack([f.weight[0] for f in found]).std(dim=0)
    told = torch.stack([(f.noise[0] * f.covariance.diagonal()[:2]).sqrt() for f in found]).mean(
        dim=0
    )
    torch.testing.assert_close(spread, told, rtol=0.1, atol=0)  # 800 draws: about 2.5%


def test_more_columns_than_rows_interpolate_and_have_no_errors() -> None:
    random = np.random.default_rng(7)
    x, y = random.normal(size=(5, 9)), random.normal(size=5)
    found = solve(x, y)
    np.testing.assert_allclose(x @ found.weight[0].numpy() + found.bias.item(), y, atol=1e-10)
    assert found.rank == 4 and bool(torch.isnan(found.noise).all())


def test_bad_calls() -> None:
    with pytest.raises(UserError, match="no rows"):
        least_squares(iter(()))
    with pytest.raises(ValidationError):
        ClosedForm(ridge=-1.0)
    with pytest.raises(ValidationError):
        ClosedForm(ridge=float("nan"))


@pytest.mark.parametrize("ridge", [0.0, 2.0])
def test_weights_are_rows_that_stand_there_as_often(ridge: float) -> None:
    random = np.random.default_rng(8)
    x, often = random.normal(5, 2, (300, 4)), random.integers(0, 4, 300)
    y = x @ [1.0, -2.0, 0.5, 0.0] + random.normal(size=300)
    blocks = [
        tuple(torch.from_numpy(part[i : i + 70]) for part in (x, y, often.astype(float)))
        for i in range(0, 300, 70)
    ]
    found, twice = (
        least_squares(blocks, ridge),
        solve(np.repeat(x, often, 0), np.repeat(y, often), ridge),
    )
    torch.testing.assert_close(found.weight, twice.weight, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.bias, twice.bias, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.residual, twice.residual, rtol=1e-9, atol=1e-12)
    assert found.total == pytest.approx(often.sum()) and found.rows == (often > 0).sum()
    if not ridge:
        from sklearn.linear_model import LinearRegression

        oracle = LinearRegression().fit(x, y, often)
        np.testing.assert_allclose(found.weight[0], oracle.coef_, rtol=1e-10)
    with pytest.raises(UserError, match="all weights are 0"):
        least_squares([(torch.ones(5, 2), torch.ones(5), torch.zeros(5))])


@pytest.mark.parametrize("gap", [1.0, 1e-2, 1e-4, 1e-8, 0.0])
def test_products_are_used_only_where_they_keep_the_digits(gap: float) -> None:
    """The factor from products equals that from reflections, or is not taken."""
    random = np.random.default_rng(9)
    x = torch.from_numpy(random.normal(size=(400, 5)))
    x[:, 4] = x[:, 0] + gap * x[:, 4]
    rows = torch.cat([torch.ones(400, 1, dtype=torch.float64), x], dim=1)
    found = module._by_cholesky(rows.T.contiguous())
    assert (found is None) == (gap < 1e-2)
    if found is None:
        return
    exact = module._by_reflections(rows)
    exact = exact * exact.diagonal().sign()[:, None]
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)


def test_features_in_any_layout_and_precision() -> None:
    random = np.random.default_rng(10)
    x, y = random.normal(size=(500, 6)), random.normal(size=500)
    plain = solve(x, y)
    columns = torch.from_numpy(np.asfortranarray(x))
    other = least_squares(
        [(columns[:333], torch.from_numpy(y)[:333]), (columns[333:], torch.from_numpy(y)[333:])]
    )
    torch.testing.assert_close(other.weight, plain.weight, rtol=1e-12, atol=1e-13)
    half = least_squares([(torch.from_numpy(x).float(), torch.from_numpy(y).float())])
    torch.testing.assert_close(half.weight, plain.weight, rtol=1e-5, atol=1e-6)
