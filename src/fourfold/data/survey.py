"""A first look at a table: which columns of text are numbers, and which rows have their target."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fourfold.core.errors import UserError
from fourfold.core.targets import Target
from fourfold.data.columns import Reader, cells
from fourfold.data.rows import Rows
from fourfold.data.table import Tabular

if TYPE_CHECKING:
    import polars as pl

MOSTLY = 0.9
"""A column of text with this share of numbers is a column of numbers with mistakes in it."""
SLIPS = 3
"""So is one with half numbers and up to this many different texts."""


@dataclass
class Fit:
    """What is known of a table while its preparation is fitted."""

    options: Tabular
    rows: Rows
    target: str
    parts: np.ndarray = field(default_factory=lambda: np.empty(0, np.int8))
    numeric: dict[str, bool] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def features(self) -> list[str]:
        """Columns that may become features."""
        out = {
            self.target,
            *self.options.drop,
            *(n for n, k in self.options.kinds.items() if k == "drop"),
        }
        return [name for name in self.rows.columns if name not in out]

    def reader(self, start: int) -> Reader:
        """Of a chunk that begins at row `start`."""
        return Reader(lambda row: self.rows.place(start + row), self.options.decimal)


@dataclass
class _Mixture:
    """Numbers and other texts in a column of text."""

    numbers: int = 0
    others: int = 0
    examples: set[str] = field(default_factory=set)
    first: tuple[int, str] | None = None

    def add(self, series: pl.Series, start: int, read: Reader) -> None:
        values, bad = read.parsed(series)
        self.numbers += len(values) - values.null_count()
        wrong = series.filter(bad)
        self.others += len(wrong)
        if len(wrong):
            self.first = self.first or (start + int(bad.arg_max() or 0), wrong[0])
            if len(self.examples) <= SLIPS:
                self.examples.update(wrong.unique().head(SLIPS + 1).to_list())

    @property
    def share(self) -> float:
        return self.numbers / max(1, self.numbers + self.others)

    @property
    def a_mistake(self) -> bool:
        few = self.share >= 0.5 and len(self.examples) <= SLIPS
        return self.others > 0 and (self.share >= MOSTLY or few)


def survey(work: Fit) -> None:
    """Which columns hold numbers; a column of numbers with a few texts in it is an error that names the first."""
    given = work.options.kinds
    for name in work.features:
        work.numeric[name] = given.get(name) == "number" or (
            name not in given and work.rows.types[name] in ("number", "integer")
        )
    asked = [n for n in work.features if work.rows.types[n] == "text" and n not in given]
    mixtures = {name: _Mixture() for name in asked}
    for start, frame in work.rows.chunks(asked) if asked else ():
        read = work.reader(start)
        for series in frame:
            mixtures[series.name].add(series, start, read)
    for name, mixture in mixtures.items():
        work.numeric[name] = mixture.others == 0
        if mixture.a_mistake:
            row, text = mixture.first or (0, "")
            import polars as pl

            work.reader(row).numbers(pl.Series(name, [text]))  # raises the error of such a cell
        if mixture.others and mixture.share >= 0.5:
            work.notes.append(
                f"{name}: taken as text, although {mixture.share:.0%} of its cells are numbers"
            )


def survey_target(work: Fit, known: Target | None = None) -> tuple[np.ndarray, Target]:
    """(rows,) bool, True where the target is missing, and how the target is read."""
    name, given = work.target, work.options.kinds.get(work.target)
    numeric = work.rows.types[name] in ("number", "integer") and given in (None, "number")
    if known is not None:
        numeric = known.kind == "number"
    elif work.rows.types[name] == "text" and given in (None, "number"):
        mixture = _Mixture()
        for start, frame in work.rows.chunks([name]):
            mixture.add(frame[name], start, work.reader(start))
        numeric = mixture.others == 0 or mixture.a_mistake or given == "number"
    gone = []
    for start, frame in work.rows.chunks([name]):
        if numeric:
            gone.append(np.isnan(work.reader(start).numbers(frame[name])))
        else:
            gone.append(cells(frame[name]).is_null().to_numpy())
    missing = np.concatenate(gone)
    if missing.all():
        raise UserError(
            f"{work.rows.name}, column {name}: all its cells are missing, so nothing can be learned"
        )
    return missing, known or Target(name, "number" if numeric else "category")
