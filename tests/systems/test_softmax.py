"""Softmax regression end to end, against scikit-learn."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.systems.softmax import SoftmaxRegression


def iris(two: bool = False) -> pl.DataFrame:
    from sklearn.datasets import load_iris

    bunch = load_iris()
    names = [n.replace(" (cm)", "").replace(" ", "_") for n in bunch.feature_names]
    frame = pl.DataFrame(bunch.data, schema=names)
    frame = frame.with_columns(species=pl.Series(bunch.target_names[bunch.target].astype(str)))
    return frame.filter(pl.col("species") != "setosa") if two else frame


def fitted(source: object, **options: object) -> Run:
    return fourfold.fit("softmax", source, target="species", out=False, **options)


def prepared(run: Run, split: str) -> tuple[np.ndarray, np.ndarray]:
    batches = list(run.examples().batches(split))  # type: ignore[arg-type]
    return tuple(  # type: ignore[return-value]
        torch.cat([b[k] for b in batches]).numpy() for k in ("features", "targets")
    )


def oracle(run: Run, **options: Any) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(tol=1e-10, max_iter=5000, **options).fit(*prepared(run, "train"))


@pytest.mark.parametrize("two", [False, True])
def test_predictions_equal_sklearn(two: bool) -> None:
    run = fitted(iris(two))
    layer = "one sigmoid output" if two else "softmax"
    assert any(f"Objective: cross-entropy through {layer}" in note for note in run.notes)
    theirs = oracle(run)
    features, targets = prepared(run, "test")
    found = run.predict(run.examples().rows.frame().filter(pl.Series(run.data.parts == 2)))  # type: ignore[attr-defined]
    wanted = theirs.predict_proba(features)
    classes = ["versicolor", "virginica"] if two else ["setosa", "versicolor", "virginica"]
    for i, name in enumerate(classes):
        np.testing.assert_allclose(found[f"p({name})"], wanted[:, i], atol=1e-6)
    assert found["prediction"].to_list() == [classes[i] for i in theirs.predict(features)]
    score = run.evaluate()
    assert score["accuracy"] == pytest.approx((theirs.predict(features) == targets).mean())
    losses = -np.log(wanted[np.arange(len(targets)), targets])
    assert score["log_loss"] == pytest.approx(losses.mean(), rel=1e-5)


def test_coefficients_are_in_original_units() -> None:
    from sklearn.linear_model import LogisticRegression

    run = fitted(iris(two=True), standardize=False, ridge=0.1)
    rows = run.examples().rows.frame().filter(pl.Series(run.data.parts == 0))  # type: ignore[attr-defined]
    names = rows.columns[:4]
    x, y = rows[names].to_numpy(), rows["species"].to_numpy()
    theirs = LogisticRegression(C=10, tol=1e-10, max_iter=5000).fit(x, y)
    table = run.inspect()
    wanted = [*theirs.coef_[0], theirs.intercept_[0]]
    np.testing.assert_allclose(table["coefficient"], wanted, rtol=1e-4)
    assert table["coefficient_of"].to_list() == [*names, "(intercept)"]
    assert set(table["class"]) == {"virginica"}
    np.testing.assert_allclose(table["odds_ratio"], np.exp(table["coefficient"]))


def test_odds_change_by_the_odds_ratio() -> None:
    run = fitted(iris())
    row = iris()[60:61]
    found = run.predict(pl.concat([row, row.with_columns(pl.col("petal_width") + 1)]))
    odds = found["p(virginica)"] / found["p(versicolor)"]
    table = run.inspect().filter(pl.col("coefficient_of") == "petal_width")
    ratios = dict(zip(table["class"], table["odds_ratio"], strict=True))
    assert odds[1] / odds[0] == pytest.approx(ratios["virginica"] / ratios["versicolor"], rel=1e-6)
    deviation = next(c.scale for c in run.data.columns if c.name == "petal_width")  # type: ignore[attr-defined]
    for single, whole in zip(table["odds_ratio"], table["odds_ratio_deviation"], strict=True):
        assert whole == pytest.approx(single**deviation, rel=1e-9)


def test_weights_of_rows_and_classes_have_their_effect() -> None:
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(0)
    frame = iris().with_columns(counts=pl.Series(random.integers(0, 4, 150)))
    run = fitted(frame, weights="counts", class_weights="balanced")
    data: Any = run.examples()
    weight = torch.cat([b["weight"] for b in data.batches("train")]).numpy()
    x, y = prepared(run, "train")
    share = len(y) / (3 * np.bincount(y))  # of the training rows, as class weights are told
    theirs = LogisticRegression(tol=1e-10, max_iter=5000)
    theirs.fit(x, y, sample_weight=weight * share[y])
    np.testing.assert_allclose(run.model.weight.detach(), theirs.coef_, atol=1e-5)
    assert "counts" not in run.inspect()["column"].to_list()


def test_a_gradient_search_comes_near_the_optimum() -> None:
    exact = fitted(iris(), split=(0.8, 0.0, 0.2))
    found = fitted(
        iris(), split=(0.8, 0.0, 0.2), optimizer="gradient", steps=1500, lr=1.5, batch=120,
        l2=1 / 120, compile=False,
    )  # fmt: skip
    np.testing.assert_allclose(found.model.weight.detach(), exact.model.weight.detach(), atol=1e-3)


@pytest.mark.parametrize("multiclass", ["one-vs-rest", "one-vs-one", "crammer-singer"])
def test_hinges_separate_what_is_separable(multiclass: str) -> None:
    run = fitted(
        iris(), objective="hinge", multiclass=multiclass, optimizer="gradient", lr=0.1, steps=1500
    )
    assert run.evaluate()["accuracy"] > 0.9
    assert "log_loss" not in run.evaluate().values  # its scores are no probabilities
    found = run.predict(iris().drop("species"))
    assert {"score(setosa)", "prediction"} <= set(found.columns)
    hard = run.predict(iris().drop("species"), decision="hard")
    assert hard["prediction"].equals(found["prediction"]) and hard.width == 5
    assert "odds_ratio" not in run.inspect().columns


def test_a_squared_hinge_equals_liblinear() -> None:
    from sklearn.svm import LinearSVC

    run = fitted(iris(two=True), objective="hinge", squared=True, ridge=2.0)
    x, y = prepared(run, "train")
    # liblinear weighs the bias as a column; a large one is next to free
    theirs = LinearSVC(C=0.5, intercept_scaling=100, tol=1e-12, max_iter=1_000_000).fit(x, y)
    np.testing.assert_allclose(run.model.weight.detach(), theirs.coef_, atol=1e-3)


def test_selection_is_said_and_drawn(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(8, 300))
    side = np.where(2 * x[1] - 2 * x[6] + random.logistic(size=300) > 0, "up", "down")
    frame = pl.DataFrame({**{f"x{i}": c for i, c in enumerate(x)}, "side": side})
    run = fourfold.fit(
        "softmax", frame, target="side", out=tmp_path / "run", optimizer="proximal", lasso=25.0
    )
    said = "2 of 8 columns survive: x6, x1. Dropped: x0, x2, x3, x4, x5, x7."
    assert said in run.notes
    again = fourfold.open(tmp_path / "run")
    assert torch.equal(again.model.path, run.model.path)
    pictures = {p.title: p for p in again.system.pictures(again)}
    assert said in pictures["Selection of columns"].caption
    assert said in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    zero = run.inspect().filter(pl.col("coefficient") == 0)["coefficient_of"].to_list()
    assert zero == ["x0", "x2", "x3", "x4", "x5", "x7"]


def test_a_column_survives_by_any_of_its_categories() -> None:
    from fourfold.tasks.coefficients import survivors, verdict

    run = fourfold.fit(SoftmaxRegression.toy()[0], SoftmaxRegression.toy()[1], out=False)
    data: Any = run.data
    weight = np.zeros((3, len(data.columns)))
    assert verdict(data, weight).startswith("None of 3 columns survives")
    weight[2, [c.name for c in data.columns].index("soil=sand")] = -2.0
    assert survivors(data, weight) == (["soil"], ["length", "width"])
    assert verdict(data, weight + 1e-9).startswith("All 3 columns survive; the strongest is soil")


def test_digits_draw_many_classes() -> None:
    run = fourfold.fit("softmax", "digits", out=False, ridge=10.0)
    first = next(iter(run.system.pictures(run)))
    assert first.title == "Coefficients" and first.png.startswith(b"\x89PNG")
    assert run.evaluate()["accuracy"] > 0.94


def test_titanic_equals_sklearn() -> None:
    if "FOURFOLD_DATA" not in os.environ:
        pytest.skip("FOURFOLD_DATA names no folder with the titanic data")
    run = fourfold.fit("softmax", "titanic", target="Survived", out=False)
    theirs = oracle(run)
    features, targets = prepared(run, "test")
    wanted = theirs.predict_proba(features)[np.arange(len(targets)), targets]
    assert run.evaluate()["log_loss"] == pytest.approx(-np.log(wanted).mean(), rel=1e-5)


def test_bad_input() -> None:
    with pytest.raises(UserError, match="--objective hinge has a corner.*--optimizer gradient"):
        fitted(iris(), objective="hinge")
    with pytest.raises(UserError, match="lasso: expected.*greater than or equal to 0"):
        fitted(iris(), optimizer="proximal", lasso=-1)
    with pytest.raises(UserError, match="lasso goes with optimizer proximal only"):
        fitted(iris(), optimizer="newton", **{"optimizer.lasso": 1.0})
    with pytest.raises(UserError, match="did you mean newton"):
        fitted(iris(), optimizer="newtn")
    with pytest.raises(UserError, match="the target is rose in every row"):
        fitted(iris().with_columns(species=pl.lit("rose")))
