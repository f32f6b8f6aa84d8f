"""Early stopping."""

from __future__ import annotations

import math
from pathlib import Path

import torch

import fourfold
from faulty import FaultySystem, register_all
from fourfold import api
from fourfold.optimizers.stopping import Stopping


def test_patience_counts_evaluations_without_a_better_one() -> None:
    stopping = Stopping(2)
    values = [5.0, 4.0, 4.0, 3.0, 3.5, 3.0]
    assert [stopping.improved(v, i) for i, v in enumerate(values)] == [
        True,
        True,
        False,
        True,
        False,
        False,
    ]
    assert (stopping.best, stopping.best_step, stopping.waited) == (3.0, 3, 2)
    assert stopping.stop and not Stopping(None).stop


def test_what_is_no_number_is_no_better() -> None:
    stopping = Stopping(1)
    assert not stopping.improved(math.nan, 1) and stopping.stop


def test_goes_on_from_its_state() -> None:
    stopping, again = Stopping(3), Stopping(3)
    for step, value in enumerate([2.0, 3.0, 3.0]):
        stopping.improved(value, step)
    again.load_state_dict(stopping.state_dict())
    assert not again.stop
    again.improved(9.0, 3)
    assert again.stop and again.best == 2.0


def test_a_run_that_was_out_of_patience_takes_no_further_step(tmp_path: Path) -> None:
    register_all()
    stopped = fourfold.fit(
        FaultySystem(), out=tmp_path / "run", steps=400, lr=1.5, clip=None, schedule="constant",
        patience=2, evaluate_every="2", checkpoint_every="1",
    )  # fmt: skip
    last = stopped.metrics.lines[-1]["step"]
    assert last < 400
    assert f"Stopped early after step {last}: 2 evaluations without a better one." in stopped.notes
    log = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    weights = (tmp_path / "run" / "weights.safetensors").read_bytes()
    for _ in range(2):
        resumed = api.resume(tmp_path / "run")
        assert resumed.metrics.lines[-1]["step"] == last
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == log
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == weights
    best = min(stopped.metrics.series("valid.loss")[1])
    found = fourfold.core.evaluation.measure(  # type: ignore[attr-defined]
        resumed.objective, resumed.model, resumed.data, "valid", torch.device("cpu")
    )
    assert found["loss"] == best
