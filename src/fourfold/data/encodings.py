"""Text files that are not UTF-8: which encoding their first bytes tell, which one is likely, and the way to UTF-8."""

from __future__ import annotations

import codecs
import tempfile
from pathlib import Path
from typing import IO, Any

from fourfold.core.errors import UserError
from fourfold.core.state import full_disk

BLOCK = 8 << 20
"""Bytes decoded at a time."""
SAMPLE = 1 << 16
"""Bytes from which an encoding is guessed."""
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as UTF-16's does, so it comes first
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte-order marks, and what they tell."""
LIKELY = 0.7
"""Share of the characters beyond ASCII that must be frequent ones of an encoding."""


class Temporary:
    """A temporary file, without a name where the system allows it; gone with the last who reads it."""

    def __init__(self, suffix: str = "") -> None:
        nameless = Path("/proc/self/fd")
        if nameless.is_dir():
            self.file: Any = tempfile.TemporaryFile()
            self.path = nameless / str(self.file.fileno())
        else:
            self.file = tempfile.NamedTemporaryFile(prefix="fourfold-", suffix=suffix)
            self.path = Path(self.file.name)

    def __del__(self) -> None:
        self.file.close()


def checked(name: str) -> str:
    """An encoding's name as Python has it.

    Raises:
        ValueError: there is none of that name, or it is none of text.
    """
    try:
        found = codecs.lookup(name)
    except LookupError:
        found = None
    if found is None or not getattr(found, "_is_text_encoding", True):
        raise ValueError(
            f"encoding: {name!r} is none that Python knows, as gb18030, big5, shift_jis, cp1252 or utf-16"
        )
    return found.name


def marked(head: bytes) -> str | None:
    """The encoding that a byte-order mark tells; None where there is none, or UTF-8's."""
    return next((encoding for mark, encoding in MARKS if head.startswith(mark)), None)


def guess(sample: bytes) -> str:
    """The likeliest encoding of bytes that are not UTF-8 and begin with a character.

    Chinese and Japanese are told by how many of their pairs of bytes are frequent characters; all else
    is taken for Western text.
    """
    cut = sample[:SAMPLE]
    cut = cut[: cut.rfind(b"\n") + 1] or cut
    for encoding, lead, trail in (("gb18030", (0xB0, 0xD7), 0xA1), ("big5", (0xA4, 0xC6), 0x40)):
        pairs = _pairs(cut, encoding)
        frequent = [p for p in pairs if lead[0] <= p[0] <= lead[1] and p[1] >= trail]
        if pairs and len(frequent) >= LIKELY * len(pairs):
            return encoding
    kana = [c for c in cut.decode("shift_jis", "ignore") if "\u3040" <= c <= "\u30ff"]
    return "shift_jis" if len(kana) > len(cut) / 20 else "cp1252"


def _pairs(sample: bytes, encoding: str) -> list[bytes]:
    """Characters of two bytes; none where the bytes are not of this encoding."""
    try:
        text = sample.decode(encoding)
    except UnicodeDecodeError as error:
        if error.end < len(sample):
            return []
        text = sample[: error.start].decode(encoding)  # the sample ends within a character
    return [pair for c in text if ord(c) > 127 and len(pair := c.encode(encoding)) == 2]


def recoded(stream: IO[bytes], name: str, encoding: str) -> Temporary:
    """The stream's text as UTF-8, in a temporary file.

    Raises:
        UserError: the bytes are not of this encoding, or the disk is full.
    """
    kept, decoder, done = Temporary(".csv"), codecs.getincrementaldecoder(encoding)(), 0
    try:
        while True:
            block = stream.read(BLOCK)
            held = len(decoder.getstate()[0])  # bytes of a character that the last block cut
            kept.file.write(decoder.decode(block, final=not block).encode())
            done += len(block)
            if not block:
                break
        kept.file.flush()
    except UnicodeDecodeError as error:
        at, byte = done - held + error.start, error.object[error.start]
        raise UserError(
            f"{name}: neither UTF-8 nor {encoding}, at byte {at} ({byte:#04x})"
        ) from None
    except OSError as error:
        if not full_disk(error):
            raise
        raise UserError(
            f"{tempfile.gettempdir()}: no room for {name} as UTF-8; set TMPDIR to a larger disk"
        ) from error
    return kept
