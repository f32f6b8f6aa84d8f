"""The verbs of a knowledge base."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import PositiveInt

from fourfold.core.run import Run
from fourfold.core.system import System
from fourfold.core.types import Table
from fourfold.tasks.retrieving import Found, How, parts, retrieve

if TYPE_CHECKING:
    import polars as pl


class Knows(System):
    """A system whose runs find passages of documents."""

    def find(
        self,
        run: Run,
        question: str,
        *,
        top: PositiveInt = 5,
        how: How = "auto",
        where: list[str] | None = None,
    ) -> pl.DataFrame:
        """Passages that answer to a question, the best first, each with its file and line.

        Args:
            question: in words.
            top: how many.
            how: bm25 goes by words.
            where: conditions, as document=docs/*.md, kind=code or year>=2020; several separated by commas.
        """
        return shown(retrieve(run, question, top, how=how, where=where or ()))

    def tables(self, run: Run) -> Iterator[Table]:
        """The documents with most passages, and those that were left out."""
        passages, _ = parts(run)
        counted = (
            passages.frame.group_by("document")
            .len()
            .sort("len", "document", descending=[True, False])
        )
        rows = tuple(counted.head(20).iter_rows())
        yield Table(
            "Documents",
            ("document", "passages"),
            rows,
            f"{len(counted):,} documents, {len(passages):,} passages.",
        )
        left_out = run.data.summary().get("left_out") or getattr(run.data, "about", {}).get(
            "left_out"
        )
        if left_out:
            yield Table("Left out", ("document", "why"), tuple(map(tuple, left_out[:200])))


def shown(found: list[Found]) -> pl.DataFrame:
    """Passages as a table."""
    import polars as pl

    rows = [
        {"rank": n, "score": round(f.score, 4), "source": f.source, "heading": f.heading, "text": f.text,
         "begin": f.begin, "end": f.end, "metadata": f.metadata}
        for n, f in enumerate(found, 1)
    ]  # fmt: skip
    kinds = {"rank": pl.Int64, "score": pl.Float64, "begin": pl.Int64, "end": pl.Int64}
    texts = dict.fromkeys(("source", "heading", "text", "metadata"), pl.Utf8)
    return pl.DataFrame(rows, schema={**kinds, **texts}).select(
        "rank", "score", "source", "heading", "text", "begin", "end", "metadata"
    )
