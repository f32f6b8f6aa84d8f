"""Test sets of word vectors as files: analogies by section, and pairs of words with people's judgement.

Analogies are those of Mikolov et al. 2013a (questions-words.txt): ": section" lines, then four words a
line. Similarities (WordSim-353: Finkelstein et al. 2002; SimLex-999: Hill et al. 2015) are two words and a
number a line, apart by tabs, commas, semicolons or spaces; # begins a comment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from fourfold.core.errors import UserError
from fourfold.data.readers import ROWS, decoded, kind_of
from fourfold.data.text_sources import find_origins

Kind = Literal["auto", "analogies", "similarity", "text"]
SIZE = 1 << 26
"""Characters of a test file at most; what is longer is a text."""


@dataclass
class Analogies:
    """Questions: a is to b as c is to d, by section."""

    name: str
    sections: list[str] = field(default_factory=list)
    questions: list[tuple[int, tuple[str, str, str, str]]] = field(default_factory=list)
    """Each with the number of its section."""
    malformed: list[str] = field(default_factory=list)
    """Lines that are none, in words."""


@dataclass
class Pairs:
    """Pairs of words and how similar people find them."""

    name: str
    pairs: list[tuple[str, str, float]] = field(default_factory=list)
    malformed: list[str] = field(default_factory=list)


def word_tests(
    sources: Any, kind: Kind = "auto", text_field: str = "text"
) -> list[Analogies | Pairs]:
    """Test sets that some sources hold; empty where they are texts.

    Args:
        sources: as for `find_origins`; each file is one set.
        kind: what they are; auto looks at their first lines.
        text_field: of sources in memory, and of files with rows.

    Raises:
        UserError: a file of another kind than it is said to be, or kinds mixed.
    """
    if kind == "text":
        return []
    found: list[Analogies | Pairs] = []
    origins, _ = find_origins(sources, text_field)
    for origin in origins:
        if origin.path is not None and kind_of(origin.path) in ROWS - {".csv", ".tsv"}:
            lines: list[str] = []
        elif origin.texts is not None:
            lines = "\n".join(map(str, origin.texts)).splitlines() if len(origin.texts) == 1 else []
        else:
            lines = _lines(origin)
        this = _kind_of(lines) if kind == "auto" else kind
        if this == "text":
            if found:
                raise UserError(
                    f"{origin.name}: is neither analogies nor similarities, as {found[0].name} is"
                )
            return []
        found.append(
            _analogies(origin.name, lines) if this == "analogies" else _pairs(origin.name, lines)
        )
        if not (found[-1].questions if isinstance(found[-1], Analogies) else found[-1].pairs):
            first = f", first {found[-1].malformed[0]}" if found[-1].malformed else ""
            raise UserError(f"{origin.name}: has no line of {_form(this)}{first}")
    return found


def _form(kind: str) -> str:
    return "four words" if kind == "analogies" else "two words and a number"


def _lines(origin: Any) -> list[str]:
    text, size = [], 0
    for piece in decoded(origin):
        text.append(piece)
        size += len(piece)
        if size > SIZE:
            return []
    return "".join(text).splitlines()


def _kind_of(lines: list[str]) -> Literal["analogies", "similarity", "text"]:
    """A section's head makes analogies; more than half of up to 50 lines being two words and a number, similarities."""
    shown = [line for line in lines if line.strip() and not line.startswith("#")][:50]
    if shown and re.match(r":\s*\S", shown[0]):
        return "analogies"
    pairs = sum(_pair(line) is not None for line in shown)
    return "similarity" if shown and 2 * pairs > len(shown) else "text"


def _analogies(name: str, lines: list[str]) -> Analogies:
    found = Analogies(name)
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith(":"):
            found.sections.append(line[1:].strip() or f"section at line {number}")
            continue
        words = line.split()
        if len(words) != 4:
            found.malformed.append(f"line {number}: expected four words, got {line.strip()[:60]!r}")
            continue
        if not found.sections:
            found.sections.append("without a section")
        a, b, c, d = words
        found.questions.append((len(found.sections) - 1, (a, b, c, d)))
    return found


def _pair(line: str) -> tuple[str, str, float] | None:
    for separator in ("\t", ",", ";", None):
        parts = [p.strip() for p in line.split(separator)]
        if len(parts) == 3 and parts[0] and parts[1]:
            try:
                score = float(parts[2])
            except ValueError:
                continue
            return (parts[0], parts[1], score) if abs(score) < float("inf") else None
    return None


def _pairs(name: str, lines: list[str]) -> Pairs:
    found = Pairs(name)
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        pair = _pair(line)
        if pair is None:
            found.malformed.append(
                f"line {number}: expected two words and a number, got {line.strip()[:60]!r}"
            )
        else:
            found.pairs.append(pair)
    return found
