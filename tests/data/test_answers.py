"""Targets: labels, classes and numbers, their counts on the training rows, row weights, and what cannot be learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from fourfold.core.errors import UserError
from fourfold.data.table import TableData, Tabular

ALL = (1.0, 0.0, 0.0)


def tagged(rows: int = 60) -> pl.DataFrame:
    random = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "x": random.normal(size=rows),
            "tag_red": random.integers(0, 2, rows),
            "z": random.normal(size=rows),
            "tag_big": random.choice(["yes", "no"], rows),
            "tag_old": random.random(rows) < 0.3,
        }
    )


def joined(data: TableData, name: str, split: Any = "train") -> np.ndarray:
    return torch.cat([b[name] for b in data.batches(split)]).numpy()


@pytest.mark.parametrize("target", ["tag_*", "tag_red, tag_big,tag_old", "tag_r?d,tag_[bo]*"])
def test_labels(tmp_path: Path, target: str) -> None:
    frame = tagged()
    data = Tabular(target=target).open(frame)
    assert data.target.kind == "labels" and data.target.name == target
    assert data.target.columns == data.target.classes == ("tag_red", "tag_big", "tag_old")
    assert {c.source for c in data.columns} == {"x", "z"}
    wanted = np.stack(
        [
            frame["tag_red"].to_numpy(),
            (frame["tag_big"] == "yes").to_numpy(),
            frame["tag_old"].to_numpy(),
        ],
        axis=1,
    )
    train = data.parts == 0
    assert data.target.rows == train.sum() == 48
    assert data.target.counts == tuple(wanted[train].sum(axis=0))
    found = joined(data, "targets")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, wanted[train])
    data.save(tmp_path)
    restored = data.options.restore(tmp_path)
    assert restored.target == data.target
    np.testing.assert_array_equal(
        joined(restored.reopen(frame), "targets", "test"), wanted[data.parts == 2]
    )
    new = restored.reopen(frame.select("x", "z"), whole=True, targets=False)
    assert "targets" not in next(new.batches("test"))
    with pytest.raises(
        UserError, match="no column tag_big; did you mean tag_bag.*measuring needs the target"
    ):
        restored.reopen(frame.rename({"tag_big": "tag_bag"}), whole=True)


def test_labels_that_are_none() -> None:
    frame = tagged()
    wrong = frame.with_columns(
        tag_red=pl.when(pl.int_range(60) == 6).then(2).otherwise(pl.col("tag_red"))
    )
    with pytest.raises(
        UserError, match='the frame, row 7, column tag_red: expected a label, 0 or 1.*got "2"'
    ):
        Tabular(target="tag_*").open(wrong)
    with pytest.raises(UserError, match="--target tog_\\* matches no column of x, tag_red"):
        Tabular(target="tog_*").open(frame)
    with pytest.raises(UserError, match="no column tag_bigg; did you mean tag_big"):
        Tabular(target="tag_red,tag_bigg").open(frame)
    with pytest.raises(UserError, match="--data.kinds.tag_old number: tag_old is a label"):
        Tabular(target="tag_*", kinds={"tag_old": "number"}).open(frame)
    gaps = frame.with_columns(
        tag_big=pl.when(pl.int_range(60) < 5).then(None).otherwise(pl.col("tag_big"))
    )
    data = Tabular(target="tag_*").open(gaps)
    assert sum(data.size(s) for s in ("train", "valid", "test")) == 55
    assert "5 rows without a target (tag_*) left out" in data.summary()["notes"]
    one = frame.with_columns(tag_old=pl.lit(False))
    assert any(
        "in no training row: tag_old" in n
        for n in Tabular(target="tag_*").open(one).summary()["notes"]
    )
    with pytest.raises(
        UserError, match="the same in every training row, so nothing can be learned"
    ):
        Tabular(target="tag_old,x*").open(one.drop("x").with_columns(x=pl.lit(1)))


def test_classes_are_counted_on_the_training_rows(tmp_path: Path) -> None:
    frame = tagged(100).with_columns(
        side=pl.Series(np.random.default_rng(1).choice(["l", "m", "r"], 100))
    )
    data = Tabular(target="side").open(frame)
    train = frame.filter(pl.Series(data.parts == 0))["side"].to_list()
    assert data.target.classes == ("l", "m", "r")
    assert data.target.counts == tuple(train.count(c) for c in "lmr")
    assert data.target.rows == len(train) == 80
    data.save(tmp_path)
    assert data.options.restore(tmp_path).target == data.target
    number = Tabular(target="x").open(frame).target
    assert (number.kind, number.counts, number.rows) == ("number", (), 80)


def test_whole_numbers_are_classes_or_numbers() -> None:
    frame = pl.DataFrame(
        {"x": np.arange(60.0), "two": np.arange(60) % 2, "many": np.arange(60) % 5}
    )
    two = Tabular(target="two").open(frame)
    assert two.target.classes == ("0", "1")
    assert (
        "two: two values, 0 and 1, predicted as classes; --target-kind number predicts a number"
        in (two.summary()["notes"])
    )
    assert Tabular(target="two", target_kind="number").open(frame).target.kind == "number"
    assert Tabular(target="two", kinds={"two": "number"}).open(frame).target.kind == "number"
    many = Tabular(target="many").open(frame)
    assert many.target.kind == "number"
    assert any(
        "many: 5 different whole numbers, predicted as a number" in n
        for n in many.summary()["notes"]
    )
    classes = Tabular(target="many", target_kind="category").open(frame).target
    assert classes.classes == ("0", "1", "2", "3", "4")
    assert Tabular(target="x").open(frame).target.kind == "number"
    yes = frame.with_columns(yes=pl.col("two") == 1)
    assert Tabular(target="yes").open(yes).target.classes == ("false", "true")
    assert Tabular(target="yes", target_kind="number").open(yes).target.kind == "number"


def test_measured_numbers_are_no_classes(tmp_path: Path) -> None:
    frame = pl.DataFrame({"x": np.arange(60.0), "y": np.arange(60) * 0.5 + 1, "w": [2.0, 3.0] * 30})
    message = (
        "row 2, column y: 1.5 is a number, and this system tells classes apart: fit linear or mlp"
    )
    with pytest.raises(UserError, match=message):
        Tabular(target="y", target_kind="category").open(frame)
    path = tmp_path / "t.csv"
    frame.write_csv(path)
    with pytest.raises(UserError, match=message):
        Tabular(target="y", target_kind="category").open(path)
    whole = Tabular(target="w", target_kind="category").open(frame)
    assert whole.target.classes == ("2", "3")
    kinds: dict[str, Any] = {"y": "category"}
    every = Tabular(target="y", target_kind="category", kinds=kinds).open(frame)
    assert len(every.target.classes) == 60


@pytest.mark.parametrize("values", [["a"] * 40, [True] * 40])
def test_a_target_of_one_class(values: list[Any]) -> None:
    frame = pl.DataFrame({"x": np.arange(40.0), "y": values})
    word = str(values[0]).lower()
    with pytest.raises(
        UserError, match=f"column y: the target is {word} in every row, so nothing can be learned"
    ):
        Tabular(target="y").open(frame)


def test_a_target_of_text_that_is_no_class() -> None:
    names = [f"title {i}" for i in range(5000)]
    frame = pl.DataFrame({"x": np.arange(20_000.0), "title": np.resize(names, 20_000)})
    with pytest.raises(
        UserError,
        match="column title: a target of text with 5,000 different values in 20,000 rows.*join rare ones",
    ):
        Tabular(target="title").open(frame)
    kept = Tabular(target="title", kinds={"title": "category"}).open(frame)
    assert len(kept.target.classes) == 5000
    free = pl.DataFrame({"x": np.arange(60.0), "title": names[:60]})
    with pytest.raises(UserError, match="60 different values in 60 rows"):
        Tabular(target="title").open(free)


def test_a_class_with_a_single_row() -> None:
    frame = pl.DataFrame({"x": np.arange(41.0), "y": ["a", "b"] * 20 + ["rare"]})
    for seed in range(5):
        data = Tabular(target="y").open(frame, seed=seed)
        assert data.parts is not None and data.parts[40] == 0
        assert (
            "classes of y with a single row, which is trained on: rare" in data.summary()["notes"]
        )
    with pytest.raises(
        UserError, match="the frame, row 41, column y: class rare has this single row.*5 folds"
    ):
        Tabular(target="y", fold="1/5").open(frame)


def test_weights(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frame = pl.DataFrame(
        {"x": random.normal(size=50), "y": random.normal(size=50), "w": random.integers(0, 4, 50)}
    )
    data = Tabular(target="y", weights="w", split=ALL, dtype="float64").open(frame)
    assert [c.source for c in data.columns] == ["x"]
    found = joined(data, "weight")
    np.testing.assert_array_equal(found, frame["w"].to_numpy())
    # a weight of 2 is a row that stands there twice
    often = frame[np.repeat(np.arange(50), frame["w"].to_numpy())].drop("w")
    twice = Tabular(target="y", split=ALL, dtype="float64").open(often)
    for ours, theirs in ((data.columns[0], twice.columns[0]), (data.target, twice.target)):
        assert ours.mean == pytest.approx(theirs.mean, rel=1e-12)
        assert ours.scale == pytest.approx(theirs.scale, rel=1e-12)
    data.save(tmp_path)
    restored = data.options.restore(tmp_path)
    assert "weight" in next(restored.reopen(frame, whole=True).batches("test"))
    bare = restored.reopen(frame.drop("w"), whole=True)
    assert "weight" not in next(bare.batches("test"))
    assert "no column w: each row counts once" in bare.summary()["notes"]
    assert "weight" not in next(restored.reopen(frame, whole=True, targets=False).batches("test"))
    shuffled = next(data.batches("train", epoch=0))
    order = np.argsort(shuffled["features"][:, 0].numpy())
    assert shuffled["weight"].numpy()[order].tolist() == frame.sort("x")["w"].to_list()


@pytest.mark.parametrize(
    ("cell", "found"),
    [(-1.0, "got -1"), (None, "got nothing"), (np.inf, "expected a finite number")],
)
def test_bad_weights(cell: float | None, found: str) -> None:
    frame = pl.DataFrame({"x": np.arange(9.0), "y": np.arange(9.0), "w": [1.0] * 8 + [cell]})
    with pytest.raises(UserError, match=f"the frame, row 9, column w: .*{found}"):
        data = Tabular(target="y", weights="w", split=ALL).open(frame)
        next(data.batches("train"))
    with pytest.raises(
        UserError, match="--data.weights: the frame has no column v; choose from w, x, y"
    ):
        Tabular(target="y", weights="v").open(frame)
    with pytest.raises(UserError, match="--data.weights: y is the target"):
        Tabular(target="y", weights="y").open(frame)
