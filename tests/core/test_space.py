"""What a search tries, from words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold import api
from fourfold.core.errors import UserError
from fourfold.core.registry import load_system
from fourfold.core.space import Dimension, dimensions, space_of
from helpers import RowSystem
from tables import Net


def test_words_become_ranges_and_choices() -> None:
    found = dimensions(
        Net, "lr=1e-4..1e-2:log width=8..64 algorithm=sgd,adamw optimizer.decay=0..0.1"
    )
    assert found == {
        "optimizer.lr": Dimension("optimizer.lr", 1e-4, 1e-2, log=True),
        "width": Dimension("width", 8, 64, whole=True),
        "optimizer.algorithm": Dimension("optimizer.algorithm", choices=("sgd", "adamw")),
        "optimizer.decay": Dimension("optimizer.decay", 0, 0.1),
    }


def test_the_systems_own_space_is_changed_added_to_and_left_by_what_is_set() -> None:
    assert list(space_of(Net)) == ["optimizer.lr", "width"]
    assert list(space_of(Net, fixed={"lr": 0.1})) == ["width"]
    found = space_of(Net, "width=1..4 optimizer.decay=0..1")
    assert found["width"].high == 4 and list(found) == ["optimizer.lr", "width", "optimizer.decay"]
    both = space_of(Net, "lr=1e-3..1e-2", fixed={"lr": 0.1})  # asked for aloud
    assert both["optimizer.lr"].low == 1e-3


@given(st.floats(1e-6, 1e3), st.floats(1.5, 1e3), st.booleans())
def test_a_dimension_is_read_from_its_own_words(low: float, factor: float, log: bool) -> None:
    made = dimensions(Net, f"lr={low:g}..{low * factor:g}{':log' if log else ''}")["optimizer.lr"]
    assert dimensions(Net, str(made)) == {"optimizer.lr": made}
    assert made.holds((made.low + made.high) / 2) and not made.holds(2 * made.high)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("widht=1..4", "unknown option widht of net; did you mean width"),
        ("width", "--space width: expected name=low..high"),
        ("width=", "--space width=: expected name=low..high"),
        ("width=8..4", "expected the lower end first, got 8..4"),
        ("width=1.5..4", "width is a whole number, got 1.5..4"),
        ("lr=0..1:log", "a range by powers begins above 0, got 0"),
        ("lr=1..2:ln", "expected :log or nothing after the range, got :ln"),
        ("lr=a..b", "expected a number, got 'a'"),
        ("lr=1..inf", "expected a finite number, got inf"),
        ("algorithm=1..2", "optimizer.algorithm is no number; list choices, as algorithm=a,b,c"),
        ("algorithm=sgd,,adam", "expected name=low..high"),
    ],
)
def test_other_words_are_refused(words: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        dimensions(Net, words)
    assert said in str(error.value)


@pytest.mark.parametrize("name", ["linear", "softmax", "mlp", "multilabel"])
def test_systems_of_tables_have_a_space_that_their_options_allow(name: str) -> None:
    system = load_system(name)
    space = space_of(system)
    for dimension_ in space.values():
        value = dimension_.choices[0] if dimension_.choices else dimension_.low
        api.configure(system, {dimension_.name: int(value) if dimension_.whole else value})
    if name in ("linear", "softmax"):  # by gradient there is no ridge
        with pytest.raises(UserError, match="nothing left to search"):
            space_of(system, fixed={"optimizer": "gradient"})
        assert space_of(system, "lr=1e-3..1", fixed={"optimizer": "gradient"})


def test_nothing_to_search_is_said() -> None:
    with pytest.raises(UserError, match="rows has nothing left to search by itself"):
        space_of(RowSystem)
