"""Fitting a table's preparation on its training rows, and opening other rows under it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from fourfold.core.errors import UserError, nearest
from fourfold.core.targets import Target
from fourfold.data import kinds
from fourfold.data.answers import Answers, choose, read_target, without_target
from fourfold.data.cells import Reader
from fourfold.data.columns import Encoding
from fourfold.data.featured import features_digest
from fourfold.data.leaks import sampled, say_identifiers, say_leaks
from fourfold.data.partition import partition
from fourfold.data.rows import Rows
from fourfold.data.splits import NONE, TEST, TRAIN
from fourfold.data.statistics import DateStatistics, Rules, Statistics, encoding_of
from fourfold.data.survey import Fit, aside, survey
from fourfold.data.table import (
    Schema,
    TableData,
    Tabular,
    column_missing,
    fingerprint,
    text_columns,
)
from fourfold.data.telling import describe, describe_target, say_more

if TYPE_CHECKING:
    import polars as pl


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
    target = choose(options, rows)
    _check_names(options, rows, target)
    work = Fit(options, _joined(rows, held_out, rows.columns), target)
    survey(work)
    gone, target = read_target(work, target)
    _say_gone(work, gone)
    work.parts = partition(work, target, rows.count, gone, seed)
    encodings, target = _fit_columns(work, target)
    fitted = {
        "target": describe_target(target),
        "prepared columns": sum(len(e.columns()) for e in encodings),
        "columns": {e.name: describe(e, options) for e in encodings},
    }
    aside = [*_weights(work), *(() if target.kind == "labels" else target.columns)]
    forms = {name: work.form(name) for name in aside if rows.types[name] == "text"}
    digest = fingerprint(options, rows, held_out)
    made_by = features_digest(options.features)
    schema = Schema(tuple(encodings), target, digest, {"fitted": fitted}, forms, made_by)
    return TableData(
        options, schema, seed=seed, rows=work.rows, parts=work.parts, weights=options.weights,
        notes=work.notes,
    )  # fmt: skip


def reopen(
    data: TableData, sources: Any, seed: int, valid: Any, *, whole: bool, targets: bool
) -> TableData:
    """Other rows under a fitted preparation; see `TableData.reopen`."""
    options, schema = data.options, data.schema
    if schema.features and schema.features != features_digest(options.features):
        raise UserError(
            f"--data.features {options.features}: has learned further since this run was fitted on what it encodes: fit anew"
        )
    how = options.format(text_columns(schema))
    rows = options.rows(sources, how)
    held_out = None if valid is None else options.rows(valid, how)
    _check_columns(schema, rows, targets)
    work = Fit(
        options,
        _joined(rows, held_out, rows.columns),
        schema.target,
        forms=schema.forms,
        fitted=True,
    )
    _say_extra(work, schema)
    missing = without_target(work, schema.target) if targets else np.zeros(work.rows.count, bool)
    _say_gone(work, missing)
    if whole:
        work.parts = np.where(missing, NONE, TEST).astype(np.int8)
    else:
        work.parts = partition(work, schema.target, rows.count, missing, seed)
    _treat_missing(work, [e for e in schema.encodings if e.columns()])
    changed = dataclasses.replace(schema, fingerprint=fingerprint(options, rows, held_out))
    weights = options.weights if targets and work.has_weights else None
    if targets and options.weights is not None and weights is None:
        work.notes.append(f"no column {options.weights}: each row counts once")
    return TableData(
        options, changed, seed=seed, rows=work.rows, parts=work.parts, targets=targets,
        weights=weights, notes=work.notes,
    )  # fmt: skip


# --- names and rows -----------------------------------------------------------------------------


def _check_names(options: Tabular, rows: Rows, target: Target) -> None:
    named = {"drop": options.drop, "kinds": options.kinds}
    named["weights"] = () if options.weights is None else (options.weights,)
    named["group"] = () if options.group is None else (options.group,)
    for option, names in named.items():
        for name in names:
            if name not in rows.types:
                raise UserError(
                    f"--data.{option}: {rows.name} has no column {name}{nearest(name, rows.columns)}"
                )
            if name in target.columns and option != "kinds":
                raise UserError(f"--data.{option}: {name} is the target and cannot be left out")
    for name in target.columns:
        kind = options.kinds.get(name)
        if kind == "drop":
            raise UserError(f"--data.drop: {name} is the target and cannot be left out")
        if kind not in (None, "binary") and target.kind == "labels":
            raise UserError(f"--data.kinds.{name} {kind}: {name} is a label, of 0 and 1")


def _check_columns(schema: Schema, rows: Rows, targets: bool) -> None:
    """What the preparation needs must be there."""
    used = [e.name for e in schema.encodings if e.columns()]
    lacking = [name for name in used if name not in rows.types]
    if lacking:
        more = f" (and {', '.join(lacking[1:6])})" if lacking[1:] else ""
        error = column_missing(lacking[0], rows.columns, rows.name)
        raise UserError(f"{error}{more}; the run was fitted with {', '.join(used)}")
    lacking = [name for name in schema.target.columns if name not in rows.types]
    if targets and lacking:
        error = column_missing(lacking[0], rows.columns, rows.name)
        raise UserError(f"{error}; measuring needs the target, predicting does not")


def _say_extra(work: Fit, schema: Schema) -> None:
    known = {*schema.target.columns, *(e.name for e in schema.encodings), *aside(work.options)}
    extra = [name for name in work.rows.columns if name not in known]
    if extra:
        work.notes.append(f"columns that training did not have are ignored: {', '.join(extra)}")


def _say_gone(work: Fit, gone: np.ndarray) -> None:
    if gone.any():
        count = int(gone.sum())
        work.notes.append(f"{count:,} rows without a target ({work.target.name}) left out")


def _weights(work: Fit) -> list[str]:
    return [work.options.weights] if work.has_weights and work.options.weights else []


def _joined(rows: Rows, held_out: Rows | None, columns: list[str]) -> Rows:
    if held_out is None:
        return rows
    lacking = [name for name in columns if name not in held_out.types]
    if lacking:
        raise column_missing(lacking[0], held_out.columns, held_out.name)
    pieces = [dataclasses.replace(p, table=p.table.select(columns)) for p in held_out.pieces]
    return Rows([*rows.pieces, *pieces], target=rows.target)


def _training(work: Fit, columns: list[str]) -> Iterator[tuple[pl.DataFrame, Reader]]:
    """The training rows of each chunk."""
    import polars as pl

    for start, frame in work.rows.chunks(columns):
        training = work.parts[start : start + frame.height] == TRAIN
        keep = np.flatnonzero(training)
        if len(keep):
            some = frame if len(keep) == frame.height else frame.filter(pl.Series(training))
            yield some, Reader(work.rows.placed(start, keep))


# --- fitting ------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Gathered:
    """What one pass over the training rows told."""

    stats: dict[str, Statistics | DateStatistics]
    answers: Answers
    sample: pl.DataFrame
    """Some of the rows, evenly spread."""


def _gather(work: Fit, target: Target) -> _Gathered:
    import polars as pl

    stats, answers = (
        {name: _statistics(work, name) for name in work.features},
        Answers(work, target),
    )
    names = [*work.features, *_weights(work), *target.columns]
    each, seen, some = sampled(int((work.parts == TRAIN).sum()), len(names)), 0, []
    for frame, read in _training(work, names):
        weights = work.weights(frame, read)
        for name, found in stats.items():
            found.add(frame[name], read, weights)
        answers.add(frame, read, weights)
        some.append(frame.gather_every(each, -seen % each))
        seen += frame.height
    return _Gathered(stats, answers, pl.concat(some))


def _statistics(work: Fit, name: str) -> Statistics | DateStatistics:
    form, numeric = work.form(name), work.numeric[name]
    if form.date:
        return DateStatistics(name, form)
    if work.options.kinds.get(name) == "category":
        limit = None
    else:
        limit = kinds.counted(name, numeric, work.options.limit)
    return Statistics(name, work.rows.types[name], limit, numeric, form)


def _fit_columns(work: Fit, target: Target) -> tuple[list[Encoding], Target]:
    options = work.options
    found = _gather(work, target)
    verdicts = {
        name: kinds.decide(stats, options.kinds.get(name), options.codes, options.limit)
        for name, stats in found.stats.items()
        if isinstance(stats, Statistics)
    }
    encodings = _encodings(work, found.stats, verdicts)
    told = [verdict.note for verdict in verdicts.values() if verdict.note]
    work.notes += told
    before = work.rows, work.parts.copy()
    _treat_missing(work, [e for e in encodings if e.columns()])
    if work.rows is not before[0] or (work.parts != before[1]).any():
        if not (work.parts == TRAIN).any():
            raise UserError(
                f"{work.rows.name}: every training row has a missing cell; --missing median fills them"
            )
        found = _gather(work, target)
        encodings = _encodings(work, found.stats, verdicts)
    target = found.answers.fitted()
    if not any(e.columns() for e in encodings):
        why = f" ({'; '.join(told)})" if told else f" beside {target.name}"
        raise UserError(f"{work.rows.name}: no column is left to learn from{why}")
    say_more(work, found.stats, encodings)
    say_identifiers(work, encodings, found.stats, found.sample)
    say_leaks(work, target, encodings, found.sample)
    return encodings, target


def _encodings(
    work: Fit,
    stats: dict[str, Statistics | DateStatistics],
    verdicts: dict[str, kinds.Verdict],
) -> list[Encoding]:
    options = work.options
    rules = Rules(
        options.missing,
        options.indicator,
        options.unseen == "other",
        options.standardize,
        options.limit,
        options.embed_above,
    )
    return [
        found.encoding(rules)
        if isinstance(found, DateStatistics)
        else encoding_of(found, verdicts[name].kind, rules, verdicts[name].why)
        for name, found in stats.items()
    ]


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


def _stretches(series: pl.Series, parts: np.ndarray) -> list[pl.Series]:
    """Runs of rows of one split: what comes later, in the next, fills none of their gaps."""
    rows = np.arange(len(parts))
    before = np.maximum.accumulate(np.where(parts >= 0, rows, 0))
    after = np.minimum.accumulate(np.where(parts >= 0, rows, len(parts) - 1)[::-1])[::-1]
    between = parts[before] == parts[after]  # rows left out among those of one split end no run
    parts = np.where(between, parts[before], parts)
    ends = [*(np.flatnonzero(np.diff(parts)) + 1).tolist(), len(parts)]
    return [series[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _interpolated(work: Fit, encodings: list[Encoding]) -> Rows:
    import polars as pl

    frame, read = work.rows.frame(), work.reader(0)
    columns = []
    for encoding in encodings:
        series = frame[encoding.name]
        if encoding.kind == "number":
            values = read.numbers(series, encoding.form)
            numbers = pl.Series(encoding.name, values, nan_to_null=True)
            between = pl.concat([part.interpolate() for part in _stretches(numbers, work.parts)])
            columns.append(between.forward_fill().backward_fill())
        else:
            columns.append(series.forward_fill().backward_fill())
    lost = sum(frame[c.name].null_count() for c in columns)
    if not lost:
        return work.rows
    work.notes.append(
        f"{lost:,} missing cells interpolated between neighbouring rows (categories: the row before)"
    )
    return work.rows.replaced(frame.with_columns(columns))
