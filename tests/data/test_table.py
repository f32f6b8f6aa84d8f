"""Tables: encodings against scikit-learn's, kinds, splits, streaming, every source and every kind of bad input."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import fourfold.data.delimited as delimited
import fourfold.data.prepared as prepared
import fourfold.data.rows as rows_module
import fourfold.data.table_files as table_files
from fourfold.core.errors import UserError
from fourfold.core.parts import Batch
from fourfold.data.table import SPLITS, TableData, Tabular

ALL = (1.0, 0.0, 0.0)


def everything(data: TableData, split: Any = "train") -> tuple[np.ndarray, np.ndarray]:
    batches = list(data.batches(split))
    features = torch.cat([b["features"] for b in batches]).numpy()
    return features, torch.cat([b["targets"] for b in batches]).numpy()


def mixed(rows: int = 300, seed: int = 0) -> pl.DataFrame:
    """Numbers, categories and two values, with gaps."""
    random = np.random.default_rng(seed)

    def holes(values: np.ndarray, share: float = 0.1) -> list[Any]:
        return [
            None if hole else v
            for v, hole in zip(values.tolist(), random.random(rows) < share, strict=True)
        ]

    return pl.DataFrame(
        {
            "size": holes(random.normal(50, 9, rows)),
            "town": holes(random.choice(["Bern", "Lyon", "Turin", "Ulm"], rows)),
            "year": random.normal(2000, 4, rows),
            "pool": random.choice(["yes", "no"], rows),
            "y": random.normal(10, 3, rows),
        }
    )


def sklearn_encoding(
    train: pl.DataFrame,
    rows: pl.DataFrame,
    numbers: list[str],
    texts: list[str],
    binaries: list[str],
) -> dict[str, np.ndarray]:
    """scikit-learn's own transformers, by the names of our columns."""
    from sklearn.impute import MissingIndicator, SimpleImputer
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    found: dict[str, np.ndarray] = {}
    for name in numbers:
        impute, scale = SimpleImputer(strategy="median"), StandardScaler()
        fit = train[[name]].fill_null(np.nan).to_numpy()
        new = rows[[name]].fill_null(np.nan).to_numpy()
        scale.fit(impute.fit_transform(fit))
        found[name] = scale.transform(impute.transform(new))[:, 0]
        if np.isnan(fit).any():
            found[f"{name} missing"] = (
                MissingIndicator(features="all").fit(fit).transform(new)[:, 0]
            )
    for name in texts + binaries:
        fit = np.array(train[name].to_list(), object)[:, None]
        new = np.array(rows[name].to_list(), object)[:, None]
        impute = SimpleImputer(missing_values=None, strategy="most_frequent")
        encoder = OneHotEncoder(handle_unknown="ignore", drop="if_binary", sparse_output=False)
        encoder.fit(impute.fit_transform(fit))
        encoded = encoder.transform(impute.transform(new))
        categories = encoder.categories_[0][1:] if name in binaries else encoder.categories_[0]
        for i, category in enumerate(categories):
            found[f"{name}={category}"] = encoded[:, i]
        if train[name].null_count():
            found[f"{name} missing"] = rows[name].is_null().to_numpy()
    return found


def assert_equals_sklearn(
    data: TableData, numbers: list[str], texts: list[str], binaries: list[str]
) -> None:
    assert data.rows is not None and data.parts is not None
    frame = data.rows.frame()
    train = frame.filter(pl.Series(data.parts == 0))
    for number, split in enumerate(("train", "valid", "test")):
        rows = frame.filter(pl.Series(data.parts == number))
        oracle = sklearn_encoding(train, rows, numbers, texts, binaries)
        assert sorted(oracle) == sorted(c.name for c in data.columns)
        features, _ = everything(data, split)
        wanted = np.stack([oracle[c.name] for c in data.columns], axis=1)
        np.testing.assert_allclose(features, wanted, rtol=1e-10, atol=1e-12)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000), st.integers(60, 300))
def test_encodings_equal_sklearn(seed: int, rows: int) -> None:
    data = Tabular(target="y", dtype="float64").open(mixed(rows, seed), seed=seed)
    assert_equals_sklearn(data, ["size", "year"], ["town"], ["pool"])


def test_encodings_equal_sklearn_on_housing() -> None:
    if "FOURFOLD_DATA" not in os.environ:
        pytest.skip("FOURFOLD_DATA names no folder with the housing data")
    data = Tabular(target="median_house_value", dtype="float64").open("housing", seed=1)
    names = "longitude latitude housing_median_age total_rooms total_bedrooms population households median_income"
    assert_equals_sklearn(data, names.split(), ["ocean_proximity"], [])
    assert data.size("train") == 16_512 and data.size("valid") == data.size("test") == 2_064
    assert "total_bedrooms missing" in [c.name for c in data.columns]


def test_age_sex_and_nationality_are_199_columns() -> None:
    random = np.random.default_rng(0)
    codes = np.sort(random.choice(np.arange(4, 895), 197, replace=False))
    frame = pl.DataFrame(
        {
            "age": random.integers(0, 100, 1970),
            "sex": np.resize(["f", "m"], 1970),
            "x": np.resize(codes, 1970),  # recognised by its values, not by its name
            "y": random.normal(size=1970),
        }
    )
    data = Tabular(target="y", split=ALL).open(frame)
    assert len(data.columns) == 199
    assert [e.kind for e in data.schema.encodings] == ["number", "binary", "category"]
    assert any(
        note.startswith("x: 197 different whole numbers") for note in data.summary()["notes"]
    )
    assert len(Tabular(target="y", split=ALL, kinds={"x": "number"}).open(frame).columns) == 3
    assert len(Tabular(target="y", split=ALL, codes="number").open(frame).columns) == 3
    named = frame.with_columns(pl.Series("nationality", np.resize(np.arange(197), 1970))).drop("x")
    assert len(Tabular(target="y", split=ALL).open(named).columns) == 199


@pytest.mark.parametrize(
    "values",
    [[114, 401, 594, 914, 1055, 2174, 5013, 15024, 99999], [1896, 1900, 1904, 1960, 2000, 2016]],
)
def test_amounts_and_years_are_no_codes(values: list[int]) -> None:
    frame = pl.DataFrame({"gain": np.resize(values, 300), "y": np.arange(300.0)})
    assert [c.kind for c in Tabular(target="y").open(frame).columns] == ["number"]


def test_statistics_come_from_the_training_rows_only() -> None:
    frame = mixed()
    data = Tabular(target="y", dtype="float64").open(frame, seed=3)
    assert data.parts is not None
    held_out = pl.Series(data.parts != 0)
    changed = frame.with_columns(
        pl.when(held_out).then(1e6).otherwise(pl.col("size")).alias("size"),
        pl.when(held_out).then(pl.lit("Nowhere")).otherwise(pl.col("town")).alias("town"),
        pl.when(held_out).then(-1e6).otherwise(pl.col("y")).alias("y"),
    )
    again = Tabular(target="y", dtype="float64").open(changed, seed=3)
    assert again.schema.encodings == data.schema.encodings
    assert again.schema.target == data.schema.target
    np.testing.assert_array_equal(everything(again)[0], everything(data)[0])
    features, _ = everything(again, "test")
    towns = [i for i, c in enumerate(again.columns) if c.source == "town"]
    assert (features[:, towns] == 0).all()  # unseen: zeros in all columns
    assert any("Nowhere" in n or "training has not seen" in n for n in again.summary()["notes"])


def test_other_column_and_drop_and_error_and_frequent() -> None:
    frame = mixed()
    other = Tabular(target="y", unseen="other", dtype="float64").open(frame)
    new = pl.DataFrame({"size": [1.0], "town": ["Nowhere"], "year": [1.0], "pool": ["maybe"]})
    batch = next(other.reopen(new, whole=True, targets=False).batches("test"))
    marked = {
        c.name for c, x in zip(other.columns, batch["features"][0].tolist(), strict=True) if x == 1
    }
    assert marked == {"town=other", "pool=other"}
    dropped = Tabular(
        target="y", missing="drop", dtype="float64", split=ALL, standardize=False
    ).open(frame)
    clean = frame.drop_nulls()
    features, targets = everything(dropped)
    assert dropped.size("train") == clean.height
    np.testing.assert_array_equal(features[:, 0], clean["size"].to_numpy())
    np.testing.assert_array_equal(targets, clean["y"].to_numpy())
    assert (
        f"{300 - clean.height} rows with missing cells left out (--missing drop)"
        in dropped.summary()["notes"]
    )
    with pytest.raises(
        UserError, match=r"the frame, row \d+, column \w+: missing; --missing median"
    ):
        Tabular(target="y", missing="error").open(frame)
    often = pl.DataFrame({"x": [1.0, 2.5, 2.5, None, 9.0], "y": [1.0, 2.0, 3.0, 4.0, 5.0]})
    data = Tabular(target="y", missing="frequent", standardize=False, split=ALL).open(often)
    assert everything(data)[0].tolist() == [[1, 0], [2.5, 0], [2.5, 0], [2.5, 1], [9, 0]]
    plain = Tabular(target="y", indicator=False, standardize=False, split=ALL).open(often)
    assert everything(plain)[0].tolist() == [[1], [2.5], [2.5], [2.5], [9]]


def test_ordered_rows_are_interpolated_and_split_in_order() -> None:
    frame = pl.DataFrame(
        {"x": [0.0, None, 2.0, 3.0, None, None, 6.0, 7.5, 8.0, None], "y": np.arange(10.0)}
    )
    options = Tabular(
        target="y", missing="interpolate", ordered=True, standardize=False, dtype="float64"
    )
    data = options.open(frame)
    found = np.concatenate([everything(data, s)[0][:, 0] for s in ("train", "valid", "test")])
    assert found.tolist() == [0, 1, 2, 3, 4, 5, 6, 7.5, 8, 8]
    assert everything(data, "test")[1].tolist() == [9]
    with pytest.raises(ValidationError, match="needs ordered rows"):
        Tabular(missing="interpolate")


def test_valid_source_save_restore_and_predict(tmp_path: Path) -> None:
    frame = mixed()
    data = Tabular(target="y", dtype="float64").open(
        frame, valid=mixed(40, 1).select(sorted(frame.columns))
    )
    assert (data.size("train"), data.size("valid"), data.size("test")) == (267, 40, 33)
    data.save(tmp_path)
    restored = data.options.restore(tmp_path)
    assert restored.schema.encodings == data.schema.encodings and restored.columns == data.columns
    assert restored.summary() == data.summary()
    again = restored.reopen(frame, valid=mixed(40, 1).select(sorted(frame.columns)))
    assert again.fingerprint == data.fingerprint == restored.fingerprint
    for split in ("train", "valid", "test"):
        np.testing.assert_array_equal(everything(again, split)[0], everything(data, split)[0])
    shuffled = frame.select(["pool", "year", "town", "size"]).with_columns(extra=pl.lit(1))
    new = restored.reopen(shuffled, whole=True, targets=False)
    features = torch.cat([b["features"] for b in new.batches("test")])
    everyone = restored.reopen(frame, whole=True)
    np.testing.assert_array_equal(features, everything(everyone, "test")[0])
    notes = new.summary()["notes"]
    assert notes[0] == "columns that training did not have are ignored: extra"
    gone = frame["size"].null_count()
    assert f"size: {gone} missing cells filled as in training" in notes
    assert restored.reopen(mixed(300, 9)).fingerprint != data.fingerprint
    with pytest.raises(
        UserError, match="no column town; it has pool, year, size.*fitted with size, town"
    ):
        restored.reopen(shuffled.drop("town", "extra"), whole=True, targets=False)
    with pytest.raises(UserError, match="no column y.*measuring needs the target"):
        restored.reopen(shuffled, whole=True)
    empty = restored.reopen(shuffled.with_columns(size=pl.lit(None)), whole=True, targets=False)
    filled = torch.cat([b["features"] for b in empty.batches("test")])[:, 0]
    median = data.schema.encodings[0]
    assert filled.tolist() == [(median.fill - median.mean) / median.scale] * 300  # type: ignore[operator]


def test_epochs_are_permutations_that_resume() -> None:
    data = Tabular(target="y", batch=32).open(mixed(), seed=5)
    whole = [b["targets"] for b in data.batches("train", epoch=1)]
    assert sorted(torch.cat(whole).tolist()) == sorted(everything(data)[1].tolist())
    assert [len(b) for b in whole] == [32] * 7 + [16]
    stream = data.batches("train", epoch=2)
    first = [next(stream)["targets"] for _ in range(3)]
    again = Tabular(target="y", batch=32).open(mixed(), seed=5)
    again.load_state_dict(data.state_dict())
    rest = [b["targets"] for b in again.batches("train", epoch=2)]
    fresh = Tabular(target="y", batch=32).open(mixed(), seed=5)
    torch.testing.assert_close(
        torch.cat(first + rest), torch.cat([b["targets"] for b in fresh.batches("train", epoch=2)])
    )


# --- sources ------------------------------------------------------------------------------------


def write(frame: pl.DataFrame, path: Path) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(
            gzip.compress(frame.write_csv(separator="\t" if ".tsv" in path.name else ",").encode())
        )
    elif path.suffix == ".zst":
        zstandard = pytest.importorskip("zstandard")
        path.write_bytes(zstandard.compress(frame.write_csv().encode()))
    elif path.suffix in (".csv", ".tsv"):
        frame.write_csv(path, separator="\t" if path.suffix == ".tsv" else ",")
    else:
        {".parquet": frame.write_parquet, ".arrow": frame.write_ipc, ".jsonl": frame.write_ndjson}[
            path.suffix
        ](path)
    return path


SUFFIXES = [".csv", ".tsv", ".csv.gz", ".tsv.gz", ".csv.zst", ".parquet", ".arrow", ".jsonl"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("stream", [False, True])
def test_every_file_gives_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, stream: bool
) -> None:
    frame, mapped, make = mixed(), [], prepared._mapped
    monkeypatch.setattr(prepared, "_mapped", lambda *a: mapped.append(make(*a)) or mapped[-1])
    wanted = Tabular(target="y", dtype="float64", batch=64).open(frame, seed=2)
    path = write(frame, tmp_path / f"t{suffix}")
    if stream:
        for module in (table_files, delimited, prepared):
            monkeypatch.setattr(module, "IN_MEMORY", 100)
        monkeypatch.setattr(rows_module, "CHUNK", 70)
    data = Tabular(target="y", dtype="float64", batch=64).open(path, seed=2)
    assert data.rows is not None
    assert data.rows.streamed == stream == data.prepared.large
    assert [b["features"].shape[0] for b in data.batches("train")] == [64, 64, 64, 48]
    for _ in range(2):  # streamed, then from the memory-mapped file that a random order makes
        for split in ("train", "valid", "test"):
            for ours, oracle in zip(
                everything(data, split), everything(wanted, split), strict=True
            ):
                np.testing.assert_allclose(ours, oracle, rtol=1e-12)
        next(data.batches("train", epoch=0))
        assert data.prepared.held
    assert len(mapped) == (6 if stream else 0)  # features and targets of three splits


def test_frames_arrays_dicts_several_files_and_globs(tmp_path: Path) -> None:
    frame = mixed()
    wanted, _ = everything(Tabular(target="y").open(frame))
    pandas = pytest.importorskip("pandas")
    columns = frame.to_dict(as_series=False)
    write(frame[:100], tmp_path / "a.csv")
    write(frame[100:].select(frame.columns[::-1]), tmp_path / "b.parquet")
    (tmp_path / "notes.md").write_text("no table")
    sources = [
        pandas.DataFrame(columns), columns, frame.lazy(), [frame[:100], frame[100:]],
        [tmp_path / "a.csv", tmp_path / "b.parquet"], str(tmp_path / "[ab].*"), tmp_path,
    ]  # fmt: skip
    for source in sources:
        np.testing.assert_allclose(
            everything(Tabular(target="y").open(source))[0], wanted, rtol=1e-6
        )
    x, y = np.random.default_rng(0).normal(size=(50, 3)), np.arange(50.0)
    pair = Tabular(standardize=False, split=ALL, dtype="float64").open((x, torch.from_numpy(y)))
    np.testing.assert_array_equal(everything(pair)[0], x)
    array = Tabular(standardize=False, split=ALL, dtype="float64", target="x2").open(x)
    np.testing.assert_array_equal(everything(array)[1], x[:, 2])


def test_pandas_missing_values_of_every_kind() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "a": pandas.array([1, None, 3, 4], dtype="Int64"),
            "b": ["x", None, "y", "z"],
            "c": pandas.Categorical(["u", "v", None, "w"]),
            "y": [1.0, 2.0, 3.0, 5.0],
        }
    )
    data = Tabular(target="y", standardize=False, split=ALL).open(frame)
    assert [c.name for c in data.columns if c.kind == "missing"] == [
        "a missing",
        "b missing",
        "c missing",
    ]
    assert everything(data)[0][:, 0].tolist() == [1, 3, 3, 4]


@pytest.mark.parametrize("name", [None, "diabetes", "iris", "wine", "breast_cancer", "digits"])
def test_bundled_sets(name: str | None) -> None:
    data = Tabular().open(name)
    assert data.target.name == "target"
    rows = {"iris": 150, "wine": 178, "breast_cancer": 569, "digits": 1797}.get(name or "", 442)
    assert sum(data.size(s) for s in ("train", "valid", "test")) == rows
    if name == "iris":
        assert data.target.classes == ("setosa", "versicolor", "virginica")
        assert set(everything(data)[1].tolist()) == {0, 1, 2}


def test_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(mixed().write_csv().encode()))
    monkeypatch.setattr("sys.stdin", stdin)
    data = Tabular(target="y").open("-")
    np.testing.assert_allclose(
        everything(data)[0], everything(Tabular(target="y").open(mixed()))[0], rtol=1e-6
    )


def test_text_forms(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(
        b'\xef\xbb\xbf"a";b;y\r\n1,5;"x;\r\n""q""";1\r\n2,5;;2\r\nn/a;z;3\r\n4,0;z;5\r\n\r\n\r\n'
    )
    data = Tabular(target="y", decimal=",", empty=("n/a",), split=ALL, standardize=False).open(path)
    assert data.rows is not None and data.rows.frame()["b"].to_list() == [
        'x;\r\n"q"',
        None,
        "z",
        "z",
    ]
    assert everything(data)[0][:, 0].tolist() == [1.5, 2.5, 2.5, 4.0]
    path.write_text("zip,y\n01234,1\n01234,2\n1234,3\n")
    codes = Tabular(target="y", kinds={"zip": "category"}, split=ALL).open(path)
    assert codes.schema.encodings[0].categories == ("01234", "1234")
    one = tmp_path / "new.csv"
    one.write_text("zip\n01234\n")
    assert next(codes.reopen(one, whole=True, targets=False).batches("test"))[
        "features"
    ].tolist() == [[1, 0]]
    path.write_text('a,y\n5" pipe,1\n3" pipe,2\n5" pipe,3\n')
    assert Tabular(target="y", split=ALL).open(path).schema.encodings[0].categories == (
        '3" pipe',
        '5" pipe',
    )


def test_late_text_and_late_fractions_in_a_streamed_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (table_files, delimited, prepared):
        monkeypatch.setattr(module, "IN_MEMORY", 100)
    monkeypatch.setattr(delimited, "INFERRED", 10)
    path = tmp_path / "late.csv"
    lines = [f"{i},{i},{i}" for i in range(200)]
    path.write_text("\n".join(["a,b,y", *lines, "0.5,2,1", ""]))
    assert Tabular(target="y", split=ALL).open(path).rows.types["a"] == "number"  # type: ignore[union-attr]
    path.write_text("\n".join(["a,b,y", *lines, "1,oops,1", ""]))
    with pytest.raises(
        UserError, match='late.csv, row 201, column b: expected a number, got "oops"'
    ):
        Tabular(target="y").open(path)


# --- bad input ----------------------------------------------------------------------------------

GOOD = "a,b,y\n1,x,3\n2,z,4\n3,x,5\n"


def bad(tmp_path: Path, content: str | bytes, name: str = "t.csv", **options: Any) -> str:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        data = Tabular(**{"target": "y", **options}).open(path)
        list(data.batches("train"))
        list(data.batches("test"))
    return str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "t.csv: empty; expected a table with a header and rows"),
        (b"\n\n", "t.csv: empty; expected a table with a header and rows"),
        (b"a,b,y\n", "t.csv: has a header and no rows"),
        (b"a,b,y\n1,2,3\n4,5\n6,7,8\n", "t.csv, row 2: expected 3 fields as in the header, got 2; a missing cell is left empty"),
        (b"a,b,y\n1,2,3\n4,5,6,7\n", "t.csv, row 2: expected 3 fields as in the header, got 4; quote cells that hold the separator"),
        (b'a,b,y\n1,"2\n,",3\n4,5\n', "t.csv, row 2: expected 3 fields as in the header, got 2; a missing cell is left empty"),
        (b"a,b,y\n1,2,3\n\n4,5,6\n", "t.csv, row 2: empty; expected 3 fields as in the header"),
        (b"a,b,a,y\n1,2,3,4\n", 't.csv: columns 1 and 3 are both named "a"; column names must differ'),
        (b"a,b,y\n1,2,\n3,4,\n", "t.csv, column y: all its cells are missing, so nothing can be learned"),
        (b"a,b,y\n1,2,7\n3,4,7\n", "t.csv, column y: the target is 7 in every training row, so nothing can be learned"),
        (b"a,b,y\n1,inf,1\n2,1,2\n3,2,3\n", "t.csv, row 1, column b: expected a finite number, got inf; correct the cell"),
        (b"a,b,y\n1,1,1\n2,1,-inf\n3,2,3\n", "t.csv, row 2, column y: expected a finite number, got -inf; correct the cell"),
        ("a,b,y\n1,é,2\n".encode("latin-1"), "t.csv: not UTF-8 at byte 8 (0xe9); --data.encoding cp1252 may read it, or save it as UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "t.csv: binary (a zero byte at byte 8); expected a text table such as CSV"),
        (b"a,b,y\n1,2,3\n4,\0,6\n", "t.csv: binary (a zero byte at byte 14); expected a text table such as CSV"),
        (b"y\n1\n2\n3\n", "t.csv: no column is left to learn from beside y"),
        (b"a,y\n5,1\n5,2\n5,3\n", "t.csv: no column is left to learn from (a: dropped, constant in the training rows)"),
    ],
)  # fmt: skip
def test_bad_files(tmp_path: Path, content: bytes, message: str) -> None:
    assert bad(tmp_path, content).startswith(message)


def test_text_in_a_column_of_numbers_is_named(tmp_path: Path) -> None:
    lines = [f"{i},{i / 2},{i}" for i in range(30)]
    lines[17] = "17,n/a,17"
    text = "\n".join(["a,total_bedrooms,y", *lines])
    message = (
        'housing.csv, row 18, column total_bedrooms: expected a number, got "n/a"; --empty n/a takes such cells '
        "as missing, --data.kinds.total_bedrooms category takes the column as text"
    )
    assert bad(tmp_path, text, "housing.csv") == message
    path = tmp_path / "housing.csv"
    assert (
        Tabular(target="y", empty=("n/a",), split=ALL).open(path).schema.encodings[1].missing == 1
    )
    assert (
        Tabular(target="y", kinds={"total_bedrooms": "category"})
        .open(path)
        .schema.encodings[1]
        .kind
        == "category"
    )
    path.write_text(text.replace("n/a", "NA"))
    assert Tabular(target="y", split=ALL).open(path).schema.encodings[1].missing == 1
    target = "\n".join(["a,y", *[f"{i},{i}" for i in range(30)], "3,x"])
    assert bad(tmp_path, target).startswith('t.csv, row 31, column y: expected a number, got "x"')


def test_text_where_training_had_numbers(tmp_path: Path) -> None:
    data = Tabular(target="y").open(mixed())
    path = tmp_path / "new.csv"
    path.write_text("size,town,year,pool\n1,Bern,2,yes\n2,Bern,many,no\n")
    with pytest.raises(
        UserError, match='new.csv, row 2, column year: expected a number, got "many"'
    ):
        list(data.reopen(path, whole=True, targets=False).batches("test"))
    frame = pl.DataFrame({"size": [1.0], "town": ["Bern"], "year": [np.inf], "pool": ["no"]})
    with pytest.raises(
        UserError, match="the frame, row 1, column year: expected a finite number, got inf"
    ):
        list(data.reopen(frame, whole=True, targets=False).batches("test"))


def test_names_that_do_not_exist(tmp_path: Path) -> None:
    path = tmp_path / "housing.csv"
    path.write_text(GOOD.replace("y", "median_house_value"))
    with pytest.raises(
        UserError, match="housing.csv: no column median_house_valu; did you mean median_house_value"
    ):
        Tabular(target="median_house_valu").open(path)
    with pytest.raises(
        UserError, match="housing.csv: no column zzz; it has a, b, median_house_value"
    ):
        Tabular(target="zzz").open(path)
    with pytest.raises(
        UserError, match="which column is to be predicted.*one of a, b, median_house_value"
    ):
        Tabular().open(path)
    with pytest.raises(UserError, match="--data.kinds: housing.csv has no column age"):
        Tabular(target="a", kinds={"age": "number"}).open(path)
    with pytest.raises(UserError, match="--data.drop: a is the target"):
        Tabular(target="a", drop=("a",)).open(path)
    with pytest.raises(UserError, match=r"housing.cvs: no such file; did you mean .*housing.csv"):
        Tabular(target="a").open(tmp_path / "housing.cvs")
    with pytest.raises(UserError, match=r"\*.tsv: matches no file"):
        Tabular(target="a").open(str(tmp_path / "*.tsv"))
    other = tmp_path / "other.csv"
    other.write_text("a,c,y\n1,2,3\n")
    with pytest.raises(UserError, match="has no column b"):
        Tabular(target="a").open([path, other])


def test_damaged_files(tmp_path: Path) -> None:
    assert bad(tmp_path, b"text", "t.parquet") == "t.parquet: not Parquet: it begins with b'text'"
    assert bad(tmp_path, b"PAR1" + b"x" * 50, "t.parquet").startswith("t.parquet: cannot be read")
    lines = b'{"a": 1, "y": 2}\n{"a": 2, "y"\n'
    assert (
        bad(tmp_path, lines, "t.jsonl")
        == 't.jsonl, line 2: expected one JSON object a line, got {"a": 2, "y"'
    )
    assert bad(tmp_path, gzip.compress(GOOD.encode())[:-12], "t.csv.gz").startswith(
        "t.csv.gz: cannot be read"
    )
    with pytest.raises(UserError, match="column a: expected numbers, text or booleans, got List"):
        Tabular(target="y").open(pl.DataFrame({"a": [[1], [2]], "y": [1, 2]}))
    with pytest.raises(UserError, match="expected a table .* got int"):
        Tabular(target="y").open(3)


def test_columns_without_information_are_dropped_and_said() -> None:
    frame = mixed().with_columns(
        gone=pl.lit(None),
        fixed=pl.lit(3),
        name=pl.Series([f"row {i}" for i in range(300)]),
        id=np.arange(300),
    )
    data = Tabular(target="y", drop=("id",)).open(frame)
    assert {c.source for c in data.columns} == {"size", "town", "year", "pool"}
    notes = "\n".join(data.summary()["notes"])
    assert "gone: dropped, all its cells are missing" in notes
    assert "fixed: dropped, constant" in notes
    assert "name: dropped, an identifier or free text (240 different values in 240" in notes
    assert data.summary()["columns"]["fixed"] == "dropped, constant"
    kept = Tabular(target="y", drop=("id",), kinds={"name": "category"}, max_categories=400).open(
        frame
    )
    assert sum(c.source == "name" for c in kept.columns) == 240
    cut = Tabular(target="y", drop=("id",), kinds={"name": "category"}, max_categories=10).open(
        frame
    )
    assert sum(c.source == "name" for c in cut.columns) == 10
    assert any("the 10 most frequent kept" in note for note in cut.summary()["notes"])
    with pytest.raises(
        UserError, match="--data.kinds.town binary: expected 2 different values, found 4"
    ):
        Tabular(target="y", drop=("id",), kinds={"town": "binary"}).open(frame)


def test_rows_without_a_target_are_left_out_and_counted() -> None:
    frame = mixed().with_columns(
        y=pl.when(pl.int_range(300) < 20).then(None).otherwise(pl.col("y"))
    )
    data = Tabular(target="y").open(frame)
    assert sum(data.size(s) for s in ("train", "valid", "test")) == 280
    assert data.summary()["notes"][0] == "20 rows without a target (y) left out"
    assert data.reopen(frame, whole=True).size("test") == 280
    assert data.reopen(frame, whole=True, targets=False).size("test") == 300


@pytest.mark.parametrize(
    "options",
    [
        {"batch": 0}, {"split": (0.5, 0.5, 0.5)}, {"split": (0, 0.5, 0.5)}, {"max_categories": 1},
        {"missing": "guess"}, {"separator": "ab"}, {"kinds": {"a": "word"}}, {"colour": 1},
    ],
)  # fmt: skip
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Tabular(**options)


def test_classes_that_training_has_not_seen() -> None:
    data = Tabular(target="town").open(mixed().drop_nulls())
    assert data.target.classes == ("Bern", "Lyon", "Turin", "Ulm")
    with pytest.raises(
        UserError, match="the frame, row 1, column town: class Nowhere is not among"
    ):
        list(
            data.reopen(mixed()[:3].with_columns(town=pl.lit("Nowhere")), whole=True).batches(
                "test"
            )
        )


def test_no_room_for_prepared_rows(tmp_path: Path) -> None:
    """A file-size limit in a child process stands in for a full disk."""
    pytest.importorskip("resource")
    code = """
import resource, sys
import polars as pl
import fourfold.data.prepared as prepared
from fourfold.core.errors import UserError
from fourfold.data.table import Tabular
prepared.IN_MEMORY = 100
data = Tabular(target="y").open(pl.read_parquet(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    next(data.batches("train", epoch=0))
except UserError as error:
    print(error)
"""
    mixed().write_parquet(tmp_path / "t.parquet")
    command = [sys.executable, "-c", code, str(tmp_path / "t.parquet")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "no room for 8,640 bytes of prepared rows; set TMPDIR" in result.stdout, result.stderr


# --- large tables ---------------------------------------------------------------------------------


def shrink(monkeypatch: pytest.MonkeyPatch, room: int = 100) -> None:
    """Make small tables large ones: streamed, and prepared as they are asked for."""
    for module in (table_files, delimited):
        monkeypatch.setattr(module, "IN_MEMORY", 100)
    monkeypatch.setattr(prepared, "IN_MEMORY", room)
    monkeypatch.setattr(rows_module, "CHUNK", 70)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("room", [100, 900])  # bytes: neither split fits, or the validation rows do
def test_blocks_are_the_rows_of_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, room: int
) -> None:
    frame = mixed().with_columns(w=pl.Series(np.arange(300.0)))
    options = Tabular(target="y", weights="w", batch=64)
    wanted = options.open(frame, seed=2)
    path = write(frame, tmp_path / f"t{suffix}")
    names = ("features", "targets", "weight")
    expected = {split: joined(wanted.batches(split), names) for split in SPLITS}
    weights = found_weights(wanted)
    shrink(monkeypatch, room)
    data = options.open(path, seed=2)
    assert data.prepared.large and not data.prepared.held
    for split in (*SPLITS, "valid"):
        found = joined(data.blocks(split), names)
        for name, values in expected[split].items():
            torch.testing.assert_close(found[name], values)
    assert ("valid" in data.prepared.held) == (room == 900)
    epoch = torch.cat([b["weight"] for b in data.batches("train", epoch=0)])
    torch.testing.assert_close(epoch.sort().values, weights)
    with pytest.raises(ValueError, match="preparations without rows"):
        options.restore(saved(data, tmp_path)).blocks("train")


def joined(pieces: Iterator[Batch], names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    kept = [{name: piece[name].clone() for name in names} for piece in pieces]
    return {name: torch.cat([piece[name] for piece in kept]) for name in names}


def found_weights(data: TableData) -> torch.Tensor:
    return torch.cat([b["weight"] for b in data.batches("train")]).sort().values


def saved(data: TableData, folder: Path) -> Path:
    data.save(folder / "kept")
    return folder / "kept"


def test_the_columns_of_a_large_file_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gc
    import tempfile

    path = write(mixed(), tmp_path / "t.csv")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    shrink(monkeypatch)
    data = Tabular(target="y").open(path)
    next(data.batches("train", epoch=0))
    del data
    gc.collect()
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("large", [False, True])
def test_a_row_too_long_beside_one_too_short_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    """Their totals are those of regular rows."""
    if large:
        shrink(monkeypatch)
    rows = [f"{i},{i},{i}" for i in range(100)]
    for first, second, fields in (("1,2,3,4", "5,6", 4), ("5,6", "1,2,3,4", 2)):
        text = "\n".join(["a,b,y", *rows, first, second, ""])
        message = bad(tmp_path, text)
        assert message.startswith(
            f"t.csv, row 101: expected 3 fields as in the header, got {fields}"
        )


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 12), st.booleans(), st.integers(0, 1000))
def test_checking_by_totals_counts_as_checking_each_line(
    rows: int, block: int, end: bool, seed: int
) -> None:
    """Blocks cut anywhere, with and without quotes: the number of rows is what csv counts."""
    import csv

    random = np.random.default_rng(seed)
    cells = random.choice(
        ["1", "", "xy", '"a,b"', '"l\n"'], (rows, 3), p=[0.5, 0.2, 0.2, 0.05, 0.05]
    )
    text = "\n".join(["a,b,y", *[",".join(row) for row in cells]]) + "\n" * end
    for quick in (True, False):
        check = delimited._Check("t.csv", ",", 3)
        if not quick:
            check._regular = lambda block: False  # type: ignore[method-assign]
        data = text.encode()
        for start in range(0, len(data), block):
            check.feed(data[start : start + block])
        check.finish()
        assert check.rows == len(list(csv.reader(io.StringIO(text)))) - 1 and not check.ragged
        long = delimited._Check("t.csv", ",", 3)
        long.feed((text + "1,2,3,4\n" if end else text + "\n1,2,3,4\n").encode())
        long.finish()
        assert long.ragged


def test_batches_are_those_gathered_one_by_one() -> None:
    data = Tabular(target="y", batch=32).open(mixed(), seed=5)
    assert data.window > 32
    whole = list(data.batches("train", epoch=3))
    data.window = 0
    data.load_state_dict({"epoch": 3, "batches": 0})
    one_by_one = list(data.batches("train", epoch=3))
    assert len(whole) == len(one_by_one) == 8
    for a, b in zip(whole, one_by_one, strict=True):
        assert a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
    data.window = 70  # 64 rows at a time
    stream = data.batches("train", epoch=4)
    first = [next(stream)["targets"] for _ in range(3)]
    again = Tabular(target="y", batch=32).open(mixed(), seed=5)
    again.load_state_dict(data.state_dict())
    rest = [b["targets"] for b in again.batches("train", epoch=4)]
    data.load_state_dict({"epoch": 0, "batches": 0})
    fresh = torch.cat([b["targets"] for b in data.batches("train", epoch=4)])
    torch.testing.assert_close(torch.cat(first + rest), fresh)
