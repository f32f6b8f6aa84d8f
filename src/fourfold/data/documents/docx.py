"""DOCX: paragraphs, headings and tables of a Word document. ECMA-376, part 1, 17.3 and 17.4."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from xml.etree import ElementTree

from fourfold.core.errors import UserError
from fourfold.data.documents.document import Builder, Document

W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
DC = "{http://purl.org/dc/elements/1.1/}"
LARGEST = 256 << 20
"""Bytes that a part of the archive may have unpacked: a small archive can hold endless ones."""


def read_docx(content: bytes, name: str) -> Document:
    """Paragraphs in order, those with a heading's style as headings, tables row by row.

    Raises:
        UserError: it is no Word document, damaged, or without text.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            body = ElementTree.fromstring(_part(archive, "word/document.xml", name))
            levels = _heading_styles(archive, name)
            metadata = _properties(archive, name)
    except (zipfile.BadZipFile, ElementTree.ParseError, KeyError, RuntimeError) as error:
        raise UserError(f"{name}: not a Word document, or damaged ({error})") from error
    made = Builder()
    for block in body.iter(f"{W}body"):
        _add(block, made, levels)
    if not made.blocks:
        raise UserError(f"{name}: no text in it")
    return made.document("docx", metadata=metadata)


def _part(archive: zipfile.ZipFile, part: str, name: str) -> bytes:
    if archive.getinfo(part).file_size > LARGEST:
        raise UserError(f"{name}: {part} has more than {LARGEST >> 20} MB unpacked")
    return archive.read(part)


def _add(parent: ElementTree.Element, made: Builder, levels: dict[str, int]) -> None:
    for item in parent:
        if item.tag == f"{W}p":
            level = levels.get(_style(item), 0)
            made.add("".join(_texts(item)), "heading" if level else "text", level=level)
        elif item.tag == f"{W}tbl":
            for row in item.iter(f"{W}tr"):
                cells = [" ".join("".join(_texts(c)).split()) for c in row.findall(f"{W}tc")]
                made.add(" | ".join(cells), "row")
        elif item.tag in (f"{W}sdt", f"{W}sdtContent"):  # content controls hold paragraphs
            _add(item, made, levels)


def _texts(item: ElementTree.Element) -> Iterator[str]:
    for part in item.iter():
        if part.tag == f"{W}t":
            yield part.text or ""
        elif part.tag == f"{W}tab":
            yield "\t"
        elif part.tag in (f"{W}br", f"{W}cr"):
            yield "\n"
        elif part.tag == f"{W}p":
            yield " "


def _style(paragraph: ElementTree.Element) -> str:
    style = paragraph.find(f"{W}pPr/{W}pStyle")
    return "" if style is None else style.get(f"{W}val", "")


def _heading_styles(archive: zipfile.ZipFile, name: str) -> dict[str, int]:
    """Levels of the styles that are headings; their names are "heading 1" in every language of Word."""
    found = {f"Heading{n}": n for n in range(1, 7)} | {"Title": 1}
    if "word/styles.xml" in archive.namelist():
        for style in ElementTree.fromstring(_part(archive, "word/styles.xml", name)).iter(
            f"{W}style"
        ):
            title = style.find(f"{W}name")
            words = "" if title is None else title.get(f"{W}val", "").lower()
            if words.startswith("heading ") and words[8:].isdigit():
                found[style.get(f"{W}styleId", "")] = min(int(words[8:]), 6)
    return found


def _properties(archive: zipfile.ZipFile, name: str) -> dict[str, str]:
    if "docProps/core.xml" not in archive.namelist():
        return {}
    root = ElementTree.fromstring(_part(archive, "docProps/core.xml", name))
    told = {"title": root.findtext(f"{DC}title"), "author": root.findtext(f"{DC}creator")}
    return {key: value for key, value in told.items() if value}
