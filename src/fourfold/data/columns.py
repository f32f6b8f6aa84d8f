"""Columns of a table as numbers: what kind each is, how it is encoded, and the statistics that this takes.

One-hot encoding, imputation and standardization as in scikit-learn's OneHotEncoder(drop="if_binary",
handle_unknown="ignore"), SimpleImputer(add_indicator=True) and StandardScaler, fitted in one pass
over chunks of rows. Shapes: N rows, D prepared columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from fourfold.core.errors import UserError

if TYPE_CHECKING:
    import polars as pl

    from fourfold.data.rows import Storage

Kind = Literal["number", "category", "binary", "drop"]

MISSING_WORDS = ("", "NA", "NaN", "nan", "null", "NULL")
"""Cells of a column of numbers that mean that nothing is there."""
SAMPLE = 250_000
"""Values per column from which a median is taken; exact up to this many."""
ROUNDED = 2.0**53
"""Whole numbers beyond this are not exact in float64."""


@dataclass(frozen=True)
class Column:
    """One prepared column of `features`."""

    name: str
    source: str
    """The original column."""
    kind: Literal["number", "binary", "category", "other", "missing"]
    value: str | None = None
    """The category that 1 stands for."""
    mean: float = 0.0
    scale: float = 1.0
    """The prepared number is (original - mean) / scale."""


@dataclass(frozen=True)
class Encoding:
    """How one original column becomes prepared columns."""

    name: str
    storage: Storage
    numeric: bool
    """Whether cells are read as numbers, also where they stand for categories."""
    kind: Kind
    categories: tuple[str, ...] = ()
    """Of a category, each with its prepared column; of a binary column, what 0 and 1 stand for."""
    fill: float | str | None = None
    """What a missing cell becomes; None where none may be missing."""
    mean: float = 0.0
    scale: float = 1.0
    indicator: bool = False
    other: bool = False
    missing: int = 0
    """Missing cells in the training split."""
    why: str = ""

    def columns(self) -> list[Column]:
        """The prepared columns, in order."""
        found = []
        if self.kind == "number":
            found.append(Column(self.name, self.name, "number", None, self.mean, self.scale))
        elif self.kind == "binary":
            one = self.categories[1]
            label = self.name if one in ("1", "true") else f"{self.name}={one}"
            found.append(Column(label, self.name, "binary", one))
        elif self.kind == "category":
            found += [Column(f"{self.name}={c}", self.name, "category", c) for c in self.categories]
        if self.other:
            found.append(Column(f"{self.name}=other", self.name, "other"))
        if self.indicator:
            found.append(Column(f"{self.name} missing", self.name, "missing"))
        return found

    def encode(self, series: pl.Series, out: np.ndarray, read: Reader) -> tuple[int, int]:
        """Write the prepared columns of some rows.

        Args:
            series: (N,) the original cells.
            out: (N, columns) float of zeros, written in place.
            read: turns cells into numbers, or says which cannot be.

        Returns:
            How many cells were missing, and how many held a category that training has not seen.

        Raises:
            UserError: a cell that is no number, or infinite, in a column of numbers.
        """
        unseen = 0
        if self.kind == "number":
            values = read.numbers(series)
            gone = np.isnan(values)
            if gone.any() and self.fill is not None:
                values = np.where(gone, self.fill, values)
            out[:, 0] = (values - self.mean) / self.scale
            width = 1
        elif self.kind == "drop":
            gone, width = self.missing_cells(series, read), 0
        else:
            gone, unseen, width = self._one_hot(self._texts(series, read), out)
        if self.indicator:
            out[:, width + self.other] = gone
        return int(gone.sum()), unseen

    def missing_cells(self, series: pl.Series, read: Reader) -> np.ndarray:
        """(N,) bool: where nothing is there."""
        if self.numeric:
            return np.isnan(read.numbers(series))
        return cells(series).is_null().to_numpy()

    def _texts(self, series: pl.Series, read: Reader) -> pl.Series:
        import polars as pl

        return cells(pl.Series(read.numbers(series), nan_to_null=True) if self.numeric else series)

    def _one_hot(self, texts: pl.Series, out: np.ndarray) -> tuple[np.ndarray, int, int]:
        import polars as pl

        gone = texts.is_null().to_numpy()
        if self.fill is not None:
            texts = texts.fill_null(str(self.fill))
        numbers = pl.Series(range(len(self.categories)), dtype=pl.Int32)
        codes = texts.replace_strict(
            pl.Series(self.categories, dtype=pl.String), numbers, default=-1, return_dtype=pl.Int32
        ).to_numpy()
        seen = np.flatnonzero(codes >= 0)
        width = 1 if self.kind == "binary" else len(self.categories)
        if self.kind == "binary":
            out[:, 0] = codes == 1
        else:
            out[seen, codes[seen]] = 1
        if self.other:
            out[:, width] = codes < 0
        return gone, len(codes) - len(seen), width


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
    """Cells as numbers; an unreadable or infinite one is named by its row."""

    def __init__(self, place: Callable[[int], str], decimal: str = ".") -> None:
        self.place, self.decimal = place, decimal

    def parsed(self, series: pl.Series) -> tuple[pl.Series, pl.Series]:
        """Numbers with null where there is none, and which cells hold something that is no number."""
        import polars as pl

        if series.dtype != pl.String:
            none = pl.Series(np.zeros(len(series), bool))
            return series.cast(pl.Float64).fill_nan(None), none
        text = series.str.strip_chars()
        text = text.set(text.is_in(list(MISSING_WORDS)), None)  # type: ignore[arg-type]
        if self.decimal == ",":
            text = text.str.replace(",", ".", literal=True)
        values = text.cast(pl.Float64, strict=False)
        return values, values.is_null() & text.is_not_null()

    def numbers(self, series: pl.Series) -> np.ndarray:
        """(N,) float64, NaN where a cell is missing."""
        import polars as pl

        if series.dtype == pl.Float64:
            return self._finite(series.to_numpy(), series.name)
        values, bad = self.parsed(series)
        if bad.any():
            row = int(bad.arg_max() or 0)
            raise UserError(
                f'{self.place(row)}, column {series.name}: expected a number, got "{series[row]}"; '
                f"--empty {_quoted(series[row])} takes such cells as missing, "
                f"--data.kinds.{series.name} category takes the column as text"
            )
        return self._finite(values.to_numpy(), series.name)

    def _finite(self, result: np.ndarray, name: str) -> np.ndarray:
        infinite = np.isinf(result)
        if infinite.any():
            row = int(np.argmax(infinite))
            raise UserError(
                f"{self.place(row)}, column {name}: expected a finite number, got {result[row]}; "
                "correct the cell, or leave it empty to have it filled"
            )
        return result


def _quoted(text: str) -> str:
    return text if text.replace("/", "").replace("-", "").isalnum() else f"'{text}'"


class Statistics:
    """What one pass over the training rows tells about one column."""

    def __init__(self, name: str, storage: Storage, limit: int | None, numeric: bool) -> None:
        self.name, self.storage, self.numeric = name, storage, numeric
        self.limit = limit
        self.rows = self.missing = 0
        self.mean = self.spread = 0.0  # spread: sum of squared distances from the mean
        self.lowest, self.highest, self.whole = np.inf, -np.inf, True
        self.counts: Counter[str] | None = Counter()
        self._sample: list[np.ndarray] = []
        self._stride = self._sampled = 1

    def add(self, series: pl.Series, read: Reader) -> None:
        """Take in a chunk."""
        self.rows += len(series)
        if self.numeric:
            values = read.numbers(series)
            present = values[~np.isnan(values)]
            self.missing += len(values) - len(present)
            if not len(present):
                return
            self._add_numbers(present)
            if self.counts is not None:
                self.whole = self.whole and bool((present == np.floor(present)).all())
                import polars as pl

                self._count(pl.Series(present))
            return
        self.missing += cells(series).null_count()
        if self.counts is not None:
            self._count(series)

    def _count(self, series: pl.Series) -> None:
        if self.limit is not None and len(self.counts or ()) == 0 and len(series) > 4 * self.limit:
            few = series.head(4 * self.limit)
            if few.n_unique() > 2 * self.limit:  # clearly continuous: do not count all of it
                self.counts = None
                return
        found = cells(series).drop_nulls().value_counts()
        assert self.counts is not None  # noqa: S101
        self.counts.update(dict(found.iter_rows()))
        if self.limit is not None and len(self.counts) > self.limit:
            self.counts = None

    def _add_numbers(self, values: np.ndarray) -> None:
        before, count = self.present - len(values), len(values)
        mean = float(values.mean())
        spread = float(np.square(values - mean).sum())
        delta = mean - self.mean
        total = before + count
        self.mean += delta * count / total  # Chan, Golub and LeVeque 1979
        self.spread += spread + delta * delta * before * count / total
        self.lowest, self.highest = min(self.lowest, values.min()), max(self.highest, values.max())
        self._sample.append(values[:: self._stride])
        if sum(map(len, self._sample)) > SAMPLE:
            self._sample = [np.concatenate(self._sample)[::2]]
            self._stride *= 2

    @property
    def by_size(self) -> bool:
        """Whether the values are ordered as numbers."""
        return self.numeric or self.storage in ("number", "integer")

    @property
    def present(self) -> int:
        """Cells that hold something."""
        return self.rows - self.missing

    @property
    def sampled(self) -> bool:
        """Whether the median comes from a part of the rows."""
        return self._stride > 1

    def median(self) -> float:
        """Of the cells that hold something."""
        return float(np.median(np.concatenate(self._sample)))

    def most_frequent(self) -> str:
        """The smallest of the most frequent values."""
        if self.counts:
            most = max(self.counts.values())
            return ordered([v for v, n in self.counts.items() if n == most], self.by_size)[0]
        values, counts = np.unique(np.concatenate(self._sample), return_counts=True)
        return str(values[np.argmax(counts)])

    def with_filled(self, fill: float) -> tuple[float, float]:
        """Mean and standard deviation once missing cells hold `fill`."""
        delta, total = fill - self.mean, max(1, self.rows)
        mean = self.mean + delta * self.missing / total
        spread = self.spread + delta * delta * self.missing * self.present / total
        return mean, float(np.sqrt(spread / total))


def ordered(categories: list[str], numeric: bool) -> list[str]:
    """Numbers by size, text by code point."""
    return sorted(categories, key=float) if numeric else sorted(categories)


@dataclass(frozen=True)
class Rules:
    """What the options say about every column."""

    missing: str
    indicator: bool
    other: bool
    standardize: bool
    max_categories: int


def encoding_of(stats: Statistics, kind: Kind, rules: Rules, why: str = "") -> Encoding:
    """The encoding of one column of a decided kind."""
    base = Encoding(stats.name, stats.storage, stats.numeric, kind, missing=stats.missing, why=why)
    indicator = rules.indicator and stats.missing > 0 and rules.missing in ("median", "frequent")
    base = replace(base, indicator=indicator and (kind != "drop" or why == CONSTANT))
    if kind == "drop":
        return base
    if kind == "number":
        frequent = rules.missing == "frequent"
        fill = float(stats.most_frequent()) if frequent else stats.median()
        mean, scale = stats.with_filled(fill)
        if not rules.standardize:
            mean, scale = 0.0, 1.0
        if scale <= 10 * np.finfo(np.float64).eps * abs(mean):
            scale = 1.0
        return replace(base, fill=fill, mean=mean, scale=scale)
    counts = stats.counts or Counter()
    found = list(counts)
    if kind == "category" and len(found) > rules.max_categories:
        found = [v for v, _ in counts.most_common(rules.max_categories)]
    return replace(
        base,
        categories=tuple(ordered(found, stats.by_size)),
        fill=stats.most_frequent(),
        other=rules.other,
    )


CONSTANT = "constant"
