"""Opening tables: paths, globs, folders, catalog and bundled names, stdin; Parquet, Arrow, JSON lines, CSV."""

from __future__ import annotations

import glob
import hashlib
import io
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from fourfold.core.errors import UserError, nearest
from fourfold.data.delimited import BLOCK, decompressed, open_delimited
from fourfold.data.rows import IN_MEMORY, Format, Piece, Rows, reading, suffix_of
from fourfold.data.table_frames import BUNDLED, bundled, from_pair, piece_of, to_frame

KNOWN = (
    ".csv",
    ".tsv",
    ".tab",
    ".txt",
    ".parquet",
    ".pq",
    ".arrow",
    ".ipc",
    ".feather",
    ".jsonl",
    ".ndjson",
)


def open_rows(sources: Any, how: Format) -> Rows:
    """Rows of any source.

    Args:
        sources: None (the bundled diabetes set), a path, glob, folder, catalog or bundled name, "-"
            for stdin, a polars or pandas frame, a dict of arrays, an (N, D) array, a pair (X, y),
            or a list of paths or frames.
        how: how text files are read.

    Raises:
        UserError: no such file, empty, not a table, or the pieces differ in their columns.
    """
    if sources is None:
        sources = "diabetes"
    if isinstance(sources, list) and len(sources) == 1:  # as a run keeps it
        sources = sources[0]
    if isinstance(sources, str) and sources in BUNDLED and not Path(sources).exists():
        return Rows([piece_of(bundled(sources), f"the bundled {sources} set")], target="target")
    if isinstance(sources, tuple) and len(sources) == 2 and not _is_path(sources[0]):
        return Rows([piece_of(from_pair(*sources), "the arrays")], target="target")
    many = sources if isinstance(sources, (list, tuple)) else [sources]
    if not many:
        raise UserError("no source: expected a table's path, a name or a frame")
    pieces = []
    for source in many:
        if _is_path(source):
            pieces += [_open_path(path, how) for path in find_paths(source)]
        else:
            pieces.append(piece_of(to_frame(source), "the frame"))
    rows = Rows(pieces)
    if rows.count == 0:
        raise UserError(f"{rows.name}: has a header and no rows")
    return rows


def _is_path(source: Any) -> bool:
    return isinstance(source, (str, os.PathLike))


def find_paths(source: str | os.PathLike[str]) -> list[Path]:
    """Files that a path, a glob, a folder or a catalog name means; "-" stays itself.

    Raises:
        UserError: there is no such file; the nearest one is offered.
    """
    path = Path(source)
    if str(source) == "-" or path.is_file():
        return [path]
    if path.is_dir():
        found = [p for p in sorted(path.iterdir()) if suffix_of(p) in KNOWN]
        if not found:
            raise UserError(f"{path}: a folder without tables; expected files {' '.join(KNOWN)}")
        return found
    if any(c in str(source) for c in "*?["):
        found = [
            Path(p) for p in sorted(glob.glob(str(source), recursive=True)) if Path(p).is_file()
        ]
        if not found:
            raise UserError(f"{source}: matches no file")
        return found
    from fourfold.data.catalog import find

    known = find(str(source))
    if known:
        tables = [Path(p) for p in known if suffix_of(Path(p)) in KNOWN]
        if tables:
            return tables
        raise UserError(
            f"{source}: this data set holds no table, but {', '.join(Path(p).name for p in known[:3])}"
        )
    parent = path.parent
    near = [str(parent / p.name) for p in parent.iterdir()] if parent.is_dir() else []
    hint = nearest(str(path), near)
    raise UserError(f"{path}: no such file{hint if 'did you mean' in hint else ''}")


def _open_path(path: Path, how: Format) -> Piece:
    if str(path) == "-":
        data = sys.stdin.buffer.read()
        head, name, source = data[:8], "stdin", io.BytesIO(data)
    else:
        name = path.name
        with reading(name), path.open("rb") as file:
            head = file.read(8)
        source = None
    if not head:
        raise UserError(f"{name}: empty; expected a table with a header and rows")
    suffix = suffix_of(path)
    if head[:4] == b"PAR1":
        return _scanned(path, name, source, "parquet")
    if head[:6] == b"ARROW1":
        return _scanned(path, name, source, "ipc")
    if suffix in (".parquet", ".pq", ".arrow", ".ipc", ".feather"):
        kind = "Parquet" if suffix in (".parquet", ".pq") else "Arrow"
        raise UserError(f"{name}: not {kind}: it begins with {head[:4]!r}")
    if suffix in (".jsonl", ".ndjson") or (source and head.lstrip()[:1] == b"{"):
        return _open_lines(path, name, source)
    return open_delimited(path, name, source, how)


def _scanned(
    path: Path, name: str, source: io.BytesIO | None, kind: Literal["parquet", "ipc"]
) -> Piece:
    import polars as pl

    read, scan = (
        (pl.read_parquet, pl.scan_parquet) if kind == "parquet" else (pl.read_ipc, pl.scan_ipc)
    )
    with reading(name):
        if source is not None:
            return piece_of(read(source), name)
        lazy = scan(path)
        count = int(lazy.select(pl.len()).collect().item())
        if count * len(lazy.collect_schema()) * 8 <= IN_MEMORY:
            return Piece(name, count, lazy.collect(), _digest_file(path))
        beside = ThreadPoolExecutor(1, "digest")
        digest = beside.submit(_digest_file, path)
        beside.shutdown(wait=False)
        return Piece(name, count, lazy, digest)


def _open_lines(path: Path, name: str, source: io.BytesIO | None) -> Piece:
    import gzip
    import json

    import polars as pl

    if (
        source is None
        and path.suffix.lower() not in (".gz", ".zst")
        and path.stat().st_size > IN_MEMORY
    ):
        with reading(name):
            lazy = pl.scan_ndjson(path, infer_schema_length=None)
            return Piece(
                name, int(lazy.select(pl.len()).collect().item()), lazy, _digest_file(path)
            )
    if source is None:
        with reading(name), decompressed(path) as stream:
            source = io.BytesIO(stream.read())
    try:
        frame = pl.read_ndjson(source, infer_schema_length=None)
    except (pl.exceptions.PolarsError, gzip.BadGzipFile) as error:
        for number, line in enumerate(source.getvalue().splitlines(), start=1):
            try:
                valid = not line.strip() or isinstance(json.loads(line), dict)
            except ValueError:
                valid = False
            if not valid:
                shown = line[:40].decode("utf-8", "replace")
                raise UserError(
                    f"{name}, line {number}: expected one JSON object a line, got {shown}"
                ) from None
        raise UserError(f"{name}: not a table of JSON lines ({error})") from error
    return Piece(name, frame.height, frame, hashlib.sha256(source.getvalue()).hexdigest())


def _digest_file(path: Path) -> str:
    digest = hashlib.sha256()
    with reading(path.name), path.open("rb") as file:
        while block := file.read(BLOCK):  # large, so that other threads are seldom interrupted
            digest.update(block)
    return digest.hexdigest()
