"""Rows whose images or texts are told by another run's latents: a column of paths, or of texts, gives way to numbers.

What `encode` of the other run writes comes in its place, so that few labels are learned on features which many examples
without labels have taught.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourfold.core.errors import UserError, nearest
from fourfold.core.opening import opened
from fourfold.core.state import weights_digest
from fourfold.data.rows import Format, Rows
from fourfold.data.table_files import open_rows

if TYPE_CHECKING:
    import polars as pl

    from fourfold.core.run import Run

NAMES = ("image", "file", "path", "picture", "filename", "text", "sentence")
"""Columns that are taken for what is to be encoded, in this order; else the only one of text."""


def featured_rows(sources: Any, how: Format, features: str | None, target: str | None) -> Rows:
    """Rows of any source, encoded where another run is named.

    Args:
        sources: see `open_rows`.
        how: how text files are read.
        features: the other run; None leaves the rows as they are.
        target: which column is not encoded.

    Raises:
        UserError: see `open_rows`; no such run, or one that does not encode; no column of paths or texts; an image
            that does not open.
    """
    rows = open_rows(sources, how)
    if features is None:
        return rows
    run = opened(features)
    from fourfold.core.system import verbs

    if "encode" not in verbs(run.system) or run.system.reads not in ("images", "text"):
        raise UserError(
            f"--data.features {features}: {run.system.name} does not encode images or texts"
        )
    column = _column(rows, target)
    frame = rows.frame()
    given = frame[column].to_list()
    for number, value in enumerate(given):
        if value is None:
            raise UserError(
                f"{rows.place(number)}, column {column}: expected an image or a text, got none"
            )
    digest = ""
    if run.system.reads == "images":
        given = _paths(sources, rows, column, given)
        digest = hashlib.sha256(b"".join(hashlib.sha256(Path(p).read_bytes()).digest() for p in given)).hexdigest()  # fmt: skip
    codes = _encoded(run, rows, column, given)
    if both := sorted(set(codes.columns) & (set(frame.columns) - {column})):
        raise UserError(f"{rows.name}: has a column {both[0]}, as the features of {features} have")
    import polars as pl

    made = rows.replaced(pl.concat([frame.drop(column), codes], how="horizontal"))
    pieces = [replace(p, digest=f"{p.digest if isinstance(p.digest, str) else p.digest.result()} {digest}") for p in made.pieces]  # fmt: skip
    others = frame.drop(column).columns
    alone = others[0] if len(others) == 1 else None  # nothing else can be meant
    return Rows(pieces, target=rows.target or alone, given=rows)


def features_digest(features: str | None) -> str:
    """The digest of the weights that make the features, as they are now; "" without another run.

    Raises:
        UserError: no such run, or it has no weights.
    """
    folder = None if features is None else opened(features).folder
    return "" if folder is None else weights_digest(folder / "weights.safetensors")


def _column(rows: Rows, target: str | None) -> str:
    words = [name for name, kind in rows.types.items() if kind == "text" and name != target]
    named = [name for name in NAMES if name in words]
    if named or len(words) == 1:
        return (named or words)[0]
    found = ", ".join(words) or "none"
    raise UserError(
        f"{rows.name}: --data.features encodes one column, of paths of images or of texts, called {NAMES[0]} or alone of text; found {found}"
    )


def _paths(sources: Any, rows: Rows, column: str, given: list[str]) -> list[str]:
    """Paths as the table means them: from its own folder, else from where the user is."""
    many = sources if isinstance(sources, (list, tuple)) else [sources]
    folders = [Path(s).parent for s in many if isinstance(s, (str, os.PathLike))]
    found = []
    for number, name in enumerate(given):
        places = [folder / name for folder in dict.fromkeys([*folders, Path()])]
        there = next((p for p in places if p.is_file()), None)
        if there is None:
            beside = [p.name for p in places[0].parent.glob("*")] if places[0].parent.is_dir() else []  # fmt: skip
            raise UserError(f"{rows.place(number)}, column {column}: no such file as {name}{nearest(Path(name).name, beside)}")  # fmt: skip
        found.append(str(there))
    return found


def _encoded(run: Run, rows: Rows, column: str, given: list[str]) -> pl.DataFrame:
    """What the run makes of each, a row each."""
    import polars.selectors as cs

    made: pl.DataFrame = run.encode(given).select(cs.numeric())
    if len(made) == len(given):
        return made
    for number, one in enumerate(
        given
    ):  # those that do not open were left out: which is the first?
        try:
            run.encode([one])
        except UserError as error:
            raise UserError(f"{rows.place(number)}, column {column}: {error}") from error
    raise UserError(f"{rows.name}: {len(given):,} rows gave features for {len(made):,} only")
