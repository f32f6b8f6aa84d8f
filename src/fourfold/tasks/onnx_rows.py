"""Raw rows for an exported table predictor: as the file takes them, and rows that try every case."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from fourfold.data.cells import Reader, cells
from fourfold.data.columns import Encoding
from fourfold.data.table import TableData

if TYPE_CHECKING:
    import polars as pl

FILLING = ("median", "frequent")
"""What --missing may say so that every row has an answer; otherwise rows with a missing cell have none."""
DATES = tuple(
    datetime.fromisoformat(text)
    for text in (
        "1970-01-01",
        "1999-12-31 23:59:59",
        "2000-02-29 06:30",
        "2024-03-01",
        "2100-03-01 12:45",
    )
)
"""Dates that are tried: at the ends of years and around leap days."""
CATEGORIES = 200
"""Categories of a column that are tried at most."""


def every_case(data: TableData) -> pl.DataFrame:
    """Raw rows that together hold every category, an unseen one, small and large numbers, and missing cells."""
    import polars as pl

    encodings = used(data)
    missing = data.options.missing in (*FILLING, "drop")
    choices = {e.name: _cases(e, missing) for e in encodings}
    count = max(len(values) for values in choices.values())
    # columns of different lengths meet in different pairs
    return pl.DataFrame(
        {name: [values[i % len(values)] for i in range(count)] for name, values in choices.items()}
    )


def _cases(encoding: Encoding, missing: bool) -> list[Any]:
    nothing = [None] if missing else []
    if encoding.form.date:
        return [*DATES, *nothing]
    if not encoding.categories:
        if encoding.kind != "number":  # constant in training, of interest for its missing cells
            return [*nothing, 1.0 if encoding.numeric else "constant"]
        steps = (-2.0, 0.0, 1.5, 30.0)
        return [encoding.mean + step * encoding.scale for step in steps] + nothing
    some = list(encoding.categories[:CATEGORIES])
    if encoding.numeric:
        numbers = [float(c) for c in some]
        return [*numbers, max(map(float, encoding.categories)) + 1.0, *nothing]
    unseen = "unseen"
    while unseen in encoding.categories:
        unseen += "?"
    return [*some, unseen, *nothing]


def used(data: TableData) -> list[Encoding]:
    """The columns that the file takes."""
    return [e for e in data.schema.encodings if e.columns()]


def inputs(data: TableData) -> dict[str, np.ndarray]:
    """The raw columns of opened rows as the file takes them, (N, 1) each.

    Numbers are float64, with NaN where they are missing ("12 %" is 12); dates are float64 seconds since
    1970; everything else is strings, with "" where it is missing.
    """
    assert data.rows is not None  # noqa: S101
    frame, read = data.rows.frame(), Reader(data.rows.place)
    found: dict[str, np.ndarray] = {}
    for encoding in used(data):
        series, form = frame[encoding.name], encoding.form
        if encoding.numeric:
            values = read.numbers(series, form)
        elif measured(encoding):
            values = (read.dates(series, form).dt.epoch("us") / 1e6).cast(float).to_numpy()
        else:
            texts = cells(series).fill_null("")
            texts = texts.str.strip_chars() if form.words else texts
            values = texts.to_numpy().astype(object)
        found[encoding.name] = values[:, None]
    return found


def measured(encoding: Encoding) -> bool:
    """Whether the column is given as numbers."""
    return encoding.numeric or bool(encoding.form.date)
