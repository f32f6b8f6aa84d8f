"""The passages of a knowledge base in a LanceDB table: a folder, or an object store by its address.

Every write is a version of its own, and holds whole documents, so that a table that was left in the middle of
indexing is smaller than it should be and never wrong. What readers use is said by the run's weights, not here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fourfold.core.errors import UserError

if TYPE_CHECKING:
    import polars as pl

TABLE = "passages"
COLUMNS = {
    "root": "string", "document": "string", "digest": "string", "number": "int32", "kind": "string", "heading": "string",
    "text": "string", "begin": "int64", "end": "int64", "line": "int32", "page": "int32", "metadata": "string",
}  # fmt: skip
"""Of a passage: its document's root, name and digest; its place in it; what it says."""
DAYS = 30
"""Days for which an older state of a knowledge base can be gone back to."""


def document_key(root: str, name: str) -> int:
    """64 bits that stand for a document."""
    found = hashlib.blake2b(f"{root}\0{name}".encode("utf-8", "surrogateescape"), digest_size=8)
    return int.from_bytes(found.digest(), "little", signed=True)


class Store:
    """A table of passages, opened for writing.

    Args:
        place: a folder, or an address as s3://bucket/path.
        width: numbers of a vector, 0 where passages have none.

    Raises:
        UserError: lancedb is not installed, the store cannot be reached, or holds vectors of another width.
    """

    def __init__(self, place: str | Path, width: int = 0) -> None:
        lancedb, pa = _libraries()
        self.place, self.width = str(place), width
        fields = [
            ("key", pa.int64()),
            *((name, getattr(pa, kind)()) for name, kind in COLUMNS.items()),
        ]
        if width:
            fields.append(("vector", pa.list_(pa.float32(), width)))
        self.schema = pa.schema(fields)
        try:
            connection = lancedb.connect(self.place)
            self.table = connection.create_table(TABLE, schema=self.schema, exist_ok=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"{place}: this store cannot be opened ({_first(error)})") from error
        if self.table.schema.names != self.schema.names or self.table.schema != self.schema:
            raise UserError(
                f"{place}: holds a table of another make; --out or --store names a fresh place"
            )

    @property
    def version(self) -> int:
        """Of the table, as it stands."""
        return int(self.table.version)

    def restore(self, version: int) -> None:
        """Make an older version the newest.

        Raises:
            UserError: it is gone.
        """
        if version == self.version:
            return
        try:
            self.table.checkout(version)
            self.table.restore()
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"{self.place}: version {version} is gone ({_first(error)})") from error

    def documents(self) -> dict[int, str]:
        """The digest of each document, by its key."""
        found = self._scan(["key", "digest"])
        return dict(zip(found["key"].to_list(), found["digest"].to_list(), strict=True))

    def remove(self, keys: Sequence[int]) -> None:
        """Take documents away."""
        for begin in range(0, len(keys), 500):
            self.table.delete(f"key IN ({', '.join(map(str, keys[begin : begin + 500]))})")

    def add(self, rows: dict[str, list[Any]], vectors: np.ndarray | None) -> None:
        """Add the passages of whole documents: a list for each column, and (N, width) float32."""
        _, pa = _libraries()
        columns = [pa.array(rows[f.name], f.type) for f in self.schema if f.name != "vector"]
        if vectors is not None:
            flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
            columns.append(pa.FixedSizeListArray.from_arrays(flat, self.width))
        self.table.add(pa.table(columns, schema=self.schema))

    def frame(self) -> pl.DataFrame:
        """All rows without their vectors, in the order in which they lie, with that order as "row"."""
        return self._scan(list(COLUMNS)).with_row_index("row")

    def vectors(self) -> Iterator[np.ndarray]:
        """The vectors of all rows, in the order in which they lie, some at a time: (N, width) float32."""
        query = self.table.search().select(["vector"]).limit(self.table.count_rows())
        for batch in query.to_batches():
            column = batch.column("vector")
            yield column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), self.width)

    def _scan(self, columns: list[str]) -> pl.DataFrame:
        import polars as pl

        rows = self.table.count_rows()
        if not rows:
            _, pa = _libraries()
            kinds = [self.schema.field(n) for n in columns]
            return pl.DataFrame(pl.from_arrow(pa.schema(kinds).empty_table()))
        return pl.DataFrame(
            pl.from_arrow(self.table.search().select(columns).limit(rows).to_arrow())
        )

    def tidy(self) -> None:
        """Join the small pieces of the table, and let go of versions that are older than `DAYS`."""
        import datetime

        self.table.optimize(cleanup_older_than=datetime.timedelta(days=DAYS))


def _first(error: BaseException) -> str:
    """What an error says in one line; of an object store's, the server's own sentence or the system's."""
    told = re.search(r"<Message>(.*?)</Message>|message: \"(.*?)\"", str(error))
    if told is not None:
        server = re.search(r"https?://[^/\s?]+", str(error))
        return (told[1] or told[2]) + (f", {server[0]}" if server else "")
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _libraries() -> tuple[Any, Any]:
    try:
        import lancedb
        import pyarrow as pa
    except ImportError as error:
        raise UserError(f'index needs {error.name}: pip install "fourfold[rag]"') from None
    return lancedb, pa
