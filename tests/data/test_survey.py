"""Text that is numbers, dates or yes and no in whole tables: read alike in training and prediction, said, or refused."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pytest
import torch

import fourfold.data.delimited as delimited
import fourfold.data.prepared as prepared
import fourfold.data.rows as rows_module
import fourfold.data.table_files as table_files
from fourfold.core.errors import UserError
from fourfold.data.table import TableData, Tabular

ALL = (1.0, 0.0, 0.0)


def table(cells: list[Any], rows: int = 60) -> pl.DataFrame:
    random = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "c": pl.Series([cells[i % len(cells)] for i in range(rows)], strict=False),
            "x": random.normal(size=rows),
            "y": random.normal(size=rows),
        }
    )


def column(data: TableData, name: str = "c", split: Any = "train") -> list[float]:
    features = torch.cat([b["features"] for b in data.batches(split)])
    return features[:, [c.name for c in data.columns].index(name)].tolist()  # type: ignore[no-any-return]


def opened(frame: pl.DataFrame, **options: Any) -> TableData:
    plain = {"target": "y", "split": ALL, "standardize": False, "dtype": "float64"}
    return Tabular(**{**plain, **options}).open(frame)


def notes(data: TableData) -> str:
    return "\n".join(data.summary()["notes"])


@pytest.mark.parametrize(
    ("cells", "values", "told"),
    [
        (["1.234,5", "7,25", "12", None], [1234.5, 7.25, 12], 'c: read as numbers, "1.234,5" as 1234.5'),
        (["1,234.5", "7.25", "NA", "-3"], [1234.5, 7.25, 7.25, -3], 'c: read as numbers, "1,234.5" as 1234.5'),
        (["12.5 %", "7%", "3%"], [12.5, 7, 3], 'c: read as percentages, "12.5 %" as 12.5'),
        (["$1,200.50", "$3", "-$7"], [1200.5, 3, -7], 'c: read as numbers, "$1,200.50" as 1200.5'),
        (["1 200", "30 000", "7"], [1200, 30000, 7], 'c: read as numbers, "30 000" as 30000'),
        (["1,5", "2,75", "0,125"], [1.5, 2.75, 0.125], 'c: read as numbers, "0,125" as 0.125'),
    ],
)  # fmt: skip
def test_numbers_in_text(tmp_path: Path, cells: list[str], values: list[float], told: str) -> None:
    frame = table(cells)
    data = opened(frame, indicator=False)
    assert data.schema.encodings[0].kind == "number"
    assert column(data)[: len(values)] == values
    assert told in notes(data)
    data.save(tmp_path / "run")
    restored = data.options.restore(tmp_path / "run")
    assert restored.schema.encodings == data.schema.encodings
    for separator in ",;":  # also through a file, where the types are guessed
        path = tmp_path / "new.csv"
        frame.head(3).write_csv(path, separator=separator)
        assert column(restored.reopen(path, whole=True), split="test") == values[:3]
    # one row alone tells nothing of how it is written, and is read as in training
    one = frame.head(1)
    one.write_csv(path)
    assert column(restored.reopen(path, whole=True), split="test") == values[:1]
    with pytest.raises(
        UserError, match='the frame, row 1, column c: expected a number as ".*", got "soon"'
    ):
        list(restored.reopen(one.with_columns(c=pl.lit("soon")), whole=True).batches("test"))


def test_a_number_that_is_written_otherwise_than_the_others() -> None:
    with pytest.raises(
        UserError, match='row 20, column c: expected a number as "1.234,5", got "1,234.5"'
    ):
        opened(table(["1.234,5"] * 19 + ["1,234.5"]))
    with pytest.raises(UserError, match='row 20, column c: expected a number as "12%", got "0.12"'):
        opened(table(["12%"] * 19 + ["0.12"]))
    with pytest.raises(
        UserError, match='row 20, column c: expected a date as "2020-01-31", got "31.1.2020"'
    ):
        opened(table(["2020-01-31"] * 19 + ["31.1.2020"]))
    mixed = opened(table([f"{i}%" for i in range(6)] + [f"{i}.5" for i in range(6)]))
    assert mixed.schema.encodings[0].kind == "category"
    assert "c: taken as text, although 50% of its cells are numbers" in notes(mixed)
    data = opened(table(["1.234,5", "2,5", "3"]))
    with pytest.raises(UserError, match='column c: expected a number as "1.234,5", got "1.5"'):
        new = data.reopen(pl.DataFrame({"c": ["1.5"], "x": [1.0]}), whole=True, targets=False)
        list(new.batches("test"))


def test_what_may_be_read_in_two_ways_is_asked() -> None:
    frame = table(["1,234", "7,250", "99"])
    with pytest.raises(
        UserError,
        match='the frame, column c: "1,234" may be 1234 or 1.234.*--data.thousands "," or --data.decimal ","',
    ):
        opened(frame)
    assert column(opened(frame, thousands=","))[:3] == [1234, 7250, 99]
    assert column(opened(frame, decimal=","))[:3] == [1.234, 7.25, 99]
    days = table(["03/04/2020", "05/06/2021", "01/02/2022"])
    with pytest.raises(
        UserError, match='"03/04/2020" may be 2020-04-03 or 2020-03-04.*--data.day-first'
    ):
        opened(days)
    assert column(opened(days, day_first=True), "c month")[:3] == [4, 6, 2]
    assert column(opened(days, day_first=False), "c month")[:3] == [3, 5, 1]
    told = table(["03/04/2020", "05/16/2021"])  # there is no 16th month
    assert column(opened(told), "c month")[:2] == [3, 5]


def test_a_decimal_comma_that_the_option_names(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = [f'{i},"{i},25","1.{100 + i}"' for i in range(60)]
    path.write_text("\n".join(["y,a,b", *rows]))
    data = Tabular(target="y", decimal=",", split=ALL, standardize=False).open(path)
    assert column(data, "a")[:2] == [0.25, 1.25]
    assert column(data, "b")[:2] == [1100, 1101]  # a point can only stand between thousands
    free = Tabular(target="y", split=ALL, standardize=False).open(path)
    assert column(free, "b")[:1] == [pytest.approx(1.1)]
    assert (
        "a has decimal commas, and b decimal points; if points stand between thousands there"
        in notes(free)
    )


def test_dates(tmp_path: Path) -> None:
    days = [datetime.date(2020, 1, 1) + datetime.timedelta(days=int(i)) for i in range(60)]
    frame = table([d.strftime("%d.%m.%Y") for d in days])
    data = opened(frame)
    assert [c.name for c in data.columns] == ["c month", "c weekday", "c days", "x"]  # one year
    assert {c.source for c in data.columns} == {"c", "x"}
    assert column(data, "c month") == [d.month for d in days]
    assert column(data, "c weekday") == [d.isoweekday() for d in days]
    assert column(data, "c days") == [(d - datetime.date(1970, 1, 1)).days for d in days]
    assert 'c: dates, "13.01.2020" is 2020-01-13, learned from as month, weekday, days' in notes(
        data
    )
    for source in (frame.with_columns(c=pl.Series(days)), frame.to_dict(as_series=False)):
        assert column(opened(source), "c days") == column(data, "c days")  # type: ignore[arg-type]
    data.save(tmp_path)
    restored = data.options.restore(tmp_path)
    new = pl.DataFrame({"c": [datetime.datetime(2021, 5, 1), None], "x": [0.0, 0.0]})
    again = restored.reopen(new, whole=True, targets=False)
    assert column(again, "c month", "test") == [5, data.schema.encodings[0].parts[0].fill]
    assert "c: 1 missing cells filled as in training" in notes(again)
    assert column(opened(frame, kinds={"c": "date"}), "c days") == column(data, "c days")
    assert not any(c.source == "c" for c in opened(frame, kinds={"c": "drop"}).columns)
    assert len(opened(frame, kinds={"c": "category"}).columns) == 61


def test_dates_are_standardized_over_the_training_rows_only() -> None:
    days = [datetime.date(2020, 1, 1) + datetime.timedelta(days=i) for i in range(200)]
    frame = table([*days], 200)
    data = Tabular(target="y", dtype="float64").open(frame, seed=1)
    train = np.flatnonzero(data.parts == 0)
    found = {c.name: c for c in data.columns}["c days"]
    passed = np.array([(days[i] - datetime.date(1970, 1, 1)).days for i in train])
    assert found.mean == pytest.approx(passed.mean(), rel=1e-12)
    assert found.scale == pytest.approx(passed.std(), rel=1e-9)
    late = [datetime.date(2090, 1, 1) if data.parts[i] != 0 else d for i, d in enumerate(days)]  # type: ignore[index]
    again = Tabular(target="y", dtype="float64").open(frame.with_columns(c=pl.Series(late)), seed=1)
    assert again.columns == data.columns


def test_dates_with_gaps_hours_and_other_forms() -> None:
    gaps = opened(table(["2020-01-01 10:30", None, "2021-02-01 12:00", "NA"]))
    assert [c.name for c in gaps.columns] == [
        "c year", "c month", "c weekday", "c hour", "c days", "c missing", "x",
    ]  # fmt: skip
    assert column(gaps, "c hour")[:4] == [10.5, 11.25, 12, 11.25]
    assert column(gaps, "c missing")[:4] == [0, 1, 0, 1]
    numbers = opened(table([20200131, 20210203, 20221201]), kinds={"c": "date"})
    assert column(numbers, "c month")[:3] == [1, 2, 12]
    same = opened(table(["2020-01-01"]))
    assert [c.source for c in same.columns] == ["x"] and same.summary()["columns"][
        "c"
    ] == "dropped, constant"
    with pytest.raises(UserError, match='column c: expected dates, as 2020-01-31, got "a"'):
        opened(table(["a", "b"]), kinds={"c": "date"})
    with pytest.raises(UserError, match="column c: a target of dates; make it a number"):
        Tabular(target="c").open(table(["2020-01-01", "2020-01-02"]))
    filled = opened(table(["2020-01-01", None, "2020-01-03"]), missing="interpolate", ordered=True)
    assert column(filled, "c weekday")[:3] == [3, 3, 5]  # the row before


@pytest.mark.parametrize(
    "cells", [["yes", "no"], ["J", "N"], ["true", "false"], [True, False], ["on", "off"]]
)
def test_yes_is_one(cells: list[Any]) -> None:
    data = opened(table(cells))
    assert data.schema.encodings[0].kind == "binary" and column(data, data.columns[0].name)[:2] == [
        1,
        0,
    ]
    target = Tabular(target="c", split=ALL).open(table(cells)).target
    assert target.kind == "category" and target.classes == tuple(
        str(c).lower() if c in (True, False) else c for c in cells[::-1]
    )


def test_yes_and_no_in_several_spellings() -> None:
    data = opened(table(["yes", "No", "YES ", "no", None]))
    assert [c.name for c in data.columns] == ["c=yes", "c missing", "x"]
    assert column(data, "c=yes")[:4] == [1, 0, 1, 0]
    assert "c: read as yes and No, which are spelt No, YES, no, yes" in notes(data)
    new = data.reopen(
        pl.DataFrame({"c": ["Yes", "maybe"], "x": [0.0, 0.0]}), whole=True, targets=False
    )
    assert column(new, "c=yes", "test") == [1, 0]
    assert (
        "c: 1 cells hold a category that training has not seen (zeros in all its columns); it knows No, yes"
        in notes(new)
    )


@pytest.mark.parametrize(
    "cells", [["yes", "no"], ["Yes", "NO"], [1, 0], [1.0, 0.0], [True, False], ["TRUE", "f"]]
)
def test_booleans_are_understood_however_other_rows_have_them(cells: list[Any]) -> None:
    stored = table([True, False]).with_columns(y=pl.Series([True, True, False] * 20))
    data = Tabular(target="y", split=ALL).open(stored)
    assert data.target.classes == ("false", "true") and data.columns[0].name == "c"
    new = data.reopen(pl.DataFrame({"c": cells, "x": [0.0, 0.0], "y": cells}), whole=True)
    assert column(new, "c", "test") == [1, 0]
    assert next(new.batches("test"))["targets"].tolist() == [1, 0]
    assert "seen" not in notes(new)


@pytest.mark.parametrize(
    ("dtype", "unit", "large"), [("float32", 1.0, 1e300), ("float64", 1e-3, 1e307)]
)
def test_numbers_too_large_to_be_prepared_are_named(
    dtype: Literal["float32", "float64"], unit: float, large: float
) -> None:
    frame = table([unit, 2 * unit, 4 * unit])
    data = Tabular(target="y", dtype=dtype, split=ALL).open(frame)
    new = data.reopen(frame[:3].with_columns(c=pl.Series([1.0, large, None])), whole=True)
    with pytest.raises(UserError, match=f"row 2, column c: {re.escape(f'{large:g}')} is too large"):
        next(new.batches("test"))


def test_numbers_beyond_what_is_exact_are_not_called_constant(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["x,c,y", *[f"{i},{10**25 + i},{i % 7}" for i in range(60)]]))
    assert (
        "c: dropped, its numbers, about 1e+25, are too large to be told apart; --data.kinds.c category takes them "
        "as text" in notes(Tabular(target="y").open(path))
    )
    kinds: dict[str, Any] = {"c": "category"}
    kept = Tabular(target="y", kinds=kinds, split=ALL).open(path)
    assert len(kept.schema.encodings[1].categories) == 60


def test_a_run_says_of_other_rows_how_its_own_were_written() -> None:
    data = opened(table([1.5, 2.5]))
    new = table(["1,5", "2"])
    with pytest.raises(UserError) as error:
        next(data.reopen(new, whole=True).batches("test"))
    assert str(error.value) == (
        'the frame, row 1, column c: expected a number, got "1,5"; write it as the rows that were learned from '
        "have it, or leave it empty"
    )


def test_a_target_in_text(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["x;price;w", *[f"{i};1.{100 + i},5;{i}%" for i in range(1, 80)]]))
    data = Tabular(target="price", weights="w", split=ALL, dtype="float64").open(path)
    targets = torch.cat([b["targets"] for b in data.batches("train")]).numpy()
    np.testing.assert_allclose(data.original(targets), 1100.5 + np.arange(1, 80), rtol=1e-12)
    assert next(data.batches("train"))["weight"][:3].tolist() == [1, 2, 3]
    data.save(tmp_path / "run")
    restored = data.options.restore(tmp_path / "run")
    path.write_text("x;price;w\n5;1.105,5;1%\n")
    again = next(restored.reopen(path, whole=True).batches("test"))
    assert data.original(again["targets"].numpy()).tolist() == [pytest.approx(1105.5)]
    codes = tmp_path / "codes.csv"
    codes.write_text("\n".join(["x,kind", *[f"{i},0{i % 3}{'a' * (i == 7)}" for i in range(60)]]))
    classes = Tabular(target="kind", target_kind="category", split=ALL).open(codes)
    codes.write_text("x,kind\n1,01\n")  # would be the number 1 by itself
    assert next(classes.reopen(codes, whole=True).batches("test"))["targets"].tolist() == [
        classes.target.classes.index("01")
    ]


def test_streamed_text_is_read_as_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = table(["1.234,5", "7,25", None]).with_columns(
        d=pl.Series([f"{1 + i % 28}.3.2020" for i in range(60)]),
        f=pl.Series(["ja", "Nein", "JA"] * 20),
    )
    path = tmp_path / "t.csv"
    frame.write_csv(path)
    wanted = torch.cat([b["features"] for b in opened(frame).batches("train")])
    for module in (table_files, delimited, prepared):
        monkeypatch.setattr(module, "IN_MEMORY", 100)
    monkeypatch.setattr(rows_module, "CHUNK", 7)
    data = opened(path)  # type: ignore[arg-type]
    assert data.rows is not None and data.rows.streamed
    torch.testing.assert_close(torch.cat([b["features"] for b in data.batches("train")]), wanted)
