"""A controller that moves a number while it is searched, so that something measured comes to a value that was set.

ControlVAE: Shao et al. 2020, https://arxiv.org/abs/2004.05988, whose proportional-integral controller moves the weight of the
KL; here any number of the objective's, or the learning rate, and anything that the objective logs. For an error
e(t) = setpoint - measured(t), the number is P(t) + I(t) + least, held between least and most, where

    P(t) = proportional / (1 + exp(e(t)))        I(t) = I(t - 1) - integral e(t)

Departure: the sum stands still while the number is at a limit and the error pushes it further out, in either direction;
the paper lets it stand still whenever the number has left its limits, from where it need not come back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import NonNegativeFloat, model_validator

from fourfold.core.errors import UserError, nearest
from fourfold.core.parts import Objective, Part

RATE = "optimizer.lr"


class Control(Part):
    """Which number is moved, by what measure, towards which value of it."""

    moves: str = "objective.beta"
    """The number that is moved: a field of the objective, as objective.beta, or optimizer.lr (the peak of its schedule)."""
    measure: str = "kl"
    """What the objective logs at every step, as kl or loss, that is to come to the set value."""
    setpoint: float | None = None
    """The value that it is to come to; None takes the objective's own goal."""
    proportional: NonNegativeFloat = 0.01
    """How much the number answers to the present error; K_p of the paper."""
    integral: NonNegativeFloat = 1e-4
    """How much it answers to the sum of all errors; K_i of the paper."""
    start: float = 0.0
    """The sum to begin with, as a part of the number."""
    least: float = 0.0
    """The number's lower limit."""
    most: float = 1.0
    """The number's upper limit."""
    shape: Literal["sigmoid", "linear"] = "sigmoid"
    """How it answers to the present error: proportional / (1 + exp(e)) as in the paper, or -proportional e."""
    lowers: bool = True
    """Whether a larger number makes what is measured smaller, as a weight of the KL does; otherwise larger."""

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if not self.least < self.most:
            raise ValueError(f"least: expected below most ({self.most:g}), got {self.least:g}")
        return self


class Controller:
    """A control under way: its sum, and the number as it is now."""

    def __init__(self, control: Control, objective: Objective) -> None:
        """Find the number that is moved; nothing moves yet.

        Args:
            control: what is wanted.
            objective: prepared for the run.

        Raises:
            UserError: the objective has no such number, or no goal where none is set.
        """
        self.control = control
        goal = getattr(objective, "goal", None) if control.setpoint is None else control.setpoint
        if goal is None:
            raise UserError(
                f"--optimizer.control.setpoint: expected the value that {control.measure} is to come to"
            )
        self.setpoint = float(goal)
        self.sum = control.start
        self.value: float | None = None
        """The number, once something was measured."""
        if control.moves != RATE:
            self._place(objective)

    def step(self, measured: float) -> float:
        """The number that follows from what was measured.

        Args:
            measured: in its own unit, a mean over the step.
        """
        c = self.control
        error = self.setpoint - measured
        if not c.lowers:
            error = -error
        change = -c.integral * error
        out = self.value is not None and (
            (self.value >= c.most and change > 0) or (self.value <= c.least and change < 0)
        )
        if not out:
            self.sum += change
        now = c.proportional * _falling(error) if c.shape == "sigmoid" else -c.proportional * error
        self.value = min(c.most, max(c.least, now + self.sum + c.least))
        return self.value

    def apply(self, objective: Objective) -> None:
        """Set the objective's number; before the first measure, and of the learning rate, nothing."""
        if self.value is None or self.control.moves == RATE:
            return
        owner, name = self._place(objective)
        owner.__dict__[name] = (
            self.value
        )  # parts are frozen against users, and this one is the run's own

    def factor(self, lr: float) -> float:
        """What the learning rate is multiplied by."""
        if self.control.moves != RATE or self.value is None:
            return 1.0
        return self.value / lr

    def heard(self, logs: Mapping[str, Any]) -> Any:
        """Of what a step has logged the number that is steered by.

        Raises:
            UserError: there is no such one.
        """
        if self.control.measure not in logs:
            raise UserError(
                f"--optimizer.control.measure {self.control.measure}: this objective logs no such number"
                f"{nearest(self.control.measure, logs)}"
            )
        return logs[self.control.measure]

    def _place(self, objective: Objective) -> tuple[Part, str]:
        """The part that has the number, and the number's name; parts on the way become the run's own."""
        first, *path = self.control.moves.split(".")
        part: Any = objective
        if first == "objective" and path:
            for name in path[:-1]:
                inner = getattr(part, name, None)
                if not isinstance(inner, Part):
                    break
                part.__dict__[name] = inner = inner.model_copy()
                part = inner
            value = getattr(part, path[-1], None)
            if type(value) in (int, float) and path[-1] in type(part).model_fields:
                return part, path[-1]
        known = [f"objective.{n}" for n in type(objective).model_fields if type(getattr(objective, n)) in (int, float)]  # fmt: skip
        raise UserError(
            f"--optimizer.control.moves {self.control.moves}: no number of this objective"
            f"{nearest(self.control.moves, [*known, RATE])}"
        )

    def state_dict(self) -> dict[str, Any]:
        """The sum and the number."""
        return {"sum": self.sum, "value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.sum, self.value = state["sum"], state["value"]


def _falling(error: float) -> float:
    """1 / (1 + exp(error)), for any error."""
    return 1 / (1 + math.exp(error)) if error < 700 else 0.0
