"""Columns that tell the target or number the rows are named, and no ordinary column is."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import polars as pl
import pytest

from fourfold.data.table import Tabular


def said(frame: Any, target: str = "y", **options: Any) -> list[str]:
    notes: list[str] = Tabular(target=target, **options).open(frame).summary()["notes"]
    return [n for n in notes if "almost" in n or "look like" in n]


def frame(rows: int = 400) -> pl.DataFrame:
    random = np.random.default_rng(0)
    x = random.normal(size=rows)
    town = random.choice(["Bern", "Lyon", "Turin"], rows)
    y = x + (town == "Bern") + random.normal(0, 0.3, rows)
    return pl.DataFrame({"x": x, "town": town, "y": y})


def test_an_honest_column_is_not_suspected() -> None:
    assert said(frame()) == []
    assert said(frame().with_columns(town=pl.lit("Bern") + pl.col("town")), "town") == []
    near = frame().with_columns(
        z=pl.col("y") + pl.Series(np.random.default_rng(1).normal(0, 0.3, 400))
    )
    assert said(near) == []  # 93% of the variance


@pytest.mark.parametrize("leak", ["double", "log", "falling", "rounded", "band"])
def test_a_column_that_tells_a_number(leak: str) -> None:
    table = frame(2000)
    y = table["y"]
    values = {
        "double": 2 * y + 1, "log": (y - y.min() + 0.01).log(), "falling": 1 / (y - y.min() + 1),
        "rounded": y.round(1), "band": (y * 4).round(0).cast(pl.String) + "er",
    }[leak]  # fmt: skip
    (note,) = said(table.with_columns(values.alias("leak")))
    assert note.startswith("leak: alone predicts y almost perfectly") and "--data.drop leak" in note


def test_a_column_that_tells_a_class_or_a_label() -> None:
    table = frame().with_columns(
        code=pl.col("town").replace_strict({"Bern": 3, "Lyon": 1, "Turin": 2}),
        late=pl.when(pl.col("town") == "Bern").then(pl.col("x").abs() + 1).otherwise(0.0),
    )
    assert [n.split(":")[0] for n in said(table, "town")] == ["code"]
    labels = table.with_columns(tag_bern=pl.col("town") == "Bern", tag_up=pl.col("x") > 0)
    told = said(labels, "tag_*", drop=("town", "code"))
    assert [n.split(" almost")[0] for n in told] == [
        "x: alone predicts tag_up", "late: alone predicts tag_bern",
    ]  # fmt: skip


def test_rare_categories_do_not_tell_by_chance() -> None:
    table = frame().with_columns(key=pl.Series([f"k{i // 2}" for i in range(400)]))
    assert said(table, kinds={"key": "category"}, max_categories=400) == []


def test_only_the_training_rows_are_looked_at() -> None:
    table = frame()
    parts = Tabular(target="y").open(table).parts
    told = pl.Series(parts != 0)
    leaky = table.with_columns(z=pl.when(told).then(pl.col("y")).otherwise(pl.col("x").shuffle(1)))
    assert said(leaky) == []
    leaky = table.with_columns(z=pl.when(~told).then(pl.col("y")).otherwise(0.0))
    assert [n.split(":")[0] for n in said(leaky)] == ["z"]


def test_rows_close_in_time() -> None:
    days = pl.Series(np.arange(400)).cast(pl.Date)
    level = np.cumsum(np.random.default_rng(0).normal(size=400))
    table = pl.DataFrame({"day": days, "y": level})
    (note,) = said(table)
    assert (
        note.startswith("day: rows close in time have nearly the same y")
        and "--data.ordered" in note
    )
    assert said(table, ordered=True) == []


def test_identifiers() -> None:
    random = np.random.default_rng(0)
    table = frame().with_columns(
        number=pl.int_range(400), key=pl.Series(random.choice(10**9, 400, replace=False)),
        year=pl.Series(random.integers(1990, 2020, 400)), amount=pl.Series(random.normal(size=400)),
    )  # fmt: skip
    assert said(table) == [
        "these look like row numbers: number; --data.drop number leaves it out",
        "these look like identifiers, different in each row: key; --data.drop key leaves it out",
    ]


@pytest.mark.parametrize("name", ["diabetes", "iris", "wine", "breast_cancer", "digits"])
def test_no_false_alarm_on_bundled_tables(name: str) -> None:
    assert said(name, target="target") == []
    assert said(name, target="target", target_kind="category") == [] or name == "diabetes"


def test_no_false_alarm_on_public_tables() -> None:
    if "FOURFOLD_DATA" not in os.environ:
        pytest.skip("FOURFOLD_DATA names no folder with these tables")
    for target in ("median_house_value", "ocean_proximity", "households", "median_income"):
        assert said("housing", target) == []
    for target in ("Survived", "Fare", "Age", "Sex"):
        assert [n for n in said("titanic", target) if "PassengerId" not in n] == []
    for name, target in (("airline-passengers", "Passengers"), ("monthly-sunspots", "Sunspots")):
        assert said(name, target) == []
    assert said("movielens", "rating") == []
