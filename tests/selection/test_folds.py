"""Cross-validation: every row held out once, scores against scikit-learn, going on where it was stopped."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import fourfold
from fourfold.core.errors import Interrupted, UserError
from fourfold.core.run import Run
from fourfold.core.system import system
from fourfold.selection.folds import cross_validate
from helpers import RowSystem
from tables import Net, classes, numbers


@pytest.fixture
def table(tmp_path: Path) -> str:
    path = tmp_path / "numbers.csv"
    numbers(150).write_csv(path)
    return str(path)


def test_the_folds_of_a_linear_regression_equal_scikit_learn() -> None:
    from sklearn.linear_model import LinearRegression
    from sklearn.metrics import root_mean_squared_error

    frame = numbers(120).drop("town")
    found = cross_validate("linear", frame, target="y", folds=4, out=False, seed=3)
    held = np.zeros(120, int)
    for run, score in zip(found.folds, found.scores, strict=True):
        data: Any = run.examples()
        held += data.parts == 2
        rows = data.rows.frame()
        train, test = (rows.filter(pl.Series(data.parts == part)) for part in (0, 2))
        oracle = LinearRegression().fit(train.drop("y").to_numpy(), train["y"].to_numpy())
        told = oracle.predict(test.drop("y").to_numpy())
        assert score["rmse"] == pytest.approx(root_mean_squared_error(test["y"], told), rel=1e-6)
    assert (held == 1).all()  # each row is held out by one fold
    mean, deviation = found.summary["rmse"]
    values = [score["rmse"] for score in found.scores]
    assert mean == pytest.approx(np.mean(values)) and deviation == pytest.approx(
        np.std(values, ddof=1)
    )
    assert f"rmse: {mean:.3f}"[:9] in str(found) and "over 4 folds" in str(found)


def test_runs_and_scores_are_kept(table: str, tmp_path: Path) -> None:
    found = cross_validate(Net, table, target="y", folds=2, out=tmp_path / "run", steps=20)
    told = json.loads((tmp_path / "run/folds.json").read_text())
    assert told["runs"] == ["folds/1", "folds/2"]
    for number, place in enumerate(told["runs"]):
        run = fourfold.open(tmp_path / "run" / place)
        assert run.system.data.fold == f"{number + 1}/2"  # type: ignore[attr-defined]
        assert run.evaluate()["rmse"] == pytest.approx(told["scores"][number]["rmse"])
    assert told["mean"]["rmse"] == pytest.approx(found.summary["rmse"][0])
    assert found.run.folder == tmp_path / "run" and found.run.system.data.fold is None  # type: ignore[attr-defined]
    page = (tmp_path / "run/report.html").read_text()
    assert "2-fold cross-validation" in page and "could not be made" not in page


def test_intervals_come_from_the_folds(table: str, tmp_path: Path) -> None:
    found = cross_validate(Net, table, target="y", folds=2, out=tmp_path / "run", steps=200)
    said: list[str] = []
    found.run.console.say = said.append  # type: ignore[method-assign]
    new = numbers(1_500, seed=5)
    told = found.run.predict(new, interval=0.8)
    assert said[0] == "Intervals at 0.8 from 150 rows of 2 folds."
    inside = (told["lower"] <= new["y"]) & (new["y"] <= told["upper"])
    assert inside.mean() > 0.7  # type: ignore[operator]  # on few rows CV+ errs on the wide side
    runs = [fourfold.open(tmp_path / f"run/folds/{k}") for k in (1, 2)]
    # by the definition: each held-out row's error around what the model without it predicts
    low: list[np.ndarray] = []
    for run in runs:
        data: Any = run.examples()
        held = data.rows.frame().filter(pl.Series(data.parts == 2))
        error = (run.predict(held)["prediction"] - held["y"]).abs().to_numpy()
        low.append(run.predict(new[:5])["prediction"].to_numpy()[:, None] - error)
    below = np.sort(np.concatenate(low, axis=1), axis=1)
    place = 150 - int(np.ceil(0.8 * 151))
    np.testing.assert_allclose(told["lower"][:5], below[:, place], rtol=1e-5)


def test_classes_have_sets_from_the_folds(tmp_path: Path) -> None:
    path = tmp_path / "colours.csv"
    classes(200).write_csv(path)
    options = {"target": "colour", "folds": 2, "steps": 80}
    found = cross_validate(Net, str(path), out=tmp_path / "run", **options)  # type: ignore[arg-type]
    new = classes(1_000, seed=8)
    told = found.run.predict(new, interval=0.8)
    inside = [c in s.split(" | ") for c, s in zip(new["colour"], told["set"], strict=True)]
    assert 0.72 < np.mean(inside) < 0.93


def test_repeats_draw_other_partitions() -> None:
    found = cross_validate("linear", numbers(60), target="y", folds=2, repeats=2, out=False)
    parts = [run.examples().parts for run in found.folds]  # type: ignore[attr-defined]
    assert len(found.scores) == 4 and not np.array_equal(parts[0], parts[2])
    assert [run.seed for run in found.folds] == [0, 0, 1, 1]


@system("stopping", reads="table")
class StoppingNet(Net):
    """Sends its process a signal, once, in the middle of fitting its second fold."""

    def preview(self, run: Run) -> None:
        if self.data.fold == "2/2" and not os.path.exists("stopped"):
            Path("stopped").touch()
            signal.raise_signal(signal.SIGINT)


def test_a_stopped_cross_validation_goes_on_with_the_same_options_only(
    table: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"target": "y", "folds": 2, "steps": 30}
    with pytest.raises(Interrupted) as stopped:
        cross_validate(StoppingNet, table, out=tmp_path / "run", **options)
    assert "--out" in stopped.value.command
    first = (tmp_path / "run/folds/1/weights.safetensors").stat().st_mtime_ns
    with pytest.raises(
        UserError, match=r"folds/1: was fitted with other options \(width 16, now 8\)"
    ):
        cross_validate(StoppingNet, table, out=tmp_path / "run", **options, width=8)
    found = cross_validate(StoppingNet, table, out=tmp_path / "run", **options)
    assert (tmp_path / "run/folds/1/weights.safetensors").stat().st_mtime_ns == first
    again = cross_validate(StoppingNet, table, out=False, **options)
    assert [s.values for s in found.scores] == [s.values for s in again.scores]
    with pytest.raises(UserError, match="holds a run already"):
        cross_validate(StoppingNet, table, out=tmp_path / "run", **options)


def test_folds_that_are_done_are_kept_where_options_followed_from_their_rows(
    table: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"target": "y", "folds": 2, "epochs": 1}
    found = cross_validate("mlp", table, out=tmp_path / "run", **options)
    assert found.run.system.optimizer.lr == 0.02  # type: ignore[attr-defined]
    weights = tmp_path / "run/folds/1/weights.safetensors"
    first = weights.stat().st_mtime_ns
    (tmp_path / "run/system.toml").unlink()  # as of a process that ended before
    cross_validate("mlp", table, out=tmp_path / "run", **options)
    assert weights.stat().st_mtime_ns == first
    (tmp_path / "run/system.toml").unlink()
    with pytest.raises(UserError, match=r"other options \(optimizer.lr 0.02, now 0.01\)"):
        cross_validate("mlp", table, out=tmp_path / "run", **options, lr=0.01)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"folds": 1}, "--folds: expected 2 or more, got 1"),
        ({"repeats": 0}, "--repeats: expected 1 or more"),
        ({"fold": "1/5"}, "--data.fold 1/5 does not go with it"),
        ({"ordered": True, "repeats": 2}, "blocks of time are always the same"),
        ({"folds": 400}, "150 rows with a target cannot make 400 folds"),
    ],
)
def test_what_cannot_be_folded(table: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        cross_validate(Net, table, target="y", out=False, **options)


def test_only_tables_have_folds() -> None:
    with pytest.raises(UserError, match="--folds is for tables; rows reads tensors"):
        cross_validate(RowSystem, None, out=False)
