"""When something is due: every N steps ("100"), every N seconds ("30s"), or every share of the budget ("5%")."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

_PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*(|s|m|%)")


def _check(text: str) -> str:
    match = _PATTERN.fullmatch(text)
    if not match or float(match[1]) <= 0 or (not match[2] and "." in match[1]):
        raise ValueError(
            f'expected steps ("100"), seconds ("30s"), minutes ("2m") or a share ("5%"), got "{text}"'
        )
    return text


Every = Annotated[
    str, BeforeValidator(lambda v: str(v) if isinstance(v, int) else v), AfterValidator(_check)
]
"""A cadence: "100" steps, "30s", "2m", or "5%" of the budget."""


class Cadence:
    """Says when something is due again; deterministic for steps and shares."""

    def __init__(self, every: str) -> None:
        match = _PATTERN.fullmatch(every)
        assert match  # noqa: S101  # validated by `Every`
        number, self.unit = float(match[1]), match[2]
        self.number = number * {"m": 60, "%": 0.01}.get(self.unit, 1)
        self.last = 0

    def due(self, step: int, progress: float, seconds: float) -> bool:
        """Whether it is time, given the step just done, the budget's progress and the seconds trained."""
        if not self.unit:
            return step % self.number == 0
        # whole multiples, so that one late occasion does not shift all later ones
        passed = math.floor((progress if self.unit == "%" else seconds) / self.number + 1e-9)
        if passed > self.last:
            self.last = passed
            return True
        return False

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.last = state["last"]
