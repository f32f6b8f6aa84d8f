"""Runs killed with SIGKILL at random times end exactly as one that was never killed."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

import fourfold
from children import BESIDE, Child, Nursery
from fourfold.core.evaluation import measure
from runs import assert_same_run, last_step, lines, logged, state

PAUSE = ["--data.pause", "0.002"]


def first_epoch(served: Path) -> int:
    """The epoch of the first training batch that a child took."""
    return int(served.read_text().split()[0]) if served.exists() else 0


def kill_at_random(
    child: Child, folder: Path, rng: random.Random, most: int, slack: float = 0.004
) -> bool:
    """Kill a child after a random number of further lines; False if it had ended before."""
    target = lines(folder) + rng.randint(1, most)
    # a resumed child first cuts the log back, so that the number of lines is a lower bound only
    child.until(lambda: lines(folder) >= target)
    time.sleep(rng.random() * slack)
    ended = child.ended
    child.kill()
    return not ended


def through_kills(
    nursery: Nursery, arguments: list[str], folder: Path, rng: random.Random, kills: int, most: int
) -> int:
    """Fit, kill and resume until the end; how many resumes began past the first epoch."""
    child = nursery.start(["fit", *arguments, "--out", folder])
    past = 0
    for number in range(kills):
        if not kill_at_random(child, folder, rng, most):
            break
        before = logged(folder)
        done = last_step(folder)
        served = folder.parent / f"served-{number}"
        child = nursery.start(["fit", "--resume", folder], SERVED=str(served))
        child.until(lambda: served.exists() and served.stat().st_size > 0)  # noqa: B023
        past += done > 0 and first_epoch(served) > 0
        child.until(lambda: lines(folder) >= len(before))  # noqa: B023
        # what was done again has the same losses and rates as before the kill
        assert logged(folder)[: len(before)] == before
    assert child.wait() == 0, child.stderr
    return past


@pytest.mark.parametrize("system", ["faulty", "duel"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_killed_run_ends_as_one_never_killed(
    nursery: Nursery, tmp_path: Path, system: str, seed: int
) -> None:
    arguments = [system, *PAUSE, "--seed", str(seed)]
    if seed:  # sums under way at a checkpoint, and evaluations that get worse
        arguments += ["--log-every", "2", "--lr", "0.3", "--schedule", "constant"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert nursery.run(["fit", *arguments, "--out", whole]).code == 0
    assert seed == 0 or state(whole)["stopping"]["waited"] > 0
    past = through_kills(
        nursery, arguments, parts, random.Random(seed), kills=3, most=20 - 8 * seed
    )
    assert past > 0, "no resume began past step 0"
    assert_same_run(whole, parts)


@pytest.mark.slow
@pytest.mark.parametrize("system", ["faulty", "duel"])
@pytest.mark.parametrize("seed", range(2, 8))
def test_many_kills(nursery: Nursery, tmp_path: Path, system: str, seed: int) -> None:
    rng = random.Random(seed)
    every = str(rng.choice([1, 2, 3, 7]))
    arguments = [system, *PAUSE, "--seed", str(seed), "--steps", "200", "--checkpoint-every", every]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert nursery.run(["fit", *arguments, "--out", whole]).code == 0
    assert through_kills(nursery, arguments, parts, rng, kills=12, most=30) > 0
    assert_same_run(whole, parts)


@pytest.mark.parametrize("checkpoints", ["3", "1000"])
def test_minutes_done_again_take_the_logged_progress(
    nursery: Nursery, tmp_path: Path, checkpoints: str
) -> None:
    arguments = ["faulty", *PAUSE, "--minutes", "0.012", "--checkpoint-every", checkpoints]
    folder = tmp_path / "run"
    past = through_kills(nursery, arguments, folder, random.Random(3), kills=3, most=25)
    assert (past > 0) == (checkpoints == "3")
    rows = [row for row in logged(folder) if "lr" in row]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert all(a["progress"] < b["progress"] for a, b in zip(rows, rows[1:], strict=False))
    assert rows[-1]["progress"] == 1.0 and rows[-1]["lr"] < 0.1 * 0.02


def test_killed_before_the_first_checkpoint(nursery: Nursery, tmp_path: Path) -> None:
    arguments = ["faulty", *PAUSE, "--checkpoint-every", "1000"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert nursery.run(["fit", *arguments, "--out", whole]).code == 0
    through_kills(nursery, arguments, parts, random.Random(1), kills=2, most=20)
    assert_same_run(whole, parts)


@pytest.mark.parametrize("environment", [{}, BESIDE], ids=["between", "beside"])
def test_killed_while_checkpoints_are_written(
    nursery: Nursery, tmp_path: Path, environment: dict[str, str]
) -> None:
    """With a checkpoint after every step most of the time goes into writing them."""
    arguments = ["faulty", "--checkpoint-every", "1", "--steps", "100", "--width", "2000"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert nursery.run(["fit", *arguments, "--out", whole]).code == 0
    rng = random.Random(0)
    child = nursery.start(["fit", *arguments, "--out", parts], **environment)
    kills = torn = 0
    while kill_at_random(child, parts, rng, most=12, slack=0.02):
        kills += 1
        torn += any(p.name.startswith(".") for p in parts.rglob(".*"))
        done = last_step(parts)
        opened = fourfold.open(parts)
        if done:
            assert state(parts)["done"] == done
            found = measure(
                opened.objective, opened.model, opened.examples(), "test", opened.device
            )
            assert found["loss"] > 0
        child = nursery.start(["fit", "--resume", parts], **environment)
        assert child.until(lambda d=done: last_step(parts) > d) or child.code == 0, child.stderr
    assert child.wait() == 0, child.stderr
    assert kills >= 3 and torn > 0, f"{kills} kills, {torn} of them during a write"
    assert_same_run(whole, parts)
    assert not [p for p in parts.rglob(".*")], "a killed process left its temporary files"


def test_killed_while_it_begins(nursery: Nursery, tmp_path: Path) -> None:
    """Whatever has a system.toml can be resumed; before that the folder can be fitted into."""
    arguments = ["faulty", "--steps", "4", "--checkpoint-every", "1"]
    rng = random.Random(0)
    begun = 0
    for number in range(6):
        folder = tmp_path / str(number)
        child = nursery.start(["fit", *arguments, "--out", folder])
        child.until(folder.exists)
        time.sleep(rng.random() * 0.03)
        child.kill()
        known = (folder / "system.toml").exists()
        begun += known
        again = ["--resume", folder] if known else [*arguments, "--out", folder]
        child = nursery.run(["fit", *again])
        assert child.code == 0, child.stderr
    assert begun > 0
    assert_same_run(tmp_path / "0", tmp_path / "5")


REAL = {
    "gpt": ["words.txt", "--unit", "character", "--window", "32", "--batch", "16", "--layers", "2", "--width", "48",
            "--heads", "2", "--ema", "0.9", "--accumulate", "2", "--decay", "0.1"],
    "gan": ["--batch", "32", "--noise-size", "8", "--width", "8"],
}  # fmt: skip


@pytest.mark.parametrize("system", REAL)
def test_real_systems(nursery: Nursery, tmp_path: Path, system: str) -> None:
    """The same for the systems that users name, on real preparation and real noise."""
    sums = (f"{a} and {b} make {a + b}." for a in range(30) for b in range(30))
    (tmp_path / "words.txt").write_text("\n".join(sums))
    often = [
        "--steps",
        "40",
        "--log-every",
        "1",
        "--checkpoint-every",
        "3",
        "--evaluate-every",
        "10",
    ]
    arguments = [system, *REAL[system], *often, "--precision", "float32"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert nursery.run(["fit", *arguments, "--out", whole]).code == 0
    rng, past = random.Random(5), 0
    child = nursery.start(["fit", *arguments, "--out", parts])
    for _ in range(2):
        if not kill_at_random(child, parts, rng, most=18):
            break
        before, done = logged(parts), last_step(parts)
        past += done > 0
        child = nursery.start(["fit", "--resume", parts])
        # it goes on at the checkpoint: of the log what came before that stays, the rest is made again
        child.until(lambda: len(logged(parts)) > len(before))  # noqa: B023
        assert logged(parts)[: len(before)] == before
    assert child.wait() == 0, child.stderr
    assert past > 0, "no resume began past step 0"
    assert_same_run(whole, parts)
