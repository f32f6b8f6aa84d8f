"""A first look at a table: how its text is written, and which of it is numbers or dates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fourfold.core.errors import UserError
from fourfold.core.targets import Target
from fourfold.data.cells import Reader
from fourfold.data.forms import PLAIN, Form, candidates
from fourfold.data.rows import Rows
from fourfold.data.table import Tabular

if TYPE_CHECKING:
    import polars as pl

MOSTLY = 0.9
"""A column of text with this share of numbers is a column of numbers with mistakes in it."""
SLIPS = 3
"""So is one with half numbers and up to this many different texts."""
SAMPLE = 2000
"""Different cells by which the ways in which a column may be written are told."""


@dataclass
class Fit:
    """What is known of a table while its preparation is fitted."""

    options: Tabular
    rows: Rows
    target: Target
    parts: np.ndarray = field(default_factory=lambda: np.empty(0, np.int8))
    numeric: dict[str, bool] = field(default_factory=dict)
    """Of each column: whether its cells are numbers."""
    forms: dict[str, Form] = field(default_factory=dict)
    """How columns of text are written, where not plainly."""
    notes: list[str] = field(default_factory=list)
    fitted: bool = False
    """Whether how columns are read was fitted before, on other rows."""

    @property
    def features(self) -> list[str]:
        """Columns that may become features."""
        out = {*self.target.columns, *aside(self.options)}
        return [name for name in self.rows.columns if name not in out]

    @property
    def has_weights(self) -> bool:
        """Whether the rows say how much they count."""
        return self.options.weights is not None and self.options.weights in self.rows.types

    def weights(self, frame: pl.DataFrame, read: Reader) -> np.ndarray | None:
        """(N,) how much some rows count, or None for once each."""
        name = self.options.weights
        if name is None or not self.has_weights:
            return None
        return read.importance(frame[name], self.form(name))

    def form(self, name: str) -> Form:
        """How a column is written."""
        return self.forms.get(name, PLAIN)

    def reader(self, start: int) -> Reader:
        """Of a chunk that begins at row `start`."""
        return Reader(lambda row: self.rows.place(start + row), fitted=self.fitted)


def aside(options: Tabular) -> set[str]:
    """Columns that the options keep from being features."""
    dropped = {name for name, kind in options.kinds.items() if kind == "drop"}
    named = {name for name in (options.weights, options.group) if name is not None}
    return {*options.drop, *dropped, *named}


@dataclass
class Mixture:
    """Cells of a column of text that are written in some form, and others."""

    form: Form
    read: int = 0
    others: int = 0
    examples: set[str] = field(default_factory=set)
    first: tuple[int, str] | None = None

    def add(self, series: pl.Series, start: int) -> None:
        """Take in a chunk that begins at row `start`."""
        values, bad = self.form.parsed(series)
        wrong = series.filter(bad)
        self.read += len(values) - values.null_count()
        self.others += len(wrong)
        if len(wrong):
            self.first = self.first or (start + int(bad.arg_max() or 0), wrong[0])
            if len(self.examples) <= SLIPS:
                self.examples.update(wrong.unique().head(SLIPS + 1).to_list())

    @property
    def share(self) -> float:
        """Of the cells that are written so."""
        return self.read / max(1, self.read + self.others)

    @property
    def a_mistake(self) -> bool:
        """Whether the others are mistakes in a column that is meant to be written so."""
        few = self.share >= 0.5 and len(self.examples) <= SLIPS and not self.form.date
        return self.others > 0 and (self.share >= MOSTLY or few)


def survey(work: Fit) -> None:
    """Which columns hold numbers or dates, and how they are written.

    Raises:
        UserError: a column can be read in two ways, or a cell is unlike all others of its column.
    """
    names = [*work.features, *([work.options.weights] if work.options.weights else [])]
    names += [] if work.target.kind == "labels" else work.target.columns
    kinds: dict[str, str] = {**work.options.kinds}
    if work.options.target_kind == "category":
        kinds.setdefault(work.target.name, "yes or no")  # other text is left as it is
    for name in names:
        storage = work.rows.types[name]
        numbers = storage in ("number", "integer")
        asked_kind = kinds.get(name, "yes or no")  # which is about text: numbers stay numbers
        work.numeric[name] = numbers if asked_kind == "yes or no" else asked_kind == "number"
        if kinds.get(name) == "date" and storage != "text":
            work.forms[name] = Form(date="%Y%m%d", example="20200131")
    asked = [
        n for n in names
        if work.rows.types[n] == "text" and kinds.get(n) not in ("category", "binary")
    ]  # fmt: skip
    if not asked:
        return
    plain, samples = _mixtures(work, {n: [work.options.written.form] for n in asked})
    odd = {}
    for name, (mixture,) in plain.items():
        work.forms[name] = mixture.form
        work.numeric[name] = mixture.others == 0 and kinds.get(name, "number") == "number"
        if not work.numeric[name]:
            odd[name] = [
                f
                for f in candidates(samples[name], work.options.written)
                if _asked(f, kinds.get(name))
            ]
    found, _ = _mixtures(work, {n: forms for n, forms in odd.items() if forms})
    for name in odd:
        mixtures = [*plain[name], *found.get(name, [])]
        _decide(work, name, kinds.get(name), mixtures, samples[name])
    _say_two_signs(work)


def _asked(form: Form, kind: str | None) -> bool:
    """Whether a form is of the kind that the user gave the column."""
    if kind == "yes or no" or form.words:
        return bool(form.words) and kind in (None, "yes or no")
    return kind is None or bool(form.date) == (kind == "date")


def _mixtures(
    work: Fit, forms: dict[str, list[Form]]
) -> tuple[dict[str, list[Mixture]], dict[str, pl.Series]]:
    """How many cells of each column are written in each form, and some different cells of each."""
    import polars as pl

    found = {name: [Mixture(form) for form in some] for name, some in forms.items()}
    samples = {name: pl.Series(name, [], dtype=pl.String) for name in forms}
    for start, frame in work.rows.chunks(list(forms)) if forms else ():
        for series in frame:
            for mixture in found[series.name]:
                mixture.add(series, start)
            if len(samples[series.name]) < SAMPLE:
                some = pl.concat([samples[series.name], series.drop_nulls().head(10 * SAMPLE)])
                samples[series.name] = some.unique(maintain_order=True).head(SAMPLE)
    return found, samples


def _decide(
    work: Fit, name: str, kind: str | None, mixtures: list[Mixture], sample: pl.Series
) -> None:
    """Choose how a column is written, whose cells are not all plain numbers; the first mixture is of these."""
    clean = [m for m in mixtures[1:] if m.others == 0]
    if kind == "yes or no" and not clean:
        return
    if clean:
        _refuse_two_ways(work, name, clean, sample)
    best = clean[0] if clean else max(mixtures, key=lambda m: m.share)
    if kind == "date" and not best.form.date:
        raise UserError(
            f'{work.rows.name}, column {name}: expected dates, as 2020-01-31, got "{sample[0]}"'
        )
    if best.a_mistake or kind in ("number", "date"):
        _refuse(work, name, best)
    if best.others == 0:
        work.forms[name] = best.form
        work.numeric[name] = not best.form.date and not best.form.words
        _say(work, name, best.form, sample)
    elif best.share >= 0.5:
        what = "dates" if best.form.date else "numbers"
        work.notes.append(
            f"{name}: taken as text, although {best.share:.0%} of its cells are {what}"
        )


def _refuse(work: Fit, name: str, mixture: Mixture) -> None:
    """Raise the error of the first cell that is written otherwise, if there is one."""
    import polars as pl

    if mixture.first is None:
        return
    row, text = mixture.first
    read, series = work.reader(row), pl.Series(name, [text])
    if mixture.form.date:
        read.dates(series, mixture.form)
    else:
        read.numbers(series, mixture.form)


def _refuse_two_ways(work: Fit, name: str, clean: list[Mixture], sample: pl.Series) -> None:
    """Raise where two forms read all cells of a column, and read them differently."""
    first = clean[0].form
    values = first.parsed(sample)[0]
    for mixture in clean[1:]:
        other = mixture.form.parsed(sample)[0]
        if bool(first.date) != bool(mixture.form.date) or values.equals(other, null_equal=True):
            continue
        row = int((values != other).fill_null(False).arg_max() or 0)
        how = (
            "--data.day-first or --no-data.day-first"
            if first.date
            else '--data.thousands "," or --data.decimal ","'
        )
        raise UserError(
            f'{work.rows.name}, column {name}: "{sample[row]}" may be {shown(values, row)} or {shown(other, row)}, '
            f"and no cell tells which; {how} does"
        )


def _say(work: Fit, name: str, form: Form, sample: pl.Series) -> None:
    """What a column is read as, with an example."""
    import polars as pl

    if form.words:
        spellings = sample.str.strip_chars().drop_nulls().unique().sort().to_list()
        if len(spellings) > 2:
            no, yes = form.words
            work.notes.append(
                f"{name}: read as {yes} and {no}, which are spelt {', '.join(spellings)}"
            )
        return
    if form.date and name in work.features:
        return  # what becomes of them is told once they are fitted
    example = shown(form.parsed(pl.Series([form.example]))[0], 0)
    what = "dates" if form.date else "percentages" if form.percent else "numbers"
    work.notes.append(f'{name}: read as {what}, "{form.example}" as {example}')


def _say_two_signs(work: Fit) -> None:
    """A table with decimal commas seldom has decimal points too: 1.234 may be 1234 there."""
    commas = [n for n, form in work.forms.items() if form.decimal == "," and work.numeric[n]]
    points = [n for n in work.features if work.rows.types[n] == "number" and n not in work.forms]
    if commas and points and work.options.decimal is None:
        work.notes.append(
            f"{commas[0]} has decimal commas, and {', '.join(points[:3])} decimal points; if points stand between "
            "thousands there, --data.decimal ,"
        )


def shown(values: pl.Series, row: int) -> str:
    """A number or date for a message."""
    import polars as pl

    value = values[row]
    return (
        str(value).removesuffix(" 00:00:00")
        if values.dtype == pl.Datetime
        else f"{value:,.10g}".replace(",", "")
    )
