"""What a reader makes of a file: its text, and which stretches of it are what."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

Kind = Literal["text", "heading", "code", "row"]


@dataclass(frozen=True)
class Block:
    """A stretch of a document's text that is one thing: a paragraph, a heading, code, or a table's row."""

    begin: int
    """Character of the text."""
    end: int
    kind: Kind = "text"
    level: int = 0
    """Of a heading: 1 is the highest."""
    title: str = ""
    """Of a heading: its words, where the text has marks beside them."""
    page: int | None = None
    """From 1, where there are pages."""
    line: int | None = None
    """In the file, from 1, where that is not the line of the text."""


@dataclass(frozen=True)
class Document:
    """A text, cut into blocks that follow one another and do not overlap."""

    text: str
    blocks: tuple[Block, ...]
    kind: str = "text"
    """What it was read as."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What else the file says: a title, an author, a row's other fields."""
    lines: bool = True
    """Whether lines of the text are lines of the file."""
    line: int = 1
    """Where in the file the text begins."""


class Lines:
    """The line of each character of a text."""

    def __init__(self, text: str, first: int = 1) -> None:
        self._ends = [m.end() for m in re.finditer("\n", text)]
        self._first = first

    def __getitem__(self, place: int) -> int:
        return self._first + bisect.bisect_right(self._ends, place)


def trimmed(text: str, begin: int, end: int) -> tuple[int, int]:
    """A stretch without the white space around it."""
    while begin < end and text[begin].isspace():
        begin += 1
    while end > begin and text[end - 1].isspace():
        end -= 1
    return begin, end


def between(
    text: str, gaps: Iterable[tuple[int, int]], begin: int, end: int
) -> Iterator[tuple[int, int]]:
    """What lies between gaps, in order, without the white space around it; what is blank is left out."""
    at = begin
    for ends, goes_on in chain(gaps, [(end, end)]):
        first, last = trimmed(text, at, ends)
        if first < last:
            yield first, last
        at = goes_on


_BLANK = re.compile(r"\n[^\S\n]*(?:\n[^\S\n]*)+")


def paragraphs(text: str, begin: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
    """Stretches between empty lines, none of them blank."""
    stop = len(text) if end is None else end
    return between(text, (gap.span() for gap in _BLANK.finditer(text, begin, stop)), begin, stop)


class Builder:
    """Makes a text of pieces, with an empty line between blocks."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._size = 0
        self.blocks: list[Block] = []

    def add(
        self,
        text: str,
        kind: Kind = "text",
        *,
        level: int = 0,
        page: int | None = None,
        line: int | None = None,
    ) -> None:
        """One more block; blank ones are none."""
        text = text.strip("\n") if kind == "code" else text.strip()
        if not text.strip():
            return
        if self._pieces:
            close = kind == "row" and self.blocks[-1].kind == "row"
            self._put("\n" if close else "\n\n")
        begin = self._size
        self._put(text)
        title = " ".join(text.split()) if kind == "heading" else ""
        self.blocks.append(Block(begin, self._size, kind, level, title, page, line))

    def _put(self, text: str) -> None:
        self._pieces.append(text)
        self._size += len(text)

    def document(self, kind: str, **more: Any) -> Document:
        """All of it; its lines are not the file's."""
        return Document("".join(self._pieces), tuple(self.blocks), kind, lines=False, **more)
