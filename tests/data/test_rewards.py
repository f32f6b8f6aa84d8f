"""Rewards without a model, and what is said of a user's own that goes wrong."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from fourfold.core.errors import UserError
from fourfold.data.rewards import exact_answer, final, reward_named, scored


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3 + 4 is 7\n#### 7", 7.0), ("#### 1,234", 1234.0), ("so 12 and 5.50", 5.5), ("  Paris ", "paris"),
        ("-3", -3.0), ("#### -2.0 apples of 9", -2.0), ("", ""),
    ],
)  # fmt: skip
def test_what_an_answer_comes_to(text: str, value: Any) -> None:
    assert final(text) == value


def test_exact_answers_are_compared_as_numbers() -> None:
    rows = [{"answer": "6 * 7 = 42\n#### 42"}] * 3
    assert exact_answer(["?"] * 3, ["It is 42.0", "#### 42", "42 no, 43"], rows) == [1, 1, 0]
    with pytest.raises(UserError, match="example 1 has no field answer"):
        exact_answer(["?"], ["1"], [{"prompt": "?"}])


def test_the_built_in_ones() -> None:
    answers = ['{"a": 1}', "no", "abcde" * 20]
    none = [{}] * 3
    assert reward_named("json")(answers, answers, none) == [1, 0, 0]
    assert reward_named("length")(answers, answers, none) == [0.08, 0.02, 1.0]
    assert reward_named("regex:^n")(answers, answers, none) == [0, 1, 0]
    with pytest.raises(UserError, match="did you mean exact-answer"):
        reward_named("exact-anser")
    with pytest.raises(UserError, match="not a regular expression"):
        reward_named("regex:(")


def test_a_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_rewards.py").write_text(
        "def short(prompts, answers, rows): return [-len(a) for a in answers]\n"
        "def broken(prompts, answers, rows): raise KeyError('x')\n"
    )
    monkeypatch.chdir(tmp_path)
    assert scored(reward_named("own_rewards:short"), "r", ["p"], ["abc"], [{}]) == [-3.0]
    with pytest.raises(
        UserError, match="KeyError: 'x'; the first of its 1 examples: prompt 'p', answer 'abc'"
    ):
        scored(reward_named("own_rewards:broken"), "r", ["p"], ["abc"], [{}])
    with pytest.raises(
        UserError, match="no function shrt, did you mean short|no function shrt.*short"
    ):
        reward_named("own_rewards:shrt")
    with pytest.raises(UserError, match="no_such_module cannot be imported"):
        reward_named("no_such_module:x")


@pytest.mark.parametrize(
    ("given", "said"),
    [([1.0], "1 values for 2 answers; the first: prompt 'p', answer 'a'"), ([1.0, math.nan], "nan is no number; example 2"), ([1.0, "0.5"], "'0.5' is no number"),
     ([1.0, None], "None is no number"), ([1.0, math.inf], "inf is no number")],
)  # fmt: skip
def test_what_is_no_reward_names_the_example(given: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        scored(lambda *_: given, "mine:f", ["p", "q"], ["a", "b"], [{}, {}])
