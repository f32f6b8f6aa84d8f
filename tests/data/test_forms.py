"""How cells are written: numbers, percentages, prices, dates, yes and no; and that none is misread."""

from __future__ import annotations

import datetime
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.data.dates import parts_of
from fourfold.data.forms import PLAIN, Asked, Form, candidates

FREE = Asked()


def read(form: Form, *cells: str | None) -> list[float | None]:
    values, bad = form.numbers(pl.Series("x", cells, dtype=pl.String))
    assert [
        v is None and c is not None and c.strip() not in ("", "NA")
        for v, c in zip(values, cells, strict=True)
    ] == (bad.to_list())
    return values.to_list()


@pytest.mark.parametrize(
    ("form", "cells", "values"),
    [
        (PLAIN, ["1.5", " -2 ", "1e3", "", "NA", None, "x", "1,5"], [1.5, -2, 1000, None, None, None, None, None]),
        (Form(","), ["1,5", "-,5", "3", "2,", "1.5", "1.234"], [1.5, -0.5, 3, 2, None, None]),
        (Form(",", "."), ["1.234,5", "1.234.567", "12", "1234,5", "1.23", "12.34,5", "0.123"],
         [1234.5, 1234567, 12, 1234.5, None, None, None]),
        (Form(".", ","), ["1,234.5", "-1,000", "+7.25", "1,23", "1,2345", ",123"], [1234.5, -1000, 7.25, None, None, None]),
        (Form(".", " "), ["1 234.5", "1\u00a0234", "12 34"], [1234.5, 1234, None]),
        (Form(".", "'"), ["1'234.5", "1'000'000"], [1234.5, 1000000]),
        (Form(percent=True), ["12%", "7.5 %", "-3%", "4", "%"], [12, 7.5, -3, None, None]),
        (Form(".", ",", currency="$"), ["$1,200.50", "-$7", "$-7", "3 $", "7", "€7"], [1200.5, -7, -7, 3, None, None]),
        (Form(",", ".", currency="EUR"), ["1.200,50 EUR", "EUR 3"], [1200.5, 3]),
    ],
)  # fmt: skip
def test_numbers(form: Form, cells: list[str | None], values: list[float | None]) -> None:
    assert read(form, *cells) == values


@settings(deadline=None, max_examples=40)
@given(
    st.integers(-(10**9), 10**9),
    st.integers(0, 99),
    st.sampled_from([(".", ","), (",", "."), (".", "'"), (",", " ")]),
)
def test_what_is_written_is_read(whole: int, cents: int, signs: tuple[str, str]) -> None:
    decimal, thousands = signs
    text = f"{whole:,}".replace(",", thousands) + f"{decimal}{cents:02}"
    value = float(f"{whole}.{cents:02}")
    assert read(Form(decimal, thousands), text) == [value]
    both = pl.Series([text, f"1{thousands}000{decimal}5"])
    found = [f for f in candidates(both, FREE) if not f.numbers(both)[1].any()]
    assert [f.numbers(both)[0].to_list() for f in found] == [[value, 1000.5]]  # in one way only


@pytest.mark.parametrize(
    ("pattern", "cell", "date"),
    [
        ("%Y-%m-%d", "2020-01-31", (2020, 1, 31)),
        ("%d.%m.%Y", "3.4.2020", (2020, 4, 3)),
        ("%m/%d/%Y", "12/31/1999", (1999, 12, 31)),
        ("%d/%m/%y", "31/12/20", (2020, 12, 31)),
        ("%Y-%m", "1949-02", (1949, 2, 1)),
        ("%d %B %Y", "3 Apr 2020", (2020, 4, 3)),
        ("%d %B %Y", "3 April 2020", (2020, 4, 3)),
        ("%B %d, %Y", "Apr 3, 2020", (2020, 4, 3)),
        ("%Y-%m-%dT%H:%M:%S%.f", "2020-01-31T12:30:00.250", (2020, 1, 31, 12, 30, 0, 250_000)),
        ("%Y-%m-%dT%H:%M:%S%.f%z", "2020-01-31T12:30:00Z", (2020, 1, 31, 12, 30)),
        ("%Y-%m-%dT%H:%M:%S%.f%z", "2020-01-31T12:30:00+02:00", (2020, 1, 31, 10, 30)),
        ("%m/%d/%Y %I:%M %p", "4/3/2020 1:05 PM", (2020, 4, 3, 13, 5)),
    ],
)  # fmt: skip
def test_dates(pattern: str, cell: str, date: tuple[int, ...]) -> None:
    found = candidates(pl.Series([cell]), FREE)
    assert pattern in [f.date for f in found]
    form = Form(date=pattern)
    values, bad = form.dates(pl.Series([cell, "NA", None, "soon"]))
    assert values.to_list() == [datetime.datetime(*date), None, None, None]  # type: ignore[arg-type]
    assert bad.to_list() == [False, False, False, True]


@pytest.mark.parametrize(
    "cells",
    [
        ["31/12/20", "01/02/21"],  # not the year 20
        ["2020-13-01"], ["2020-02-30"], ["1.2.3", "1.10.4"], ["192.168.0.1", "10.0.0.8"], ["555-1234"],
        ["10-20", "20-30"], ["12:30", "14:00"], ["a-1", "b-2"], ["room 2020"],
    ],
)  # fmt: skip
def test_what_is_no_date(cells: list[str]) -> None:
    found = [f.date for f in candidates(pl.Series(cells), FREE) if f.date]
    assert all("%Y" not in pattern for pattern in found)
    assert cells[0] == "31/12/20" or not found


def test_candidates_obey_the_options() -> None:
    both = pl.Series(["03/04/2020", "05/06/2021"])
    assert {f.date for f in candidates(both, FREE)} == {"%d/%m/%Y", "%m/%d/%Y"}
    assert {f.date for f in candidates(both, Asked(day_first=True))} == {"%d/%m/%Y"}
    assert {f.date for f in candidates(both, Asked(day_first=False))} == {"%m/%d/%Y"}
    iso = pl.Series(["2020-04-03"])
    assert {f.date for f in candidates(iso, Asked(day_first=True))} == {"%Y-%m-%d"}
    commas = pl.Series(["1,234", "5,678"])
    assert {(f.decimal, f.thousands) for f in candidates(commas, FREE)} == {(".", ","), (",", "")}
    assert [(f.decimal, f.thousands) for f in candidates(commas, Asked(thousands=","))] == [
        (".", ",")
    ]
    assert [(f.decimal, f.thousands) for f in candidates(commas, Asked(decimal=","))] == [(",", "")]
    assert (
        candidates(pl.Series(["$3", "€4", "£5"]), FREE) == []
    )  # different currencies are no one number


def test_yes_and_no() -> None:
    cells = pl.Series("x", ["Nein", "JA", "ja ", None, "nein"])
    (form,) = candidates(cells, FREE)
    assert form.words == ("Nein", "JA")
    assert form.texts(cells).to_list() == ["Nein", "JA", "JA", None, "Nein"]
    assert form.texts(pl.Series(["vielleicht"])).to_list() == ["vielleicht"]
    for no_words in (["yes", "maybe"], ["yes", "yes"], ["m", "f"]):
        assert not any(f.words for f in candidates(pl.Series(no_words), FREE))


def test_forms_survive_as_plain_values() -> None:
    import dataclasses
    import json

    forms: list[Any] = [
        Form(",", ".", True, "€", example="1,5 %"),
        Form(date="%Y-%m"),
        Form(words=("no", "yes")),
    ]
    for form in forms:
        assert Form.from_json(json.loads(json.dumps(dataclasses.asdict(form)))) == form
    assert PLAIN.plain and not any(form.plain for form in forms)


def test_parts_of_dates() -> None:
    import numpy as np

    dates = pl.Series([datetime.datetime(2024, 2, 29, 18, 30), None, datetime.datetime(1970, 1, 2)])
    found = parts_of(dates)
    wanted = {
        "year": [2024, np.nan, 1970], "month": [2, np.nan, 1], "weekday": [4, np.nan, 5],
        "hour": [18.5, np.nan, 0], "days": [19782 + 18.5 / 24, np.nan, 1],
    }  # fmt: skip
    assert list(found) == list(wanted)
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-12)
