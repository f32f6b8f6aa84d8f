"""What one pass over the training rows tells about a column, and the encoding that follows from it.

Shapes: N rows.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fourfold.data.cells import Reader, cells
from fourfold.data.columns import Encoding, Kind
from fourfold.data.dates import parts_of
from fourfold.data.forms import PLAIN, Form

if TYPE_CHECKING:
    import polars as pl

    from fourfold.data.rows import Storage

FRACTIONS = 256
"""Different numbers that are counted at most where not all are whole."""
SAMPLE = 250_000
"""Values per column from which a median is taken; exact up to this many."""
CONSTANT = "constant"


class Statistics:
    """What one pass over the training rows tells about one column."""

    def __init__(
        self, name: str, storage: Storage, limit: int | None, numeric: bool, form: Form = PLAIN
    ) -> None:
        """Of no rows yet.

        Args:
            name: the column's.
            storage: how its cells are stored.
            limit: different values that are counted at most; None counts all, 0 none.
            numeric: whether cells are numbers.
            form: how text is written.
        """
        self.name, self.storage, self.numeric, self.form = name, storage, numeric, form
        self.limit = limit
        self.rows = self.missing = 0
        self.weight = self.gone = 0.0  # of all rows, and of those whose cell is missing
        self.mean = self.spread = 0.0  # spread: sum of squared distances from the mean
        self.lowest, self.highest, self.whole = np.inf, -np.inf, True
        self._found: Counter[Any] | None = None if limit == 0 else Counter()
        self._sample: list[np.ndarray] = []
        self._stride, self._held = 1, 0

    def add(self, series: pl.Series, read: Reader, weights: np.ndarray | None = None) -> None:
        """Take in a chunk; means and deviations count its rows as `weights` (N,) say, or once each."""
        self.rows += len(series)
        if self.numeric:
            self._add_numbers(*read.numbers_and_sum(series, self.form), weights)
            return
        texts = read.texts(series, self.form)
        self.missing += texts.null_count()
        if self._found is not None:
            self._count(texts.drop_nulls())

    def _add_numbers(self, values: np.ndarray, total: float, weights: np.ndarray | None) -> None:
        rows = len(values)
        self.weight += rows if weights is None else float(weights.sum())
        if not math.isfinite(total):
            there = ~np.isnan(values)
            self.gone += (
                rows - int(there.sum()) if weights is None else float(weights[~there].sum())
            )
            values, weights = values[there], None if weights is None else weights[there]
            self.missing += rows - len(values)
            total = float(values.sum())
        if not len(values):
            return
        self._add_moments(values, total, weights)
        self.lowest = min(self.lowest, float(values.min()))
        self.highest = max(self.highest, float(values.max()))
        if self._found is not None:
            self._count_numbers(values)
        some = values[:: self._stride].copy()  # a view would hold all of the chunk
        self._sample.append(some)
        self._held += len(some)
        if self._held > SAMPLE:
            self._sample = [np.concatenate(self._sample)[::2].copy()]
            self._held = len(self._sample[0])
            self._stride *= 2

    def _add_moments(self, values: np.ndarray, total: float, weights: np.ndarray | None) -> None:
        count = float(len(values)) if weights is None else float(weights.sum())
        of_all = self.weight - self.gone
        if count <= 0:
            return
        mean = (total if weights is None else float((values * weights).sum())) / count
        distances = values - mean
        np.multiply(distances, distances, out=distances)
        if weights is not None:
            distances *= weights
        spread = float(distances.sum())
        delta = mean - self.mean
        self.mean += delta * count / of_all  # Chan, Golub and LeVeque 1979
        self.spread += spread + delta * delta * (of_all - count) * count / of_all

    def _count_numbers(self, values: np.ndarray) -> None:
        import polars as pl

        self.whole = self.whole and bool((values == np.floor(values)).all())
        most = self.limit if self.whole or self.limit is None else min(self.limit, FRACTIONS)
        if most is not None and len(values) > 4 * most and not self._found:
            if len(np.unique(values[: 4 * most])) > 2 * most:  # clearly continuous
                self._found = None
                return
        self._count(pl.Series(values), most)

    def _count(self, series: pl.Series, limit: int | None = None) -> None:
        limit = self.limit if limit is None else limit
        assert self._found is not None  # noqa: S101
        values, counts = series.value_counts().get_columns()
        self._found.update(dict(zip(values.to_list(), counts.to_list(), strict=True)))
        if limit is not None and len(self._found) > limit:
            self._found = None

    @property
    def distinct(self) -> int | None:
        """How many different values there are; None where they are too many to count."""
        return None if self._found is None else len(self._found)

    @property
    def counts(self) -> Counter[str] | None:
        """Rows of each value, as categories are written; None where they are too many to count."""
        import polars as pl

        if self._found is None or not self.numeric:
            return self._found
        names = cells(pl.Series(list(self._found), dtype=pl.Float64))
        return Counter(dict(zip(names.to_list(), self._found.values(), strict=True)))

    @property
    def values(self) -> np.ndarray:
        """The different numbers by size, where they were counted."""
        return np.sort(np.array(list(self._found or ()), float))

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
        counts = self.counts
        if counts:
            most = max(counts.values())
            return ordered([v for v, n in counts.items() if n == most], self.by_size)[0]
        values, often = np.unique(np.concatenate(self._sample), return_counts=True)
        return str(values[np.argmax(often)])

    def with_filled(self, fill: float) -> tuple[float, float]:
        """Mean and standard deviation once missing cells hold `fill`."""
        delta, total = fill - self.mean, self.weight or 1.0
        mean = self.mean + delta * self.gone / total
        spread = self.spread + delta * delta * self.gone * (self.weight - self.gone) / total
        return mean, float(np.sqrt(spread / total))


def ordered(categories: list[str], numeric: bool, form: Form = PLAIN) -> list[str]:
    """Numbers by size, no before yes, other text by code point."""
    if form.words:
        return sorted(categories, key=form.words.index)
    return sorted(categories, key=float) if numeric else sorted(categories)


@dataclass(frozen=True)
class Rules:
    """What the options say about every column."""

    missing: str
    indicator: bool
    other: bool
    standardize: bool
    limit: int
    """Categories at most."""
    embed_above: int | None = None
    """A column of more categories becomes codes."""

    def indicates(self, missing: int) -> bool:
        """Whether a column with missing cells gets an indicator."""
        return self.indicator and missing > 0 and self.missing in ("median", "frequent")


def encoding_of(stats: Statistics, kind: Kind, rules: Rules, why: str = "") -> Encoding:
    """The encoding of one column of a decided kind."""
    base = Encoding(
        stats.name,
        stats.storage,
        stats.numeric,
        kind,
        missing=stats.missing,
        why=why,
        form=stats.form,
    )
    indicator = rules.indicates(stats.missing) and (kind != "drop" or why == CONSTANT)
    base = replace(base, indicator=indicator)
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
    if kind == "category" and len(found) > rules.limit:
        found = [v for v, _ in counts.most_common(rules.limit)]
    categories = tuple(ordered(found, stats.by_size, stats.form))
    above = rules.embed_above
    if kind == "category" and above is not None and len(categories) > above:
        return replace(base, categories=categories, embedded=True, indicator=False)
    return replace(
        base,
        categories=categories,
        fill=stats.most_frequent(),
        other=rules.other,
    )


class DateStatistics:
    """What one pass over the training rows tells about a column of dates."""

    def __init__(self, name: str, form: Form) -> None:
        self.name, self.form = name, form
        self.parts: dict[str, Statistics] = {}

    def add(self, series: pl.Series, read: Reader, weights: np.ndarray | None = None) -> None:
        """Take in a chunk."""
        import polars as pl

        for part, values in parts_of(read.dates(series, self.form)).items():
            if part not in self.parts:
                self.parts[part] = Statistics(f"{self.name} {part}", "number", 0, numeric=True)
            self.parts[part].add(pl.Series(values), read, weights)

    def encoding(self, rules: Rules) -> Encoding:
        """The encoding: each part that differs between training rows is a number of its own."""
        whole = next(iter(self.parts.values()))
        base = Encoding(self.name, "text", False, "date", missing=whole.missing, form=self.form)
        if whole.present == 0:
            return replace(base, kind="drop", why="all missing")
        differing = [s for s in self.parts.values() if s.lowest < s.highest]
        if not differing:
            return replace(base, kind="drop", why=CONSTANT)
        plain = replace(rules, indicator=False)
        parts = tuple(encoding_of(stats, "number", plain) for stats in differing)
        indicator = rules.indicates(whole.missing)
        return replace(base, parts=parts, indicator=indicator)
