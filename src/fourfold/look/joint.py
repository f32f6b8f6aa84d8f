"""A small joint probability table, read and marginalized.

Two layouts of a CSV file are read:

    weather,mood,p            a column for each variable and one of probabilities (p, probability) or
    sun,good,0.4              counts (count, n, frequency)

    weather\\mood,good,bad     a cross table of two variables; the first cell names them
    sun,0.4,0.1
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fourfold.core.errors import UserError

PROBABILITY = ("p", "probability", "prob")
COUNT = ("count", "counts", "n", "frequency", "freq")
CELLS = 1_000  # of a table, at most
VARIABLES = 6
TOLERANCE = 1e-6  # by which probabilities may miss a sum of 1


@dataclass(frozen=True)
class Joint:
    """Probabilities of every combination of values."""

    names: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    """Of each variable, in the order in which they are met."""
    p: np.ndarray
    """One axis for each variable; the sum is 1."""
    total: float | None = None
    """Number of observations where the table held counts."""
    missing: int = 0
    """Combinations that the table does not list; their probability is 0."""

    def marginal(self, *axes: int) -> np.ndarray:
        """Probabilities of some variables, in the order given."""
        others = tuple(i for i in range(self.p.ndim) if i not in axes)
        kept = sorted(axes)
        return self.p.sum(axis=others).transpose([kept.index(a) for a in axes])

    def conditional(self, of: int, given: int) -> np.ndarray:
        """P(of | given), (values of `given`, values of `of`); NaN where the condition has probability 0."""
        both, condition = self.marginal(given, of), self.marginal(given)
        rows = np.full(both.shape, np.nan)
        np.divide(both, condition[:, None], out=rows, where=condition[:, None] > 0)
        return rows

    def information(self, a: int, b: int) -> float:
        """Mutual information of two variables, in bits."""
        both = self.marginal(a, b)
        apart = np.outer(self.marginal(a), self.marginal(b))
        seen = both > 0
        return float((both[seen] * np.log2(both[seen] / apart[seen])).sum())


def read(path: Path) -> Joint:
    """Read a table.

    Raises:
        UserError: no such file, not such a table, a cell that is no number, negative or missing, a
            combination listed twice, probabilities that do not sum to 1.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text at byte {error.start}") from None
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: cannot be read ({reason})") from None
    if len(rows) < 2:
        raise UserError(f"{path}: expected a line of names and at least one row, got {len(rows)}")
    if len(rows) > CELLS + 1:
        raise UserError(f"{path}: {len(rows) - 1:,} rows; a small table has at most {CELLS:,}")
    rows = [[cell.strip() for cell in row] for row in rows]
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise UserError(
                f"{path}, row {number}: expected {len(rows[0])} cells as in the first row, got {len(row)}"
            )
    lowered = [name.lower() for name in rows[0]]
    measures = [i for i, name in enumerate(lowered) if name in PROBABILITY + COUNT]
    if len(measures) > 1:
        raise UserError(
            f"{path}: columns {rows[0][measures[0]]} and {rows[0][measures[1]]} both look like numbers of each row"
        )
    if measures:
        return _long(path, rows, measures[0])
    return _crossed(path, rows)


def _long(path: Path, rows: list[list[str]], measure: int) -> Joint:
    """A row for each combination."""
    names = [name for i, name in enumerate(rows[0]) if i != measure]
    if not 1 <= len(names) <= VARIABLES or len(set(names)) < len(names) or "" in names:
        raise UserError(
            f"{path}: expected 1 to {VARIABLES} variables with names of their own beside {rows[0][measure]}"
        )
    cells: dict[tuple[str, ...], float] = {}
    values: list[dict[str, None]] = [{} for _ in names]
    for number, row in enumerate(rows[1:], 2):
        key = tuple(cell for i, cell in enumerate(row) if i != measure)
        if key in cells:
            raise UserError(f"{path}, row {number}: {', '.join(key)} is listed twice")
        cells[key] = _measure(path, number, rows[0][measure], row[measure])
        for seen, cell in zip(values, key, strict=True):
            seen[cell] = None
    shape = [len(seen) for seen in values]
    if math.prod(shape) > CELLS:
        raise UserError(f"{path}: {math.prod(shape):,} combinations of values; at most {CELLS:,}")
    p = np.zeros(shape)
    places = [{value: i for i, value in enumerate(seen)} for seen in values]
    for key, value in cells.items():
        p[tuple(place[cell] for place, cell in zip(places, key, strict=True))] = value
    counted = rows[0][measure].lower() in COUNT
    kept = tuple(tuple(seen) for seen in values)
    return _checked(path, tuple(names), kept, p, counted, p.size - len(cells))


def _crossed(path: Path, rows: list[list[str]]) -> Joint:
    """The values of one variable down, those of another across."""
    corner, *across = rows[0]
    down = [row[0] for row in rows[1:]]
    hint = f"name the column of numbers p or count (the columns are {', '.join(rows[0])})"
    if not across:
        raise UserError(f"{path}: expected a column of probabilities or counts; {hint}")
    if len(set(across)) < len(across) or len(set(down)) < len(down):
        raise UserError(f"{path}: a cross table has each value once; or {hint}")
    names = [part.strip() for part in corner.replace("/", "\\").split("\\")]
    if len(names) != 2 or not all(names) or names[0] == names[1]:
        names = [corner or "row", "column"]
    p = np.zeros((len(down), len(across)))
    for i, row in enumerate(rows[1:]):
        for j, cell in enumerate(row[1:]):
            try:
                p[i, j] = _measure(path, i + 2, across[j], cell)
            except UserError as error:
                raise UserError(f"{error}; for a table by rows, {hint}") from None
    counted = bool((p == np.round(p)).all() and p.sum() > 1 + TOLERANCE)
    return _checked(path, (names[0], names[1]), (tuple(down), tuple(across)), p, counted, 0)


def _measure(path: Path, row: int, column: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        found = f'"{cell}"' if cell else "nothing"
        raise UserError(
            f"{path}, row {row}, column {column}: expected a number, got {found}"
        ) from None
    if not math.isfinite(value) or value < 0:
        raise UserError(
            f"{path}, row {row}, column {column}: expected a number of at least 0, got {cell}"
        )
    return value


def _checked(
    path: Path,
    names: tuple[str, ...],
    values: tuple[tuple[str, ...], ...],
    p: np.ndarray,
    counted: bool,
    missing: int,
) -> Joint:
    total = float(p.sum())
    if total == 0:
        raise UserError(f"{path}: every number is 0")
    if not counted and abs(total - 1) > TOLERANCE:
        raise UserError(
            f"{path}: the probabilities sum to {total:.6g}, expected 1 (a column of counts is named count)"
        )
    return Joint(names, values, p / total, total if counted else None, missing)
