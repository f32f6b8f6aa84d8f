"""What is to be predicted, in a table: which columns hold it, how their cells are read, what the training rows have of it.

Shapes: N rows, C classes, K labels.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np

from fourfold.core.errors import UserError
from fourfold.core.targets import Target
from fourfold.data.cells import Reader, cells, numbered
from fourfold.data.rows import Rows
from fourfold.data.statistics import Statistics, ordered
from fourfold.data.survey import Fit
from fourfold.data.table import Tabular, column_missing

if TYPE_CHECKING:
    import polars as pl

CLASSES = 1000
"""More different texts than this are no classes, unless the user says so."""


def choose(options: Tabular, rows: Rows) -> Target:
    """The target that the options name; its kind is "labels", or found by `read_target`.

    Raises:
        UserError: none is named, or there is no such column.
    """
    name = options.target or rows.target
    if name is None:
        raise UserError(
            f"{rows.name}: which column is to be predicted? --target names one of {', '.join(rows.columns)}"
        )
    if name in rows.types:
        return Target(name, "number")
    if not any(c in name for c in "*?[,"):
        raise column_missing(name, rows.columns, rows.name)
    found: list[str] = []
    for pattern in name.split(","):
        matching = [c for c in rows.columns if fnmatchcase(c, pattern.strip())]
        if not matching and any(c in pattern for c in "*?["):
            raise UserError(
                f"{rows.name}: --target {pattern} matches no column of {', '.join(rows.columns)}"
            )
        if not matching:
            raise column_missing(pattern.strip(), rows.columns, rows.name)
        found += [c for c in matching if c not in found]
    return Target(name, "labels", tuple(found))


# --- a first look ---------------------------------------------------------------------------------


def read_target(work: Fit, target: Target) -> tuple[np.ndarray, Target]:
    """(N,) bool, True where the target is missing, and the target with its kind, as `choose` named it.

    Raises:
        UserError: nothing is there, or a cell cannot be what the others are.
    """
    if target.kind != "labels":
        target = replace(target, kind="number" if _numeric(work, target.name) else "category")
    missing = without_target(work, target)
    if missing.all():
        raise UserError(
            f"{work.rows.name}, column {', '.join(target.columns)}: all its cells are missing, so nothing can be learned"
        )
    if target.kind == "number" and work.options.target_kind != "number":
        target = _maybe_classes(work, target)
    return missing, target


def without_target(work: Fit, target: Target) -> np.ndarray:
    """(N,) bool, True where a row has no target."""
    gone = []
    for start, frame in work.rows.chunks(target.columns):
        read = work.reader(start)
        if target.kind == "labels":
            gone.append(sum(np.isnan(read.truths(series)) for series in frame) > 0)
        elif target.kind == "number":
            numbers = read.numbers(frame[target.name], work.form(target.name))
            gone.append(np.isnan(numbers))
        else:
            gone.append(cells(frame[target.name]).is_null().to_numpy())
    return np.concatenate(gone)


def _numeric(work: Fit, name: str) -> bool:
    """Whether the target's cells are numbers, whatever they mean."""
    storage, given = work.rows.types[name], work.options.kinds.get(name)
    if work.form(name).date:
        raise UserError(
            f"{work.rows.name}, column {name}: a target of dates; make it a number, as of days from a fixed day on"
        )
    if given is not None:
        return given == "number"
    if storage == "boolean":
        return work.options.target_kind == "number"
    if work.options.target_kind == "category" and work.numeric[name]:
        _refuse_measured(work, name)
    return work.options.target_kind != "category" and work.numeric[name]


def _refuse_measured(work: Fit, name: str) -> None:
    """Numbers with fractions are measured, not classes; whoever means classes says so."""
    for start, frame in work.rows.chunks([name]):
        values = work.reader(start).numbers(frame[name], work.form(name))
        odd = np.flatnonzero(~np.isnan(values) & (values != np.floor(values)))
        if len(odd):
            raise UserError(
                f"{work.rows.place(start + int(odd[0]))}, column {name}: {values[odd[0]]:g} is a number, and this system "
                f"tells classes apart: fit linear or mlp, or take every value as a class by --data.kinds.{name} category"
            )


def _maybe_classes(work: Fit, target: Target) -> Target:
    """Two different whole numbers, as 0 and 1, are classes; a few others are said."""
    if work.options.kinds.get(target.name) == "number":
        return target
    values: set[float] = set()
    for start, frame in work.rows.chunks([target.name]):
        found = np.unique(work.reader(start).numbers(frame[target.name], work.form(target.name)))
        values.update(found[~np.isnan(found)].tolist())
        if len(values) > 10:
            return target
    few = len(values) < 2 or work.rows.count <= 2 * len(values)
    if few or any(value != int(value) for value in values):
        return target
    if len(values) == 2:
        low, high = sorted(values)
        work.notes.append(
            f"{target.name}: two values, {low:.0f} and {high:.0f}, predicted as classes; "
            "--target-kind number predicts a number"
        )
        return replace(target, kind="category")
    work.notes.append(
        f"{target.name}: {len(values)} different whole numbers, predicted as a number; "
        "--target-kind category predicts classes"
    )
    return target


def classes_of(work: Fit, target: Target) -> tuple[list[str], np.ndarray]:
    """Names of all classes in the rows, and (N,) int64 the number of each row's, -1 where it is missing."""
    names: dict[str, int] = {}
    found = []
    form = work.form(target.name)
    for start, frame in work.rows.chunks([target.name]):
        texts = work.reader(start).texts(frame[target.name], form)
        for value in texts.drop_nulls().unique(maintain_order=True):
            names.setdefault(value, len(names))
        found.append(numbered(texts, list(names)))
    return list(names), np.concatenate(found)


def check_classes(work: Fit, target: Target, names: list[str], codes: np.ndarray) -> None:
    """Refuse a target whose classes cannot be learned.

    Raises:
        UserError: there is one class, or as good as one for each row.
    """
    where, given = f"{work.rows.name}, column {target.name}", work.options.kinds.get(target.name)
    if len(names) == 1:
        raise UserError(
            f"{where}: the target is {names[0]} in every row, so nothing can be learned"
        )
    count = int((codes >= 0).sum())
    text = work.rows.types[target.name] == "text" and given is None
    if text and len(names) > min(CLASSES, max(20, count / 2)):
        raise UserError(
            f"{where}: a target of text with {len(names):,} different values in {count:,} rows; a class takes "
            f"several rows to learn: join rare ones into one, choose another --target, or say "
            f"--data.kinds.{target.name} category to learn them all the same"
        )


# --- fitting --------------------------------------------------------------------------------------


class Answers:
    """What one pass over the training rows tells about the target."""

    def __init__(self, work: Fit, target: Target) -> None:
        self.work, self.target = work, target
        self.rows, self.present = 0, dict.fromkeys(target.columns, 0)
        storage, form = work.rows.types[target.columns[0]], work.form(target.name)
        number = target.kind == "number"
        limit = 0 if number else None
        self.stats = Statistics(target.name, storage, limit, numeric=number, form=form)

    def add(self, frame: pl.DataFrame, read: Reader, weights: np.ndarray | None) -> None:
        """Take in a chunk."""
        self.rows += frame.height
        if self.target.kind != "labels":
            self.stats.add(frame[self.target.name], read, weights)
            return
        for name in self.target.classes:
            self.present[name] += int(read.truths(frame[name]).sum())

    def fitted(self) -> Target:
        """The target as the training rows have it.

        Raises:
            UserError: it is the same in every training row.
        """
        target, stats = replace(self.target, rows=self.rows), self.stats
        if target.kind == "labels":
            return _labels(self.work, replace(target, counts=tuple(self.present.values())))
        if target.kind == "category":
            counts = stats.counts or Counter[str]()
            classes = tuple(ordered(list(counts), stats.by_size, stats.form))
            if len(classes) == 1:
                raise self._constant(classes[0])
            return replace(target, classes=classes, counts=tuple(counts[c] for c in classes))
        if stats.lowest == stats.highest and stats.rows > 1:
            raise self._constant(f"{stats.lowest:g}")
        mean, scale = stats.with_filled(0.0)
        if not (self.work.options.standardize and scale > 0):
            mean, scale = 0.0, 1.0
        return replace(target, mean=mean, scale=scale)

    def _constant(self, value: str) -> UserError:
        return UserError(
            f"{self.work.rows.name}, column {self.target.name}: the target is {value} in every training row, "
            "so nothing can be learned"
        )


def _labels(work: Fit, target: Target) -> Target:
    never = [n for n, count in zip(target.classes, target.counts, strict=True) if count == 0]
    always = [n for n, c in zip(target.classes, target.counts, strict=True) if c == target.rows]
    if len(never) + len(always) == len(target.classes):
        raise UserError(
            f"{work.rows.name}: {target.name} names labels that are the same in every training row, "
            "so nothing can be learned"
        )
    for names, word in ((never, "in no"), (always, "in every")):
        if names:
            work.notes.append(f"labels that are there {word} training row: {', '.join(names)}")
    return target
