"""CSV and TSV, checked before they are parsed: encoding, ragged rows, duplicate names, with the row that is wrong.

One pass over the bytes counts the rows, compares every row's fields with the header and takes the
SHA-256; polars then parses. Quotes are RFC 4180's.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import hashlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from fourfold.core.errors import UserError
from fourfold.core.state import full_disk
from fourfold.data.encodings import Temporary, guess, marked, recoded
from fourfold.data.rows import CHUNK, IN_MEMORY, Format, Piece, check_names, reading, suffix_of

if TYPE_CHECKING:
    import polars as pl

BLOCK = 8 << 20
"""Bytes checked at a time."""
INFERRED = 10_000
"""Rows from which a streamed file's types are taken; if a later row disagrees, all rows."""


@contextlib.contextmanager
def decompressed(path: Path) -> Iterator[IO[bytes]]:
    """A file's bytes, through gzip or Zstandard where its name says so.

    Raises:
        UserError: Zstandard's package is missing.
    """
    if path.suffix.lower() == ".gz":
        import gzip

        with gzip.open(path, "rb") as stream:
            yield stream  # type: ignore[misc]
    elif path.suffix.lower() == ".zst":
        try:
            import zstandard
        except ImportError:
            raise UserError(
                f"{path.name}: reading .zst needs pip install 'fourfold[zstd]'"
            ) from None
        with path.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
            yield stream
    else:
        with path.open("rb") as stream:
            yield stream


@contextlib.contextmanager
def _bytes_of(path: Path, name: str, source: io.BytesIO | None) -> Iterator[IO[bytes]]:
    if source is not None:
        source.seek(0)
        yield source
        return
    with reading(name), decompressed(path) as stream:
        yield stream


def open_delimited(path: Path, name: str, source: io.BytesIO | None, how: Format) -> Piece:
    """Check and open a CSV or TSV file.

    A file of UTF-8 is read as that; another by its byte-order mark or as `how` says.

    Args:
        path: the file, `.gz` and `.zst` included.
        name: of the file, for errors.
        source: its bytes, if it came through stdin.
        how: separator, encoding, decimal sign, words for missing cells, columns that stay text.

    Raises:
        UserError: binary, in another encoding, ragged, with duplicate names, or without rows; the row is named.
    """
    tabs = suffix_of(path) in (".tsv", ".tab")
    with _bytes_of(path, name, source) as stream:
        head = stream.read(4096)
    encoding = marked(head) or (how.encoding if b"\0" in head else None)
    if encoding is None:
        try:
            return _open_utf8(path, name, source, how, tabs)
        except _NotUTF8:
            if how.encoding is None:
                raise
            encoding = how.encoding
    with _bytes_of(path, name, source) as stream:
        kept = recoded(stream, name, encoding)
    return _open_utf8(kept.path, name, None, how, tabs)


class _NotUTF8(UserError):
    """The bytes are of another encoding."""

    def __init__(self, name: str, at: int, error: UnicodeDecodeError) -> None:
        line = error.object.rfind(b"\n", 0, error.start) + 1
        likely = guess(error.object[line:])
        super().__init__(
            f"{name}: not UTF-8 at byte {at} ({error.object[error.start]:#04x}); "
            f"--data.encoding {likely} may read it, or save it as UTF-8"
        )


def _open_utf8(path: Path, name: str, source: io.BytesIO | None, how: Format, tabs: bool) -> Piece:
    import polars as pl

    with _bytes_of(path, name, source) as stream:
        separator, names = _header(stream.read(1 << 20), name, tabs, how)
    check_names([column or f"column_{i + 1}" for i, column in enumerate(names)], name)
    with _bytes_of(path, name, source) as stream:
        check = _Check(name, separator, len(names))
        while block := stream.read(BLOCK):
            check.feed(block)
        check.finish()
    if check.ragged:
        with _bytes_of(path, name, source) as stream:
            # where nothing is raised, a quote stands inside a cell that does not begin with one
            source, check.rows = _requoted(stream, name, separator, len(names))
    if check.rows < 1:
        raise UserError(f"{name}: has a header and no rows")
    options = _parser(names, separator, how)
    with reading(name):
        try:
            return _piece(path, name, source, options, check)
        except pl.exceptions.ComputeError:
            with _bytes_of(path, name, source) as stream:
                # says which row, where it is a row's fault
                _requoted(stream, name, separator, len(names), keep=False)
            raise


def _piece(
    path: Path, name: str, source: io.BytesIO | None, options: dict[str, Any], check: _Check
) -> Piece:
    import polars as pl

    if source is not None or check.size <= IN_MEMORY:
        table = _parse(path, name, source, options).head(check.rows)
        return Piece(name, check.rows, table, check.digest)
    columns = _as_columns(path, name, options)
    lazy = pl.scan_parquet(columns.path)
    return Piece(name, check.rows, lazy, check.digest, kept=columns)


def _header(head: bytes, name: str, tabs: bool, how: Format) -> tuple[str, list[str]]:
    _check_text(head[:4096], name)
    try:  # a character may be cut at the end
        text = codecs.getincrementaldecoder("utf-8")().decode(head).lstrip("\ufeff").lstrip("\r\n")
    except UnicodeDecodeError as error:
        raise _NotUTF8(name, error.start, error) from None
    if not text.strip():
        raise UserError(f"{name}: empty; expected a table with a header and rows")
    first = text.splitlines()[0]
    separator = how.separator
    if separator is None:
        separator = "\t" if tabs else ","
        if separator not in first:
            separator = max(",;\t|", key=first.count)
    names = next(csv.reader(io.StringIO(text), delimiter=separator))
    return separator, names


def _check_text(block: bytes, name: str) -> None:
    zero = block.find(b"\0")
    if zero >= 0:
        raise UserError(
            f"{name}: binary (a zero byte at byte {zero}); expected a text table such as CSV"
        )


class _Check:
    """Counts rows, fields and bytes, block by block."""

    def __init__(self, name: str, separator: str, fields: int) -> None:
        self.name, self.separator, self.fields = name, ord(separator), fields
        self.rows, self.size, self.ragged = 0, 0, False
        self._sha = hashlib.sha256()
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._inside, self._separators, self._length = (
            0,
            0,
            0,
        )  # of the line that a block leaves open
        self._lines, self._blank = 0, False

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes, decompressed."""
        return self._sha.hexdigest()

    def feed(self, block: bytes) -> None:
        """Check the next bytes."""
        self._sha.update(block)
        self._check_encoding(block)
        self.size += len(block)
        if not self._lines:
            block = block if self._length else block.lstrip(b"\r\n")  # empty lines above the header
        if not self._regular(block):
            self._feed_lines(block)

    def _regular(self, block: bytes) -> bool:
        """Take in a block without quotes by its totals alone, where these are what regular rows have.

        A row that is too long beside one that is too short passes here; polars refuses the long one.
        """
        if self.fields == 1 or self._inside or self._blank or b'"' in block:
            return False
        found, last = np.frombuffer(block, np.uint8), block.rfind(b"\n")
        lines = int(np.count_nonzero(found == 10))  # bytes.count is slow for what is frequent
        marks = found == self.separator
        left = int(np.count_nonzero(marks[last + 1 :]))
        count = self._separators + int(np.count_nonzero(marks)) - left
        if not lines or count != lines * (self.fields - 1):
            return False
        self._lines += lines
        self.rows = self._lines - 1
        self._separators, self._length = left, len(block) - last - 1
        return True

    def _feed_lines(self, block: bytes) -> None:
        """Compare each line of a block."""
        found = np.frombuffer(block, np.uint8)
        lines, marks = found == 10, found == self.separator
        if self._inside or b'"' in block:
            quoted = (np.cumsum(found == 34, dtype=np.uint8) + np.uint8(self._inside)) & 1
            lines, marks = lines & (quoted == 0), marks & (quoted == 0)
            self._inside = int(quoted[-1])
        ends = np.flatnonzero(lines)
        if not len(ends):
            self._separators += int(marks.sum())
            self._length += len(block)
            return
        before = np.searchsorted(np.flatnonzero(marks), ends)  # separators before each line's end
        counts = np.diff(before, prepend=0)
        lengths = np.diff(ends, prepend=-1) - 1 - (found[np.maximum(ends - 1, 0)] == 13)
        counts[0] += self._separators
        lengths[0] += self._length
        self._add(counts, lengths > 0)
        self._separators = int(marks[ends[-1] :].sum())
        self._length = len(block) - int(ends[-1]) - 1

    def _check_encoding(self, block: bytes) -> None:
        held = len(self._decoder.getstate()[0])  # bytes of a character that the last block cut
        if not block.isascii() or held:
            try:
                self._decoder.decode(block)
            except UnicodeDecodeError as error:
                raise _NotUTF8(self.name, self.size - held + error.start, error) from None
        _check_text(block, self.name)

    def _add(self, counts: np.ndarray, full: np.ndarray) -> None:
        """Lines that ended: separators in each, and whether anything is in them."""
        if full.any():
            last = int(np.flatnonzero(full)[-1])  # empty lines at the end of a file are no rows
            wrong = counts[: last + 1] != self.fields - 1
            self.ragged |= bool(wrong.any()) or (self._blank and self.fields > 1)
            self.rows = self._lines + last
            self._blank = last + 1 < len(full)
        else:
            self._blank |= len(full) > 0
        self._lines += len(counts)

    def finish(self) -> None:
        """The last line, which need not end."""
        if self._length or self._inside:
            self._add(np.array([self._separators]), np.array([True]))
            self.ragged |= bool(self._inside)


def _requoted(
    stream: IO[bytes], name: str, separator: str, fields: int, *, keep: bool = True
) -> tuple[io.BytesIO, int]:
    """Say which row is ragged; if none is after all, the table with every quote as RFC 4180 has it, to `keep`."""
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")  # type: ignore[arg-type]
    clean = io.StringIO(newline="")
    writer = csv.writer(clean, delimiter=separator)
    rows, blank = -1, False
    for row in csv.reader(text, delimiter=separator):
        if not row and fields > 1:
            blank = rows >= 0
            continue
        if blank:
            raise UserError(
                f"{name}, row {rows + 1}: empty; expected {fields} fields as in the header"
            )
        if row and len(row) != fields:
            many = len(row) > fields
            cause = (
                "quote cells that hold the separator" if many else "a missing cell is left empty"
            )
            raise UserError(
                f"{name}, row {rows + 1}: expected {fields} fields as in the header, got {len(row)}; {cause}"
            )
        rows += 1
        if not keep:
            continue
        if clean.tell() > IN_MEMORY:
            raise UserError(
                f"{name}: somewhere a quote stands inside a cell that does not begin with one; double it and quote the cell"
            )
        writer.writerow(row)
    text.detach()
    return io.BytesIO(clean.getvalue().encode()), rows


def _parser(names: list[str], separator: str, how: Format) -> dict[str, Any]:
    import polars as pl

    quoted = (
        separator == how.decimal
    )  # numbers with a decimal sign are quoted then, and come as text
    return {
        "separator": separator,
        "new_columns": [name or f"column_{i + 1}" for i, name in enumerate(names)],
        "null_values": list(how.empty) or None,
        "decimal_comma": how.decimal == "," and not quoted,
        "infer_schema": not quoted,
        "schema_overrides": dict.fromkeys((n for n in names if n in how.text), pl.String) or None,
    }


def _parse(
    path: Path, name: str, source: io.BytesIO | None, options: dict[str, Any]
) -> pl.DataFrame:
    import polars as pl

    with _bytes_of(path, name, source) as stream:
        data = stream.read()
    if data[:1] in (b"\r", b"\n"):
        data = data.lstrip(b"\r\n")
    return pl.read_csv(data, infer_schema_length=None, **options)


def _as_columns(path: Path, name: str, options: dict[str, Any]) -> Temporary:
    """A large text file parsed once, and kept as columns: every later pass over it takes a fraction of the time."""
    import polars as pl

    kept = Temporary(".parquet")
    rows: int | None = INFERRED
    try:
        while True:
            lazy = pl.scan_csv(path, infer_schema_length=rows, **options)
            try:
                lazy.sink_parquet(
                    kept.path, compression="uncompressed", statistics=False, row_group_size=CHUNK
                )
                return kept
            except pl.exceptions.ComputeError:
                if rows is None:
                    raise
                rows = None  # a later row is of another type: all rows decide
    except OSError as error:
        if not full_disk(error):
            raise
        raise UserError(
            f"{tempfile.gettempdir()}: no room for the columns of {name}; set TMPDIR to a larger disk"
        ) from error
