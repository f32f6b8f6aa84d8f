"""A file as documents: its suffix and its first bytes choose the reader."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from fourfold.core.errors import UserError
from fourfold.data.documents.code import SUFFIXES, read_code
from fourfold.data.documents.document import Document
from fourfold.data.documents.docx import read_docx
from fourfold.data.documents.html import read_html
from fourfold.data.documents.markdown import read_markdown
from fourfold.data.documents.pdf import read_pdf
from fourfold.data.documents.plain import read_text
from fourfold.data.documents.rows import read_rows

Reader = Callable[[bytes, str], Document]
READERS: dict[str, Reader] = {
    ".md": read_markdown, ".markdown": read_markdown, ".html": read_html, ".htm": read_html, ".xhtml": read_html,
    ".pdf": read_pdf, ".docx": read_docx, **dict.fromkeys(SUFFIXES, read_code),
}  # fmt: skip
"""By suffix; all else is read as text."""
ROWS = {".jsonl", ".ndjson"}
VERSION = 2
"""Of what the readers and the cutting make; a change of either raises it, and everything is read again."""


def read(path: Path, *, field: str | None = None, largest: int = 1 << 28) -> Iterator[Document]:
    """The documents of a file.

    Args:
        path: the file.
        field: of JSON lines: where a row's text is.
        largest: bytes that a file may have.

    Raises:
        UserError: it cannot be read, and why.
    """
    yield from of_bytes(content(path, largest), path.name, str(path), field)


def content(path: Path, largest: int) -> bytes:
    """A file's bytes.

    Raises:
        UserError: it is no file, too large, or may not be read.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise UserError(f"{path}: not a file")
        if size > largest:
            raise UserError(
                f"{path}: {size / 1e6:,.0f} MB, more than the {largest / 1e6:,.0f} MB that are read; "
                "split it, or raise --data.largest"
            )
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def of_bytes(content: bytes, file: str, name: str, field: str | None = None) -> Iterator[Document]:
    """The documents that a file's bytes hold.

    Args:
        content: all of them.
        file: its name, whose suffix counts.
        name: what messages call it.
        field: see `read`.

    Raises:
        UserError: they cannot be read, and why.
    """
    suffix = Path(file).suffix.lower()
    if not content:
        raise UserError(f"{name}: empty")
    if suffix in ROWS:
        yield from read_rows(content, name, field)
    elif content.startswith(b"%PDF-"):
        yield read_pdf(content, name)
    else:
        yield READERS.get(suffix, read_text)(content, name)
