"""HTML: what a browser would show, block by block, with the line of the source."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

from fourfold.core.errors import UserError
from fourfold.data.documents.document import Builder, Document
from fourfold.data.documents.plain import decoded

HIDDEN = {"script", "style", "template", "noscript", "svg", "head"}
BLOCKS = frozenset(
    "address article aside blockquote body dd details div dl dt fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 "
    "header hr li main nav ol p pre section summary table tbody thead tfoot tr ul caption".split()
)
_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([\w-]+)", re.I)


def read_html(content: bytes, name: str) -> Document:
    """The visible text; headings, code and the rows of tables are told apart.

    Raises:
        UserError: nothing of it is visible.
    """
    told = _CHARSET.search(content[:4096])
    reader = _Reader()
    reader.feed(decoded(content, name, told[1].decode() if told else None))
    reader.close()
    reader.end_block()
    if not reader.made.blocks:
        raise UserError(f"{name}: no visible text; is it made by a script?")
    return reader.made.document("html", metadata=reader.metadata)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.made, self.metadata = Builder(), dict[str, Any]()
        self._pieces: list[str] = []
        self._hidden, self._kept, self._heading, self._row = list[str](), 0, 0, False
        self._title, self._line = False, 1

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in BLOCKS and self._hidden == ["head"]:
            self._hidden.clear()  # </head> may be left out
        if tag == "title":
            self._title = "svg" not in self._hidden
        elif tag == "meta":
            self._meta(dict(attrs))
        elif tag in HIDDEN:
            self._hidden.append(tag)
        elif tag in BLOCKS:
            if not (self._row and tag in ("p", "div")):
                self.end_block()
            self._kept += tag == "pre"
            self._row = self._row or tag == "tr"
            if re.fullmatch("h[1-6]", tag):
                self._heading = int(tag[1])
        elif tag == "br":
            self._pieces.append("\n" if self._kept else " ")
        elif tag in ("td", "th") and any(p.strip() for p in self._pieces):
            self._pieces.append(" | ")

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._title = False
        elif tag in HIDDEN:
            if tag in self._hidden:
                self._hidden.remove(tag)
        elif tag in BLOCKS:
            if self._row and tag in ("p", "div"):
                self._pieces.append(" ")
                return
            self.end_block()
            if tag == "pre":
                self._kept = max(0, self._kept - 1)
            if tag in ("tr", "table"):
                self._row = False

    def handle_data(self, data: str) -> None:
        if self._title:
            self.metadata["title"] = (
                self.metadata.get("title", "") + " ".join(data.split())
            ).strip()
        elif not self._hidden:
            if not any(p.strip() for p in self._pieces):
                self._line = self.getpos()[0] + len(data) - len(data.lstrip("\n"))
            self._pieces.append(data if self._kept else re.sub(r"\s+", " ", data))

    def end_block(self) -> None:
        """What was said since the last block is one."""
        text = "".join(self._pieces)
        if not self._kept:
            text = re.sub(r"[^\S\n]+", " ", text).strip()
        kind: Any = "code" if self._kept else "row" if self._row else "text"
        if self._heading:
            kind = "heading"
        self.made.add(text, kind, level=self._heading, line=self._line)
        self._pieces, self._heading = [], 0

    def _meta(self, told: dict[str, str | None]) -> None:
        name, content = told.get("name") or "", told.get("content") or ""
        if name.lower() in ("author", "description", "date", "keywords") and content:
            self.metadata[name.lower()] = content
