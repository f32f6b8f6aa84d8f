"""The passages of a knowledge base as verbs read them: a table in a fixed order, without duplicates, memory-mapped."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fourfold.core.errors import UserError
from fourfold.core.state import atomically

if TYPE_CHECKING:
    import polars as pl

    from fourfold.data.documents.store import Store

ORDER = ["root", "document", "number"]
SHOWN = ["document", "kind", "heading", "text", "begin", "end", "line", "page", "metadata", "root"]
TOLD = ("document", "heading", "text", "begin", "end", "metadata")
"""Columns by whose content two tables are the same."""
STALE = 2
"""Generations of files that are kept, as a reader may still be opening the last but one."""


@dataclass(frozen=True)
class Passages:
    """Passages in order, and their vectors where they have any."""

    frame: pl.DataFrame
    """A row for each, with the columns `SHOWN`."""
    digest: str
    """SHA-256 of what they say, 64 hexadecimal digits."""
    vectors: np.ndarray | None = None
    """(N, D) float32 of length 1, memory-mapped."""
    duplicates: int = 0
    """Passages that were left out because another says the same."""

    def __len__(self) -> int:
        return len(self.frame)

    def texts(self) -> list[str]:
        """What is searched of each."""
        columns = (self.frame[name].to_list() for name in ("text", "heading"))
        return [said(text, heading) for text, heading in zip(*columns, strict=True)]


def said(text: str, heading: str) -> str:
    """What is searched of a passage: its words under those of its headings."""
    return f"{heading}\n{text}" if heading else text


def ordered(frame: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Sorted by document and place, of passages with the same text the first alone; and how many were left out.

    The order depends on the documents alone, not on when each was indexed.
    """
    import polars as pl

    if "row" not in frame.columns:
        frame = frame.with_row_index("row")
    inner = frame.sort(ORDER).with_columns(
        pl.col("text").str.replace_all(r"\s+", " ").alias("same")
    )
    kept = inner.unique(subset="same", keep="first", maintain_order=True)
    return kept.drop("same"), len(frame) - len(kept)


def digest_of(frame: pl.DataFrame) -> str:
    """SHA-256 of what passages say."""
    digest = hashlib.sha256()
    for name in TOLD:
        digest.update(name.encode())
        for value in frame[name]:
            digest.update(f"{value}\0".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def of_rows(rows: Sequence[dict[str, Any]]) -> Passages:
    """Passages of rows in memory.

    Raises:
        UserError: there are none.
    """
    import polars as pl

    if not rows:
        raise UserError("none of the documents holds text")
    kinds = {n: pl.Utf8 for n in ("root", "document", "kind", "heading", "text", "metadata")}
    numbers = {
        "number": pl.Int32,
        "begin": pl.Int64,
        "end": pl.Int64,
        "line": pl.Int32,
        "page": pl.Int32,
    }
    frame, duplicates = ordered(pl.DataFrame(list(rows), schema={**kinds, **numbers}))
    frame = frame.select(SHOWN)
    return Passages(frame, digest_of(frame), None, duplicates)


def write(store: Store, folder: Path) -> Passages:
    """Write a store's passages as files that are memory-mapped, named by their content.

    Raises:
        UserError: there are none, or the disk is full.
    """
    found, duplicates = ordered(store.frame())
    if not len(found):
        raise UserError("none of the documents holds text; nothing was changed")
    frame = found.select(SHOWN)
    digest = digest_of(frame)
    path = _path(folder, digest)
    atomically(path, lambda temporary: frame.write_ipc(temporary, compression="uncompressed"))
    if store.width:
        _write_vectors(store, found["row"].to_numpy(), _path(folder, digest, ".npy"))
    return Passages(frame, digest, _mapped(_path(folder, digest, ".npy")), duplicates)


def _write_vectors(store: Store, rows: np.ndarray, path: Path) -> None:
    """The vectors of some rows of a store, in their order."""
    place = np.full(int(rows.max()) + 1, -1, np.int64)
    place[rows] = np.arange(len(rows))

    def fill(temporary: Path) -> None:
        with temporary.open("wb") as file:  # a name without .npy, which numpy would add
            matrix = np.zeros((len(rows), store.width), np.float32)
            begin = 0
            for some in store.vectors():
                where = np.full(len(some), -1, np.int64)
                known = place[begin : begin + len(some)]
                where[: len(known)] = known
                matrix[where[where >= 0]] = some[where >= 0]
                begin += len(some)
            np.save(file, matrix)

    atomically(path, fill)


def read(folder: Path, digest: str) -> Passages:
    """Passages that `write` wrote.

    Raises:
        UserError: they are missing or damaged.
    """
    import polars as pl

    path = _path(folder, digest)
    if not path.exists():
        raise UserError(f"{path}: missing; `fourfold index {folder.parent}` makes it again")
    try:
        frame = pl.read_ipc(path)
        return Passages(frame, digest, _mapped(_path(folder, digest, ".npy")))
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise UserError(
            f"{path}: damaged ({error}); `fourfold index {folder.parent}` makes it again"
        ) from error


def _mapped(path: Path) -> np.ndarray | None:
    return np.load(path, mmap_mode="r", allow_pickle=False) if path.exists() else None


def forget(folder: Path, keep: str) -> None:
    """Remove the files of older generations."""
    paths = sorted(
        folder.glob("passages-*.arrow"), key=lambda p: p.stat().st_mtime_ns, reverse=True
    )
    others = [p for p in paths if p != _path(folder, keep)]
    for path in others[STALE - 1 :]:
        for suffix in (".npy", ".hnsw"):
            path.with_suffix(suffix).unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def _path(folder: Path, digest: str, suffix: str = ".arrow") -> Path:
    return folder / f"passages-{digest[:16]}{suffix}"
