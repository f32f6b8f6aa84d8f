"""Conditions on what is known of a passage: its document, kind, heading, page, and its metadata."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fourfold.core.errors import UserError, nearest

if TYPE_CHECKING:
    import polars as pl

OWN = ("document", "kind", "heading", "page", "line")
"""What is known of every passage; other names are looked for in its metadata."""
_CONDITION = re.compile(r"\s*([\w.-]+)\s*(!=|<=|>=|=|<|>)\s*(.*?)\s*$")


def allowed(frame: pl.DataFrame, conditions: Sequence[str]) -> np.ndarray | None:
    """Which passages meet all conditions.

    Args:
        frame: passages, N of them.
        conditions: as "document=docs/*.md", "year>=2020", "author!=Ann"; * and ? stand for any letters.

    Returns:
        (N,) bool, or None where there is no condition.

    Raises:
        UserError: a condition cannot be read, or names what no passage has.
    """
    if not conditions:
        return None
    kept = np.ones(len(frame), bool)
    for condition in conditions:
        found = _CONDITION.match(condition)
        if found is None:
            raise UserError(
                f"--where {condition!r}: expected a condition as document=docs/*.md, kind=code or year>=2020"
            )
        name, sign, value = found.groups()
        holds = _test(sign, value)
        kept &= np.fromiter((holds(v) for v in _values(frame, name)), bool, len(frame))
    return kept


def _values(frame: pl.DataFrame, name: str) -> list[Any]:
    if name in OWN:
        return list(frame[name])
    told = [json.loads(text) if text else {} for text in frame["metadata"]]
    known = {key for row in told for key in row}
    if name not in known:
        raise UserError(f"--where {name}: no passage has it{nearest(name, [*OWN, *known])}")
    return [row.get(name) for row in told]


def _test(sign: str, value: str) -> Callable[[Any], bool]:
    pattern = re.compile(fnmatch.translate(value.replace("[", "[[]")), re.I)

    def equal(found: Any) -> bool:
        return found is not None and pattern.match(str(found)) is not None

    def order(found: Any) -> int | None:
        """-1, 0 or 1 as a value found is below, at or above: as numbers where both are."""
        if found is None:
            return None
        try:
            a: Any = float(found)
            b: Any = float(value)
        except ValueError:
            a, b = str(found), value
        return (a > b) - (a < b)

    tests: dict[str, Callable[[Any], bool]] = {
        "=": equal, "!=": lambda v: not equal(v), "<": lambda v: order(v) == -1, ">": lambda v: order(v) == 1,
        "<=": lambda v: order(v) in (-1, 0), ">=": lambda v: order(v) in (0, 1),
    }  # fmt: skip
    return tests[sign]
