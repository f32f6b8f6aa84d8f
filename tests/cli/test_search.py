"""`fourfold search` and `fit --folds` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import fourfold
from lines import Command
from tables import numbers

pytest.importorskip("optuna")


@pytest.fixture
def table() -> Path:
    path = Path("numbers.csv")
    numbers(80).write_csv(path)
    return path


RIDGE = ["--target", "y", "--space", "ridge=1e-2..1e3:log", "--out", "run"]


def test_a_search_says_what_it_found(command: Command, table: Path) -> None:
    ended = command("search", "linear", table, *RIDGE, "--trials", "3")
    assert ended.code == 0 and ended.out.startswith("best mse of 3 trials: ")
    assert "Trial 3: mse" in ended.err and "its report: run/report.html" in ended.err
    assert "More trials: fourfold search --resume run --trials 6" in ended.err
    more = command("search", "--resume", "run", "--trials", "5", "--json")
    assert more.code == 0
    told = json.loads(more.out.splitlines()[-1])
    assert told["event"] == "end" and told["trials"] == 5 and told["run"] == "run"
    assert list(told["options"]) == ["optimizer.ridge"]
    run = fourfold.open("run")
    assert run.system.optimizer.ridge == told["options"]["optimizer.ridge"]  # type: ignore[attr-defined]
    assert run.about["command"].startswith("fourfold search ")


def test_help_says_what_is_searched(command: Command) -> None:
    assert "fourfold search --resume RUN" in command("search").out
    text = command("search", "mlp", "--help").out
    for word in (
        "--trials",
        "--space",
        "--outer",
        "--storage",
        "--optimizer.lr",
        "optimizer.lr=5e-4..2e-2:log",
    ):
        assert word in text
    assert "--seeds" not in text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["search", "--trials", "3"], "the system comes first: fourfold search SYSTEM"),
        (["search", "linaer"], "linaer: no such system; did you mean linear"),
        (["search", "linear", "--trials", "many"], "--trials: expected a whole number, got 'many'"),
        (["search", "linear", "--trials", "0"], "--trials: expected 1 or more, got 0"),
        (["search", "perceptron", "--target", "y"], "perceptron has nothing left to search"),
        (["search", "--resume", "nowhere"], "nowhere: holds no search"),
        (["fit", "linear", "--repeats", "2"], "--repeats goes with --folds"),
        (["fit", "linear", "--folds", "1"], "--folds: expected 2 or more, got 1"),
        (["fit", "linear", "--folds", "3", "--seeds", "2"], "--repeats does both"),
        (["fit", "linear", "--folds", "3", "--valid", "x.csv"], "--valid does not go with it"),
        (["fit", "talker", "--folds", "3"], "--folds is for tables; talker reads"),
    ],
)
def test_bad_lines(command: Command, line: list[str], said: str) -> None:
    assert said in command(*line).sentence


def test_folds_are_said_with_mean_and_deviation(command: Command, table: Path) -> None:
    ended = command("fit", "linear", table, "--target", "y", "--folds", "3", "--out", "run")
    assert ended.code == 0
    assert "Fold 1/3: rmse" in ended.err and "over 3 folds" in ended.err and "±" in ended.err
    told = json.loads(Path("run/folds.json").read_text())
    assert len(told["scores"]) == 3 and fourfold.open("run/folds/2").about["finished"]
    again = command("fit", "linear", table, "--target", "y", "--folds", "3", "--out", "run")
    assert "run: holds a run already" in again.sentence
    as_json = command(
        "fit", "linear", table, "--target", "y", "--folds", "2", "--out", "b", "--json"
    )
    end = json.loads(as_json.out.splitlines()[-1])
    assert end["folds"]["rmse"]["mean"] > 0 and end["runs"] == ["b"]


def test_intervals_and_sets_from_the_command_line(command: Command, table: Path) -> None:
    command("fit", "linear", table, "--target", "y", "--out", "run", "--quiet")
    ended = command("predict", "run", table, "--interval", "0.5", "--out", "new.csv")
    assert ended.code == 0 and "Intervals at 0.5 from 8 validation rows." in ended.err
    assert Path("new.csv").read_text().splitlines()[0].endswith("prediction,lower,upper")
    assert (
        "--interval: expected less than 1"
        in command("predict", "run", table, "--interval", "2").sentence
    )
