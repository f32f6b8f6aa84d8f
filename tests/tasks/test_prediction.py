"""The verbs that every predictor has, end to end on small networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.core.types import Explanation
from fourfold.tasks import effects
from fourfold.tasks.prediction import predictions
from tables import Net, classes, labels, numbers


def fitted(source: Any, **options: Any) -> Run:
    return fourfold.fit(Net, source, out=options.pop("out", False), **options)


@pytest.fixture(scope="module")
def number() -> Run:
    return fitted(numbers(), target="y")


@pytest.fixture(scope="module")
def colour() -> Run:
    return fitted(classes(), target="colour")


@pytest.fixture(scope="module")
def tags() -> Run:
    return fitted(labels(), target="tag_*")


# --- predict ------------------------------------------------------------------------------------


def test_a_number_is_told_in_its_units(number: Run) -> None:
    found = number.predict(numbers().drop("y"))
    assert found.columns == ["a", "b", "c", "town", "prediction"]
    error = found["prediction"] - numbers()["y"]
    assert (error**2).mean() < 0.1 * numbers()["y"].var()  # type: ignore[operator]


def test_a_class_is_told_with_all_probabilities(colour: Run) -> None:
    found = colour.predict(classes())
    assert found.columns[-4:] == ["prediction", "p(blue)", "p(green)", "p(red)"]
    told = found.select("p(blue)", "p(green)", "p(red)").to_numpy()
    np.testing.assert_allclose(told.sum(axis=1), 1)
    assert found["prediction"].to_list() == [
        ("blue", "green", "red")[i] for i in told.argmax(axis=1)
    ]
    hard = colour.predict(classes(), decision="hard")
    assert hard.columns == ["a", "b", "c", "colour", "prediction"]
    assert hard["prediction"].equals(found["prediction"])


def test_labels_are_told_each(tags: Run) -> None:
    found = tags.predict(labels().select("a", "b", "c"))
    names = ["tag_x", "tag_y", "tag_z"]
    assert found.columns[3:] == [f"{w}({n})" for w in ("prediction", "p") for n in names]
    for name in names:
        assert ((found[f"p({name})"] > 0.5) == (found[f"prediction({name})"] == 1)).all()
    assert tags.predict(labels(), decision="hard").width == 9


def test_scores_of_a_margin_are_not_called_probabilities() -> None:
    run = fitted(classes(count=2), target="colour", objective="hinge")
    columns = run.predict(classes(count=2)).columns
    assert columns[-2:] == ["score(green)", "score(red)"]
    calibrated = run.predict(classes(count=2), calibration="isotonic")
    assert calibrated.columns[-2:] == ["p(green)", "p(red)"]
    assert "log_loss" not in run.evaluate().values
    assert "log_loss" in run.evaluate(calibration="isotonic").values


def test_columns_of_the_same_name_are_left_as_they_are(colour: Run) -> None:
    new = classes(5).with_columns(prediction=pl.lit("mine"), colour_prediction=pl.lit("too"))
    found = colour.predict(new, decision="hard")
    assert found["prediction"].to_list() == ["mine"] * 5
    assert found.columns[-1] == "colour_prediction_"


def test_rows_that_are_left_out_have_no_prediction() -> None:
    run = fitted(classes(), target="colour", missing="drop", steps=5)
    new = classes(4).with_columns(a=pl.Series([0.1, None, 0.3, None]))
    found = run.predict(new)
    for name in ("prediction", "p(red)"):
        assert found[name].is_null().to_list() == [False, True, False, True]
    alone = run.predict(new[2:3])
    assert found["p(red)"][2] == pytest.approx(alone["p(red)"][0])


def test_quantiles_are_told_beside_the_median() -> None:
    run = fitted(numbers(), target="y", objective="quantile")
    found = run.predict(numbers())
    assert found.columns[-4:] == ["prediction", "quantile_0.05", "quantile_0.5", "quantile_0.95"]
    assert (found["quantile_0.05"] <= found["quantile_0.95"]).all()
    assert found["prediction"].equals(found["quantile_0.5"].rename("prediction"))


def test_predictions_are_those_of_the_table(colour: Run) -> None:
    told, true = predictions(colour, colour.data.reopen(classes(), whole=True), "test")  # type: ignore[arg-type]
    found = colour.predict(classes())
    np.testing.assert_allclose(told[:, 0], found["p(blue)"])
    assert true is not None
    assert [("blue", "green", "red")[i] for i in true] == classes()["colour"].to_list()


# --- evaluate -----------------------------------------------------------------------------------


def test_the_metric_comes_first_and_the_losses_own_measures_too() -> None:
    run = fitted(classes(), target="colour", metric="auroc", steps=20)
    score = run.evaluate()
    assert next(iter(score.values)) == "auroc" and "loss" in score.values
    assert score.notes[0] == "40 rows on its own test split"
    wanted = fitted(numbers(), target="y", objective="quantile", steps=5).evaluate()
    assert "pinball" in wanted.values and wanted.units["pinball"] == "of y"


def test_weights_of_rows_are_repetitions(number: Run) -> None:
    counts = np.random.default_rng(0).integers(1, 4, 400)
    frame = numbers().with_columns(w=pl.Series(counts))
    run = fitted(frame, target="y", weights="w", steps=20)
    weighted = run.evaluate(frame)
    repeated = run.evaluate(frame[np.repeat(np.arange(400), counts)].with_columns(w=pl.lit(1)))
    for name in ("rmse", "mae", "r2"):
        assert weighted[name] == pytest.approx(repeated[name], rel=1e-6)


# --- intervals and calibration ------------------------------------------------------------------


def test_intervals_hold_new_rows_as_often_as_they_say() -> None:
    run = fitted(numbers(1_500), target="y", split=(0.5, 0.4, 0.1))
    new = numbers(4_000, seed=1)
    found = run.predict(new, interval=0.8)
    inside = (found["lower"] <= new["y"]) & (new["y"] <= found["upper"])
    # 600 held-out rows: the level of one draw has a standard deviation of 1.6 points
    assert inside.mean() == pytest.approx(0.8, abs=0.05)
    wider = run.predict(new, interval=0.95)
    assert ((wider["upper"] - wider["lower"]) > (found["upper"] - found["lower"])).all()


def test_intervals_of_quantiles_are_not_all_of_one_width() -> None:
    random = np.random.default_rng(0)
    x = random.uniform(0.1, 3, 1_500)
    frame = pl.DataFrame({"x": x, "y": x * random.normal(size=1_500)})
    run = fitted(frame, target="y", objective="quantile", split=(0.6, 0.4, 0.0), steps=400)
    found = run.predict(frame, interval=0.9)
    wide = (found["upper"] - found["lower"]).to_numpy()
    assert wide[x > 2.5].mean() > 1.5 * wide[x < 0.5].mean()


def test_sets_hold_the_true_class(colour: Run) -> None:
    new = classes(2_000, seed=3)
    found = colour.predict(new, interval=0.9)
    inside = [c in s.split(" | ") for c, s in zip(new["colour"], found["set"], strict=True)]
    assert np.mean(inside) > 0.8  # 40 held-out rows: the level of one draw varies by 5 points
    assert found["set"].str.len_chars().min() > 0  # type: ignore[operator]


def test_a_level_that_the_rows_cannot_tell_is_said() -> None:
    run = fitted(numbers(60), target="y", steps=5)
    said: list[str] = []
    run.console.say = said.append  # type: ignore[method-assign]
    found = run.predict(numbers(3), interval=0.99)
    assert found["upper"].is_infinite().all() and found["lower"].is_infinite().all()
    assert any("from 6 validation rows, too few: this level takes 99" in s for s in said)


def test_what_cannot_be_is_refused(number: Run, tags: Run, colour: Run) -> None:
    with pytest.raises(UserError, match="--interval is for a number or a category; tag_"):
        tags.predict(labels(), interval=0.9)
    with pytest.raises(UserError, match="--calibration is for classes and labels; y is a number"):
        number.predict(numbers(), calibration="temperature")
    with pytest.raises(UserError, match="--decision hard is for classes and labels; y is a number"):
        number.predict(numbers(), decision="hard")
    bare = fitted(numbers(), target="y", split=(1.0, 0.0, 0.0), steps=2)
    with pytest.raises(UserError, match="no validation rows to measure its errors on"):
        bare.predict(numbers(), interval=0.9)
    plain = fitted(classes(), target="colour", split=(1.0, 0.0, 0.0), steps=2)
    with pytest.raises(UserError, match="--calibration temperature: .* no validation rows"):
        plain.predict(classes(), calibration="temperature")


def test_calibration_mends_an_overconfident_network() -> None:
    # one evaluation, at the end: the weights that have learned 90 rows by heart
    options: dict[str, Any] = {"split": (0.06, 0.47, 0.47), "evaluate_every": "600", "decay": 0.0}
    options |= {"target": "colour", "width": 64, "steps": 600, "lr": 0.05}
    run = fitted(classes(1_500, heat=3.0), **options)
    before = run.evaluate()
    assert before["ece"] > 0.15
    for method in ("temperature", "isotonic"):
        after = run.evaluate(calibration=method)
        assert after["ece"] < 0.5 * before["ece"] and after["log_loss"] < before["log_loss"]
    plain = run.predict(classes(50, seed=9), decision="hard")
    told = run.predict(classes(50, seed=9), calibration="temperature", decision="hard")
    assert plain.equals(told)  # a temperature leaves decisions as they are


def test_what_is_kept_outlives_the_source(tmp_path: Path) -> None:
    source = tmp_path / "colours.csv"
    classes().write_csv(source)
    run = fitted(str(source), target="colour", out=tmp_path / "run", steps=20)
    new = classes(30, seed=5)
    wanted = run.predict(new, interval=0.8, calibration="isotonic")
    source.unlink()
    again = fourfold.open(tmp_path / "run")
    assert again.predict(new, interval=0.8, calibration="isotonic").equals(wanted)
    assert not list((tmp_path / "run").rglob("*.pkl"))


# --- explain and inspect ------------------------------------------------------------------------


def test_contributions_add_up_to_the_prediction(number: Run) -> None:
    rows = numbers(3, seed=2)
    told = number.explain(rows, permutations=10)
    predicted = number.predict(rows)["prediction"]
    assert isinstance(told, Explanation) and len(told.tables) == 3 and len(told.pictures) == 3
    background = number.examples().rows.frame()  # type: ignore[attr-defined]
    assert background.height == 400
    for i, table in enumerate(told.tables):
        assert sorted(row[0] for row in table.rows) == ["a", "b", "c", "town"]
        sentence = told.sentences[i]
        mean = float(sentence.split("the mean is ")[1].split(",")[0])
        total = mean + sum(row[2] for row in table.rows)
        assert total == pytest.approx(predicted[i], abs=0.01)  # the sentence rounds the mean
        most = max(table.rows, key=lambda row: abs(row[2]))
        assert most[0] == table.rows[0][0]


def test_linear_regression_is_explained_exactly() -> None:
    run = fourfold.fit("linear", numbers(), target="y", out=False)
    rows = numbers(2, seed=2)
    told = run.explain(rows)
    slope = dict(run.inspect()[["coefficient_of", "coefficient"]].iter_rows())["a"]
    shares = [{row[0]: row for row in table.rows} for table in told.tables]
    assert shares[0]["a"][3] == 0.0  # no standard error
    wanted = slope * (rows["a"][1] - rows["a"][0])
    assert shares[1]["a"][2] - shares[0]["a"][2] == pytest.approx(wanted, rel=1e-6)


def test_classes_are_explained_by_name(colour: Run) -> None:
    told = colour.explain(classes(2, seed=4), of="green", permutations=4)
    assert all("p(green) is" in sentence for sentence in told.sentences[:2])
    with pytest.raises(UserError, match="--of gren: colour has no such class; did you mean green"):
        colour.explain(classes(2), of="gren")
    with pytest.raises(UserError, match="--of goes with rows to explain"):
        colour.explain(of="green")


def test_over_all_the_columns_that_matter_come_first(number: Run) -> None:
    told = number.explain()
    order = [row[0] for row in told.tables[0].rows]
    assert order[:2] == ["a", "b"] and order[-1] == "c"
    assert [p.title for p in told.pictures] == ["Permutation importance", "Partial dependence"]


def test_too_many_rows_to_explain(number: Run) -> None:
    with pytest.raises(UserError, match="expected 1,000 rows at most, got 1,001"):
        number.explain(numbers(1_001))


def test_inspect_says_verdict_and_health(number: Run) -> None:
    told = number.inspect()
    assert told.sentences[0].split(":")[0].lower() in (
        "under-fitting",
        "over-fitting",
        "fine",
        "not enough data",
    )
    assert any(sentence.startswith("Verdict: ") for sentence in told.sentences)
    assert "Errors compared" in [p.title for p in told.pictures]


def test_inspect_draws_depths_with_the_networks_own_activation() -> None:
    options: dict[str, Any] = {"activation": "tanh", "width": 8, "epochs": 2, "members": 1}
    run = fourfold.fit("mlp", numbers(), target="y", out=False, **options)
    picture, table = run.inspect(depths=True).pictures[-1], run.inspect(depths=True).tables[-1]
    assert picture.title == table.title == "Plain and residual by depth"
    assert [row[0] for row in table.rows] == [4, 8, 16, 32, 64] and "Tanh" in picture.caption
    linear = fourfold.fit("linear", numbers(), target="y", out=False)
    assert linear.inspect(depths=True).tables[-1].title == table.title


# --- the report ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "wanted"),
    [
        (numbers, "y", {"Predicted against true", "Residuals"}),
        (
            classes,
            "colour",
            {"Confusion matrix", "ROC curve", "Precision and recall", "Reliability"},
        ),
        (labels, "tag_*", {"ROC curve", "Precision and recall", "Reliability"}),
    ],
)
def test_the_report_shows_what_the_target_calls_for(
    source: Any, target: str, wanted: set[str], tmp_path: Path
) -> None:
    path = tmp_path / "table.csv"
    source().write_csv(path)
    fitted(str(path), target=target, out=tmp_path / "run", steps=30)
    page = (tmp_path / "run/report.html").read_text()
    assert "could not be made" not in page
    always = {"Permutation importance", "Partial dependence", "Errors compared"}
    for title in wanted | always | {"Measures of held-out rows"}:
        assert title in page


def test_what_knows_no_probabilities_is_told_in_scores_and_without_nats(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels: list[str] = []
    monkeypatch.setattr(effects.look, "dependence", lambda *given: labels.append(given[3]))
    two = classes().with_columns(colour=pl.col("colour").replace("green", "blue"))
    for options in ({"objective": "hinge", "optimizer": "gradient"}, {}):
        run = fourfold.fit("softmax", two, target="colour", out=False, **options)
        told = run.evaluate()
        assert "loss" in told.values
        assert told.units.get("loss") == (None if options else "nats")
        effects.dependence(run, ["a"])
    assert labels == ["score of red", "probability of red"]
