"""What a search tries: options with ranges or choices, as "optimizer.lr=1e-4..1e-2:log width=32..512 activation=relu,gelu"."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fourfold.core.errors import UserError
from fourfold.core.options import options, origins_of, parse, resolve
from fourfold.core.system import System

FORM = "expected name=low..high, name=low..high:log or name=a,b,c"


@dataclass(frozen=True)
class Dimension:
    """One option that is searched: a range of numbers, or choices."""

    name: str
    """The option's full path."""
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[str, ...] = ()

    def holds(self, value: Any) -> bool:
        """Whether a value is among those that are tried."""
        if self.choices:
            return str(value) in self.choices or str(value).lower() in self.choices
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.low <= value <= self.high

    def __str__(self) -> str:
        if self.choices:
            return f"{self.name}={','.join(self.choices)}"
        low, high = (f"{v:g}" for v in (self.low, self.high))
        return f"{self.name}={low}..{high}{':log' if self.log else ''}"


def space_of(
    system: type[System], text: str = "", fixed: Mapping[str, Any] | None = None
) -> dict[str, Dimension]:
    """What is searched of a system: its own space, changed and added to by the user's words.

    Args:
        system: whose `search_space` begins.
        text: entries with blanks between them; an entry of a single value fixes the option.
        fixed: options that the user has set, which are not searched.

    Raises:
        UserError: an unknown option, or an entry of another form.
    """
    found: dict[str, Dimension] = {}
    for name, words in system.search_space.items():
        made = dimension(system, name, words)
        found[made.name] = made
    for name in fixed or {}:
        full = ".".join(resolve(system, name))
        # of a part that is chosen, as --optimizer gradient, another kind need not have the options
        found = {n: d for n, d in found.items() if n != full and not n.startswith(f"{full}.")}
    found |= dimensions(system, text)
    if not found:
        raise UserError(
            f"--space: {system.name} has nothing left to search by itself; name options, as optimizer.lr=1e-4..1e-2:log"
        )
    return found


def dimensions(system: type[System], text: str) -> dict[str, Dimension]:
    """The entries of a text, by full name.

    Raises:
        UserError: an unknown option, or an entry of another form.
    """
    found = {}
    for entry in text.split():
        name, equals, words = entry.partition("=")
        if not equals or not words:
            raise UserError(f"--space {entry}: {FORM}")
        made = dimension(system, name, words)
        found[made.name] = made
    return found


def dimension(system: type[System], name: str, words: str) -> Dimension:
    """One entry.

    Raises:
        UserError: an unknown option, or words of another form.
    """
    path = resolve(system, name)
    option = options(system).get(path)
    annotation = option.annotation if option else Any
    full, where = ".".join(path), f"--space {name}={words}"
    if ".." not in words:
        choices = tuple(dict.fromkeys(word.strip() for word in words.split(",")))
        if not all(choices):
            raise UserError(f"{where}: {FORM}")
        for choice in choices:
            parse(choice, annotation)
        return Dimension(full, choices=choices)
    span, _, scale = words.partition(":")
    low, high = (_number(end, where) for end in span.split("..", 1))
    if scale not in ("", "log"):
        raise UserError(f"{where}: expected :log or nothing after the range, got :{scale}")
    if not low < high:
        raise UserError(f"{where}: expected the lower end first, got {low:g}..{high:g}")
    if scale == "log" and low <= 0:
        raise UserError(f"{where}: a range by powers begins above 0, got {low:g}")
    kinds = origins_of(annotation)
    whole = int in kinds and float not in kinds
    if not kinds & {int, float} and annotation is not Any:
        raise UserError(f"{where}: {full} is no number; list choices, as {name}=a,b,c")
    if whole and (low != int(low) or high != int(high)):
        raise UserError(f"{where}: {full} is a whole number, got {low:g}..{high:g}")
    return Dimension(full, low, high, scale == "log", whole)


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"{where}: expected a number, got {text!r}") from None
    if not math.isfinite(value):
        raise UserError(f"{where}: expected a finite number, got {text}")
    return value
