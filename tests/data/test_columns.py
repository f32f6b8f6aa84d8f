"""Prepared columns: codes for embeddings, and where the numbers lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from fourfold.data.table import TableData, Tabular

ALL = (1.0, 0.0, 0.0)


def films(rows: int = 3000, users: int = 400) -> pl.DataFrame:
    random = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "user_id": random.permutation(np.resize(np.arange(1, users + 1), rows)),
            "genre": random.choice(["war", "art", "noir"], rows),
            "city": random.permutation(np.resize([f"c{i:03}" for i in range(300)], rows)),
            "length": random.normal(100, 20, rows),
            "rating": random.normal(3, 1, rows),
        }
    )


def features(data: TableData, split: str = "train") -> np.ndarray:
    return torch.cat([b["features"] for b in data.batches(split)]).numpy()  # type: ignore[arg-type]


def test_codes(tmp_path: Path) -> None:
    frame = films().with_columns(
        city=pl.when(pl.int_range(3000) < 9).then(None).otherwise(pl.col("city"))
    )
    data = Tabular(target="rating", embed_above=10, split=ALL).open(frame)
    kinds = {c.source: (c.kind, c.size) for c in data.columns}
    assert kinds["user_id"] == ("code", 401) and kinds["city"] == ("code", 301)
    assert kinds["genre"] == ("category", 0) and kinds["length"] == ("number", 0)
    assert len(data.columns) == 1 + 3 + 1 + 1  # no column of its own for the missing cities
    codes = {c.source: x for c, x in zip(data.columns, features(data).T, strict=True)}
    np.testing.assert_array_equal(codes["user_id"], frame["user_id"])  # 1 + index of 1, 2, 3, ...
    cities = sorted(frame["city"].drop_nulls().unique())
    wanted = [0 if c is None else 1 + cities.index(c) for c in frame["city"]]
    np.testing.assert_array_equal(codes["city"], wanted)
    data.save(tmp_path)
    restored = data.options.restore(tmp_path)
    assert restored.columns == data.columns
    new = frame[:4].with_columns(user_id=pl.Series([7, 999, None, 400]), city=pl.lit("nowhere"))
    again = restored.reopen(new, whole=True)
    found = {c.source: x for c, x in zip(again.columns, features(again, "test").T, strict=True)}
    assert found["user_id"].tolist() == [7, 0, 0, 400] and found["city"].tolist() == [0] * 4
    notes = again.summary()["notes"]
    assert any(
        n.startswith("user_id: 1 cells hold a category that training has not seen") for n in notes
    )
    assert any(
        n.startswith("city: 4 cells hold a category that training has not seen") for n in notes
    )
    assert "embedded" in data.summary()["columns"]["city"]


def test_codes_come_from_the_training_rows_only() -> None:
    frame = films()
    data = Tabular(target="rating", embed_above=10).open(frame)
    train = frame.filter(pl.Series(data.parts == 0))
    encodings = {e.name: e for e in data.schema.encodings}
    assert list(encodings["city"].categories) == sorted(train["city"].unique())
    assert [int(c) for c in encodings["user_id"].categories] == sorted(train["user_id"].unique())


def test_without_embedding_many_categories_are_none() -> None:
    data = Tabular(target="rating", split=ALL).open(films())
    assert {c.source for c in data.columns if c.kind != "category"} == {"user_id", "length"}
    assert not any(c.kind == "code" for c in data.columns)
    few = Tabular(target="rating", embed_above=10, max_categories=100, split=ALL).open(films())
    assert not any(c.source == "city" for c in few.columns)  # the limit that was asked for holds


@pytest.mark.parametrize("large", [False, True])
def test_quantiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool) -> None:
    import fourfold.data.prepared as prepared

    frame = films()
    data = Tabular(target="rating", drop=("user_id", "city"), dtype="float64").open(frame)
    if large:
        monkeypatch.setattr(prepared, "IN_MEMORY", 100)
        assert data.prepared.large
    train = features(data)[:, [c.kind for c in data.columns].index("number")]
    found = data.quantiles(8)
    np.testing.assert_allclose(found, np.quantile(train, np.linspace(0, 1, 9))[None], rtol=1e-12)
    data.save(tmp_path)
    assert data.options.restore(tmp_path).quantiles(8).tolist() == [[0] * 9]
    assert Tabular(target="rating", drop=("user_id", "city", "length")).open(frame).quantiles(
        4
    ).shape == (0, 5)
