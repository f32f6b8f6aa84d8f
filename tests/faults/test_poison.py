"""A loss or gradient that is no number any more stops the run and keeps the last good checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fourfold
from children import Nursery
from runs import last_step, logged, state


def poisoned(nursery: Nursery, folder: Path, *arguments: str) -> str:
    """Fit on data that are poisoned from epoch 3 on: step 13. The one sentence that is said."""
    line = ["fit", "faulty", "--data.poisoned-from", "3", *arguments, "--out", folder]
    child = nursery.run(line)
    assert child.code == 2, child.stderr
    assert "Traceback" not in child.stderr
    said = [text for text in child.stderr.splitlines() if text.startswith("fourfold: ")]
    assert len(said) == 1, child.stderr
    return said[0]


def assert_good(folder: Path, done: int) -> None:
    """The run holds a checkpoint of this step, weights that are numbers, and verbs that work."""
    assert last_step(folder) == done and state(folder)["done"] == done
    assert [row["step"] for row in logged(folder) if "loss" in row] == list(range(1, 13))
    run = fourfold.open(folder)
    assert all(torch.isfinite(p).all() for p in run.model.parameters())
    assert 0 < run.evaluate()["loss"] < 100


def test_a_poisoned_batch(nursery: Nursery, tmp_path: Path) -> None:
    said = poisoned(nursery, tmp_path / "run", "--checkpoint-every", "5")
    assert "step 13: the loss (nan) is not finite" in said
    assert 'the data: "x" of this batch holds a value that is not finite' in said
    assert "the checkpoint of step 10 is kept" in said
    assert_good(tmp_path / "run", 10)


def test_the_gradient_alone(nursery: Nursery, tmp_path: Path) -> None:
    """Where every value is 0 the loss is a number, but the derivative of a root there is none."""
    said = poisoned(nursery, tmp_path / "run", "--no-data.nan", "--lengths")
    assert "step 13: the gradient is not finite" in said
    assert "the gradient of 0.weight" in said
    assert "the checkpoint of step 12 is kept" in said
    assert_good(tmp_path / "run", 12)


@pytest.mark.parametrize("accumulate", ["1", "3"])
def test_whatever_the_accumulation(nursery: Nursery, tmp_path: Path, accumulate: str) -> None:
    said = poisoned(nursery, tmp_path / "run", "--accumulate", accumulate)
    first = {"1": 25, "3": 10}[
        accumulate
    ]  # 8 batches an epoch; a step never crosses an epoch's end
    assert f"step {first}: the loss (nan)" in said


def test_before_the_first_checkpoint(nursery: Nursery, tmp_path: Path) -> None:
    said = poisoned(nursery, tmp_path / "run", "--checkpoint-every", "1000")
    assert "no checkpoint had been written yet" in said


def test_in_a_game(nursery: Nursery, tmp_path: Path) -> None:
    child = nursery.run(["fit", "duel", "--data.poisoned-from", "3", "--out", tmp_path / "run"])
    assert child.code == 2
    assert "step 13: the loss (nan) is not finite" in child.stderr
    assert last_step(tmp_path / "run") == 12


def test_goes_on_once_the_data_are_good(nursery: Nursery, tmp_path: Path) -> None:
    """After a mend of the data the run goes on exactly as if nothing had been."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert nursery.run(["fit", "faulty", "--out", whole]).code == 0
    poisoned(nursery, parts)
    toml = parts / "system.toml"
    toml.write_text(toml.read_text().replace("poisoned_from = 3", f"poisoned_from = {10**9}"))
    resumed = nursery.run(["fit", "--resume", parts])
    assert resumed.code == 0, resumed.stderr
    assert (whole / "weights.safetensors").read_bytes() == (
        parts / "weights.safetensors"
    ).read_bytes()
    assert logged(whole) == logged(parts)
