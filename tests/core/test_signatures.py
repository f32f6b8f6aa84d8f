"""A verb that extends another has the options and the help of both."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from fourfold.core.options import hints
from fourfold.core.signatures import argument_help, extends


class Base:
    def say(
        self, run: Any, text: str = "", *, count: int = 1, stop: tuple[str, ...] = ()
    ) -> list[Any]:
        """Say a text.

        Args:
            text: what.
            count: how often.
            stop: where to end.
        """
        return [text, count, stop]


class More(Base):
    @extends(Base.say)
    def say(self, run: Any, text: str = "", *, loud: bool = False, **given: Any) -> list[Any]:
        """Say a text, loud or not.

        Args:
            loud: whether to shout.
        """
        return [*super().say(run, text, **given), loud, given]


def test_options_and_help_of_both() -> None:
    assert list(inspect.signature(More.say).parameters) == [
        "self",
        "run",
        "text",
        "count",
        "stop",
        "loud",
    ]
    found = hints(More.say)
    assert found["count"] is int and found["loud"] is bool
    assert inspect.getdoc(More.say).startswith("Say a text, loud or not.\n\nArgs:\n")  # type: ignore[union-attr]
    wanted = {
        "text": "what.",
        "count": "how often.",
        "stop": "where to end.",
        "loud": "whether to shout.",
    }
    assert {name: argument_help(More.say, name) for name in wanted} == wanted


def test_defaults_are_given_and_unknown_options_refused() -> None:
    assert More().say(None) == ["", 1, (), False, {"count": 1, "stop": ()}]
    assert More().say(None, "a", count=2, loud=True)[:4] == ["a", 2, (), True]
    with pytest.raises(TypeError, match="colour"):
        More().say(None, colour=1)
