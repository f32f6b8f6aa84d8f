"""Linear regression on the housing data, from the CSV file to the measured model, beside polars -> scikit-learn.

    python -m benchmarks.linear

Both read the file, impute medians with an indicator, encode categories, standardize, fit by least
squares on the same training rows and measure the same test rows. The times include reading.
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score, root_mean_squared_error
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import fourfold
from benchmarks.side_by_side import alternate, data_file, keep, medians, ratio

TARGET = "median_house_value"


def ours(path: Path) -> tuple[float, Any]:
    began = time.perf_counter()
    run = fourfold.fit("linear", str(path), out=False, target=TARGET)
    return time.perf_counter() - began, run


def peer(path: Path, rows: dict[str, np.ndarray]) -> tuple[float, dict[str, float]]:
    began = time.perf_counter()
    frame = pl.read_csv(path)
    numbers = [c for c in frame.columns if c not in (TARGET, "ocean_proximity")]
    prepare = make_column_transformer(
        (
            make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler()),
            numbers,
        ),
        (OneHotEncoder(handle_unknown="ignore"), ["ocean_proximity"]),
    )
    x, y = frame.drop(TARGET).to_pandas(), frame[TARGET].to_numpy()
    model = make_pipeline(prepare, LinearRegression()).fit(x.iloc[rows["train"]], y[rows["train"]])
    guess = model.predict(x.iloc[rows["test"]])
    seconds = time.perf_counter() - began
    true = y[rows["test"]]
    return seconds, {"rmse": root_mean_squared_error(true, guess), "r2": r2_score(true, guess)}


def main() -> None:
    source = data_file("housing/housing.csv.gz")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "housing.csv"
        with gzip.open(source) as packed, path.open("wb") as plain:
            shutil.copyfileobj(packed, plain)
        _, run = ours(path)
        rows = {
            "train": np.flatnonzero(run.data.parts == 0),
            "test": np.flatnonzero(run.data.parts == 2),
        }
        _, theirs = peer(path, rows)
        seconds = alternate(
            {"fourfold": lambda: ours(path)[0], "scikit-learn": lambda: peer(path, rows)[0]}, 5
        )
        score = run.evaluate().values
    result = {
        "rmse": {"fourfold": round(score["rmse"], 2), "scikit-learn": round(theirs["rmse"], 2)},
        "r2": {"fourfold": round(score["r2"], 6), "scikit-learn": round(theirs["r2"], 6)},
        "seconds": {k: round(v, 3) for k, v in medians(seconds).items()},
        "of its time": round(ratio(seconds, "fourfold", "scikit-learn"), 2),
    }
    print(result)
    keep("linear", {"housing, test rows": result})


if __name__ == "__main__":
    main()
