"""Rows of files as mappings from field to value: JSON lines, JSON, CSV, TSV, Parquet, packed or not, and memory."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fourfold.core.errors import UserError
from fourfold.data.readers import PACKED, ROWS, Origin, decoded, kind_of
from fourfold.data.text_sources import find_origins

Record = tuple[str, Any]
"""Where a row stands, as "chats.jsonl, line 3", and the row."""


def sourced(sources: Any, field: str, names: list[str], notes: list[str]) -> Iterator[Record]:
    """The rows of files, catalog names or what is given in memory, each with its place.

    Args:
        sources: as for `find_origins`, or rows.
        field: what a text column is called, as for `find_origins`.
        names: the sources' names are appended.
        notes: what there is to say about them is appended.

    Raises:
        UserError: a source cannot be found or read.
    """
    many = sources if isinstance(sources, (list, tuple)) else [sources]
    if not many or not all(isinstance(s, (str, os.PathLike)) for s in many):
        names.append("the given data")
        yield from in_memory(sources)
        return
    origins, more = find_origins(sources, field, strict=True)
    notes += more
    for origin in origins:
        names.append(origin.name)
        yield from records(origin)


def records(origin: Origin) -> Iterator[Record]:
    """The rows of a file in order, each with its place; blank lines are none.

    Args:
        origin: a file; a stream, or a file whose name does not tell, is JSON lines or one JSON list.

    Raises:
        UserError: it cannot be read; the file and line are named.
    """
    named = kind_of(origin.path) if origin.path else ""
    kind = named if named in ROWS else _kind_of_content(origin)
    if kind in (".jsonl", ".ndjson"):
        yield from _json_lines(origin)
    elif kind == ".json":
        yield from _json(origin)
    elif kind in (".csv", ".tsv"):
        yield from _delimited(origin, "\t" if kind == ".tsv" else ",")
    elif kind == ".parquet":
        yield from _parquet(origin)
    else:
        known = ", ".join(sorted(ROWS))
        raise UserError(
            f"{origin.name}: expected a file of rows ({known}), got {named or 'text'!r}"
        )


def in_memory(given: Any) -> Iterator[Record]:
    """The rows of what stands in memory: a list or other iterable of mappings, a mapping of columns, a frame.

    Raises:
        UserError: columns of different lengths.
    """
    if hasattr(given, "to_dicts"):  # polars
        rows: Iterable[Any] = given.to_dicts()
    elif hasattr(given, "to_dict") and hasattr(given, "columns"):  # pandas
        rows = given.to_dict("records")
    elif isinstance(given, Mapping):
        columns = {
            name: [value] if isinstance(value, str) else list(value)
            for name, value in given.items()
        }
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise UserError(f"the given data: columns of different lengths: {lengths}")
        rows = (
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        )
    else:
        rows = given
    for number, row in enumerate(rows, 1):
        yield f"the given data, row {number}", row


def _kind_of_content(origin: Origin) -> str:
    """Of a stream, or of a file whose name does not tell: JSON by its first character."""
    first = next((text.lstrip()[:1] for text in decoded(origin) if text.strip()), "")
    return {"[": ".json", "{": ".jsonl"}.get(first, "")


def _json_lines(origin: Origin) -> Iterator[Record]:
    for number, line in enumerate("".join(decoded(origin)).split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield f"{origin.name}, line {number}", json.loads(line)
        except ValueError as error:
            raise UserError(f"{origin.name}, line {number}: not JSON ({error})") from error


def _json(origin: Origin) -> Iterator[Record]:
    """A list of objects, or one, or JSON lines under the name .json, as many sets have them."""
    text = "".join(decoded(origin))
    try:
        rows = json.loads(text)
    except ValueError as error:
        if text.lstrip()[:1] == "{" and "\n{" in text:
            yield from _json_lines(origin)
            return
        raise UserError(f"{origin.name}: not JSON ({error})") from error
    for number, row in enumerate(rows if isinstance(rows, list) else [rows], 1):
        yield f"{origin.name}, item {number}", row


def _delimited(origin: Origin, delimiter: str) -> Iterator[Record]:
    csv.field_size_limit(min(sys.maxsize, (1 << 31) - 1))
    rows = csv.reader(io.StringIO("".join(decoded(origin)), newline=""), delimiter=delimiter)
    try:
        header = next(rows)
        for row in rows:
            where = f"{origin.name}, line {rows.line_num}"
            if row and len(row) != len(header):
                raise UserError(f"{where}: {len(row)} cells, expected {len(header)}")
            if row:
                yield where, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise UserError(f"{origin.name}, line {rows.line_num}: not CSV ({error})") from error


def _parquet(origin: Origin) -> Iterator[Record]:
    import polars as pl

    assert origin.path is not None  # noqa: S101  # streams are JSON
    if origin.path.suffix.lower() in PACKED:
        raise UserError(f"{origin.name}: Parquet packs itself; unpack the file")
    try:
        table = pl.read_parquet(origin.path)
    except (pl.exceptions.PolarsError, OSError) as error:
        what = str(error).splitlines()[0]
        raise UserError(f"{origin.name}: not a Parquet file ({what})") from error
    for number, row in enumerate(table.iter_rows(named=True), 1):
        yield f"{origin.name}, row {number}", row
