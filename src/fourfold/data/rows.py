"""Rows of tables as they are stored: files, frames and arrays behind one reader, in memory or streamed.

Every source becomes named columns of four storage types (number, integer, boolean, text), read in
stored order in chunks, so that a table larger than memory costs one chunk. Rows are counted from 1
below the header in whatever is said to a user.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fourfold.core.errors import UserError, nearest

if TYPE_CHECKING:
    import polars as pl

Storage = Literal["number", "integer", "boolean", "text"]

CHUNK = 65_536
"""Rows read at a time."""
IN_MEMORY = 256 << 20
"""Bytes of a table that are held in memory; a larger file is streamed."""


@dataclass(frozen=True)
class Format:
    """How text files are to be read."""

    separator: str | None = None
    decimal: str = "."
    empty: tuple[str, ...] = ()
    text: frozenset[str] = frozenset()
    """Columns that stay text although all their cells look like numbers (codes with leading zeros)."""
    encoding: str | None = None
    """Of files that are not UTF-8."""


@dataclass
class Piece:
    """One file or frame."""

    name: str
    count: int
    table: pl.DataFrame | pl.LazyFrame
    digest: str | Future[str]
    """SHA-256 of the content; of a large file it is taken while the file is read."""
    kept: Any = None
    """What the table is read from, where that is gone with its last reader."""


@dataclass
class Rows:
    """Pieces below one another, with the same columns."""

    pieces: list[Piece]
    types: dict[str, Storage] = field(default_factory=dict)
    target: str | None = None
    """The target of a bundled set."""
    given: Rows | None = None
    """The rows as the user has them, where columns gave way to others."""

    def __post_init__(self) -> None:
        self.types = _unify(self.pieces)

    @property
    def count(self) -> int:
        """Rows in all."""
        return sum(piece.count for piece in self.pieces)

    @property
    def columns(self) -> list[str]:
        """Names in stored order."""
        return list(self.types)

    @property
    def name(self) -> str:
        """The source in words."""
        names = [piece.name for piece in self.pieces]
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

    @property
    def digest(self) -> str:
        """SHA-256 of the content."""
        each = (p.digest if isinstance(p.digest, str) else p.digest.result() for p in self.pieces)
        return hashlib.sha256(" ".join(each).encode()).hexdigest()

    @property
    def streamed(self) -> bool:
        """Whether something of it is larger than what is held in memory."""
        import polars as pl

        return any(isinstance(piece.table, pl.LazyFrame) for piece in self.pieces)

    def place(self, row: int) -> str:
        """Where a row (from 0) stands: "housing.csv, row 18"."""
        for piece in self.pieces:
            if row < piece.count:
                return f"{piece.name}, row {row + 1}"
            row -= piece.count
        raise IndexError("no such row")

    def placed(self, start: int, keep: np.ndarray) -> Callable[[int], str]:
        """`place` of some rows, by their number among them: those `keep` of a chunk that begins at `start`."""
        return lambda row: self.place(start + int(keep[row]))

    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[tuple[int, pl.DataFrame]]:
        """The number of the first row and up to CHUNK rows, in stored order, as the storage types say."""
        import polars as pl

        names = self.columns if columns is None else list(columns)
        start = 0
        for piece in self.pieces:
            if isinstance(piece.table, pl.DataFrame):
                for offset in range(0, piece.count, CHUNK):
                    yield (
                        start + offset,
                        self._typed(piece.table[offset : offset + CHUNK], names),
                    )
            else:
                yield from self._streamed_chunks(piece, names, start)
            start += piece.count

    def _streamed_chunks(
        self, piece: Piece, names: list[str], start: int
    ) -> Iterator[tuple[int, pl.DataFrame]]:
        import polars as pl

        assert isinstance(piece.table, pl.LazyFrame)  # noqa: S101
        row = 0
        with reading(piece.name):
            for chunk in piece.table.select(names).collect_batches(
                chunk_size=CHUNK, maintain_order=True
            ):
                chunk = chunk.head(piece.count - row)  # empty lines at a file's end are no rows
                for offset in range(0, chunk.height, CHUNK):
                    part = chunk[offset : offset + CHUNK]
                    yield start + row, self._typed(part, names)
                    row += part.height

    def _typed(self, frame: pl.DataFrame, names: list[str]) -> pl.DataFrame:
        return type(frame)([_as(frame[name], self.types[name]) for name in names])

    def frame(self) -> pl.DataFrame:
        """Everything, in memory."""
        import polars as pl

        frames = [chunk for _, chunk in self.chunks()]
        return pl.concat(frames) if frames else pl.DataFrame({name: [] for name in self.columns})

    def replaced(self, frame: pl.DataFrame) -> Rows:
        """The same places with other cells."""
        pieces, start = [], 0
        for piece in self.pieces:
            part = frame[start : start + piece.count]
            pieces.append(Piece(piece.name, piece.count, part, piece.digest, piece.kept))
            start += piece.count
        return Rows(pieces, target=self.target)


# --- storage types ------------------------------------------------------------------------------


def _storage(name: str, column: str, dtype: Any) -> Storage | None:
    import polars as pl

    if dtype == pl.Null:
        return None
    if dtype == pl.Boolean:
        return "boolean"
    if dtype in (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32):
        return "integer"
    if dtype.is_numeric():
        return "number"
    if dtype in (pl.String, pl.Categorical, pl.Enum) or dtype.is_temporal():
        return "text"
    raise UserError(
        f"{name}, column {column}: expected numbers, text or booleans, got {dtype}; "
        "take it out of the table, or turn it into one of these"
    )


def _unify(pieces: list[Piece]) -> dict[str, Storage]:
    """One storage type per column that holds what every piece has there."""
    import polars as pl

    types: dict[str, Storage | None] = {}
    for number, piece in enumerate(pieces):
        schema = (
            piece.table.collect_schema()
            if isinstance(piece.table, pl.LazyFrame)
            else piece.table.schema
        )
        if number and set(schema) != set(types):
            column = sorted(set(schema) ^ set(types))[0]
            who, whose = (
                (piece.name, pieces[0].name) if column in types else (pieces[0].name, piece.name)
            )
            raise UserError(
                f"{who}: has no column {column}, which {whose} has{nearest(column, schema)}"
            )
        for column, dtype in schema.items():
            new, old = _storage(piece.name, column, dtype), types.get(column)
            if old is None or new is None or old == new:
                types[column] = old or new
            else:
                types[column] = "number" if {old, new} == {"number", "integer"} else "text"
    return {column: storage or "text" for column, storage in types.items()}


def _as(series: pl.Series, storage: Storage) -> pl.Series:
    import polars as pl

    wanted = {"number": pl.Float64, "integer": pl.Int64, "boolean": pl.Boolean, "text": pl.String}[
        storage
    ]
    return series if series.dtype == wanted else series.cast(wanted)


# --- what reading them shares ---------------------------------------------------------------------


def suffix_of(path: Path) -> str:
    """The extension below a compression's."""
    return (
        Path(path.stem).suffix.lower()
        if path.suffix.lower() in (".gz", ".zst")
        else path.suffix.lower()
    )


def check_names(names: Sequence[str], where: str) -> None:
    """Column names must differ.

    Raises:
        UserError: two are equal; both places are named.
    """
    for number, name in enumerate(names):
        first = names.index(name)
        if first != number:
            raise UserError(
                f'{where}: columns {first + 1} and {number + 1} are both named "{name}"; column names must differ'
            )


class reading:
    """Turn what goes wrong while a file is read into a sentence that names it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        import polars as pl

        if isinstance(error, (OSError, EOFError)):
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{self.name}: cannot be read ({reason})") from error
        if isinstance(error, pl.exceptions.PolarsError):
            raise UserError(
                f"{self.name}: cannot be read ({str(error).splitlines()[0]})"
            ) from error
