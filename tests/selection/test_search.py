"""Searching options: the best is found and fitted, trials are kept and gone on with, nested folds stay apart."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest

import fourfold
import fourfold.core.console
from fourfold.core.errors import Interrupted, UserError
from fourfold.core.run import Run
from fourfold.core.system import system
from fourfold.selection.search import resume, search
from tables import Net, classes, numbers

pytest.importorskip("optuna")


@system("ridges", reads="table")
class Narrow(Net):
    """A network whose width alone matters."""

    search_space: ClassVar[dict[str, str]] = {"width": "1..24:log"}


def ill(rows: int = 60) -> pl.DataFrame:
    """Far more columns than rows bear: a penalty is needed."""
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, 40))
    y = x[:, :3].sum(axis=1) + random.normal(size=rows)
    return pl.DataFrame({**{f"x{i}": x[:, i] for i in range(40)}, "y": y})


RIDGE: dict[str, Any] = {"target": "y", "space": "ridge=1e-4..1e4:log", "split": (0.6, 0.4, 0.0)}


def test_a_better_penalty_is_found() -> None:
    found = search("linear", ill(), trials=15, out=False, **RIDGE)
    bare = fourfold.fit("linear", ill(), target="y", split=RIDGE["split"], out=False)
    without = bare.metrics.lines[0]["valid.mse"]
    values = [t.value for t in found.trials if t.value is not None]
    assert found.measure == "mse" and found.value == min(values) < 0.8 * without
    assert found.options["optimizer.ridge"] > 1
    assert found.run.system.optimizer.ridge == found.options["optimizer.ridge"]  # type: ignore[attr-defined]
    data: Any = found.run.examples()
    error = found.run.predict(data.rows.frame())["prediction"] - data.rows.frame()["y"]
    held = (error.to_numpy()[data.parts == 1] ** 2).mean()
    assert held == pytest.approx(found.value, rel=1e-6)  # the run is the best trial again
    assert str(found).startswith("best mse of 15 trials: ")


def test_the_same_seed_searches_the_same() -> None:
    once, again = (search("linear", ill(), trials=6, out=False, seed=4, **RIDGE) for _ in range(2))
    assert [t.options for t in once.trials] == [t.options for t in again.trials]
    assert once.value == again.value


def test_the_first_trial_has_the_options_as_they_are_and_more_may_be_better() -> None:
    found = search(
        Net,
        classes(150),
        target="colour",
        metric="auroc",
        trials=3,
        steps=20,
        out=False,
        prune=False,
    )
    assert found.measure == "auroc" and found.value == max(t.value for t in found.trials)  # type: ignore[type-var]
    assert found.trials[0].options == {"optimizer.lr": 0.03, "width": 16}
    line = next(line for line in found.run.metrics.lines if "valid.auroc" in line)
    assert 0 <= line["valid.auroc"] <= 1


def test_options_that_are_set_are_not_searched() -> None:
    found = search(Net, numbers(80), target="y", trials=2, steps=5, lr=0.02, out=False)
    assert all(set(t.options) == {"width"} for t in found.trials)
    assert found.run.system.optimizer.lr == 0.02  # type: ignore[attr-defined]


def test_trials_that_fall_behind_are_stopped_early() -> None:
    space = "algorithm=sgd lr=1e-6,0.05"
    found = search(
        Net, numbers(120), target="y", trials=14, steps=40, space=space, out=False, width=8
    )
    states = {t.state for t in found.trials}
    assert states == {"complete", "pruned"}
    assert {t.options["optimizer.lr"] for t in found.trials if t.state == "pruned"} == {"1e-6"}
    assert found.options["optimizer.lr"] == "0.05"
    whole = search(
        Net,
        numbers(120),
        target="y",
        trials=14,
        steps=40,
        space=space,
        out=False,
        width=8,
        prune=False,
    )
    assert {t.state for t in whole.trials} == {"complete"}


def test_a_trial_that_diverges_costs_only_itself() -> None:
    space = "algorithm=sgd lr=0.05,1e30"
    said: list[str] = []

    class Said(fourfold.core.console.Silent):  # type: ignore[name-defined, misc]
        def say(self, sentence: str) -> None:
            said.append(sentence)

    found = search(
        Net,
        numbers(80),
        target="y",
        trials=6,
        steps=20,
        space=space,
        out=False,
        width=4,
        console=Said(),
    )
    failed = [t for t in found.trials if t.state == "failed"]
    assert failed and all(t.options["optimizer.lr"] == "1e30" and t.why for t in failed)
    assert any("failed (" in sentence for sentence in said)
    assert found.options["optimizer.lr"] == "0.05"


def test_folds_compare_trials_on_every_row() -> None:
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    found = search("linear", ill(), trials=2, folds=3, out=False, target="y", space="ridge=2,50")
    for trial in found.trials:
        errors = []
        for fold in (1, 2, 3):
            run = fourfold.fit("linear", ill(), target="y", out=False, fold=f"{fold}/3")
            data: Any = run.examples()
            rows = data.rows.frame()
            train, test = (rows.filter(pl.Series(data.parts == part)) for part in (0, 2))
            scaler = StandardScaler().fit(train.drop("y").to_numpy())
            oracle = Ridge(float(trial.options["optimizer.ridge"]))
            oracle.fit(scaler.transform(train.drop("y").to_numpy()), train["y"].to_numpy())
            told = oracle.predict(scaler.transform(test.drop("y").to_numpy()))
            errors.append(((told - test["y"].to_numpy()) ** 2).mean())
        assert trial.value == pytest.approx(np.mean(errors), rel=1e-6)


def test_outer_folds_never_see_what_they_are_measured_on(tmp_path: Path) -> None:
    path = tmp_path / "ill.csv"
    ill().with_columns(row=pl.Series(np.arange(60.0))).write_csv(path)
    options = {"target": "y", "space": "ridge=1,100", "drop": ("row",)}
    found = search("linear", str(path), trials=2, outer=2, out=tmp_path / "run", **options)
    assert len(found.outer) == 2 and "over 2 outer folds" in str(found)
    seen = []
    for fold in (1, 2):
        told = json.loads((tmp_path / f"run/outer/{fold}/search.json").read_text())
        assert len(told["trials"]) == 2
        inner = fourfold.open(tmp_path / f"run/outer/{fold}")
        seen.append(inner.data.summary()["rows"])
    assert seen == [30, 30]
    held = fourfold.fit("linear", str(path), out=False, fold="1/2", target="y", drop=("row",))
    data: Any = held.examples()
    rows = data.rows.frame().filter(pl.Series(data.parts == 2))
    best = fourfold.open(tmp_path / "run/outer/1")
    error = best.predict(rows)["prediction"] - rows["y"]
    assert (error**2).mean() == pytest.approx(found.outer[0], rel=1e-9)
    page = (tmp_path / "run/report.html").read_text()
    assert "Nested search" in page and "could not be made" not in page


# --- kept, and gone on with -----------------------------------------------------------------------


def test_a_search_is_gone_on_with(tmp_path: Path) -> None:
    path, out = tmp_path / "ill.csv", tmp_path / "run"
    ill().write_csv(path)
    found = search("linear", str(path), trials=3, out=out, **RIDGE)
    assert (out / "search.db").exists() and fourfold.open(out).evaluate
    more = resume(out, trials=7)
    assert len(more.trials) == 7 and more.trials[:3] == found.trials
    drawn = [t.options["optimizer.ridge"] for t in more.trials]
    assert len(set(drawn)) == 7  # what was drawn is not drawn again
    run = fourfold.open(out)
    assert run.system.optimizer.ridge == more.options["optimizer.ridge"]  # type: ignore[attr-defined]
    same = resume(out)
    assert len(same.trials) == 7 and same.value == more.value
    page = (out / "report.html").read_text()
    for title in ("Trials", "The search", "Trials by option"):
        assert title in page
    assert "could not be made" not in page
    with pytest.raises(UserError, match="holds a search of another space"):
        search("linear", str(path), trials=9, out=out, **{**RIDGE, "space": "ridge=1..2"})


def test_trials_are_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    path, out = tmp_path / "n.csv", tmp_path / "run"
    numbers(80).write_csv(path)
    search("linear", str(path), target="y", trials=1, space="ridge=1,2", out=out, keep=True)
    assert fourfold.open(out / "trials/000").about["finished"]
    with pytest.raises(UserError, match="--keep-trials needs a folder"):
        search("linear", str(path), target="y", trials=2, space="ridge=1,2", out=False, keep=True)


@system("stopping-trials", reads="table")
class Stopping(Narrow):
    """Sends its process a signal, once, in the middle of a trial."""

    def preview(self, run: Run) -> None:
        if self.width != 16 and not os.path.exists("stopped"):
            Path("stopped").touch()
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(tmp_path: Path) -> None:
    path, out = tmp_path / "n.csv", tmp_path / "run"
    numbers(80).write_csv(path)
    options = {"target": "y", "trials": 2, "steps": 20}
    with pytest.raises(Interrupted) as stopped:
        search(Stopping, str(path), out=out, **options)  # type: ignore[arg-type]
    assert stopped.value.command == f"fourfold search --resume {out}"
    assert stopped.value.after == "1 trials, which are kept"
    assert not (out / "system.toml").exists()
    found = resume(out)
    assert len(found.trials) == 2 and all(t.state != "failed" for t in found.trials)
    assert fourfold.open(out).about["finished"]


def test_several_processes_share_a_study(tmp_path: Path) -> None:
    path = tmp_path / "ill.csv"
    ill().write_csv(path)
    shared = {"storage": f"sqlite:///{tmp_path}/shared.db", "study": "ridge", **RIDGE}
    search("linear", str(path), trials=2, out=tmp_path / "a", **shared)
    second = search("linear", str(path), trials=4, out=tmp_path / "b", **shared)
    assert len(second.trials) == 4
    assert not (tmp_path / "a/search.db").exists()


@pytest.mark.parametrize(
    "said",
    [
        "(sqlite3.OperationalError) table studies already exists",
        "(sqlite3.IntegrityError) UNIQUE constraint failed: alembic_version.version_num",
        "(psycopg2.errors.UniqueViolation) duplicate key value violates unique constraint",
    ],
)
def test_a_study_that_another_process_begins_at_the_same_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    import optuna

    plain, failed = optuna.create_study, []

    def late(**options: Any) -> Any:
        if len(failed) < 2:
            failed.append(1)
            raise RuntimeError(said)
        return plain(**options)

    monkeypatch.setattr(optuna, "create_study", late)
    given = {"target": "y", "trials": 1, "steps": 2, "out": False}
    found = search(Net, numbers(60), storage=f"sqlite:///{tmp_path}/x.db", study="s", **given)
    assert len(failed) == 2 and len(found.trials) == 1


def test_a_database_without_its_driver_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    given = {"target": "y", "trials": 1, "steps": 2, "out": False}
    with pytest.raises(
        UserError, match="no driver for such a database: pip install psycopg2-binary"
    ):
        search(Net, numbers(60), storage="postgresql://localhost/x", study="s", **given)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"trials": 0}, "--trials: expected 1 or more, got 0"),
        ({"space": "widht=1..4"}, "unknown option widht of net; did you mean width"),
        ({"repeats": 2}, "--repeats goes with --folds"),
        ({"folds": 1}, "--folds: expected 2 or more, got 1"),
        ({"split": (1.0, 0.0, 0.0)}, "a search compares trials on validation rows"),
        ({"storage": "nonsense://x"}, "--storage nonsense://x: cannot be opened"),
        ({"target": "z"}, "no column z"),
    ],
)
def test_bad_input(options: dict[str, Any], said: str) -> None:
    given = {"target": "y", "trials": 2, "steps": 2, "out": False, **options}
    with pytest.raises(UserError) as error:
        search(Net, numbers(60), **given)
    assert said in str(error.value)


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    fourfold.fit("linear", numbers(60), target="y", out=tmp_path / "run")
    with pytest.raises(UserError, match="holds a run already"):
        search("linear", numbers(60), target="y", space="ridge=1,2", out=tmp_path / "run")
    with pytest.raises(UserError, match=r"holds no search \(search.json is missing\)"):
        resume(tmp_path / "run")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r'pip install "fourfold\[search\]"'):
        search(Net, numbers(60), target="y", trials=1, out=False)
