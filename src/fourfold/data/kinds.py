"""What kind a column is: a number, a category, two values, or nothing to learn from.

A code looks like a number and is none: nationality 276 is not three times 92. Whole numbers are
suspected by their column's name, or because few of many possible values occur, spread evenly as
no count, price or year is. A suspicion is said aloud and can be overridden.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from fourfold.core.errors import UserError
from fourfold.data.cells import ROUNDED
from fourfold.data.columns import Kind
from fourfold.data.statistics import CONSTANT, Statistics

NAMES = re.compile(
    r"\b(code|codes|zip|zipcode|postal|postcode|nationality|country|state|region|county|district|city|province"
    r"|p?class|category|type|kind|group|gender|sex|race|ethnicity|occupation|species|cluster|brand|model|sku"
    r"|department|dept|user|item|customer|product|id)\b"
)
SHARE = 0.5
"""Text with more different values than this share of its cells is an identifier or free text."""
WHOLE = 256
"""Up to this many different whole numbers can be codes whose column's name does not say so."""
FEW = 20
"""Up to this many different values text is a category, however few rows there are."""


@dataclass(frozen=True)
class Verdict:
    """A column's kind, why if it is dropped, and what the user should be told."""

    kind: Kind
    why: str = ""
    note: str = ""


def decide(stats: Statistics, given: Kind | None, codes: str, limit: int) -> Verdict:
    """The kind of a column.

    Args:
        stats: of the training rows; its counts are None where there are too many values to count.
        given: the user's word.
        codes: what becomes of whole numbers that are suspected to be codes.
        limit: of categories.

    Raises:
        UserError: the column cannot be of the kind that the user gave.
    """
    name, distinct = stats.name, stats.distinct
    if given == "drop":
        return Verdict("drop", "left out by option")
    if stats.present == 0:
        return Verdict("drop", "all missing", f"{name}: dropped, all its cells are missing")
    if stats.numeric and stats.lowest == stats.highest and abs(stats.lowest) >= ROUNDED:
        told = f"its numbers, about {stats.lowest:g}, are too large to be told apart"
        return Verdict(
            "drop",
            told,
            f"{name}: dropped, {told}; --data.kinds.{name} category takes them as text",
        )
    if distinct == 1 or (stats.numeric and stats.lowest == stats.highest):
        return Verdict("drop", CONSTANT, f"{name}: dropped, constant in the training rows")
    if given == "binary" and distinct != 2:
        found = "more" if distinct is None else distinct
        raise UserError(
            f"--data.kinds.{name} binary: expected 2 different values, found {found} in the training rows"
        )
    if distinct == 2:
        return Verdict("binary" if given is None else given)
    if given is not None:
        cut = given == "category" and distinct is not None and distinct > limit
        if not cut:
            return Verdict(given)
        note = f"{name}: {distinct:,} categories, the {limit} most frequent kept; --max-categories keeps more"
        return Verdict(given, note=note)
    return _numeric(stats, codes, limit) if stats.numeric else _text(stats, limit)


def _text(stats: Statistics, limit: int) -> Verdict:
    name, distinct = stats.name, stats.distinct
    if distinct is not None and (distinct <= FEW or distinct <= SHARE * stats.present):
        return Verdict("category")
    shown = f"more than {limit}" if distinct is None else f"{distinct:,}"
    note = (
        f"{name}: dropped, an identifier or free text ({shown} different values in {stats.present:,} "
        f"training rows); --data.kinds.{name} category keeps it"
    )
    return Verdict("drop", "identifier or free text", note)


def _numeric(stats: Statistics, codes: str, limit: int) -> Verdict:
    name = stats.name
    if not stats.whole or stats.lowest < 0:
        return Verdict("number")
    reason = _suspicion(stats)
    if not reason:
        return Verdict("number")
    if stats.distinct is None:
        note = f"{name}: {reason}, but of more than {limit} values, so taken as a number"
        return Verdict(
            "number",
            note=f"{note}; --data.kinds.{name} category takes it as codes, drop leaves it out",
        )
    values = f"{stats.distinct} different whole numbers"
    if codes == "category":
        note = f"{name}: {values}, {reason}: taken as a category; --data.kinds.{name} number takes it as a number"
        return Verdict("category", note=note)
    note = f"{name}: {values}, {reason}, taken as a number; --data.kinds.{name} category takes it as codes"
    return Verdict("number", note=note)


def counted(name: str, numeric: bool, limit: int) -> int:
    """How many different values of a column are worth counting: many only where they may be categories."""
    return limit if not numeric or _named(name) else min(limit, WHOLE)


def _named(name: str) -> re.Match[str] | None:
    """The word in a column's name that makes it a code."""
    words = re.sub(r"[\W_]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)).lower()
    return NAMES.search(words)


def _suspicion(stats: Statistics) -> str:
    """Why whole numbers may be codes; empty if they are not suspected."""
    named = _named(stats.name)
    distinct = math.inf if stats.distinct is None else stats.distinct
    if named and (distinct <= stats.present / 2 or distinct == math.inf):
        return f'by its name ("{named[0]}") a code'
    if distinct == math.inf or stats.present < 3 * distinct or distinct < 5:
        return ""
    values = stats.values
    span = stats.highest - stats.lowest
    step = np.gcd.reduce((values - values[0]).astype(np.int64))
    if span + 1 < 3 * distinct or step > 1:  # dense as ages are, or rounded as prices and years are
        return ""
    uniform = np.linspace(stats.lowest, stats.highest, len(values))
    if np.abs(values - uniform).max() > 0.2 * span:  # counts and amounts crowd near zero
        return ""
    return f"spread over {stats.lowest:.0f} to {stats.highest:.0f} as codes are"
