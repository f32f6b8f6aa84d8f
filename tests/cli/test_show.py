"""`list`, `runs`, `show`, `doctor`, `completion`, and the overview."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

import fourfold
from lines import Command


def test_the_overview(command: Command) -> None:
    for line in ([], ["--help"], ["-h"]):
        shown = command(*line)
        assert shown.code == 0 and fourfold.__version__ in shown.out
        for word in ("fit", "runs", "doctor", "evaluate", "talker", "Says things."):
            assert word in shown.out
    assert command("--version").out == f"{fourfold.__version__}\n"


def test_list(command: Command) -> None:
    shown = command("list").out
    assert (
        "talker" in shown
        and "reads words" in shown
        and "verbs: break_, count, double, draw" in shown
    )
    rows = {row["name"]: row for row in json.loads(command("list", "--json").out)}
    assert rows["talker"]["reads"] == "words" and "say" in rows["talker"]["verbs"]
    assert "linear" in rows and rows["linear"]["source"]
    assert "--jsno" in command("list", "--jsno").sentence


def test_runs(command: Command, run_folder: Path) -> None:
    assert "No run in runs/ yet" in command("runs").out
    assert json.loads(command("runs", "--json").out) == []
    shutil.copytree(run_folder, "runs/talker-1")
    shutil.copytree(run_folder, "runs/talker-2", ignore=shutil.ignore_patterns("report.html"))
    toml = Path("runs/talker-2/system.toml")
    toml.write_text(toml.read_text().replace("finished = true", "finished = false"))
    shutil.copytree(run_folder, "runs/broken-1")
    Path("runs/broken-1/system.toml").write_text("[")
    Path("runs/no-run").mkdir()
    shutil.copytree(run_folder, "runs/cut-1")
    weights = Path("runs/cut-1/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    os.utime("runs/cut-1/system.toml", (time.time() - 5,) * 2)
    for age, name in ((30, "talker-1"), (20, "talker-2"), (10, "broken-1")):
        os.utime(f"runs/{name}/system.toml", (time.time() - age,) * 2)
    shown = command("runs").out.splitlines()
    assert shown[0].split() == ["run", "system", "state", "step", "result", "trained"]
    assert [line.split()[:3] for line in shown[1:]] == [
        ["runs/talker-1", "talker", "finished"],
        ["runs/talker-2", "talker", "unfinished"],
        ["runs/broken-1", "?", "damaged"],
        ["runs/cut-1", "talker", "damaged"],
    ]
    rows = json.loads(command("runs", "--json").out)
    assert rows[0]["step"] == 6 and rows[0]["result"].startswith("valid.loss ")
    assert len(command("runs", "runs").out.splitlines()) == 5
    assert command("runs", "nowhere").sentence == "nowhere: no such folder"


def test_show(command: Command, run_folder: Path) -> None:
    assert "last: no run in runs/ yet" in command("show", "last").sentence
    shutil.copytree(run_folder, "runs/talker-1")
    for line in (["show", "last"], ["show"], ["show", "talker-1"], ["show", "runs/talker-1"]):
        shown = command(*line).out
        assert "talker" in shown and "folder   runs/talker-1" in shown and "evaluate" in shown
    content = json.loads(command("show", "last", "--json").out)
    assert content["system"] == "talker" and content["options"]["width"] == 4
    assert content["last"][0]["step"] == 6
    assert "did you mean talker-1?" in command("show", "talkre-1").sentence


def test_doctor(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    shown = command("doctor")
    assert shown.code == 0 and torch.__version__ in shown.out
    facts = json.loads(command("doctor", "--json").out)
    assert {"python", "torch", "device", "bf16", "compiler", "cache", "data", "gpu"} <= set(facts)
    assert facts["cache"] == os.environ["FOURFOLD_CACHE"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(command: Command, shell: str, tmp_path: Path) -> None:
    script = command("completion", shell).out
    for word in ("fit", "talker", "--optimizer.lr", "say", "--times", "doctor"):
        assert word in script, word
    if shutil.which(shell):
        path = tmp_path / "script"
        path.write_text(script)
        checked = subprocess.run([shell, "-n", str(path)], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr


def test_completion_of_other_shells(command: Command) -> None:
    assert (
        command("completion", "bsh").sentence == "completion bsh: no such shell; did you mean bash?"
    )
    assert "SHELL" in command("completion").sentence


@pytest.mark.parametrize("name", ["list", "runs", "show", "doctor", "completion"])
def test_help_of_commands(command: Command, name: str) -> None:
    shown = command(name, "--help")
    assert shown.code == 0 and f"fourfold {name}" in shown.out
