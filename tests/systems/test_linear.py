"""Linear regression end to end, against scikit-learn."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.evaluation import measure
from fourfold.core.run import Run
from fourfold.systems.linear import LinearRegression


def frame(rows: int = 400, gap: float = 1.0) -> pl.DataFrame:
    random = np.random.default_rng(0)
    a, b = random.normal(30, 5, rows), random.normal(-2, 0.1, rows)
    c = a / 5 + b + gap * random.normal(size=rows)
    y = 1000 * a - 3e4 * b + 500 * c + random.normal(0, 800, rows)
    return pl.DataFrame({"a": a, "b": b, "c": c, "y": y})


def fitted(source: object, **options: object) -> Run:
    return fourfold.fit("linear", source, out=False, **options)


def trained_on(run: Run) -> pl.DataFrame:
    data = run.examples()
    return data.rows.frame().filter(pl.Series(data.parts == 0))  # type: ignore[attr-defined]


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("gap", [1.0, 1e-4, 1e-6])
def test_coefficients_equal_sklearn_in_original_units(standardize: bool, gap: float) -> None:
    from sklearn.linear_model import LinearRegression as Oracle

    run = fitted(frame(gap=gap), target="y", standardize=standardize)
    train = trained_on(run)
    oracle = Oracle(tol=1e-14).fit(train["a", "b", "c"].to_numpy(), train["y"].to_numpy())
    table = run.inspect()
    assert table["coefficient_of"].to_list() == ["a", "b", "c", "(intercept)"]
    wanted = [*oracle.coef_, oracle.intercept_]
    np.testing.assert_allclose(table["coefficient"], wanted, rtol=1e-6)
    predicted = run.predict(frame(gap=gap))
    assert predicted.columns == ["a", "b", "c", "y", "prediction"]
    np.testing.assert_allclose(
        predicted["prediction"], oracle.predict(predicted["a", "b", "c"].to_numpy()), rtol=1e-6
    )


@pytest.mark.parametrize("standardize", [True, False])
def test_ridge_equals_sklearn(standardize: bool) -> None:
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    run = fitted(frame(), target="y", ridge=20.0, standardize=standardize)
    train = trained_on(run)
    oracle = make_pipeline(*[StandardScaler()] * standardize, Ridge(20.0))
    oracle.fit(train["a", "b", "c"].to_numpy(), train["y"].to_numpy())
    wanted = oracle.predict(frame()["a", "b", "c"].to_numpy())
    np.testing.assert_allclose(run.predict(frame())["prediction"], wanted, rtol=1e-6)


def test_standard_errors_in_original_units_equal_the_formula() -> None:
    run = fitted(frame(), target="y")
    train = trained_on(run)
    design = np.column_stack([train["a", "b", "c"].to_numpy(), np.ones(train.height)])
    y = train["y"].to_numpy()
    beta = np.linalg.lstsq(design, y, rcond=None)[0]
    sigma2 = ((y - design @ beta) ** 2).sum() / (train.height - 4)
    wanted = np.sqrt(sigma2 * np.diag(np.linalg.inv(design.T @ design)))
    np.testing.assert_allclose(run.inspect()["standard_error"], wanted, rtol=1e-6)
    np.testing.assert_allclose(run.inspect()["t"], beta / wanted, rtol=1e-6)


def test_evaluate_equals_sklearn(tmp_path: Path) -> None:
    from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

    run = fitted(frame(), target="y")
    new = frame().with_columns(y=pl.col("y") * 1.1)
    predicted = run.predict(new)["prediction"].to_numpy()
    score = run.evaluate(new)
    assert score["mse"] == pytest.approx(mean_squared_error(new["y"], predicted), rel=1e-9)
    assert score["rmse"] == pytest.approx(mean_squared_error(new["y"], predicted) ** 0.5, rel=1e-9)
    assert score["mae"] == pytest.approx(mean_absolute_error(new["y"], predicted), rel=1e-9)
    assert score["r2"] == pytest.approx(r2_score(new["y"], predicted), rel=1e-9)
    assert run.evaluate().notes[0] == "40 rows on its own test split"


def test_housing_equals_sklearn() -> None:
    if "FOURFOLD_DATA" not in os.environ:
        pytest.skip("FOURFOLD_DATA names no folder with the housing data")
    from sklearn.linear_model import LinearRegression as Oracle

    run = fitted("housing", target="median_house_value")
    data = run.examples()
    x, y = (
        torch.cat([b[k] for b in data.batches("train")]).numpy() for k in ("features", "targets")
    )
    oracle = Oracle().fit(x, y)
    new = torch.cat([b["features"] for b in data.batches("test")]).numpy()
    target = run.data.target  # type: ignore[attr-defined]
    wanted = oracle.predict(new) * target.scale + target.mean
    rows = data.rows.frame().filter(pl.Series(data.parts == 2))  # type: ignore[attr-defined]
    found = run.predict(rows.drop("median_house_value"))["prediction"]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert run.evaluate()["rmse"] == pytest.approx(
        70_502, rel=1e-3
    )  # as the file's first lines say


def test_gradient_converges_to_the_closed_form() -> None:
    # without validation rows: with them the weights that validate best are kept, not the last
    common = {"target": "y", "split": (0.8, 0.0, 0.2)}
    descent = {
        **common,
        "optimizer": "gradient",
        "steps": 1500,
        "lr": 0.1,
        "batch": 320,
        "compile": False,
    }
    run, closed = fitted(frame(), **descent), fitted(frame(), **common)
    np.testing.assert_allclose(run.model.weight.detach(), closed.model.weight.detach(), atol=1e-4)
    assert run.inspect()["standard_error"].null_count() == 4  # a gradient search knows none
    # mean square + l2/2 |w|^2 is, times n = 320 rows, the sum of squares + n l2/2 |w|^2
    ridge, oracle = (
        fitted(frame(), **descent, l2=0.5),
        fitted(frame(), **common, ridge=320 * 0.5 / 2),
    )
    np.testing.assert_allclose(ridge.model.weight.detach(), oracle.model.weight.detach(), atol=1e-4)


def test_input_noise_acts_as_a_ridge_of_n_times_its_variance() -> None:
    # E (y - w (x + e) - b)^2 = (y - w x - b)^2 + s^2 |w|^2 for noise e of variance s^2, over n = 320 rows
    common = {"target": "y", "split": (0.8, 0.0, 0.2)}
    run = fitted(
        frame(), **common, input_noise=0.5, optimizer="gradient", steps=4000, lr=0.05, batch=320,
        compile=False,
    )  # fmt: skip
    ridge, plain = fitted(frame(), **common, ridge=320 * 0.5**2), fitted(frame(), **common)
    found, wanted, without = (r.model.weight.detach().numpy() for r in (run, ridge, plain))
    np.testing.assert_allclose(found, wanted, atol=0.02)
    assert np.abs(wanted - without).max() > 0.1
    with pytest.raises(UserError, match="--optimizer gradient; in closed form it is --ridge 80"):
        fitted(frame(), **common, input_noise=0.5)


def test_save_and_open_give_equal_answers(tmp_path: Path) -> None:
    system, source = LinearRegression.toy()
    path = tmp_path / "rents.parquet"
    pl.DataFrame(source).write_parquet(path)
    run = fourfold.fit(system, str(path), out=tmp_path / "run")
    again = fourfold.open(tmp_path / "run")
    assert again.inspect().equals(run.inspect())
    assert again.predict(str(path)).equals(run.predict(str(path)))
    assert again.evaluate().values == run.evaluate().values
    assert run.evaluate()["r2"] > 0.9
    pictures = list(again.system.pictures(again))
    titles = [p.title for p in pictures]
    assert titles[0] == "Coefficients" and {"Predicted against true", "Residuals"} <= set(titles)
    assert all(p.png.startswith(b"\x89PNG") for p in pictures)
    table = {t.title: t for t in again.system.tables(again)}["Coefficients"]
    assert len(table.rows) == len(run.data.columns) + 1  # type: ignore[attr-defined]
    line = run.metrics.lines[0]
    assert line["step"] == 1 and line["seen"] == 192
    wanted = measure(run.objective, run.model, run.examples(), "valid", run.device)
    assert line["valid.mse"] == wanted["mse"] and line["loss"] < 0.1


def test_rows_are_predicted_in_their_order_whatever_is_missing() -> None:
    run = fitted(frame(), target="y", missing="drop")
    new = (
        frame(10)
        .drop("y")
        .with_columns(a=pl.Series([None, *range(9)], dtype=pl.Float64), prediction=pl.lit(0))
    )
    found = run.predict(new)
    assert found.height == 10 and found["y_prediction"].null_count() == 1
    assert found["y_prediction"][0] is None
    slope = run.inspect()["coefficient"][0]
    same_b = run.predict(new.with_columns(b=pl.lit(0.0), c=pl.lit(0.0)))["y_prediction"]
    np.testing.assert_allclose(np.diff(same_b.to_numpy()[1:]), slope, rtol=1e-6)


def test_bad_input() -> None:
    with pytest.raises(UserError, match="--target species: linear regression needs numbers"):
        fitted(
            pl.DataFrame({"a": np.arange(30.0), "species": ["x", "y", "z"] * 10}), target="species"
        )
    run = fitted(frame(), target="y")
    with pytest.raises(
        UserError, match="no column c; it has a, b.*the run was fitted with a, b, c"
    ):
        run.predict(frame().drop("y", "c"))
    with pytest.raises(UserError, match="no column y.*measuring needs the target"):
        run.evaluate(frame().drop("y"))
    with pytest.raises(UserError, match="ridge"):
        fitted(frame(), target="y", ridge=-1)
    with pytest.raises(UserError, match="ridge: expected a valid number.*got 'much'"):
        fitted(frame(), target="y", ridge="much")
    with pytest.raises(UserError, match="did you mean"):
        fitted(frame(), target="y", optimizer="gradiant")
