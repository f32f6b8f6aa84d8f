"""Markdown: headings, fenced code, tables, and the front matter before it. CommonMark 0.31, as far as structure goes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fourfold.data.documents.document import Block, Document, trimmed
from fourfold.data.documents.plain import decoded

_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t\r]*\n?$")
_SETEXT = re.compile(r" {0,3}(=+|-{2,})[ \t\r]*\n?$")
_ROW = re.compile(r" {0,3}\|.*\|[ \t\r]*\n?$")
_FRONT = re.compile(r"---[ \t\r]*\n(.*?\n)(?:---|\.\.\.)[ \t\r]*(?:\n|$)", re.S)
_KEY = re.compile(r"([A-Za-z][\w -]{0,40}):[ \t]*(\S.*?)[ \t\r]*$", re.M)


def read_markdown(content: bytes, name: str) -> Document:
    """Blocks of a Markdown text, which is quoted as it stands."""
    text = decoded(content, name)
    begin, metadata = _front_matter(text)
    return Document(text, tuple(_blocks(text, begin)), "markdown", metadata)


def _front_matter(text: str) -> tuple[int, dict[str, Any]]:
    found = _FRONT.match(text)
    if found is None:
        return 0, {}
    told = {key.strip().lower(): value.strip("'\"") for key, value in _KEY.findall(found[1])}
    return found.end(), told


def _blocks(text: str, begin: int) -> Iterator[Block]:
    fence, start, kind = "", begin, "text"  # what is open: since where, and what it is

    def closed(end: int) -> Iterator[Block]:
        first, last = trimmed(text, start, end)
        if first < last:
            yield Block(first, last, kind)  # type: ignore[arg-type]

    for match in _LINE.finditer(text, begin):
        line, at, end = match[0], match.start(), match.end()
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not line[mark.end() :].strip():
                yield from closed(end)
                fence, start, kind = "", end, "text"
            continue
        if mark:
            yield from closed(at)
            fence, start, kind = mark[1], at, "code"
        elif (heading := _ATX.match(line)) is not None:
            yield from closed(at)
            yield Block(*trimmed(text, at, end), "heading", len(heading[1]), heading[2] or "")
            start, kind = end, "text"
        elif (
            (under := _SETEXT.match(line)) is not None and text[start:at].strip() and kind == "text"
        ):
            yield Block(*trimmed(text, start, end), "heading", 1 if under[1][0] == "=" else 2,
                        " ".join(text[start:at].split()))  # fmt: skip
            start = end
        elif _ROW.match(line):
            yield from closed(at)
            yield Block(*trimmed(text, at, end), "row")
            start, kind = end, "text"
        elif not line.strip():
            yield from closed(at)
            start, kind = end, "text"
    yield from closed(len(text))
