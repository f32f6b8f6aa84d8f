"""Source code: whole lines, under the name of the definition that they stand in."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fourfold.data.documents.document import Block, Document, trimmed
from fourfold.data.documents.plain import decoded

SUFFIXES = frozenset(
    ".py .pyi .js .mjs .jsx .ts .tsx .java .kt .c .h .cc .cpp .hpp .cu .cs .go .rs .rb .php .swift .scala .r .jl .lua "
    ".sh .bash .pl .sql .toml .yaml .yml .ini .cfg .css .scss .m .vue .dart .ex .exs .hs .ml .clj .proto".split()
)
"""Of files that are read as code."""
_WORDS = "class|def|fn|func|function|struct|enum|impl|interface|trait|module|namespace|object|protocol|type|message|sub|procedure"
_BEFORE = (
    r"(?:(?:export|default|pub(?:\([a-z]+\))?|public|private|protected|internal|static|abstract|final|sealed|async|unsafe|"
    r"open|override|const|inline|extern|data|partial|suspend)\s+)*"
)
_DEFINITION = re.compile(rf"^([ \t]*){_BEFORE}(?:{_WORDS})\b[^\n]*", re.M)
_CALLED = re.compile(rf"(?:{_WORDS})\s+(?:\([^)]*\)\s*)?([\w.$:<>]+)")
_ABOVE = re.compile(r"[ \t]*(?:@|#|//|/\*|\*|\[)")
"""Decorators and comments, which belong to what stands below them."""


def read_code(content: bytes, name: str) -> Document:
    """Lines of code; a definition is a heading, one that is indented a lower one."""
    text = decoded(content, name)
    return Document(text, tuple(_blocks(text)), "code")


def _blocks(text: str) -> Iterator[Block]:
    begin = 0
    for match in _DEFINITION.finditer(text):
        at = _first_line(text, match.start(), begin)
        yield from _lines(text, begin, at)
        named = _CALLED.search(match[0])
        title = named[1] if named else match[0].strip()
        first, last = trimmed(text, at, match.end())
        yield Block(
            first, last, "heading", 1 + len(match[1].expandtabs(4)) // 4, title.rstrip(":<")
        )
        begin = match.end()
    yield from _lines(text, begin, len(text))


def _first_line(text: str, at: int, least: int) -> int:
    """Where the comments and decorators right above a line begin."""
    while at > least:
        above = text.rfind("\n", 0, at - 1) + 1
        if above < least or not _ABOVE.match(text, above, at):
            break
        at = above
    return at


def _lines(text: str, begin: int, end: int) -> Iterator[Block]:
    first, last = trimmed(text, begin, end)
    if first < last:
        while first > begin and text[first - 1] in " \t":
            first -= 1  # the first line keeps its indentation
        yield Block(first, last, "code")
