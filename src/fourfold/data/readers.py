"""Reading documents from files, streams and memory.

Everything is streamed in pieces of about 64 thousand characters, so that a text may be larger than
memory. Text is UTF-8, always. Kinds by suffix, each also with .gz or .zst behind it: .jsonl, .json, .csv,
.tsv and .parquet hold many documents, one in each row's `field`; anything else is one document.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fourfold.core.errors import UserError, nearest

PIECE = 1 << 16  # characters
BLOCK = 1 << 20  # bytes read at a time
MEMORY = 64 << 20  # bytes of text that may stay in memory
PLAIN = {".txt", ".text", ".md", ".rst", ".py"}
ROWS = {".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"}
PACKED = {".gz", ".zst"}

_MAGIC = {
    b"PK\x03\x04": "a ZIP archive",
    b"\x7fELF": "an ELF program",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"%PDF-": "a PDF file",
    b"\x1f\x8b": "gzip; name it .gz to have it unpacked",
    b"\x28\xb5\x2f\xfd": "zstandard; name it .zst to have it unpacked",
    b"PAR1": "a Parquet file; name it .parquet to have it read",
    b"SQLite format 3": "an SQLite database",
    b"\xff\xfe": "UTF-16; convert it to UTF-8",
    b"\xfe\xff": "UTF-16; convert it to UTF-8",
}


@dataclass(frozen=True)
class Origin:
    """One thing to read: a file, a stream, or texts in memory."""

    name: str
    """What messages call it."""
    field: str
    """The column or key that holds the text, where there are rows."""
    path: Path | None = None
    stream: BinaryIO | None = None
    """Standard input, kept so that it can be read more than once."""
    texts: Sequence[Any] | None = None

    @property
    def place(self) -> str:
        """The file's address, the same from wherever it is named."""
        return self.name if self.path is None or "://" in self.name else str(self.path.resolve())


def magic(head: bytes) -> str | None:
    """What binary kind of file begins like this, in words; None for text, as far as it tells."""
    return next((what for mark, what in _MAGIC.items() if head.startswith(mark)), None)


def kind_of(path: Path) -> str:
    """The suffix that says what a file is: the last one that is no packing."""
    suffixes = [s.lower() for s in path.suffixes]
    return next((s for s in reversed(suffixes) if s not in PACKED), "")


# --- bytes and characters -----------------------------------------------------------------------


def _blocks(origin: Origin) -> Iterator[bytes]:
    """The unpacked content."""
    empty = True
    try:
        for block in _unpacked(origin):
            empty = False
            yield block
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{origin.name}: damaged, it cannot be unpacked ({error})") from error
    except OSError as error:
        raise UserError(f"{origin.name}: cannot be read ({error.strerror or error})") from error
    if empty:
        raise UserError(f"{origin.name}: empty, expected text")


def _unpacked(origin: Origin) -> Iterator[bytes]:
    if origin.stream is not None:
        origin.stream.seek(0)
        yield from iter(lambda: origin.stream.read(BLOCK), b"")  # type: ignore[union-attr]
        return
    assert origin.path is not None  # noqa: S101
    suffix = origin.path.suffix.lower()
    if suffix == ".zst":
        yield from _zstandard(origin.path)
        return
    with gzip.open(origin.path) if suffix == ".gz" else origin.path.open("rb") as file:
        yield from iter(lambda: file.read(BLOCK), b"")


def _zstandard(path: Path) -> Iterator[bytes]:
    """Frame by frame: the package's own reader takes a truncated file for a whole one."""
    try:
        import zstandard
    except ImportError as error:
        raise UserError(f"{path}: .zst needs zstandard; pip install 'fourfold[zstd]'") from error
    with path.open("rb") as file:
        frame = None
        while block := file.read(BLOCK // 8):
            while block:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                try:
                    content = frame.decompress(block)
                except zstandard.ZstdError as error:
                    raise EOFError(str(error)) from error
                if content:
                    yield content
                block = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
        if frame is not None:
            raise EOFError("it ends inside a frame")


def decoded(origin: Origin) -> Iterator[str]:
    """The content as characters, a block at a time; a byte-order mark is no part of it.

    Raises:
        UserError: empty, binary, or not UTF-8, with the offset of the first wrong byte.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    done = 0  # bytes before this block
    for block in _blocks(origin):
        if done == 0:
            if (what := magic(block)) is not None:
                raise UserError(f"{origin.name}: binary, not text: {what}")
        if (nul := block.find(0)) >= 0:
            raise UserError(
                f"{origin.name}: binary, not text: a NUL at byte offset {done + nul}; expected UTF-8"
            )
        yield _decode(decoder, block, origin, done).removeprefix("\ufeff" if done == 0 else "")
        done += len(block)
    _decode(decoder, b"", origin, done)


def _decode(decoder: codecs.IncrementalDecoder, block: bytes, origin: Origin, done: int) -> str:
    waiting = len(decoder.getstate()[0])
    try:
        return decoder.decode(block, final=not block)
    except UnicodeDecodeError as error:
        offset = done - waiting + error.start
        raise UserError(
            f"{origin.name}: not UTF-8: byte 0x{error.object[error.start]:02x} at byte offset {offset} "
            f"({error.reason}); convert it, e.g. with iconv -t UTF-8"
        ) from error


def _lines(blocks: Iterable[str]) -> Iterator[str]:
    r"""Lines with their line end, "\n"."""
    rest = ""
    for block in blocks:
        *lines, rest = (rest + block).split("\n")
        for line in lines:
            yield line + "\n"
    if rest:
        yield rest


# --- documents ----------------------------------------------------------------------------------


def documents(origin: Origin) -> Iterator[tuple[str, bool]]:
    """Pieces of the documents in order, each with whether it ends its document.

    An empty document is one empty piece. Where a document is cut depends on its text only, see `pieces`.

    Raises:
        UserError: it cannot be read; file, line and byte offset are named where they are known.
    """
    kind = kind_of(origin.path) if origin.path else ""
    if origin.texts is not None:
        rows = _checked(enumerate(origin.texts), origin, "document")
    elif kind in (".jsonl", ".ndjson"):
        rows = _jsonl(origin)
    elif kind == ".json":
        rows = _json(origin)
    elif kind in (".csv", ".tsv"):
        rows = _csv(origin)
    elif kind == ".parquet":
        rows = _parquet(origin)
    else:
        yield from pieces(decoded(origin))
        return
    for text in rows:
        yield from pieces([text])


_LINE_END = re.compile(r"(?<=\S)\n(?=\S)")
_SPACE = re.compile(r"(?<=\S)(?=[ \t\r\n])")


def pieces(blocks: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Cut a document where tokens end anyway, about every PIECE characters.

    After a single line end, else before white space: pre-tokenizers of the byte-level family never let a
    token reach across these. Only a run of tens of thousands of characters without either is cut inside.
    """
    rest = ""
    for block in blocks:
        rest += block
        start = 0
        while len(rest) - start > PIECE + 1:
            end = safe_cut(rest, start + PIECE, start)
            yield rest[start:end], False
            start = end
        rest = rest[start:]
    yield rest, True


def safe_cut(text: str, limit: int, start: int = 0) -> int:
    """The last place in (start, limit] where the text may be cut; `limit` if there is none."""
    for begin in (max(start + 1, limit - 4096), start + 1):
        for pattern in (_LINE_END, _SPACE):
            if places := [match.end() for match in pattern.finditer(text, begin, limit + 1)]:
                return places[-1]
    return limit


def _checked(rows: Iterable[tuple[int, Any]], origin: Origin, word: str) -> Iterator[str]:
    """Texts of numbered rows: a string, a list of strings (joined by line ends), or nothing."""
    for number, value in rows:
        if isinstance(value, list) and all(isinstance(v, str) for v in value):
            value = "\n".join(value)
        if value is None:
            value = ""
        if not isinstance(value, str):
            kind = type(value).__name__
            raise UserError(
                f"{origin.name}, {word} {number}, field {origin.field}: expected text, got {kind}"
            )
        try:
            value.isascii() or value.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{origin.name}, {word} {number}: half a surrogate pair at character {error.start}, "
                "which is no text in UTF-8"
            ) from error
        yield value


def _field(row: Any, origin: Origin, where: str) -> Any:
    if isinstance(row, (str, list)):
        return row
    if not isinstance(row, dict):
        raise UserError(
            f"{origin.name}, {where}: expected an object with {origin.field!r}, got {row!r:.40}"
        )
    if origin.field not in row:
        raise UserError(
            f"{origin.name}, {where}: no field {origin.field!r}{nearest(origin.field, row)}"
        )
    return row[origin.field]


def _jsonl(origin: Origin) -> Iterator[str]:
    def rows() -> Iterator[tuple[int, Any]]:
        for number, line in enumerate(_lines(decoded(origin)), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"{origin.name}, line {number}: not JSON ({error})") from error
            yield number, _field(row, origin, f"line {number}")

    return _checked(rows(), origin, "line")


def _json(origin: Origin) -> Iterator[str]:
    """One object or a list of them; read as a whole, so JSON lines suit large data better."""
    try:
        rows = json.loads("".join(decoded(origin)))
    except ValueError as error:
        raise UserError(f"{origin.name}: not JSON ({error})") from error
    many = rows if isinstance(rows, list) else [rows]
    found = ((n, _field(row, origin, f"item {n}")) for n, row in enumerate(many, 1))
    return _checked(found, origin, "item")


def _csv(origin: Origin) -> Iterator[str]:
    """Streamed by the standard library's reader: a cell may be a whole book, or hold line ends."""
    csv.field_size_limit(min(sys.maxsize, (1 << 31) - 1))
    lines = _lines(decoded(origin))
    first = next(lines, "")
    delimiters = "\t" if origin.path and kind_of(origin.path) == ".tsv" else ",;\t"
    headers = [next(csv.reader([first], delimiter=d)) for d in delimiters]
    header = next((h for h in headers if origin.field in h), headers[0])
    if origin.field not in header:
        raise UserError(
            f"{origin.name}: no column {origin.field!r}{nearest(origin.field, header)} "
            "(--data.field names the column with the text)"
        )
    column, delimiter = header.index(origin.field), delimiters[headers.index(header)]
    rows = csv.reader(lines, delimiter=delimiter)
    try:
        for row in rows:
            if row and len(row) != len(header):
                raise UserError(
                    f"{origin.name}, line {rows.line_num + 1}: {len(row)} cells, expected {len(header)}"
                )
            if row:
                yield row[column]
    except csv.Error as error:
        raise UserError(f"{origin.name}, line {rows.line_num + 1}: not CSV ({error})") from error


def _parquet(origin: Origin) -> Iterator[str]:
    import polars as pl

    packed = origin.path is not None and origin.path.suffix.lower() in PACKED
    source: Any = io.BytesIO(b"".join(_blocks(origin))) if packed else origin.path
    if not packed:
        next(_blocks(origin))  # says what is wrong with a file that is empty or may not be read
    try:
        table = pl.scan_parquet(source)
        columns = table.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(
            f"{origin.name}: not a Parquet file ({str(error).splitlines()[0]})"
        ) from error
    if origin.field not in columns:
        raise UserError(
            f"{origin.name}: no column {origin.field!r}{nearest(origin.field, columns)}"
        )

    def rows() -> Iterator[tuple[int, Any]]:
        start, step = 0, 1 << 14
        while len(part := table.select(origin.field).slice(start, step).collect()):
            yield from enumerate(part[origin.field].to_list(), start + 1)
            start += step

    return _checked(rows(), origin, "row")
