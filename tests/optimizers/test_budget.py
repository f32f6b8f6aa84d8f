"""Budgets: progress by steps, epochs and minutes, and the log from which minutes are done again."""

from __future__ import annotations

import array
import time
from pathlib import Path
from typing import Any

import pytest

import fourfold
from fourfold.core.errors import UserError
from fourfold.optimizers.budget import Budget
from helpers import RowsOptions, RowSystem


def test_steps() -> None:
    budget = Budget(4, None)
    seen = []
    for step in range(1, 6):
        budget.advance(step)
        seen.append((budget.progress, budget.spent))
    assert seen == [(0.25, False), (0.5, False), (0.75, False), (1.0, True), (1.0, True)]
    assert budget.total == "4 steps" and Budget(None, 2.5).total == "2.5 minutes"


@pytest.mark.parametrize(
    ("epochs", "batch", "accumulate", "steps"),
    [(1, 8, 1, 8), (3, 8, 1, 24), (2, 8, 3, 6), (1, 10, 1, 7), (0.5, 8, 1, 4), (2.25, 8, 1, 18), (0.01, 8, 1, 1)],
)  # fmt: skip
def test_epochs_are_counted_out_in_steps(
    epochs: float, batch: int, accumulate: int, steps: int
) -> None:
    data = RowsOptions(batch=batch).open(None)
    assert Budget.of(None, epochs, None, data, accumulate, None).steps == steps
    run = fourfold.fit(
        RowSystem(), out=False, epochs=epochs, accumulate=accumulate, data={"batch": batch}
    )
    assert run.metrics.lines[-1]["step"] == steps
    if epochs == 1:
        assert run.data.state_dict()["epoch"] == 0  # every example once


def test_only_the_time_between_start_and_pause_counts() -> None:
    budget = Budget(None, 1.0)
    budget.start()
    time.sleep(0.02)
    budget.pause()
    time.sleep(0.05)
    first = budget.elapsed()
    assert 0.02 <= first < 0.05
    budget.start()
    time.sleep(0.02)
    assert 0.04 <= budget.elapsed() < 0.07


def through(budget: Budget, first: int, last: int) -> list[float]:
    """Progress after each of some steps that take 2 ms each."""
    seen = []
    budget.start()
    for step in range(first, last + 1):
        time.sleep(0.002)
        budget.advance(step)
        seen.append(budget.progress)
    budget.pause()
    budget.close()
    return seen


def test_minutes_done_again_take_the_logged_progress(tmp_path: Path) -> None:
    first = Budget(None, 1.0, tmp_path / "log")
    first.begin()
    seen = through(first, 1, 4)
    state = first.state_dict()
    seen += through(first, 5, 9)  # after the checkpoint; then the process is killed

    again = Budget(None, 1.0, tmp_path / "log")
    again.load_state_dict(state, 4)
    assert again.progress == seen[3]
    redone = through(again, 5, 12)
    assert redone[:5] == seen[4:]
    assert all(a < b for a, b in zip(redone, redone[1:], strict=False))
    third = Budget(None, 1.0, tmp_path / "log")
    third.load_state_dict(state, 4)
    assert through(third, 5, 12) == redone


def test_killed_before_the_first_checkpoint_takes_the_logged_progress(tmp_path: Path) -> None:
    first = Budget(None, 1.0, tmp_path / "log")
    first.begin()
    seen = through(first, 1, 5)
    with (tmp_path / "log").open("ab") as file:
        file.write(b"\1\2\3")  # a torn value
    again = Budget(None, 1.0, tmp_path / "log")
    again.begin()
    assert through(again, 1, 7)[:5] == seen


def test_another_budget_keeps_the_time_and_forgets_the_log(tmp_path: Path) -> None:
    first = Budget(None, 1.0, tmp_path / "log")
    first.begin()
    seen = through(first, 1, 6)
    state = {**first.state_dict(), "seconds": 6.0}
    longer = Budget(None, 2.0, tmp_path / "log")
    longer.load_state_dict(state, 4)
    assert longer.progress == pytest.approx(6 / 120)
    values = through(longer, 5, 8)
    assert values[0] > 6 / 120 and values[0] != seen[4]
    again = Budget(None, 2.0, tmp_path / "log")
    again.load_state_dict({**state, "minutes": 2.0}, 6)
    assert through(again, 7, 8) == values[2:]


def test_minutes_after_steps(tmp_path: Path) -> None:
    """A run of steps is given minutes: its log has no values for the steps before."""
    budget = Budget(None, 1.0, tmp_path / "log")
    budget.load_state_dict({"seconds": 0.0, "progress": 0.5, "minutes": None}, 10)
    values = through(budget, 11, 14)
    again = Budget(None, 1.0, tmp_path / "log")
    again.load_state_dict({"seconds": 0.0, "progress": values[1], "minutes": 1.0}, 12)
    assert through(again, 13, 14) == values[2:]


def test_the_log_is_plain_numbers(tmp_path: Path) -> None:
    budget = Budget(None, 3.0, tmp_path / "log")
    budget.begin()
    seen = through(budget, 1, 3)
    budget.close()
    values: array.array[float] = array.array("d")
    values.frombytes((tmp_path / "log").read_bytes())
    assert list(values) == [3.0, *seen]


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    budget = Budget(None, 3.0, tmp_path / "log")
    budget.begin()
    (tmp_path / "log").unlink()
    (tmp_path / "log").mkdir()
    with pytest.raises(UserError, match="log: cannot be written"):
        budget.advance(1)


def test_schedules_follow_the_time() -> None:
    options: dict[str, Any] = {
        "minutes": 0.003,
        "schedule": "linear",
        "log_every": "1",
        "warmup": 0.0,
    }
    run = fourfold.fit(RowSystem(), out=False, **options)
    progress, rate = (run.metrics.series(name)[1] for name in ("progress", "lr"))
    assert rate[0] == 0.05 and progress[-1] == 1.0
    for before, lr in zip(progress, rate[1:], strict=False):
        assert lr == pytest.approx(0.05 * (1 - before))
