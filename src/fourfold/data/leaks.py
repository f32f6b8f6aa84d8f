"""Columns that should not be learned from: one that alone tells the target, or that numbers the rows.

A cheap check on a sample of the training rows: each column by itself predicts one half of them from the
other, by interpolation between its sorted values or by its categories. What so explains nearly everything
is not an input but another spelling of the answer, or written down after it.
Shapes: n sampled rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fourfold.core.targets import Target
from fourfold.data.cells import Reader, numbered
from fourfold.data.columns import Encoding
from fourfold.data.dates import parts_of
from fourfold.data.statistics import Statistics
from fourfold.data.survey import Fit
from fourfold.data.telling import few

if TYPE_CHECKING:
    import polars as pl

ROWS = 20_000
"""Of a sample at most."""
CELLS = 4_000_000
"""Of a sample at most, down to FEWEST rows."""
FEWEST = 50
"""Rows from which on a column is suspected."""
FAR = 0.02
"""Share of the variance, or of the errors of always guessing the most frequent class, that is left where a
column is suspected."""


def sampled(rows: int, columns: int) -> int:
    """Take each n-th of so many training rows."""
    most = max(FEWEST, min(ROWS, CELLS // max(1, columns)))
    return max(1, -(-rows // most))


def say_leaks(work: Fit, target: Target, encodings: list[Encoding], sample: pl.DataFrame) -> None:
    """Warn of columns that alone tell the target.

    Args:
        work: the fit; notes are added to it.
        target: as it was fitted.
        encodings: of the columns.
        sample: (n, columns) training rows in stored order.
    """
    if sample.height < FEWEST:
        return
    read = Reader(lambda row: f"a row of {work.rows.name}")
    first = _half(sample.height, work.options.ordered)
    answers = _answers(work, target, sample, read)
    for encoding in encodings:
        if not encoding.columns() or encoding.name not in sample.columns:
            continue
        values = _values(encoding, sample[encoding.name], read)
        told = [
            name
            for name, known in answers.items()
            if _tells(encoding, values, known, target, first)
        ]
        if told and encoding.kind == "date":
            work.notes.append(
                f"{encoding.name}: rows close in time have nearly the same {told[0]}, so a split at random tests what "
                "is almost known; --data.ordered tests later rows by earlier ones"
            )
        elif told:
            work.notes.append(
                f"{encoding.name}: alone predicts {', '.join(told)} almost perfectly; if it is only known together "
                f"with the target, leave it out: --data.drop {encoding.name}"
            )


def say_identifiers(
    work: Fit, encodings: list[Encoding], stats: Mapping[str, object], sample: pl.DataFrame
) -> None:
    """Warn of whole numbers that number the rows, or differ from row to row as identifiers do."""
    whole = [e.name for e in encodings if e.kind == "number" and e.storage == "integer"]
    rising = [name for name in whole if _row_number(stats[name], work.rows.count)]
    unique = [name for name in whole if sample[name].n_unique() == sample.height >= FEWEST]
    unique = [name for name in unique if name not in rising]
    for names, what in ((rising, "row numbers"), (unique, "identifiers, different in each row")):
        if names:
            work.notes.append(
                f"these look like {what}: {few(names)}; --data.drop {names[0]} leaves it out"
            )


def _row_number(stats: object, rows: int) -> bool:
    if not isinstance(stats, Statistics) or stats.distinct is not None:
        return False
    begins = stats.lowest in (0, 1) and stats.highest - stats.lowest + 1 <= rows
    return begins and stats.highest >= 0.99 * rows


def _half(rows: int, ordered: bool) -> np.ndarray:
    """(n,) bool: the rows that predict the others."""
    half = np.arange(rows) < rows // 2
    return half if ordered else np.random.default_rng(0).permutation(half)


def _answers(
    work: Fit, target: Target, sample: pl.DataFrame, read: Reader
) -> dict[str, np.ndarray]:
    """What is to be predicted, (n,) each: a number, or the number of a class."""
    if target.kind == "labels":
        return {name: read.truths(sample[name]) for name in target.classes}
    series, form = sample[target.name], work.form(target.name)
    if target.kind == "number":
        return {target.name: read.numbers(series, form)}
    return {target.name: numbered(read.texts(series, form), target.classes)}


def _values(encoding: Encoding, series: pl.Series, read: Reader) -> np.ndarray:
    """(n,) a column's numbers, or numbers of its categories."""
    if encoding.kind == "date":
        return parts_of(read.dates(series, encoding.form))["days"]
    if encoding.kind == "number":
        return read.numbers(series, encoding.form)
    return numbered(encoding.texts(series, read), encoding.categories).astype(float)


def _tells(
    encoding: Encoding, values: np.ndarray, known: np.ndarray, target: Target, first: np.ndarray
) -> bool:
    there = ~np.isnan(values)
    learn, check = first & there, ~first & there
    if encoding.kind in ("category", "binary"):
        check &= np.isin(values, values[learn])  # a category that is new says nothing
    if min(learn.sum(), check.sum()) < max(FEWEST // 4, len(values) // 4):
        return False
    x, y, new, true = values[learn], known[learn], values[check], known[check]
    if target.kind == "number":
        variance = np.var(true)
        return bool(variance > 0 and np.mean((_between(x, y, new) - true) ** 2) <= FAR * variance)
    often = 1 - np.bincount(true.astype(np.int64)).max() / len(true)
    return bool(often > 0 and np.mean(_class_of(x, y, new) != true) <= FAR * often)


def _between(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Interpolated between the sorted values, equal ones averaged."""
    values, groups = np.unique(x, return_inverse=True)
    means = np.bincount(groups, y) / np.bincount(groups)
    return np.interp(new, values, means)


def _class_of(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The most frequent class of the nearest value."""
    values, groups = np.unique(x, return_inverse=True)
    classes = int(y.max()) + 1
    table = np.bincount(groups * classes + y.astype(np.int64), minlength=len(values) * classes)
    most = table.reshape(len(values), classes).argmax(axis=1)
    right = np.clip(np.searchsorted(values, new), 0, len(values) - 1)
    left = np.maximum(right - 1, 0)
    closer = np.abs(values[left] - new) < np.abs(values[right] - new)
    return np.asarray(most[np.where(closer, left, right)])
