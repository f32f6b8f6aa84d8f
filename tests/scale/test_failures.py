"""One process of several fails, dies or hangs: the job ends, and says which and why; torchrun's restart goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fourfold
from children import Nursery
from faulty import register_all
from runs import last_step, lines, logged

ENDED = 30
"""Seconds within which a job with a failed process must end."""


@pytest.fixture(autouse=True)
def systems() -> None:
    """The test systems, known in this process too."""
    register_all()


def test_a_rank_that_raises_ends_the_job_with_its_traceback(
    nursery: Nursery, tmp_path: Path
) -> None:
    children = nursery.ranks(3, ["fit", "faulty", "--failing-from", "2", "--out", tmp_path / "run"])
    began = time.monotonic()
    assert [c.wait() for c in children] == [1, 1, 1]
    assert time.monotonic() - began < ENDED
    said = [c.stderr for c in children]
    assert "RuntimeError: this rank fails on purpose" in said[1]
    assert all("Traceback" not in said[r] and "RuntimeError" not in said[r] for r in (0, 2)), said
    assert last_step(tmp_path / "run") > 0


def test_a_rank_that_hangs_is_named_with_the_sum_that_waits(
    nursery: Nursery, tmp_path: Path
) -> None:
    given = ["--failing-from", "2", "--failing", "sleep", "--parallel.timeout", "2"]
    children = nursery.ranks(2, ["fit", "faulty", *given, "--out", tmp_path / "run"])
    began = time.monotonic()
    assert [c.wait() for c in children] == [1, 1]
    assert time.monotonic() - began < ENDED
    said = "".join(c.stderr for c in children)
    steps = lines(tmp_path / "run") and max(row["step"] for row in logged(tmp_path / "run"))
    assert said.count("waited") == 1 and "Traceback" not in said, said
    assert "rank 0 waited" in said and f"after step {steps}; not there: rank 1" in said, said
    assert "in the sum of the gradients" in said or "move" in said


@pytest.mark.parametrize("killed", [0, 1])
def test_a_rank_that_is_killed_is_named(nursery: Nursery, tmp_path: Path, killed: int) -> None:
    """Rank 0 too, which takes the place where ranks meet with it."""
    folder = tmp_path / "run"
    children = nursery.ranks(2, ["fit", "faulty", "--data.pause", "0.01", "--steps", "2000", "--out", folder])  # fmt: skip
    children[0].until(lambda: lines(folder) > 5)
    children[killed].kill()
    began = time.monotonic()
    left = children[1 - killed]
    assert left.wait() == 1 and time.monotonic() - began < ENDED
    said = [line for line in left.stderr.splitlines() if line.startswith("fourfold: ")]
    assert len(said) == 1 and f"rank {killed}" in said[0] and "is gone" in said[0], left.stderr
    assert f"rank {1 - killed} waited" in said[0]
    assert "Traceback" not in left.stderr
    assert nursery.run(["fit", "--resume", folder, "--steps", "20"]).code == 0


def test_a_signal_to_one_rank_stops_all(nursery: Nursery, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    children = nursery.ranks(2, ["fit", "faulty", "--data.pause", "0.01", "--steps", "2000", "--out", folder])  # fmt: skip
    children[0].until(lambda: lines(folder) > 5)
    children[1].send(signal.SIGTERM)
    assert [c.wait() for c in children] == [143, 143]
    assert "--resume" in children[0].stderr and not children[1].stderr
    assert last_step(folder) == logged(folder)[-1]["step"]


def torchrun(*arguments: str | Path, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """torchrun on two processes of a program that knows the test systems."""
    runner = Path("runner.py")
    runner.write_text(
        "import os, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "open(f'pid-{os.environ[\"RANK\"]}-{os.environ[\"TORCHELASTIC_RESTART_COUNT\"]}', 'w').write(str(os.getpid()))\n"
        "from faulty import register_all\n"
        "register_all()\n"
        "from fourfold.cli import main\n"
        "main()\n"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options, runner,
         *arguments],
        stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


@pytest.mark.slow
def test_torchrun_restarts_a_killed_rank_from_the_last_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    job = torchrun(
        "fit", "faulty", "--data.pause", "0.02", "--steps", "60", "--dropout", "0", "--out", folder,
        options=("--max-restarts", "1"),
    )  # fmt: skip
    limit = time.monotonic() + 120
    while last_step(folder) < 6:
        assert job.poll() is None and time.monotonic() < limit, job.communicate()[1]
        time.sleep(0.01)
    os.kill(int(Path("pid-1-0").read_text()), signal.SIGKILL)
    _, said = job.communicate(timeout=180)
    assert job.returncode == 0, said
    assert Path("pid-0-1").exists(), "torchrun did not restart"
    rows = [row for row in logged(folder) if "lr" in row]
    assert [row["step"] for row in rows] == list(range(1, 61))
    whole = fourfold.fit("faulty", out=tmp_path / "whole", steps=60, dropout=0)
    there = {row["step"]: row["loss"] for row in whole.metrics.lines if "loss" in row}
    assert all(row["loss"] == pytest.approx(there[row["step"]], rel=1e-4) for row in rows)


@pytest.mark.slow
def test_torchrun_shows_the_traceback_of_the_rank_that_failed() -> None:
    job = torchrun("fit", "faulty", "--failing-from", "2", "--out", "run")
    began = time.monotonic()
    _, said = job.communicate(timeout=120)
    assert job.returncode == 1 and time.monotonic() - began < 60
    assert said.count("RuntimeError: this rank fails on purpose") >= 1
    assert "Root Cause" in said and "rank      : 1" in said.split("Root Cause")[1]


@pytest.mark.slow
def test_torchrun_shows_the_sentence_of_wrong_input() -> None:
    job = torchrun("fit", "rows", "--data.batch", "1", "--out", "run")
    _, said = job.communicate(timeout=120)
    assert job.returncode == 1
    assert said.count("fourfold: 2 processes cannot share a batch of 1") == 1
    cause = said.split("Root Cause")[1]
    assert "UserError: 2 processes cannot share a batch of 1" in cause and "File " not in cause, (
        cause
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")
def test_two_network_namespaces_are_two_machines(tmp_path: Path) -> None:
    """Two hosts of their own, joined by a virtual cable; skipped where the system does not allow them."""
    program = Path(__file__).with_name("two_machines.sh")
    outcome = subprocess.run(
        ["unshare", "-rnm", "bash", program, sys.executable, str(tmp_path / "run")],
        capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    if outcome.returncode == 77 or "unshare" in outcome.stderr:
        pytest.skip(f"no network namespaces here: {outcome.stderr.strip()[-120:]}")
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert fourfold.open(tmp_path / "run").about["finished"]
