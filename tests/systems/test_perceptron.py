"""The perceptron end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import fourfold
from fourfold.core.errors import UserError


def sides(overlap: bool = False) -> pl.DataFrame:
    random = np.random.default_rng(0)
    x, y = random.normal(10, 3, 200), random.normal(-2, 0.5, 200)
    value = (x - 10) / 3 - 2 * (y + 2) / 0.5
    far = np.abs(value) > 0.3
    noise = random.normal(size=200) if overlap else 0.0
    side = np.where(value + noise > 0, "right", "left")
    return pl.DataFrame({"x": x[far], "y": y[far], "side": side[far]})


def test_a_run_tells_its_mistakes_and_the_bound(tmp_path: Path) -> None:
    run = fourfold.fit("perceptron", sides(), target="side", out=tmp_path / "run", epochs=500)
    (told,) = [note for note in run.notes if "Novikoff's bound" in note]
    assert told.startswith("A hyperplane separates the classes of the training rows; it was found")
    mistakes = [line["mistakes"] for line in run.metrics.lines if "mistakes" in line]
    assert mistakes[0] > 0 and mistakes[-1] == 0 and f"after {sum(mistakes)} mistake" in told
    report = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Novikoff" in report and "mistakes" in report
    again = fourfold.open(tmp_path / "run")
    assert again.predict(sides()).equals(run.predict(sides()))


def test_the_hyperplane_is_in_original_units() -> None:
    run = fourfold.fit("perceptron", sides(), target="side", out=False, epochs=500)
    a, b, c = run.inspect()["coefficient"]
    frame = sides()
    value = a * frame["x"] + b * frame["y"] + c
    decided = run.predict(frame)["prediction"]
    assert ((value > 0) == (decided == "right")).all()
    scales = np.array([column.scale for column in run.data.columns])  # type: ignore[attr-defined]
    assert np.linalg.norm(np.array([a, b]) * scales) == pytest.approx(1)
    assert a > 0 > b


def test_classes_that_are_not_separable_are_said() -> None:
    run = fourfold.fit("perceptron", sides(overlap=True), target="side", out=False, epochs=20)
    (told,) = [note for note in run.notes if note.startswith("No hyperplane separates")]
    assert "of left equals one of" in told and "of right" in told
    assert run.evaluate()["accuracy"] > 0.7


def test_bad_input() -> None:
    three = sides().with_columns(side=pl.Series(["a", "b", "c"] * 200).head(sides().height))
    with pytest.raises(
        UserError, match="tells two classes apart, this has 3; fourfold fit softmax"
    ):
        fourfold.fit("perceptron", three, target="side", out=False)
    with pytest.raises(UserError, match="keep: expected 'pocket', 'averaged' or 'last'"):
        fourfold.fit("perceptron", sides(), target="side", out=False, keep="first")
