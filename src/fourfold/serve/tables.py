"""Tables that come with requests: JSON rows or columns, CSV, TSV, JSON lines, Arrow; bounded before they are read."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from fourfold.core.errors import UserError
from fourfold.data.rows import check_names
from fourfold.data.table_frames import to_frame
from fourfold.serve.limits import Limits, TooLarge

if TYPE_CHECKING:
    import polars as pl

ARROW_FILE = b"ARROW1"
ARROW_STREAM = b"\xff\xff\xff\xff"
BINARY = {
    b"PAR1": "Parquet",
    b"PK\x03\x04": "a ZIP archive or a workbook",
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstandard",
}


def of_rows(rows: Sequence[Mapping[str, Any]], limits: Limits, where: str) -> pl.DataFrame:
    """A frame of JSON objects; a key that a row lacks is a missing cell there.

    Raises:
        UserError: no rows, or too many.
    """
    if not rows:
        raise UserError(f"{where}: has no rows")
    names = list(dict.fromkeys(name for row in rows for name in row))
    check_size(len(rows), len(names), limits, where)
    if not names:
        raise UserError(f"{where}: its rows have no columns")
    return to_frame({name: [row.get(name) for row in rows] for name in names})


def of_columns(columns: Mapping[str, Sequence[Any]], limits: Limits, where: str) -> pl.DataFrame:
    """A frame of columns.

    Raises:
        UserError: columns of unequal length, no rows, or too many.
    """
    height = max((len(values) for values in columns.values()), default=0)
    if not height:
        raise UserError(f"{where}: has no rows")
    check_size(height, len(columns), limits, where)
    return to_frame(dict(columns))


def of_lines(content: bytes, limits: Limits, where: str) -> pl.DataFrame:
    """A frame of JSON lines.

    Raises:
        UserError: a line is no JSON object; its number is named.
    """
    rows = []
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = from_json(line, allow_inf_nan=False)
        except ValueError as error:
            raise UserError(f"{where}, line {number}: not valid JSON ({error})") from None
        if not isinstance(row, dict) or any(isinstance(v, (dict, list)) for v in row.values()):
            raise UserError(f"{where}, line {number}: expected one flat JSON object a line")
        rows.append(row)
    return of_rows(rows, limits, where)


def of_arrow(content: bytes, limits: Limits, where: str) -> pl.DataFrame:
    """A frame of an Arrow stream or file, whose messages say how large it is before it is unpacked.

    Raises:
        UserError: damaged, or too large.
    """
    import polars as pl

    stream = content.startswith(ARROW_STREAM)
    try:
        rows, size = arrow_size(content)
        if size > 8 * limits.body:
            raise TooLarge(f"{where}: {size:,} bytes once unpacked, expected {8 * limits.body:,}")
        check_size(rows, 1, limits, where)
        read = pl.read_ipc_stream if stream else pl.read_ipc
        frame = read(io.BytesIO(content))
    except UserError:
        raise
    except BaseException as error:  # polars panics (no Exception) on some broken files
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{where}: not an Arrow table that can be read ({reason})") from None
    check_names(frame.columns, where)
    check_size(frame.height, frame.width, limits, where)
    if not frame.height:
        raise UserError(f"{where}: has no rows")
    return frame


def csv_file(content: bytes, folder: Path, where: str, suffix: str = ".csv") -> Path:
    """CSV or TSV as a file of the request's own folder: read as the command line reads it, with the run's
    separator, decimal sign and words for missing cells.

    Raises:
        UserError: it is another kind of file.
    """
    for magic, what in {**BINARY, ARROW_FILE: "Arrow", ARROW_STREAM: "Arrow"}.items():
        if content.startswith(magic):
            raise UserError(f"{where}: is {what}, expected CSV; say what it is by its type or name")
    if not content.strip():
        raise UserError(f"{where}: is empty; expected a table with a header and rows")
    path = folder / f"{where}{suffix}"
    path.write_bytes(content)
    return path


def check_size(rows: int, columns: int, limits: Limits, where: str) -> None:
    """Refuse a table that is larger than a request's may be.

    Raises:
        TooLarge: too many rows or cells.
    """
    if rows > limits.rows:
        raise TooLarge(f"{where}: {rows:,} rows, expected {limits.rows:,} at most")
    if rows * columns > limits.cells:
        raise TooLarge(f"{where}: {rows * columns:,} cells, expected {limits.cells:,} at most")


# --- Arrow's own framing (https://arrow.apache.org/docs/format/Columnar.html) ------------------------


def arrow_size(content: bytes) -> tuple[int, int]:
    """Rows of all record batches, and bytes of their buffers once they are unpacked.

    A few kilobytes may unpack to gigabytes, so the messages are walked before anything is read: the
    flatbuffers' tables say the rows, the buffers' places and whether they are compressed, and a
    compressed buffer begins with its size.

    Args:
        content: an IPC stream or file.

    Raises:
        ValueError: the framing is broken.
    """
    rows = size = 0
    try:
        for place in _in_file(content) if content.startswith(ARROW_FILE) else _in_stream(content):
            message, start, _ = _message(content, place)
            kind = message.number(1, "<B")
            if kind not in (2, 3):  # a dictionary's batch, or a record batch
                continue
            batch = message.table(2) if kind == 3 else message.table(2).table(1)
            rows += batch.number(0, "<q")
            size += sum(batch.unpacked(content, start))
    except (struct.error, IndexError):
        raise ValueError("its framing is broken") from None
    return rows, size


def _message(content: bytes, place: int) -> tuple[_Table, int, int]:
    """The message at a place: its table, where its body begins and where it ends."""
    mark, length = struct.unpack_from("<Ii", content, place)
    if mark != 0xFFFFFFFF:  # before version 0.15 there was no mark
        length, place = struct.unpack_from("<i", content, place)[0], place - 4
    if length <= 0:
        raise IndexError
    start = place + 8 + length
    message = _Table.root(content[place + 8 : start])
    body = message.number(3, "<q")
    if body < 0 or start + body > len(content):
        raise IndexError
    return message, start, start + body


def _in_stream(content: bytes) -> Iterator[int]:
    place = 0
    while place + 8 <= len(content) and content[place + 4 : place + 8] != bytes(4):
        yield place
        place = _message(content, place)[2]


def _in_file(content: bytes) -> Iterator[int]:
    """Of a file, the places that its footer names: the footer is all that its readers go by."""
    length = struct.unpack_from("<i", content, len(content) - 10)[0]
    begin = len(content) - 10 - length
    if length <= 0 or begin < 0:
        raise IndexError
    footer = _Table.root(content[begin:])
    for field in (2, 3):  # dictionaries, record batches
        for number, vector in footer.vector(field):
            yield struct.unpack_from("<q", footer.buffer, vector + 4 + 24 * number)[0]


class _Table:
    """A flatbuffer's table: its fields' places stand in its vtable."""

    def __init__(self, buffer: bytes, at: int) -> None:
        self.buffer, self.at = buffer, at
        if at < 0:
            raise IndexError
        self.vtable = at - struct.unpack_from("<i", buffer, at)[0]
        if self.vtable < 0:
            raise IndexError

    @classmethod
    def root(cls, buffer: bytes) -> _Table:
        return cls(buffer, struct.unpack_from("<I", buffer)[0])

    def _place(self, field: int) -> int:
        """Where a field stands; 0 if it is absent, and has its default."""
        if 4 + 2 * field >= struct.unpack_from("<H", self.buffer, self.vtable)[0]:
            return 0
        offset = struct.unpack_from("<H", self.buffer, self.vtable + 4 + 2 * field)[0]
        return self.at + offset if offset else 0

    def number(self, field: int, form: str) -> int:
        place = self._place(field)
        return int(struct.unpack_from(form, self.buffer, place)[0]) if place else 0

    def table(self, field: int) -> _Table:
        place = self._place(field)
        if not place:
            raise IndexError
        return _Table(self.buffer, place + struct.unpack_from("<I", self.buffer, place)[0])

    def vector(self, field: int) -> Iterator[tuple[int, int]]:
        """The numbers of a vector's items, each with the vector's place."""
        place = self._place(field)
        if not place:
            return
        vector = place + struct.unpack_from("<I", self.buffer, place)[0]
        for number in range(struct.unpack_from("<I", self.buffer, vector)[0]):
            yield number, vector

    def unpacked(self, content: bytes, start: int) -> Iterator[int]:
        """Of a record batch (length, nodes, buffers, compression): each buffer's size once unpacked."""
        packed = bool(self._place(3))
        for number, vector in self.vector(2):
            offset, length = struct.unpack_from("<qq", self.buffer, vector + 4 + 16 * number)
            if offset < 0 or length < 0 or start + offset + length > len(content):
                raise IndexError
            said = -1
            if packed and length >= 8:
                said = struct.unpack_from("<q", content, start + offset)[0]
            yield length if said < 0 else said  # -1: this buffer is stored as it is
