"""SIGTERM and Ctrl-C: a checkpoint, the conventional exit code, and a run that goes on exactly."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fourfold
from children import Nursery
from runs import assert_same_run, last_step, lines, logged

ARGUMENTS = ["faulty", "--data.pause", "0.002", "--checkpoint-every", "1000"]


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
@pytest.mark.parametrize("after", [2, 25])
def test_a_signal_writes_a_checkpoint(
    nursery: Nursery, tmp_path: Path, signum: int, code: int, after: int
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert nursery.run(["fit", *ARGUMENTS, "--out", whole]).code == 0
    child = nursery.start(["fit", *ARGUMENTS, "--out", parts])
    child.until(lambda: lines(parts) >= after)
    child.send(signum)
    assert child.wait() == code
    said = child.stderr.strip().splitlines()
    assert "stopped after step" in said[-1] and "--resume" in said[-1]
    assert "Traceback" not in child.stderr

    stopped = last_step(parts)
    assert 0 < stopped < 60 and stopped == logged(parts)[-1]["step"]
    run = fourfold.open(parts)
    assert run.double(4) == 8
    assert run.evaluate()["loss"] > 0  # before the first evaluation as well as after

    resumed = nursery.run(["fit", "--resume", parts])
    assert resumed.code == 0, resumed.stderr
    assert_same_run(whole, parts)


def test_stopped_again_and_again(nursery: Nursery, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert nursery.run(["fit", *ARGUMENTS, "--out", whole]).code == 0
    child = nursery.start(["fit", *ARGUMENTS, "--out", parts])
    for after in (10, 20, 45):
        child.until(lambda: lines(parts) >= after)  # noqa: B023
        child.send(signal.SIGTERM)
        assert child.wait() == 143
        child = nursery.start(["fit", "--resume", parts])
    assert child.wait() == 0, child.stderr
    assert_same_run(whole, parts)


def test_ctrl_c_while_the_data_is_read(nursery: Nursery, tmp_path: Path) -> None:
    child = nursery.start(["fit", "faulty", "--data.opening", "20", "--out", tmp_path / "run"])
    assert child.until(lambda: "opening" in child.stderr)
    child.send(signal.SIGINT)
    assert child.wait() == 130
    assert "Traceback" not in child.stderr
    assert not (tmp_path / "run" / "system.toml").exists()


def test_the_real_command(tmp_path: Path) -> None:
    """A process of its own, stopped as a terminal's Ctrl-C stops it."""
    runner = tmp_path / "runner.py"
    runner.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from faulty import register_all\n"
        "register_all()\n"
        "from fourfold.cli import main\n"
        "main()\n"
    )
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, runner, "fit", *ARGUMENTS, "--steps", "5000", "--out", folder],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while lines(folder) < 3:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped after step" in said and "Traceback" not in said
    assert last_step(folder) > 0
