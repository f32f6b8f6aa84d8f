"""`fourfold fit` from the command line: what it says, to whom, and how it ends."""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path

import pytest

import fourfold
from lines import Command

FAST = ["--steps", "6", "--out", "run"]


def test_a_fit_says_what_and_where(command: Command) -> None:
    ended = command("fit", "talker", *FAST)
    assert ended.code == 0 and ended.out == ""
    assert "talker · the embedded data: 6 steps" in ended.err
    assert "evaluated at step 4" in ended.err and "valid.loss: " in ended.err
    assert "The run is in run; its report: run/report.html" in ended.err
    assert "Next: fourfold " in ended.err
    run = fourfold.open("run")
    assert run.about["command"] == "fourfold fit talker --steps 6 --out run"
    assert Path("run/report.html").is_file()


def test_without_out_runs_are_numbered(command: Command) -> None:
    for _ in range(2):
        command("fit", "talker", "--steps", "2", "--quiet")
    assert sorted(p.name for p in Path("runs").iterdir()) == ["talker-1", "talker-2"]


def test_quiet_is_silent(command: Command) -> None:
    ended = command("fit", "talker", *FAST, "--quiet")
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    refused = command("fit", "talker", *FAST, "--quiet")
    assert "run: holds a run already; --resume run goes on with it" in refused.sentence


def test_json_is_one_object_a_line(command: Command) -> None:
    ended = command("fit", "talker", *FAST, "--json")
    assert ended.code == 0 and ended.err == ""
    events = [json.loads(line) for line in ended.out.splitlines()]
    assert [e["event"] for e in events][0] == "start" and events[-1]["event"] == "end"
    steps = [e for e in events if e["event"] == "step"]
    assert (
        steps[-1]["step"] == 6 and steps[-1]["progress"] == 1.0 and steps[-1]["values"]["loss"] > 0
    )
    assert events[-1]["runs"] == ["run"]
    evaluations = [e["values"]["loss"] for e in events if e["event"] == "evaluation"]
    assert events[-1]["results"][0]["valid.loss"] == min(evaluations)


def test_an_error_under_json_is_still_one_line(command: Command) -> None:
    ended = command("fit", "talker", "--lr", "0", "--json")
    assert ended.code == 2
    lines = [*ended.out.splitlines(), *ended.err.splitlines()]
    assert len(lines) == 1 and "--optimizer.lr: expected greater than 0" in lines[0]


def test_a_dry_run_trains_nothing(command: Command, tmp_path: Path) -> None:
    ended = command("fit", "talker", "--dry-run")
    assert ended.code == 0 and not list(tmp_path.rglob("system.toml"))
    for word in (
        "talker: 21 parameters",
        "train 64",
        "memory, optimizer",
        "memory, together",
        "a step:",
        "60 steps",
    ):
        assert word in ended.out
    plan = json.loads(command("fit", "talker", "--dry-run", "--json", "--minutes", "2").out)
    assert plan["parameters"] == 21 and plan["seconds"] == 120 and plan["steps"] > 100
    assert not list(tmp_path.rglob("*.safetensors"))


def test_several_seeds(command: Command) -> None:
    ended = command("fit", "talker", *FAST, "--seeds", "3", "--seed", "5", "--json")
    end = json.loads(ended.out.splitlines()[-1])
    assert end["runs"] == ["run-seed5", "run-seed6", "run-seed7"]
    values = [result["valid.loss"] for result in end["results"]]
    assert len(set(values)) == 3
    assert [fourfold.open(f).seed for f in end["runs"]] == [5, 6, 7]
    said = command("fit", "talker", "--steps", "6", "--seeds", "3", "--seed", "5").err
    mean, spread = statistics.fmean(values), statistics.stdev(values)
    assert f"valid.loss: {mean:.5g} ± {spread:.3g} over 3 seeds" in said


def test_sizes(command: Command) -> None:
    assert command("fit", "talker", "--size", "small", "--out", "a", "--quiet").code == 0
    assert (
        command(
            "fit",
            "talker",
            "--size",
            "small",
            "--width",
            "3",
            "--steps",
            "2",
            "--out",
            "b",
            "--quiet",
        ).code
        == 0
    )
    a, b = (fourfold.open(n).system for n in "ab")
    assert (a.width, a.optimizer.steps) == (2, 4)  # type: ignore[attr-defined]
    assert (b.width, b.optimizer.steps) == (3, 2)  # explicit flags win  # type: ignore[attr-defined]
    assert (
        "talker has no such size; did you mean small?"
        in command("fit", "talker", "--size", "smal").sentence
    )


def test_from_begins_on_old_weights(command: Command) -> None:
    command("fit", "talker", "--steps", "30", "--lr", "0.1", "--out", "a", "--quiet")
    assert (
        command("fit", "talker", "--from", "a", "--steps", "1", "--out", "b", "--quiet").code == 0
    )
    a, b = (fourfold.open(n) for n in "ab")
    assert b.system.optimizer.lr == 0.1 and b.about["from"] == str(Path("a").resolve())  # type: ignore[attr-defined]
    assert b.evaluate()["loss"] == pytest.approx(a.evaluate()["loss"], rel=0.2)
    assert "no-run: no such run" in command("fit", "talker", "--from", "no-run").sentence


def test_resume(command: Command) -> None:
    command("fit", "talker", *FAST, "--quiet")
    for line in (["fit", "talker", "--resume", "run", "--steps", "8"], ["fit", "--resume", "run", "--steps", "10"],
                 ["fit", "--resume=run", "--steps", "12"]):  # fmt: skip
        assert command(*line).code == 0
    assert fourfold.open("run").metrics.lines[-1]["step"] == 12


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--lr", "0.5"], "--resume goes on exactly, so optimizer.lr stays 0.02 (got 0.5)"),
        (["--seed", "1"], "--seed does not go with it"),
        (["--seeds", "2"], "--seeds does not go with it"),
        (["--out", "other"], "--out does not go with it"),
        (["--size", "small"], "--size does not go with it"),
        (["--from", "run"], "--from does not go with it"),
        (["--dry-run"], "--dry-run does not go with it"),
        (["--valid", "x"], "--valid does not go with it"),
        (["--widht", "3"], "--widht"),
    ],
)  # fmt: skip
def test_resume_refuses_what_would_change_it(
    command: Command, options: list[str], sentence: str
) -> None:
    command("fit", "talker", *FAST, "--quiet")
    before = Path("run/system.toml").read_text(), Path("run/metrics.jsonl").read_text()
    assert sentence in command("fit", "talker", "--resume", "run", *options).sentence
    assert (Path("run/system.toml").read_text(), Path("run/metrics.jsonl").read_text()) == before


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["fit", "talkre"], "talkre: no such system; did you mean talker?"),
        (["fit", "--steps", "3"], "fit: the system comes first"),
        (["fit", "talker", "--stesp", "3"], "--stesp. Did you mean --steps?"),
        (["fit", "nat", "--passes", "4"], "--passes: goes with fourfold translate RUN or fourfold evaluate RUN, not with fit"),
        (["fit", "talker", "--optimizer.stesp", "3"], "--optimizer.stesp. Did you mean --optimizer.steps?"),
        (["fit", "talker", "--steps"], "--steps"),
        (["fit", "talker", "--steps", "many"], "--optimizer.steps: expected a valid integer"),
        (["fit", "talker", "--steps", "0"], "--optimizer.steps: expected greater than 0"),
        (["fit", "talker", "--ema", "2"], "--optimizer.ema: expected less than 1"),
        (["fit", "talker", "--schedule", "cosin"], "--schedule"),
        (["fit", "talker", "--algorithm", "adan"], 'no torch optimizer is called "adan"; did you mean adam?'),
        (["fit", "talker", "--optimizer.arguments.momentum", "0.9"], 'AdamW has no argument "momentum"'),
        (["fit", "talker", "--minutes", "3", "--steps", "3"], "expected one budget"),
        (["fit", "talker", "--seed", "x"], "--seed: expected a whole number, got 'x'"),
        (["fit", "talker", "--seed", "-1"], "--seed: expected 0 or more, got -1"),
        (["fit", "talker", "--seeds", "0"], "--seeds: expected 1 or more, got 0"),
        (["fit", "talker", "--device", "tpu"], "--device tpu: no such device"),
        (["fit", "talker", "--evaluate-every", "often"], "--optimizer.evaluate-every: expected steps"),
        (["fit", "talker", "no-such-file"], "no-such-file"),
        (["fit", "no.toml"], "no.toml: no such file"),
        (["fit", "talker", "--out", "file"], "file: is a file; --out names a folder"),
        (["fit", "talker", "--out", "file/run"], "file is a file; --out names a folder"),
        (["fit", "--resume", "nothing"], "nothing: no such run"),
        (["fit", "talker", "--resume"], "--resume"),
        (["fti", "talker"], "fti: no such command or verb; did you mean fit?"),
    ],
)  # fmt: skip
def test_wrong_lines_end_in_one_sentence(
    command: Command, line: list[str], sentence: str, tmp_path: Path
) -> None:
    Path("file").write_text("")
    ended = command(*line)
    assert sentence in ended.sentence
    assert [p.name for p in tmp_path.rglob("*")] == ["file"], "something was written"


def test_options_below_a_dict(command: Command) -> None:
    line = ["fit", "talker", *FAST, "--quiet", "--algorithm", "sgd", "--optimizer.arguments.momentum", "0.9",
            "--optimizer.arguments.nesterov=true"]  # fmt: skip
    assert command(*line).code == 0
    assert fourfold.open("run").system.optimizer.arguments == {"momentum": 0.9, "nesterov": True}  # type: ignore[attr-defined]


def test_negative_numbers_and_none_are_values(command: Command) -> None:
    assert (
        command("fit", "talker", *FAST, "--quiet", "--clip", "none", "--patience", "None").code == 0
    )
    optimizer = fourfold.open("run").system.optimizer
    assert optimizer.clip is None and optimizer.patience is None  # type: ignore[attr-defined]
    assert "expected greater than 0, got '-1'" in command("fit", "talker", "--lr", "-1").sentence


def test_help_shows_every_field_with_default_and_unit(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")  # a narrow terminal breaks long names in two
    from fourfold.core.options import options
    from talkative import Talker

    shown = command("fit", "talker", "--help").out
    flat = " ".join(shown.replace("│", " ").split())
    for option in options(Talker).values():
        assert option.flag in shown, option.flag
        assert " ".join(option.help.split()[:3]) in flat, option.help
    for word in (
        "Model",
        "Data",
        "Optimizer",
        "Every fit",
        "--resume",
        "--seeds",
        "--dry-run",
        "[default: 0.02]",
        "[default: 60]",
    ):
        assert word in flat, word


def test_help_needs_no_data(command: Command) -> None:
    assert command("fit", "talker", "no-such-file", "--help").code == 0
    assert "talker" in command("fit", "--help").out and "talker" in command("fit").out


def test_tensorboard(command: Command) -> None:
    pytest.importorskip("tensorboard")
    assert command("fit", "talker", *FAST, "--quiet", "--tensorboard").code == 0
    assert list(Path("run").rglob("events.out.tfevents*"))


def test_an_option_that_is_a_word_or_a_dictionary_takes_both(command: Command) -> None:
    rows = "x,z,side\n" + "".join(f"{i % 7},{i % 3},{'ab'[i % 2]}\n" for i in range(60))
    Path("sides.csv").write_text(rows)
    small = ("--epochs", "1", "--width", "4", "--quiet", "--target", "side")
    for words in (
        ("--class-weights", "a=3"),
        ("--class-weights", '{"a": 3}'),
        ("--objective.class-weights.a", "3"),
    ):
        assert command("fit", "mlp", "sides.csv", *small, *words, "--out", "d").code == 0, words
        assert fourfold.open("d").system.objective.class_weights == {"a": 3.0}
        shutil.rmtree("d")
    assert (
        command("fit", "mlp", "sides.csv", *small, "--class-weights", "balanced", "--out", "d").code
        == 0
    )
    assert fourfold.open("d").system.objective.class_weights == "balanced"
    assert (
        command(
            "fit", "mlp", "sides.csv", *small, "--kinds", "x=category,z=drop", "--out", "e"
        ).code
        == 0
    )
    assert fourfold.open("e").system.data.kinds == {"x": "category", "z": "drop"}
    assert (
        command("fit", "mlp", "sides.csv", *small, "--class-weights", "balancd", "--out", "f").code
        == 2
    )
