"""Documents cut into passages: whole sentences under one heading, with what overlaps, each a stretch of the text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from fourfold.data.documents.document import Block, Document, Lines, between
from fourfold.kernels.scripts import UNSPACED

_RANGES = "".join(f"{chr(a)}-{chr(b)}" for a, b in UNSPACED)
_WIDE = re.compile(f"[{_RANGES}]")
_UNIT = re.compile(rf"[{_RANGES}]|[^\s{_RANGES}]+")
"""What counts as a word: a character of a script without spaces, or what stands between such ones and spaces."""
_END = re.compile(
    r"[.!?…]+[\"'”’»)\]]*(?=\s)"  # what ends a sentence before a space
    r"|[。！？｡!?…]+[」』”’）》〉\"']*(?![」』”’）》〉。！？｡])"  # and without one, in Chinese and Japanese
    r"|[।॥។။]+|\n\s*\n|\n(?=[ \t]*(?:[|#*+•-]|\d{1,3}[.)])\s)"  # rows of tables and items of lists
)
_WORD = re.compile(r"[^\s(\[\"'“‘«]*$")
LONG = 20
"""Characters of a passage for each of its words at most: what has no spaces is cut all the same."""
SHORT = frozenset(
    "mr mrs ms dr prof sr jr st vs etc e.g i.e cf fig no nos vol pp p al approx dept est inc ltd co corp jan feb mar apr "
    "jun jul aug sep sept oct nov dec gen col lt sgt rev hon z.b d.h u.a bzw ca nr abb bd hrsg s str usw vgl".split()
)
"""Words whose period ends no sentence."""


@dataclass(frozen=True)
class Passage:
    """A stretch of a document: `document.text[begin:end]` is `text`."""

    text: str
    begin: int
    end: int
    heading: str = ""
    """The headings that it stands under, the highest first, with " > " between."""
    line: int | None = None
    page: int | None = None


class _Unit(NamedTuple):
    begin: int
    end: int
    weight: int
    block: Block


def weight(text: str) -> int:
    """Words of a text; of a script without spaces each character is one."""
    if text.isascii() or _WIDE.search(text) is None:
        return len(text.split())
    return len(_UNIT.findall(text))


def sentences(text: str, begin: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
    """Where the sentences of a stretch begin and end, without the space around them."""
    stop = len(text) if end is None else end
    return between(text, _sentence_ends(text, begin, stop), begin, stop)


def _sentence_ends(text: str, begin: int, stop: int) -> Iterator[tuple[int, int]]:
    at = begin
    for mark in _END.finditer(text, begin, stop):
        if _ends(text, at, mark):
            at = mark.end()
            yield at, at


def _ends(text: str, begin: int, mark: re.Match[str]) -> bool:
    """Whether a period ends a sentence: not after an abbreviation or an initial, and not before a small letter."""
    if mark[0][0] in "!?" and mark.end() < len(text) and not text[mark.end()].isspace():
        return _WIDE.match(text[mark.start() - 1]) is not None  # a?b is code or an address
    if not mark[0].startswith(".") or mark[0].startswith(".."):
        return True
    word = _WORD.search(text, max(begin, mark.start() - 20), mark.start())
    before = word[0] if word else ""
    if before.lower() in SHORT or (len(before) == 1 and before.isalpha() and before.isupper()):
        return False
    if before.isdigit() and len(before) < 3 and text[begin : mark.start()].strip() == before:
        return False  # the number of a list's item
    after = text[mark.end() : mark.end() + 8].lstrip()
    return not after[:1].islower()


def passages(document: Document, *, size: int, overlap: int) -> Iterator[Passage]:
    """Cut a document.

    A passage ends at a heading, and where one more sentence would make it longer than `size`. The next begins with
    the last sentences of the one before, as many as `overlap` holds. A sentence that is longer by itself is cut
    between words.

    Args:
        document: read by a reader.
        size: words of a passage at most; see `weight`.
        overlap: words at most that two passages share, less than `size`.
    """
    lines = Lines(document.text, document.line)
    path: list[tuple[int, str]] = []
    open_: list[_Unit] = []
    for block in document.blocks:
        if block.kind == "heading":
            if any(u.block.kind != "heading" for u in open_):
                yield _made(document, open_, path, lines)
                open_ = []
            path = [(lvl, t) for lvl, t in path if lvl < block.level] + [(block.level, block.title)]
        elif block.page is not None and open_ and block.page != open_[-1].block.page:
            yield _made(document, open_, path, lines)
            open_ = []
        for unit in _units(document.text, block, size):
            if open_ and sum(u.weight for u in open_) + unit.weight > size:
                yield _made(document, open_, path, lines)
                open_ = _tail(open_, min(overlap, size - unit.weight))
            open_.append(unit)
    if open_:
        yield _made(document, open_, path, lines)


def _units(text: str, block: Block, size: int) -> Iterator[_Unit]:
    """What a block is made of: sentences, or lines of code."""
    if block.kind in ("code", "row"):
        places = [m.span() for m in re.finditer(r"[^\n]*\S[^\n]*", text[block.begin : block.end])]
        stretches = [(block.begin + a, block.begin + b) for a, b in places]
    elif block.kind == "heading":
        stretches = [(block.begin, block.end)]
    else:
        stretches = list(sentences(text, block.begin, block.end))
    for begin, end in stretches:
        counted = weight(text[begin:end])
        if counted <= size and end - begin <= LONG * size:
            yield _Unit(begin, end, counted, block)
        else:
            yield from _pieces(text, begin, end, size, block)


def _pieces(text: str, begin: int, end: int, size: int, block: Block) -> Iterator[_Unit]:
    """A long sentence in pieces, cut before a word where there are words."""
    first, last, held = begin, begin, 0
    for match in _UNIT.finditer(text, begin, end):
        if held and (held == size or match.end() - first > LONG * size):
            yield _Unit(first, last, held, block)
            first, held = match.start(), 0
        last, held = match.end(), held + 1
        while last - first > LONG * size:  # a word without an end
            yield _Unit(first, first + LONG * size, 1, block)
            first += LONG * size
    if held and first < last:
        yield _Unit(first, last, held, block)


def _tail(units: list[_Unit], room: int) -> list[_Unit]:
    """The last units that together are within the room."""
    kept: list[_Unit] = []
    for unit in reversed(units):
        room -= unit.weight
        if room < 0 or unit.block.kind == "heading":
            break
        kept.insert(0, unit)
    return kept if len(kept) < len(units) else kept[1:]


def _made(
    document: Document, units: list[_Unit], path: list[tuple[int, str]], lines: Lines
) -> Passage:
    begin, end, block = units[0].begin, units[-1].end, units[0].block
    line = block.line if not document.lines else lines[begin]
    heading = " > ".join(title for _, title in path if title)
    return Passage(document.text[begin:end], begin, end, heading, line, block.page)
