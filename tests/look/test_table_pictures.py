"""Pictures of predictors: drawn for many classes, long and Chinese names, and what cannot be drawn."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourfold.core.types import Picture
from fourfold.look import attribution, classification, facts, learning, regression, selection
from fourfold.look.calibration import reliability_diagram
from fourfold.look.figures import short_name

NAMES = ["a", "否", "a name that is long enough to be cut somewhere", "$50K$"] + [
    f"class {i}" for i in range(40)
]


def drawn(picture: Picture | None) -> Picture:
    assert picture is not None and picture.png.startswith(b"\x89PNG")
    return picture


@pytest.mark.parametrize("count", [2, 4, 44])
def test_classes(count: int) -> None:
    random = np.random.default_rng(0)
    true, told = random.integers(0, count, 300), random.dirichlet(np.ones(count), 300)
    names = NAMES[:count]
    matrix = drawn(classification.confusion(true, told.argmax(1), names, caption="300 rows."))
    assert ("The 30 of 44 classes" in matrix.caption) == (count > 30)
    for draw in (classification.roc, classification.precision_recall):
        curve = drawn(draw(told, true, names))
        assert ("The 3 best and the 3 worst of 44" in curve.caption) == (count == 44)


def test_a_class_that_no_row_has_is_no_curve() -> None:
    told = np.full((5, 2), 0.5)
    assert classification.roc(told, np.zeros(5, int), ["a", "b"]) is None
    labels = np.array([[1, 0], [1, 1], [1, 0]])  # the first is always there
    assert classification.precision_recall(np.full((3, 2), 0.5), labels, ["x", "y"]) is not None


def test_numbers_and_their_reasons() -> None:
    random = np.random.default_rng(0)
    true = random.normal(2e5, 1e5, 6_000)
    pictures = list(regression.predictions(true + 1, true, "价格", "on its own test split"))
    assert [drawn(p).title for p in pictures] == ["Predicted against true", "Residuals"]
    assert "5,000 rows on its own test split" in pictures[0].caption
    assert list(regression.predictions(true[:0], true[:0], "y", "")) == []
    shares = random.normal(size=30)
    names = [f"column {i}" for i in range(30)]
    drawn(attribution.contributions(names, ["1"] * 30, shares, shares**2, 3.0, "y", "caption"))
    bars = drawn(attribution.importance(names, shares, shares**2, "log loss", "rows."))
    assert "The 20 largest of 30" in bars.caption
    x = np.linspace(0, 1, 5)
    curves = {"number": (x, x[:, None]), "category": (["a", "b"], np.array([[0.1], [0.2]]))}
    drawn(attribution.dependence(curves, {"number": x}, ["y"], "y", "caption"))


def test_reliability_and_learning() -> None:
    bins = np.array([[0.1, 0.2, 50.0], [0.9, 0.8, 50.0]])
    drawn(reliability_diagram({"as predicted": (bins, 0.1), "temperature": (bins, 0.05)}, "of yes"))
    lines = [{"step": i, "loss": 1 / (i + 1)} for i in range(50)]
    lines += [{"step": i, "valid.mse": 1e9 / (i + 1)} for i in range(5, 50, 5)]
    drawn(learning.over_training(lines, 45))
    assert learning.over_training(lines[:50], 45) is None
    drawn(learning.over_rows([10, 100, 1_000], [0.1, 0.2, 0.3], [0.9, 0.6, 0.4], "log loss"))
    drawn(learning.bias_variance("width", (1.0, 2.0), (0.2, 0.1), (0.1, 0.2), 5, "Brier score"))
    drawn(learning.compared([("this", 1.0), ("a constant", 2.0)], "rmse", "60 rows"))


def test_the_weights_that_are_kept_draw_no_line_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search over strengths logs its choice once more in the end, with the step that it had."""
    lines = [{"step": i, "loss": 1 / i, "valid.loss": abs(i - 4.0)} for i in range(1, 8)]
    lines.append({"step": 4, "valid.loss": 0.0})
    figures: list[Any] = []
    monkeypatch.setattr(learning, "picture", lambda fig, *_: figures.append(fig))
    learning.over_training(lines, 4)
    (curve, _) = figures[0].axes[1].lines
    assert list(curve.get_xdata()) == list(range(1, 8))
    svg = dict(facts.charts(lines))["loss"]
    for points in re.findall(r'points="([^"]*)"', svg):
        places = [float(p.split(",")[0]) for p in points.split()]
        assert places == sorted(places)


def test_a_search_and_folds(tmp_path: Path) -> None:
    assert list(selection.pictures(tmp_path)) == [] and list(selection.tables(tmp_path)) == []
    trials = [
        {"number": i, "state": "complete", "value": 1.0 + i, "seconds": 1.0, "why": "",
         "options": {"optimizer.lr": 10.0**-i, "norm": "none" if i % 2 else "batch"}}
        for i in range(6)
    ]  # fmt: skip
    trials.append({**trials[0], "number": 6, "state": "pruned", "value": 3.0})
    told = {
        "trials": trials, "measure": "mse", "higher": False, "outer": [1.5, 2.5],
        "importance": {"optimizer.lr": 0.8, "norm": 0.2},
    }  # fmt: skip
    (tmp_path / "search.json").write_text(json.dumps(told))
    scores = [{"rmse": 1.0, "auroc": None}, {"rmse": 2.0, "auroc": 0.5}]
    folds = {
        "folds": 2, "repeats": 1, "runs": ["folds/1", "folds/2"], "scores": scores,
        "mean": {"rmse": 1.5}, "deviation": {"rmse": 0.7},
    }  # fmt: skip
    (tmp_path / "folds.json").write_text(json.dumps(folds))
    titles = [drawn(p).title for p in selection.pictures(tmp_path)]
    assert titles == [
        "Cross-validation", "The search", "What the options matter", "Trials by option",
    ]  # fmt: skip
    cross, best, nested = selection.tables(tmp_path)
    assert cross.rows == (("1", 1.0), ("2", 2.0), ("mean", 1.5), ("deviation", 0.7))
    assert best.rows[0][:2] == (1, 1.0) and "1 stopped early" in best.caption
    assert nested.rows[2] == ("mean", 2.0)


def test_names_fit_beside_an_axis() -> None:
    assert short_name("short", 10) == "short"
    assert short_name("abcdefghij", 5) == "abcd…"
    assert short_name("住宅价格中位数", 7) == "住宅价…"  # wide characters count twice
    assert short_name("$50K", 10) == r"\$50K"
