"""Fitting a table's preparation on its training rows, and opening other rows under it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from fourfold.core.errors import UserError, nearest
from fourfold.core.targets import Target
from fourfold.data import kinds
from fourfold.data.columns import Encoding, Reader, Rules, Statistics, encoding_of, ordered
from fourfold.data.rows import Format, Piece, Rows
from fourfold.data.survey import Fit, survey, survey_target
from fourfold.data.table import (
    Schema,
    TableData,
    Tabular,
    column_missing,
    fingerprint,
    text_columns,
)
from fourfold.data.table_files import open_rows

if TYPE_CHECKING:
    import polars as pl

NONE = -1  # the part of rows that are left out


def fit(options: Tabular, rows: Rows, held_out: Rows | None, seed: int) -> TableData:
    """Fit the preparation.

    Args:
        options: how.
        rows: to be split; with `held_out`, into train and test only.
        held_out: the validation rows, if they are a source of their own.
        seed: fixes the split.

    Raises:
        UserError: the target or another named column is not there, or a cell cannot be what it should be.
    """
    name = _choose_target(options, rows)
    _check_names(options, rows)
    both = _joined(rows, held_out, rows.columns)
    work = Fit(options, both, name)
    survey(work)
    gone, target = survey_target(work)
    work.parts = _split(options, rows.count, both.count, gone, seed)
    if gone.any():
        work.notes.append(f"{int(gone.sum()):,} rows without a target ({name}) left out")
    encodings = _fit_columns(work)
    target = _fit_target(work, target)
    fitted = {
        "target": _described_target(target),
        "prepared columns": sum(len(e.columns()) for e in encodings),
        "columns": {e.name: _described(e, options) for e in encodings},
    }
    schema = Schema(
        tuple(encodings), target, fingerprint(options, rows, held_out), {"fitted": fitted}
    )
    return TableData(options, schema, seed=seed, rows=work.rows, parts=work.parts, notes=work.notes)


def reopen(
    data: TableData, sources: Any, seed: int, valid: Any, *, whole: bool, targets: bool
) -> TableData:
    """Other rows under a fitted preparation; see `TableData.reopen`."""
    import dataclasses

    options, schema = data.options, data.schema
    how = Format(options.separator, options.decimal, options.empty, text_columns(schema))
    rows = open_rows(sources, how)
    held_out = None if valid is None else open_rows(valid, how)
    used = [e.name for e in schema.encodings if e.columns()]
    lacking = [name for name in used if name not in rows.types]
    if lacking:
        more = f" (and {', '.join(lacking[1:6])})" if lacking[1:] else ""
        error = column_missing(lacking[0], rows.columns, rows.name)
        raise UserError(f"{error}{more}; the run was fitted with {', '.join(used)}")
    if targets and schema.target.name not in rows.types:
        error = column_missing(schema.target.name, rows.columns, rows.name)
        raise UserError(f"{error}; measuring needs the target, predicting does not")
    known = {schema.target.name, *(e.name for e in schema.encodings), *options.drop}
    known |= {name for name, kind in options.kinds.items() if kind == "drop"}
    extra = [name for name in rows.columns if name not in known]
    notes = [f"columns that training did not have are ignored: {', '.join(extra)}"] if extra else []
    both = _joined(rows, held_out, rows.columns)
    work = Fit(options, both, schema.target.name, notes=notes)
    gone = survey_target(work, schema.target)[0] if targets else np.zeros(both.count, bool)
    parts = _split(options, rows.count, both.count, gone, seed)
    work.parts = np.where(gone, NONE, 2).astype(np.int8) if whole else parts
    if gone.any():
        notes.append(f"{int(gone.sum()):,} rows without a target ({schema.target.name}) left out")
    encodings = [e for e in schema.encodings if e.columns()]
    _treat_missing(work, encodings)
    changed = dataclasses.replace(schema, fingerprint=fingerprint(options, rows, held_out))
    return TableData(
        options, changed, seed=seed, rows=work.rows, parts=work.parts, targets=targets, notes=notes
    )


# --- names and rows -----------------------------------------------------------------------------


def _choose_target(options: Tabular, rows: Rows) -> str:
    if options.target is None:
        if rows.target is not None:
            return rows.target
        raise UserError(
            f"{rows.name}: which column is to be predicted? --target names one of {', '.join(rows.columns)}"
        )
    if options.target not in rows.types:
        raise column_missing(options.target, rows.columns, rows.name)
    return options.target


def _check_names(options: Tabular, rows: Rows) -> None:
    for option, names in (("drop", options.drop), ("kinds", options.kinds)):
        for name in names:
            if name not in rows.types:
                raise UserError(
                    f"--data.{option}: {rows.name} has no column {name}{nearest(name, rows.columns)}"
                )
    target = options.target or rows.target
    if target in options.drop or (target and options.kinds.get(target) == "drop"):
        raise UserError(f"--data.drop: {target} is the target and cannot be left out")


def _joined(rows: Rows, held_out: Rows | None, columns: list[str]) -> Rows:
    if held_out is None:
        return rows
    lacking = [name for name in columns if name not in held_out.types]
    if lacking:
        raise column_missing(lacking[0], held_out.columns, held_out.name)
    pieces = [Piece(p.name, p.count, p.table.select(columns), p.digest) for p in held_out.pieces]
    return Rows([*rows.pieces, *pieces], target=rows.target)


def _split(options: Tabular, count: int, total: int, gone: np.ndarray, seed: int) -> np.ndarray:
    """(total,) int8: the part of each row; rows from `count` on are a validation source of their own."""
    kept = np.flatnonzero(~gone[:count])
    shares = options.split if count == total else (options.split[0], 0.0, options.split[2])
    valid, test = (round(len(kept) * share / sum(shares)) for share in shares[1:])
    labels = np.zeros(len(kept), np.int8)
    labels[len(kept) - test :] = 2
    labels[len(kept) - test - valid : len(kept) - test] = 1
    if not options.ordered:
        np.random.default_rng([seed, 0x5EED]).shuffle(labels)
    parts = np.full(total, NONE, np.int8)
    parts[kept] = labels
    parts[count:][~gone[count:]] = 1
    if not (labels == 0).any():
        raise UserError(f"{len(kept)} rows with a target: none is left to train on")
    return parts


def _training(work: Fit, columns: list[str]) -> Iterator[tuple[pl.DataFrame, Reader]]:
    """The training rows of each chunk."""
    for start, frame in work.rows.chunks(columns):
        keep = np.flatnonzero(work.parts[start : start + frame.height] == 0)
        if len(keep):
            yield frame[keep], Reader(work.rows.placed(start, keep), work.options.decimal)


# --- fitting ------------------------------------------------------------------------------------


def _gather(work: Fit) -> dict[str, Statistics]:
    given, limit = work.options.kinds, work.options.max_categories
    stats = {
        name: Statistics(
            name,
            work.rows.types[name],
            None if given.get(name) == "category" else limit,
            work.numeric[name],
        )
        for name in work.features
    }
    for frame, read in _training(work, work.features):
        for series in frame:
            stats[series.name].add(series, read)
    return stats


def _fit_columns(work: Fit) -> list[Encoding]:
    options = work.options
    stats = _gather(work)
    verdicts = {
        name: kinds.decide(
            stats[name], options.kinds.get(name), options.codes, options.max_categories
        )
        for name in work.features
    }
    rules = Rules(
        options.missing,
        options.indicator,
        options.unseen == "other",
        options.standardize,
        options.max_categories,
    )
    encodings = [encoding_of(stats[n], v.kind, rules, v.why) for n, v in verdicts.items()]
    work.notes += [verdict.note for verdict in verdicts.values() if verdict.note]
    before = work.rows, work.parts.copy()
    _treat_missing(work, [e for e in encodings if e.columns()])
    if work.rows is not before[0] or (work.parts != before[1]).any():
        if not (work.parts == 0).any():
            raise UserError(
                f"{work.rows.name}: every training row has a missing cell; --missing median fills them"
            )
        stats = _gather(work)
        encodings = [encoding_of(stats[n], v.kind, rules, v.why) for n, v in verdicts.items()]
    if not any(e.columns() for e in encodings):
        raise UserError(
            f"{work.rows.name}: no column is left to learn from ({'; '.join(work.notes)})"
        )
    _say_more(work, stats, encodings)
    return encodings


def _treat_missing(work: Fit, encodings: list[Encoding]) -> None:
    """Drop, interpolate or refuse rows with missing cells, where the options say so."""
    how = work.options.missing
    if how == "interpolate":
        work.rows = _interpolated(work, encodings)
    if how not in ("drop", "error"):
        return
    gone = np.zeros(work.rows.count, bool)
    for start, frame in work.rows.chunks([e.name for e in encodings]):
        read = work.reader(start)
        for encoding in encodings:
            lost = encoding.missing_cells(frame[encoding.name], read)
            if how == "error" and lost.any():
                raise UserError(
                    f"{read.place(int(np.argmax(lost)))}, column {encoding.name}: missing; "
                    "--missing median fills such cells, --missing drop leaves their rows out"
                )
            gone[start : start + frame.height] |= lost
    dropped = int((gone & (work.parts >= 0)).sum())
    if dropped:
        work.parts = np.where(gone, NONE, work.parts).astype(np.int8)
        work.notes.append(f"{dropped:,} rows with missing cells left out (--missing drop)")


def _interpolated(work: Fit, encodings: list[Encoding]) -> Rows:
    import polars as pl

    frame, read = work.rows.frame(), work.reader(0)
    columns = []
    for encoding in encodings:
        series = frame[encoding.name]
        if encoding.kind == "number":
            numbers = pl.Series(encoding.name, read.numbers(series), nan_to_null=True)
            columns.append(numbers.interpolate().forward_fill().backward_fill())
        else:
            columns.append(series.forward_fill().backward_fill())
    lost = sum(frame[c.name].null_count() for c in columns)
    if not lost:
        return work.rows
    work.notes.append(
        f"{lost:,} missing cells interpolated between neighbouring rows (categories: the row before)"
    )
    return work.rows.replaced(frame.with_columns(columns))


def _fit_target(work: Fit, target: Target) -> Target:
    stats = Statistics(target.name, work.rows.types[target.name], None, target.kind == "number")
    if target.kind == "number":
        stats.counts = None
    for frame, read in _training(work, [target.name]):
        stats.add(frame[target.name], read)
    if target.kind == "number":
        mean, scale = stats.with_filled(0.0)
        if stats.lowest == stats.highest and stats.rows > 1:
            raise UserError(
                f"{work.rows.name}, column {target.name}: the target is {stats.lowest:g} in every training row, "
                "so nothing can be learned"
            )
        standardized = work.options.standardize and scale > 0
        return Target(target.name, "number", (), mean, scale) if standardized else target
    classes = ordered(list(stats.counts or ()), stats.by_size)
    return Target(target.name, "category", tuple(classes))


# --- words --------------------------------------------------------------------------------------


def _described(encoding: Encoding, options: Tabular) -> str:
    """A column for the report: kind, missing cells, what was done about them."""
    if encoding.kind == "drop":
        return f"dropped, {encoding.why}"
    kind = encoding.kind
    if kind == "category":
        kind = f"{kind} of {len(encoding.categories)}"  # type: ignore[assignment]
    elif kind == "binary":
        kind = f"{kind} (1 is {encoding.categories[1]})"  # type: ignore[assignment]
    if not encoding.missing:
        return kind
    frequent = encoding.kind != "number" or options.missing == "frequent"
    fill = encoding.fill if isinstance(encoding.fill, str) else f"{encoding.fill:g}"
    told = f"{'the most frequent' if frequent else 'the median'}, {fill}"
    return f"{kind}, {encoding.missing:,} missing filled with {told}" + (
        ", indicator" * encoding.indicator
    )


def _described_target(target: Target) -> str:
    if target.kind == "category":
        return f"{target.name}, category of {len(target.classes)}"
    if target.scale == 1 and target.mean == 0:
        return f"{target.name}, number"
    return f"{target.name}, number, learned and logged in units of its standard deviation, {target.scale:,.6g}"


def _say_more(work: Fit, stats: dict[str, Statistics], encodings: list[Encoding]) -> None:
    filled = [e.name for e in encodings if e.missing and e.columns()]
    if filled and work.options.missing in ("median", "frequent"):
        cells_ = sum(e.missing for e in encodings if e.columns())
        work.notes.append(
            f"{cells_:,} missing cells of the training rows filled, in {_few(filled)}"
        )
    sampled = [n for n in filled if stats[n].sampled and stats[n].numeric]
    if sampled and work.options.missing == "median":
        work.notes.append(f"the median of {_few(sampled)} is that of a sample of the training rows")
    few = [
        e.name for e in encodings if e.kind == "number" and _few_values(stats[e.name], work.options)
    ]
    if few:
        work.notes.append(
            f"few different whole numbers, taken as numbers: {_few(few)}; --data.kinds.{few[0]} category takes codes"
        )
    rising = [
        e.name
        for e in encodings
        if e.kind == "number" and _row_number(stats[e.name], work.rows.count)
    ]
    if rising:
        work.notes.append(
            f"looks like a row number: {_few(rising)}; --data.drop {rising[0]} leaves it out"
        )


def _few_values(stats: Statistics, options: Tabular) -> bool:
    given = stats.name in options.kinds or options.codes == "number"
    return not given and stats.whole and stats.counts is not None and len(stats.counts) <= 8


def _row_number(stats: Statistics, rows: int) -> bool:
    whole = stats.counts is None and stats.storage == "integer"
    return (
        whole
        and stats.highest - stats.lowest + 1 <= rows
        and stats.lowest in (0, 1)
        and stats.highest >= 0.99 * rows
    )


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
