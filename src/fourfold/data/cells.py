"""Cells as they are read: numbers, categories, yes and no, how much a row counts.

Shapes: N rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fourfold.core.errors import UserError
from fourfold.data.forms import FALSE, PLAIN, TRUE, Form

if TYPE_CHECKING:
    import polars as pl

ROUNDED = 2.0**53
"""Whole numbers beyond this are not exact in float64."""


def numbered(texts: pl.Series, categories: Sequence[str]) -> np.ndarray:
    """(N,) int64: the index of each text among the categories, -1 where it is none of them."""
    import polars as pl

    return texts.replace_strict(
        pl.Series(categories, dtype=pl.String),
        pl.Series(range(len(categories)), dtype=pl.Int64),
        default=-1,
        return_dtype=pl.Int64,
    ).to_numpy()


def cells(series: pl.Series) -> pl.Series:
    """Cells as categories: text; whole numbers without a point; null where nothing is there."""
    import polars as pl

    if series.dtype == pl.String:
        return series.set(series == "", None)  # type: ignore[arg-type]
    if series.dtype == pl.Float64:
        whole = (series == series.floor()) & (series.abs() < ROUNDED)
        frame = pl.DataFrame({"x": series.fill_nan(None), "whole": whole})
        as_integer = pl.col("x").cast(pl.Int64, strict=False).cast(pl.String)
        return frame.select(
            pl.when(pl.col("whole")).then(as_integer).otherwise(pl.col("x").cast(pl.String))
        ).to_series()
    return series.cast(pl.String)


class Reader:
    """Cells as numbers, dates, yes and no; one that cannot be read, or is infinite, is named by its row."""

    def __init__(self, place: Callable[[int], str], *, fitted: bool = False) -> None:
        """A reader.

        Args:
            place: names a row, for errors.
            fitted: whether how columns are read was fitted before, so that no option changes it.
        """
        self.place, self.fitted = place, fitted

    def numbers(self, series: pl.Series, form: Form = PLAIN) -> np.ndarray:
        """(N,) float64, NaN where a cell is missing."""
        return self.numbers_and_sum(series, form)[0]

    def numbers_and_sum(self, series: pl.Series, form: Form = PLAIN) -> tuple[np.ndarray, float]:
        """(N,) float64, NaN where a cell is missing, and their sum, which is finite where none is."""
        import polars as pl

        if series.dtype != pl.String:
            values = series.cast(pl.Float64).to_numpy()
        else:
            parsed, bad = form.numbers(series)
            self._refuse(series, bad, form)
            values = parsed.to_numpy()
        with np.errstate(all="ignore"):
            total = float(np.add.reduce(values))
        if not math.isfinite(total):  # quicker than looking at each
            self._refuse_infinite(values, series.name)
        return values, total

    def dates(self, series: pl.Series, form: Form) -> pl.Series:
        """(N,) Datetime, null where a cell is missing; also as a frame's own dates are written, 2020-01-31 12:00."""
        import polars as pl

        series = series.cast(pl.String)
        values, bad = form.dates(series)
        if bad.any():
            for pattern in ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S%.f"):
                other, still = Form(date=pattern).dates(series)
                if not still.any():
                    return other
        self._refuse(series, bad, form)
        return values

    def texts(self, series: pl.Series, form: Form = PLAIN) -> pl.Series:
        """(N,) String, null where a cell is missing; yes and no in one spelling."""
        return form.texts(cells(series)) if form.words else cells(series)

    def _refuse(self, series: pl.Series, bad: pl.Series, form: Form) -> None:
        if bad.any():
            row = int(bad.arg_max() or 0)
            found = (
                f'{self.place(row)}, column {series.name}: expected {form}, got "{series[row]}"; '
            )
            if self.fitted:
                raise UserError(
                    f"{found}write it as the rows that were learned from have it, or leave it empty"
                )
            raise UserError(
                f"{found}--empty {_quoted(series[row])} takes such cells as missing, "
                f"--data.kinds.{series.name} category takes the column as text"
            )

    def truths(self, series: pl.Series) -> np.ndarray:
        """(N,) float64: 1 where a cell says yes, 0 where it says no, NaN where it is missing.

        Raises:
            UserError: a cell that says neither.
        """
        import polars as pl

        if series.dtype == pl.Boolean:
            return series.cast(pl.Float64).to_numpy()
        words = cells(series).str.strip_chars().str.to_lowercase()
        said = numbered(words, [*FALSE, *TRUE])
        values = np.where(said < 0, np.nan, said >= len(FALSE))
        wrong = (said < 0) & ~words.is_null().to_numpy()
        if wrong.any():
            row = int(np.argmax(wrong))
            raise UserError(
                f"{self.place(row)}, column {series.name}: expected a label, 0 or 1 (or yes and no, true and false), "
                f'got "{series[row]}"'
            )
        return values

    def importance(self, series: pl.Series, form: Form = PLAIN) -> np.ndarray:
        """(N,) float64: how much rows count.

        Raises:
            UserError: a cell that is missing, no number, infinite or negative.
        """
        values = self.numbers(series, form)
        wrong = ~(values >= 0)
        if wrong.any():
            row = int(np.argmax(wrong))
            found = "nothing" if np.isnan(values[row]) else f"{values[row]:g}"
            raise UserError(
                f"{self.place(row)}, column {series.name}: expected how much the row counts, 0 or more, got {found}"
            )
        return values

    def refuse_beyond(self, values: np.ndarray, name: str, mean: float, scale: float) -> None:
        """Refuse the number that lies furthest from those that were learned from."""
        with np.errstate(over="ignore"):
            row = int(np.nanargmax(np.abs(values - mean)))
        raise UserError(
            f"{self.place(row)}, column {name}: {values[row]:g} is too large; the rows that were learned from lie "
            f"about {mean:g}, {scale:g} apart"
        )

    def _refuse_infinite(self, values: np.ndarray, name: str) -> None:
        infinite = np.isinf(values)
        if infinite.any():
            row = int(np.argmax(infinite))
            raise UserError(
                f"{self.place(row)}, column {name}: expected a finite number, got {values[row]}; "
                "correct the cell, or leave it empty to have it filled"
            )


def _quoted(text: str) -> str:
    return text if text.replace("/", "").replace("-", "").isalnum() else f"'{text}'"
