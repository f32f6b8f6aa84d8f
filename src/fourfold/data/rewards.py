"""Rewards that need no model: a right answer, valid JSON, a pattern, a length, or a function of the user's own."""

from __future__ import annotations

import importlib
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fourfold.core.errors import UserError, nearest

Reward = Callable[[Sequence[str], Sequence[str], Sequence[Mapping[str, Any]]], Sequence[float]]
"""From prompts, answers and the rows that the prompts are of to a number each."""
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")
BUILT_IN = {
    "exact-answer": "1 where the answer is the row's: the number after ####, else the last number, else the text",
    "json": "1 where the whole answer is JSON",
    "length": "the characters of the answer, in hundreds",
    "regex:PATTERN": "1 where the pattern is found in the answer",
    "module:function": "a function of (prompts, answers, rows) that returns a number each",
}


def reward_named(name: str) -> Reward:
    """The reward of a name: see `BUILT_IN`.

    A module is imported: this is for what a user types on the command line.

    Raises:
        UserError: there is none, or it cannot be imported.
    """
    if name == "exact-answer":
        return exact_answer
    if name == "json":
        return lambda prompts, answers, rows: [float(_is_json(a)) for a in answers]
    if name == "length":
        return lambda prompts, answers, rows: [len(a) / 100 for a in answers]
    if name.startswith("regex:"):
        try:
            pattern = re.compile(name.removeprefix("regex:"), re.DOTALL)
        except re.error as error:
            raise UserError(f"--reward {name}: not a regular expression ({error})") from error
        return lambda prompts, answers, rows: [float(bool(pattern.search(a))) for a in answers]
    if re.fullmatch(r"[\w.]+:\w+", name):
        return _imported(name)
    raise UserError(
        f"--reward {name}: neither a run nor one of {', '.join(BUILT_IN)}{nearest(name, BUILT_IN)}"
    )


def scored(
    reward: Reward, name: str, prompts: Sequence[str], answers: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> list[float]:  # fmt: skip
    """A reward's numbers, checked.

    Raises:
        UserError: it raises, returns another number of values, or one that is no finite number; the example is named.
    """
    try:
        found = list(reward(list(prompts), list(answers), list(rows)))
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever a user's function raises
        raise UserError(f"--reward {name}: {type(error).__name__}: {error}; the first of its {len(answers)} examples: {_shown(prompts[0], answers[0])}") from error  # fmt: skip
    if len(found) != len(answers):
        raise UserError(f"--reward {name}: {len(found)} values for {len(answers)} answers; the first: {_shown(prompts[0], answers[0])}")  # fmt: skip
    for number, value in enumerate(found):
        try:
            finite = not isinstance(value, (str, bytes)) and math.isfinite(float(value))
        except (TypeError, ValueError):
            finite = False
        if not finite:
            raise UserError(
                f"--reward {name}: {value!r:.40} is no number; example {number + 1}: {_shown(prompts[number], answers[number])}"
            )
    return [float(value) for value in found]


def exact_answer(prompts: Sequence[str], answers: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[float]:  # fmt: skip
    """1 where an answer ends with what the row's "answer" (or "output", "completion", "solution") ends with.

    That is what stands behind "####" (GSM8K: Cobbe et al. 2021), else the last number, else the whole text, without
    white space around it and in lower case; numbers are compared as numbers.

    Raises:
        UserError: a row has no answer.
    """
    found = []
    for number, (answer, row) in enumerate(zip(answers, rows, strict=True), 1):
        fields = ("answer", "output", "completion", "solution")
        wanted = next((row[f] for f in fields if row.get(f) is not None), None)
        if wanted is None:
            raise UserError(f"--reward exact-answer: example {number} has no field {', '.join(fields)}")  # fmt: skip
        found.append(float(final(str(wanted)) == final(answer)))
    return found


def final(text: str) -> str | float:
    """What a worked answer comes to: see `exact_answer`."""
    tail = text.rpartition("####")[2] if "####" in text else text
    numbers = NUMBER.findall(tail)
    if numbers:
        return float(numbers[0 if "####" in text else -1].replace(",", ""))
    return tail.strip().lower()


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _imported(name: str) -> Reward:
    module, _, function = name.partition(":")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:  # a file beside the user, as `python -m` finds it
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), function, None)
    except Exception as error:  # noqa: BLE001  # whatever a user's module raises
        raise UserError(f"--reward {name}: {module} cannot be imported ({type(error).__name__}: {error})") from error  # fmt: skip
    finally:
        if added:
            sys.path.remove(here)
    if not callable(found):
        known = [n for n in vars(sys.modules[module]) if not n.startswith("_")]
        raise UserError(f"--reward {name}: {module} has no function {function}{nearest(function, known)}")  # fmt: skip
    return found  # type: ignore[no-any-return]


def _shown(prompt: str, answer: str) -> str:
    return f"prompt {prompt[-60:]!r}, answer {answer[:60]!r}"
