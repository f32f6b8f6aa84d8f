"""Configurations as files: a run's `system.toml` makes the run again; one written by hand says what differs."""

from __future__ import annotations

from pathlib import Path

import pytest

import fourfold
from faulty import register_all
from fourfold.cli import main


def test_system_toml_reproduces_the_run(tmp_path: Path) -> None:
    register_all()
    line = [
        "faulty",
        "--steps",
        "12",
        "--lr",
        "0.05",
        "--no-lengths",
        "--clip",
        "none",
        "--seed",
        "3",
        "--quiet",
    ]
    main(["fit", *line, "--out", str(tmp_path / "a")])
    main(["fit", str(tmp_path / "a" / "system.toml"), "--quiet", "--out", str(tmp_path / "b")])
    main(
        [
            "fit",
            str(tmp_path / "b" / "system.toml"),
            "--quiet",
            "--seed",
            "4",
            "--out",
            str(tmp_path / "c"),
        ]
    )
    a, b, c = ((tmp_path / n / "weights.safetensors").read_bytes() for n in "abc")
    assert a == b != c
    assert fourfold.open(tmp_path / "a").system == fourfold.open(tmp_path / "b").system


def test_system_toml_reproduces_a_run_that_began_from_another(tmp_path: Path) -> None:
    register_all()
    quiet = ["--steps", "6", "--quiet", "--out"]
    main(["fit", "faulty", *quiet, str(tmp_path / "first")])
    main(["fit", "faulty", "--from", str(tmp_path / "first"), *quiet, str(tmp_path / "a")])
    main(["fit", str(tmp_path / "a" / "system.toml"), "--quiet", "--out", str(tmp_path / "b")])
    a, b = ((tmp_path / n / "weights.safetensors").read_bytes() for n in "ab")
    assert a == b


def test_a_toml_written_by_hand(tmp_path: Path) -> None:
    register_all()
    path = tmp_path / "mine.toml"
    path.write_text(
        'system = "faulty"\n[options]\ndropout = 0.1\noptimizer.steps = 4\n[fit]\nseed = 5\n'
    )
    main(["fit", str(path), "--quiet", "--out", str(tmp_path / "run")])
    run = fourfold.open(tmp_path / "run")
    assert run.seed == 5 and run.system.dropout == 0.1  # type: ignore[attr-defined]
    assert run.system.optimizer.ema == 0.9  # the system's own default  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('system = "faulty"\n[options]\ndropuot = 1', "unknown option dropuot of faulty; did you mean dropout?"),
        ('system = "faulty"\n[option]\ndropout = 1', "unknown key option; did you mean options?"),
        ('system = "faulti"', "faulti: no such system; did you mean faulty?"),
        ("[options]", "names no system"),
        ('system = "faulty"\n[options]\ndropout = ', "not valid TOML: Invalid value (at end of document)"),
        ('system = "faulty"\n[options.optimizer]\nlr = -1', "mine.toml: optimizer.lr: expected greater than 0"),
        ('system = "faulty"\n[fit]\nsede = 1', "unknown key fit.sede; did you mean seed?"),
        ('system = "faulty"\noptions = 3', "options"),
    ],
)  # fmt: skip
def test_wrong_toml(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    register_all()
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(SystemExit) as stopped:
        main(["fit", str(tmp_path / "mine.toml"), "--quiet", "--out", str(tmp_path / "run")])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and message in said and said.count("\n") == 1
    assert "mine.toml" in said or "no such system" in said
