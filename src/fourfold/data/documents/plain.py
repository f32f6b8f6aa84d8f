"""Text files: their characters, and what encoding they are in."""

from __future__ import annotations

import codecs

from fourfold.core.errors import UserError
from fourfold.data.documents.document import Block, Document, paragraphs
from fourfold.data.encodings import guess, marked
from fourfold.data.readers import magic


def decoded(content: bytes, name: str, encoding: str | None = None) -> str:
    """Bytes as text; a byte-order mark is no part of it.

    Args:
        content: a whole file.
        name: what messages call it.
        encoding: what the file says it is in; None takes UTF-8, else the likeliest.

    Raises:
        UserError: empty, binary, or text in no encoding that is known.
    """
    if not content.strip():
        raise UserError(f"{name}: empty")
    what = magic(content)
    told = marked(content[:4])
    if what is not None and told is None:
        raise UserError(f"{name}: binary, not text: {what}")
    if told is None and (place := content.find(0)) >= 0:
        raise UserError(f"{name}: binary, not text: a NUL at byte offset {place}")
    for tried in (told, "utf-8", encoding):
        if tried is not None:
            try:
                return codecs.decode(content, tried).removeprefix("\ufeff")
            except (UnicodeDecodeError, LookupError):
                continue
    likely = guess(content)
    try:
        text = content.decode(likely)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name}: neither UTF-8 nor {likely}: byte 0x{content[error.start]:02x} at byte offset {error.start}"
        ) from None
    if sum(c < " " and c not in "\t\n\r\f\x1b" for c in text[:4096]) > len(text[:4096]) / 50:
        raise UserError(f"{name}: binary, not text: control characters")
    return text


def read_text(content: bytes, name: str) -> Document:
    """Paragraphs between empty lines."""
    text = decoded(content, name)
    return Document(text, tuple(Block(a, b) for a, b in paragraphs(text)), "text")
