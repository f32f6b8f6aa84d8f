"""JSON lines: a document in each row, its other fields as metadata."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from fourfold.core.errors import UserError, nearest
from fourfold.data.documents.document import Block, Document, paragraphs
from fourfold.data.documents.plain import decoded

FIELDS = ("text", "content", "contents", "body", "passage", "document")
"""Where a row's text is looked for."""


def read_rows(content: bytes, name: str, field: str | None = None) -> Iterator[Document]:
    """A document for each row.

    Args:
        content: the file.
        name: what messages call it.
        field: where the text is; None takes the first of `FIELDS` that a row has.

    Raises:
        UserError: a row is no JSON object or has no text; its line is named.
    """
    for number, line in enumerate(decoded(content, name).split("\n"), 1):
        if line.strip():
            yield of_row(
                _parsed(line, f"{name}, line {number}"), f"{name}, line {number}", field, number
            )


def _parsed(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error})") from None


def of_row(row: Any, where: str, field: str | None, line: int) -> Document:
    """A row as a document."""
    if isinstance(row, str):
        row = {"text": row}
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object with a text, got {row!r:.40}")
    names = [field] if field else [f for f in FIELDS if f in row]
    if not names or names[0] not in row:
        wanted = field or " or ".join(FIELDS[:3])
        raise UserError(f"{where}: no field {wanted!r}{nearest(wanted, map(str, row))}")
    text = row[names[0]]
    if not isinstance(text, str):
        raise UserError(f"{where}, field {names[0]}: expected text, got {type(text).__name__}")
    text = text.encode("utf-8", "replace").decode()
    metadata = {
        k: v for k, v in row.items() if k != names[0] and isinstance(v, (str, int, float, bool))
    }
    blocks = tuple(Block(a, b, line=line) for a, b in paragraphs(text))
    return Document(text, blocks, "row", metadata, lines=False, line=line)
