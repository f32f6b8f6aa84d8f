"""When something is due."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from fourfold.optimizers.cadence import Cadence, Every

check = TypeAdapter(Every).validate_python


@pytest.mark.parametrize("text", ["100", "30s", "2m", "5%", "0.5s", "2.5%", "1 m", 7])
def test_what_is_a_cadence(text: str | int) -> None:
    assert check(text) == str(text)


@pytest.mark.parametrize(
    "text", ["", "0", "0s", "-1", "1.5", "often", "5 steps", "1h", "%", None, 2.5]
)
def test_what_is_none(text: object) -> None:
    with pytest.raises(ValidationError):
        check(text)


def test_steps() -> None:
    cadence = Cadence("3")
    assert [s for s in range(1, 11) if cadence.due(s, 0.0, 0.0)] == [3, 6, 9]


def test_shares_are_due_at_whole_multiples() -> None:
    cadence = Cadence("25%")
    assert [s for s in range(1, 11) if cadence.due(s, s / 10, 0.0)] == [3, 5, 8, 10]


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 300), st.sampled_from([1, 2, 4, 5, 10, 20, 25, 50]))
def test_shares_are_due_as_often_as_they_say(steps: int, percent: int) -> None:
    cadence = Cadence(f"{percent}%")
    due = sum(cadence.due(s, min(1.0, s / steps), 0.0) for s in range(1, steps + 1))
    assert due == min(100 // percent, steps)


def test_a_late_occasion_does_not_shift_later_ones() -> None:
    cadence = Cadence("10s")
    assert [t for t in (4, 17, 19, 21, 30, 58, 61) if cadence.due(1, 0.0, t)] == [
        17,
        21,
        30,
        58,
        61,
    ]
    assert not Cadence("1m").due(1, 0.0, 59.9) and Cadence("1m").due(1, 0.0, 60)


def test_goes_on_where_it_was() -> None:
    cadence, again = Cadence("10%"), Cadence("10%")
    cadence.due(1, 0.35, 0.0)
    again.load_state_dict(cadence.state_dict())
    assert not again.due(2, 0.39, 0.0) and again.due(3, 0.4, 0.0)
