"""The controller against the paper's recurrence, and in a search."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, Move, Objective
from fourfold.optimizers.control import Control, Controller


class Weighted(Objective):
    """An objective with numbers to move."""

    beta: float = 0.25
    kind_of: str = "no number"

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        yield Move("model", torch.zeros(()), 1.0)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=30), st.floats(0.001, 0.1), st.floats(0, 0.01))  # fmt: skip
def test_steps_are_those_of_the_paper(measured: list[float], kp: float, ki: float) -> None:
    """Within the limits: beta(t) = Kp / (1 + exp(e)) - Ki sum_j e(j) + beta_min."""
    control = Control(setpoint=10.0, proportional=kp, integral=ki, least=0.5, most=1e6, start=1e3)
    controller = Controller(control, Weighted())
    errors = np.array([10.0 - m for m in measured])
    expected = kp / (1 + np.exp(errors)) - ki * np.cumsum(errors) + 1e3 + 0.5
    found = [controller.step(value) for value in measured]
    assert found == pytest.approx(expected.tolist(), abs=1e-9)


def test_within_its_limits_nothing_is_held() -> None:
    control = Control(setpoint=5.0, proportional=0.01, integral=0.001, least=0.0, most=10.0, start=1.0)  # fmt: skip
    controller = Controller(control, Weighted())
    total = 1.0
    for measured in (3.0, 8.0, 5.0, 20.0):
        error = 5.0 - measured
        total -= 0.001 * error
        assert controller.step(measured) == pytest.approx(0.01 / (1 + math.exp(error)) + total)


def test_at_a_limit_the_sum_stands_still_and_comes_back() -> None:
    control = Control(setpoint=0.0, proportional=0.0, integral=0.1, least=0.0, most=1.0)
    controller = Controller(control, Weighted())
    for _ in range(1000):  # far above what was set: the weight grows to its limit
        controller.step(5.0)
    assert controller.value == 1.0 and controller.sum < 1.6
    assert [controller.step(-2.0) for _ in range(8)][-1] < 0.2  # it need not wind back first
    for _ in range(1000):  # far below: the weight falls to its lower limit
        controller.step(-5.0)
    assert controller.value == 0.0 and controller.sum > -0.6
    assert [controller.step(2.0) for _ in range(8)][-1] > 0.8


@given(st.floats(1, 5))
def test_a_measure_that_falls_with_the_number_comes_to_what_was_set(goal: float) -> None:
    control = Control(setpoint=goal, proportional=0.05, integral=0.02, most=100.0)
    controller = Controller(control, Weighted())
    measured = 50.0
    for _ in range(4000):
        beta = controller.step(measured)
        measured += 0.2 * (6.0 / (0.2 + beta) - measured)
    assert measured == pytest.approx(goal, rel=0.02)


def test_a_number_that_raises_its_measure_is_lowered() -> None:
    """A learning rate under a measure that grows with it, answered to in proportion."""
    control = Control(
        moves="optimizer.lr", setpoint=1.0, proportional=0.01, integral=0.01, start=1.0,
        least=1e-6, most=10.0, shape="linear", lowers=False,
    )  # fmt: skip
    controller = Controller(control, Weighted())
    measured = 4.0
    for _ in range(2000):
        measured = 4.0 * controller.step(measured)
    assert measured == pytest.approx(1.0, rel=1e-3)
    assert controller.factor(0.5) == pytest.approx(0.25 / 0.5, rel=1e-3)


def test_what_cannot_be_moved_is_said() -> None:
    for name, hint in (("objective.bet", "objective.beta"), ("objective.kind_of", ""), ("model.x", "")):  # fmt: skip
        with pytest.raises(UserError, match=f"moves {name}: no number of this objective.*{hint}"):
            Controller(Control(moves=name, setpoint=1.0), Weighted())
    with pytest.raises(UserError, match="setpoint: expected the value that kl is to come to"):
        Controller(Control(), Weighted())
    controller = Controller(Control(setpoint=1.0), Weighted())
    with pytest.raises(
        UserError, match="measure kl: this objective logs no such number; did you mean klx"
    ):
        controller.heard({"klx": 1.0})
    with pytest.raises(ValueError, match="least: expected below most"):
        Control(least=2.0)


def test_any_number_of_any_search_is_moved(tmp_path: Path) -> None:
    """The learning rate of a regression, so that its loss comes to what was set; resumed it goes on the same."""
    x = np.random.default_rng(0).normal(size=(64, 2))
    table = {"a": x[:, 0], "b": x[:, 1], "y": x @ [1.0, -2.0]}
    control = {"moves": "optimizer.lr", "measure": "loss", "setpoint": 0.0, "start": 0.02, "integral": 0.0, "proportional": 0.0}  # fmt: skip
    options = {"optimizer": "gradient", "optimizer.control": control, "optimizer.steps": 8, "target": "y", "optimizer.schedule": "constant"}  # fmt: skip
    run = fourfold.fit("linear", table, out=tmp_path / "run", **options)
    rates = [line["lr"] for line in run.metrics.lines if "lr" in line]
    assert rates[-1] == pytest.approx(0.02)
