"""Linear regression from the file to the fitted model, beside polars -> scikit-learn.

    python -m benchmarks.linear                       # housing, from the CSV file to the measured test rows
    python -m benchmarks.linear --rows 10_000_000     # made rows x 50 columns, Parquet and CSV: time and memory

Housing: both read the file, impute medians with an indicator, encode categories, standardize, fit by least
squares on the same training rows and measure the same test rows. Made rows: both fit ridge regression on
all rows; the peer is the shortest way, polars -> NumPy -> Ridge, without imputation, checks or statistics.
Each runs in a process of its own; its peak memory counts from the import of torch, the peer's from that of
scikit-learn. The times include reading.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import shutil
import subprocess
import sys
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


COLUMNS = 50
PART = 500_000
"""Rows made at a time."""


def make(folder: Path, rows: int) -> tuple[Path, Path]:
    """Normal columns with four decimals, two of them nearly alike and far from zero, as Parquet and as CSV."""
    weights = np.random.default_rng(0).normal(size=COLUMNS)
    parts = []
    for number in range(-(-rows // PART)):
        random = np.random.default_rng([1, number])
        x = random.normal(size=(min(PART, rows - number * PART), COLUMNS)).round(4)
        x[:, 1] = (2000 + 3 * x[:, 0] + x[:, 1]).round(4)
        y = (x @ weights + random.normal(size=len(x))).round(4)
        parts.append(folder / f"part{number}.parquet")
        frame = pl.DataFrame({**{f"x{i}": x[:, i] for i in range(COLUMNS)}, "y": y})
        frame.write_parquet(parts[-1], compression="uncompressed")
    whole = pl.scan_parquet(parts)
    paths = folder / "made.parquet", folder / "made.csv"
    whole.sink_parquet(paths[0])
    whole.sink_csv(paths[1], float_precision=4)
    for part in parts:
        part.unlink()
    return paths


def peak() -> float:
    """Megabytes that this process has held at most; not those of the process that it was forked from."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def fit_ours(path: str) -> dict[str, float]:
    """Seconds, peak memory beside the import of torch, and a coefficient to compare."""
    import torch  # noqa: F401

    before, began = peak(), time.perf_counter()
    run = fourfold.fit("linear", path, out=False, target="y", ridge=1e-6, split=(1, 0, 0))
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "megabytes": peak() - before, "x0": run.inspect()["coefficient"][0]}


def fit_peer(path: str) -> dict[str, float]:
    """The same of polars -> NumPy -> Ridge."""
    from sklearn.linear_model import Ridge

    before, began = peak(), time.perf_counter()
    frame = pl.read_parquet(path) if path.endswith(".parquet") else pl.read_csv(path)
    x, y = frame.drop("y").to_numpy(), frame["y"].to_numpy()
    model = Ridge(alpha=1e-6).fit(x, y)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "megabytes": peak() - before, "x0": float(model.coef_[0])}


def apart(who: str, path: Path) -> dict[str, float]:
    """One fit in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.linear", "--fit", who, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def made(rows: int, rounds: int) -> None:
    """Time and memory on made rows."""
    with tempfile.TemporaryDirectory() as folder:
        for path in make(Path(folder), rows):
            found: dict[str, list[dict[str, float]]] = {"fourfold": [], "polars -> Ridge": []}
            for _ in range(rounds):
                for who, results in found.items():
                    results.append(apart(who, path))
            seconds = {who: [f["seconds"] for f in some] for who, some in found.items()}
            result = {
                "seconds": {k: round(v, 1) for k, v in medians(seconds).items()},
                "of its time": round(ratio(seconds, "fourfold", "polars -> Ridge"), 2),
                "megabytes": {k: round(max(f["megabytes"] for f in v)) for k, v in found.items()},
                "coefficient of x0": {k: v[0]["x0"] for k, v in found.items()},
                "file, gigabytes": round(path.stat().st_size / 1e9, 2),
            }
            print(result)
            keep("linear", {f"{rows:,} rows x {COLUMNS} columns, {path.suffix[1:]}": result})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, help="make so many rows")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--fit", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.fit:
        who, path = given.fit
        print(json.dumps((fit_ours if who == "fourfold" else fit_peer)(path)))
    elif given.rows:
        made(given.rows, given.rounds)
    else:
        housing()


def housing() -> None:
    """The housing data, whole."""
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
