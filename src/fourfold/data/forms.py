"""How the cells of a column of text are written: "1.234,5", "12 %", "$1,200", "03.04.2020", "ja".

A form is decided for a whole column, by which all its cells can be read, and is said to the user. Where
two would read all of them differently, as 1234 or as 1.234, the user is asked.
Shapes: N rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

MISSING_WORDS = ("", "NA", "NaN", "nan", "null", "NULL")
"""Cells of a column of numbers or dates that mean that nothing is there."""
TRUE = frozenset(
    {"1", "true", "t", "yes", "y", "on", "ja", "j", "oui", "si", "sí", "sim", "wahr", "vrai"}
)
FALSE = frozenset({"0", "false", "f", "no", "n", "off", "nein", "non", "não", "falsch", "faux"})
SPACES = "\u00a0\u202f\u2009"
"""Spaces that stand between thousands beside the ordinary one."""
CURRENCY = re.compile(
    r"[$€£¥₹₽₩₺₴฿]|\b(?:USD|EUR|GBP|CHF|JPY|CNY|INR|SEK|NOK|DKK|PLN|CZK|AUD|CAD)\b"
)
DAYS = (
    "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y",
    "%d %B %Y", "%d-%B-%Y", "%B %d, %Y", "%B %d %Y", "%d.%m.%y", "%d/%m/%y", "%m/%d/%y",
)  # fmt: skip
TIMES = ("%H:%M", "%H:%M:%S%.f", "%I:%M %p", "%I:%M:%S %p")
DATES = (
    *DAYS, "%Y-%m", "%Y/%m", *(f"{day} {time}" for day in DAYS for time in TIMES),
    "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f%z", "%Y-%m-%d %H:%M:%S%.f%z",
)  # fmt: skip
YEARS = 1000, 2999
"""Years that are taken for years: 20 in the place of four digits is 2020 and not the year 20."""


@dataclass(frozen=True)
class Form:
    """How the cells of one column are written."""

    decimal: str = "."
    thousands: str = ""
    percent: bool = False
    """Whether each number is followed by %; 12 % is 12."""
    currency: str = ""
    """The sign or code that each number carries."""
    date: str = ""
    """Of dates: their format, in strftime's letters."""
    words: tuple[str, ...] = ()
    """Of yes and no: how these are spelt, no first."""
    example: str = ""
    """A cell that is written so."""

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Form:
        """What `dataclasses.asdict` gave."""
        return cls(**{**stored, "words": tuple(stored["words"])})

    @property
    def plain(self) -> bool:
        """Whether cells are read as they stand."""
        return replace(self, example="") == PLAIN

    def numbers(self, series: pl.Series) -> tuple[pl.Series, pl.Series]:
        """(N,) Float64 with null where there is none, and (N,) bool which cells hold something that is no number."""
        import polars as pl

        text = present(series)
        given = text.is_not_null()
        if not self.plain:
            text = self._bare(text)
        values = text.cast(pl.Float64, strict=False)
        return values, values.is_null() & given

    def _bare(self, text: pl.Series) -> pl.Series:
        """Numbers without sign, separators and point to come; null where they are not written so."""
        if self.currency:
            sign = rf"\s*{re.escape(self.currency)}\s*"
            text = _only(text, rf"^[-+]?{sign}[-+]?\d|\d{sign}$").str.replace(sign, "")
        if self.percent:
            text = _only(text, "%$").str.replace(r"\s*%$", "")
        decimal = re.escape(self.decimal)
        whole = r"\d+"
        if self.thousands:
            between = rf"[ {SPACES}]" if self.thousands == " " else re.escape(self.thousands)
            whole = rf"(?:\d+|[1-9]\d{{0,2}}(?:{between}\d{{3}})+)"
        text = _only(text, rf"^[-+]?(?:{whole}(?:{decimal}\d*)?|{decimal}\d+)(?:[eE][-+]?\d+)?$")
        if self.thousands:
            text = text.str.replace_all(between, "")
        return text.str.replace(self.decimal, ".", literal=True)

    def dates(self, series: pl.Series) -> tuple[pl.Series, pl.Series]:
        """(N,) Datetime in microseconds, null where there is none, and (N,) bool which cells are no such date."""
        import polars as pl

        text = present(series)
        given = text.is_not_null()
        if "%y" in self.date:
            text = text.set(~text.str.contains(r"[-./]\d{2}(?: |$)"), None)  # type: ignore[arg-type]
        written = text.str.replace(r"Z$", "+00:00") if self.date.endswith("%z") else text
        values = written.str.to_datetime(self.date, strict=False, time_unit="us")
        values = values.dt.replace_time_zone(None)
        years = values.dt.year()
        sensible = (years >= YEARS[0]) & (years <= YEARS[1])
        values = pl.select(pl.when(sensible).then(values)).to_series()
        return values, values.is_null() & given

    def texts(self, series: pl.Series) -> pl.Series:
        """Yes and no, however they are spelt, as they are spelt first; other cells as they are."""
        import polars as pl

        if not self.words:
            return series
        lower = series.str.strip_chars().str.to_lowercase()
        frame = pl.DataFrame(
            {"as_is": series, "no": lower.is_in(list(FALSE)), "yes": lower.is_in(list(TRUE))}
        )
        no, yes = (pl.lit(word) for word in self.words)
        chosen = (
            pl.when(pl.col("no")).then(no).when(pl.col("yes")).then(yes).otherwise(pl.col("as_is"))
        )
        return frame.select(chosen.alias(series.name)).to_series()

    def parsed(self, series: pl.Series) -> tuple[pl.Series, pl.Series]:
        """Numbers or dates, and which cells are neither null nor such."""
        if self.words:
            other = ~present(series).str.to_lowercase().is_in([*TRUE, *FALSE]).fill_null(True)
            return series, other
        return self.dates(series) if self.date else self.numbers(series)

    def __str__(self) -> str:
        if self.date:
            return f'a date as "{self.example}"'
        if self.words:
            return f"{self.words[1]} or {self.words[0]}"
        return f'a number as "{self.example}"' if self.example else "a number"


PLAIN = Form()
BOOLEAN = Form(words=("false", "true"))
"""Of a column that a file or frame stores as booleans; other rows may have it as 1 and 0, or yes and no."""


def present(series: pl.Series) -> pl.Series:
    """Cells without spaces around them, null where they say that nothing is there."""
    text = series.str.strip_chars()
    return text.set(text.is_in(list(MISSING_WORDS)), None)  # type: ignore[arg-type]


def _only(text: pl.Series, pattern: str) -> pl.Series:
    return text.set(~text.str.contains(pattern), None)  # type: ignore[arg-type]


# --- which forms a column may have ------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """What the options say of how cells are written; None where the column tells."""

    decimal: str | None = None
    thousands: str | None = None
    day_first: bool | None = None

    @property
    def form(self) -> Form:
        """Of a column that tells nothing else."""
        return Form(self.decimal or ".", self.thousands or "")


def candidates(sample: pl.Series, asked: Asked) -> list[Form]:
    """Forms by which at least half of some cells can be read, the likeliest first.

    Args:
        sample: (N,) different cells of a column of text that are not all plain numbers.
        asked: what the user has said.
    """
    cells = present(sample).drop_nulls()
    if not len(cells):
        return []
    lower = set(cells.str.to_lowercase().to_list())
    if lower <= TRUE | FALSE and lower & TRUE and lower & FALSE:
        return [Form(words=_spelt(cells))]
    found = []
    for form in (*_of_dates(cells, asked), *_of_numbers(cells, asked)):
        read = ~form.parsed(cells)[1]
        if read.sum() >= len(cells) / 2:
            found.append(replace(form, example=_example(form, cells.filter(read))))
    return found


def _spelt(cells: pl.Series) -> tuple[str, str]:
    no = next(c for c in cells if c.lower() in FALSE)
    yes = next(c for c in cells if c.lower() in TRUE)
    return no, yes


def _example(form: Form, cells: pl.Series) -> str:
    """The longest cell; of dates one whose day is no month, if there is one, since it shows which is which."""
    if form.date:
        told = (form.dates(cells)[0].dt.day() > 12).fill_null(False)
        cells = cells.filter(told) if told.any() else cells
    longest: str = max(cells.to_list(), key=len)
    return longest


def _of_dates(cells: pl.Series, asked: Asked) -> Iterator[Form]:
    if cells.str.contains(r"\d[-/. ]\s*\w|[A-Za-z]{3,} \d").sum() < len(cells) / 2:
        return
    for pattern in DATES:
        month = max(pattern.find("%m"), pattern.find("%B"))
        day = pattern.find("%d")
        numeric = "%m" in pattern and 0 <= day and not pattern.startswith("%Y")
        if numeric and asked.day_first is not None and asked.day_first != (day < month):
            continue
        yield Form(date=pattern)


def _of_numbers(cells: pl.Series, asked: Asked) -> Iterator[Form]:
    def shown(character: str) -> bool:
        return bool(cells.str.contains(character, literal=True).any())

    signs = {match.group() for cell in cells if (match := CURRENCY.search(cell))}
    currency = signs.pop() if len(signs) == 1 else ""
    percent = shown("%")
    decimals = [".", ","] if asked.decimal is None else [asked.decimal]
    for decimal in decimals:
        if decimal == "," and asked.decimal is None and not shown(","):
            continue
        marks = ["", *(c for c in (",", ".", "'", "’") if c != decimal and shown(c))]
        if cells.str.contains(rf"\d[ {SPACES}]\d").any():
            marks.append(" ")
        if asked.thousands is not None:
            marks = [asked.thousands] if asked.thousands != decimal else []
        for thousands in marks:
            yield Form(decimal, thousands, percent, currency)
