"""What a fitted table is told in words: its columns, its target, and what a user should know."""

from __future__ import annotations

from fourfold.core.targets import Target
from fourfold.data.columns import Encoding
from fourfold.data.statistics import DateStatistics, Statistics
from fourfold.data.survey import Fit, shown
from fourfold.data.table import Tabular


def describe(encoding: Encoding, options: Tabular) -> str:
    """A column for the report: kind, missing cells, what was done about them."""
    if encoding.kind == "drop":
        return f"dropped, {encoding.why}"
    kind = encoding.kind
    if kind == "category":
        kind = f"{kind} of {len(encoding.categories)}"  # type: ignore[assignment]
        if encoding.embedded:
            return f"{kind}, embedded, {encoding.missing:,} missing among the unknown"
    elif kind == "binary":
        kind = f"{kind} (1 is {encoding.categories[1]})"  # type: ignore[assignment]
    if encoding.kind == "date":
        parts = ", ".join(part.name.rsplit(" ", 1)[1] for part in encoding.parts)
        gone = f", {encoding.missing:,} missing filled with medians" if encoding.missing else ""
        return f"date as {parts}{gone}"
    if not encoding.missing:
        return kind
    frequent = encoding.kind != "number" or options.missing == "frequent"
    fill = encoding.fill if isinstance(encoding.fill, str) else f"{encoding.fill:g}"
    told = f"{'the most frequent' if frequent else 'the median'}, {fill}"
    return f"{kind}, {encoding.missing:,} missing filled with {told}" + (
        ", indicator" * encoding.indicator
    )


def describe_target(target: Target) -> str:
    """The target for the report."""
    if target.kind == "labels":
        return f"{target.name}, {len(target.classes)} labels"
    if target.kind == "category":
        return f"{target.name}, category of {len(target.classes)}"
    if target.scale == 1 and target.mean == 0:
        return f"{target.name}, number"
    return f"{target.name}, number, learned and logged in units of its standard deviation, {target.scale:,.6g}"


def say_more(
    work: Fit, stats: dict[str, Statistics | DateStatistics], encodings: list[Encoding]
) -> None:
    """What the training rows held that a user should know."""
    import polars as pl

    options, used = work.options, [e for e in encodings if e.columns()]
    filled = [e.name for e in used if e.missing and not e.embedded]
    if filled and options.missing in ("median", "frequent"):
        lost = sum(e.missing for e in used if not e.embedded)
        work.notes.append(f"{lost:,} missing cells of the training rows filled, in {few(filled)}")
    numbers = {e.name: stats[e.name] for e in used if e.kind == "number"}
    plain = {name: found for name, found in numbers.items() if isinstance(found, Statistics)}
    sampled = [name for name in filled if name in plain and plain[name].sampled]
    if sampled and options.missing == "median":
        work.notes.append(f"the median of {few(sampled)} is that of a sample of the training rows")
    coded = [name for name, found in plain.items() if _few_values(found, options)]
    if coded:
        work.notes.append(
            f"few different whole numbers, taken as numbers: {few(coded)}; --data.kinds.{coded[0]} category takes codes"
        )
    dates = [e for e in used if e.kind == "date"]
    for encoding in dates:
        parts = ", ".join(part.name.rsplit(" ", 1)[1] for part in encoding.parts)
        example = encoding.form.example
        value = shown(encoding.form.dates(pl.Series([example]))[0], 0)
        work.notes.append(
            f'{encoding.name}: dates, "{example}" is {value}, learned from as {parts}'
        )


def _few_values(stats: Statistics, options: Tabular) -> bool:
    given = stats.name in options.kinds or options.codes == "number"
    return not given and stats.whole and stats.distinct is not None and stats.distinct <= 8


def few(names: list[str]) -> str:
    """The first of some names."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
