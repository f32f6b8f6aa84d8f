"""The split of real tables: groups, folds, order and classes, as options name them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from fourfold.core.errors import UserError
from fourfold.data.table import TableData, Tabular


def patients(rows: int = 200) -> pl.DataFrame:
    random = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "patient": [f"p{i}" for i in random.integers(0, 30, rows)],
            "x": random.normal(size=rows),
            "y": random.choice(["ill", "well"], rows, p=[0.2, 0.8]),
        }
    )


def parts_of(data: TableData) -> np.ndarray:
    assert data.parts is not None
    return data.parts


def test_groups_stay_whole_and_are_no_feature(tmp_path: Path) -> None:
    frame = patients()
    for fold in (None, "1/4", "4/4"):
        data = Tabular(target="y", group="patient", fold=fold).open(frame)
        assert {c.source for c in data.columns} == {"x"}
        for group in frame["patient"].unique():
            assert len(np.unique(parts_of(data)[(frame["patient"] == group).to_numpy()])) == 1
        told = f"split by patient: the rows of each of its {frame['patient'].n_unique()} groups stay together"
        assert told in data.summary()["notes"]
        data.save(tmp_path)
        again = data.options.restore(tmp_path).reopen(frame)
        np.testing.assert_array_equal(parts_of(again), parts_of(data))
        assert again.fingerprint == data.fingerprint
    new = data.reopen(frame.select("x"), whole=True, targets=False)  # predicting needs no group
    assert new.size("test") == 200


def test_bad_groups() -> None:
    frame = patients()
    with pytest.raises(
        UserError, match="--data.group: the frame has no column patients; did you mean patient"
    ):
        Tabular(target="y", group="patients").open(frame)
    gap = frame.with_columns(
        patient=pl.when(pl.int_range(200) == 3).then(None).otherwise(pl.col("patient"))
    )
    with pytest.raises(
        UserError, match="the frame, row 4, column patient: missing; every row needs its group"
    ):
        Tabular(target="y", group="patient").open(gap)
    three = frame.with_columns(patient=pl.int_range(200) % 3)
    with pytest.raises(UserError, match="column patient: 3 different groups cannot make 5 folds"):
        Tabular(target="y", group="patient", fold="1/5").open(three)
    with pytest.raises(UserError, match="column patient: 1 different groups cannot make a split"):
        Tabular(target="y", group="patient").open(frame.with_columns(patient=pl.lit(1)))
    with pytest.raises(UserError, match="--data.group: y is the target"):
        Tabular(target="y", group="y").open(frame)
    with pytest.raises(ValidationError, match="by whole groups or in order, not both"):
        Tabular(group="patient", ordered=True)
    with pytest.raises(ValidationError, match="as 2/5, got '6/5'"):
        Tabular(fold="6/5")


def test_folds_cover_all_rows_and_keep_classes() -> None:
    frame = patients().drop("patient")
    folds = [parts_of(Tabular(target="y", fold=f"{k}/5").open(frame, seed=3)) for k in range(1, 6)]
    np.testing.assert_array_equal(sum((p == 2).astype(int) for p in folds), np.ones(200))
    ill = (frame["y"] == "ill").to_numpy()
    counts = [int(ill[p == 2].sum()) for p in folds]
    assert max(counts) - min(counts) <= 1
    assert all(int((p == 1).sum()) in range(16, 21) for p in folds)  # a ninth of the rest
    held = parts_of(Tabular(target="y").open(frame))
    assert abs(ill[held == 2].mean() - ill.mean()) < 0.05


def test_folds_without_a_target_and_with_a_validation_source() -> None:
    frame = patients().with_columns(
        y=pl.when(pl.int_range(200) < 20).then(None).otherwise(pl.col("y"))
    )
    folds = [
        parts_of(Tabular(target="y", fold=f"{k}/3", drop=("patient",)).open(frame))
        for k in (1, 2, 3)
    ]
    tested = sum((p == 2).astype(int) for p in folds)
    assert tested[:20].sum() == 0 and (tested[20:] == 1).all()
    apart = Tabular(target="y", fold="1/3", drop=("patient",)).open(frame, valid=patients(40))
    assert (apart.size("train"), apart.size("valid"), apart.size("test")) == (120, 40, 60)
    with pytest.raises(UserError, match="4 rows with a target cannot make 5 folds"):
        Tabular(target="y", fold="1/5").open(patients(4))


def test_order_is_kept_and_statistics_come_from_the_past() -> None:
    x = np.arange(120.0)
    frame = pl.DataFrame({"x": x, "y": 3 * x + 1})
    for number in range(1, 6):
        data = Tabular(target="y", fold=f"{number}/5", ordered=True, dtype="float64").open(frame)
        parts = parts_of(data)
        assert np.flatnonzero(parts == 2).tolist() == list(range(20 * number, 20 * number + 20))
        past = x[: int((parts == 0).sum())]
        np.testing.assert_array_equal(np.flatnonzero(parts == 0), past)
        assert data.columns[0].mean == pytest.approx(past.mean(), rel=1e-12)
        assert data.columns[0].scale == pytest.approx(past.std(), rel=1e-12)
        assert (parts[20 * number + 20 :] == -1).all()


def test_interpolation_never_looks_ahead() -> None:
    """A gap at the end of the training rows is not filled from the test rows."""
    x: list[float | None] = [0.0, 1.0, 2.0, None, 100.0, 101.0, None, 103.0]
    frame = pl.DataFrame({"x": x, "y": np.arange(8.0)})
    options = Tabular(
        target="y", missing="interpolate", ordered=True, split=(0.5, 0, 0.5), standardize=False
    )
    data = options.open(frame)
    train, test = (next(data.batches(s))["features"][:, 0].tolist() for s in ("train", "test"))
    assert train == [0, 1, 2, 2] and test == [100, 101, 102, 103]
    blank = frame.with_columns(y=pl.Series([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, None, 7.0]))
    test = next(options.open(blank).batches("test"))["features"][:, 0].tolist()
    assert test == [2, 100, 101, 103]
    gap = pl.DataFrame({"x": [0.0, None, 2, 3, 4, 5, 6, 7], "y": [0.0, 1, None, 3, 4, 5, 6, 7]})
    mostly = options.model_copy(update={"split": (0.6, 0.0, 0.4)})
    filled = next(mostly.open(gap).batches("train"))["features"][:, 0].tolist()
    assert filled == [0, 1, 3, 4]  # the row without a target still lies between its neighbours


def test_a_class_that_is_only_tested_is_named() -> None:
    rows = 40
    late = pl.DataFrame({"x": np.arange(rows), "y": ["a", "b"] * 18 + ["new"] * 4})
    with pytest.raises(UserError, match="column y: all rows of class new are in later rows"):
        Tabular(target="y", ordered=True).open(late)
    Tabular(target="y", ordered=True, fold="1/3").open(
        late
    )  # the rows of that class come after the test
    groups = late.with_columns(g=pl.int_range(rows) // 4)
    with pytest.raises(UserError, match="class new are in groups of g that are not trained on"):
        for fold in range(1, 6):
            Tabular(target="y", group="g", fold=f"{fold}/5").open(groups)
