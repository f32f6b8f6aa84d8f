"""Peak memory of `fit mlp` on a CSV file of millions of rows: from the file to the run folder with its report.

    python -m benchmarks.tables --rows 5_000_000

Made rows: eight numbers, one of them with missing cells, a category of 12 values and one of 5,000, and a
target that a weighted sum does not tell. The fit runs in a process of its own for a minute of training
(the rows are all prepared, every evaluation measures all validation rows); its peak counts from the import
of torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import fourfold
from benchmarks.linear import peak

PART = 500_000
"""Rows made at a time."""
NUMBERS = 8
MINUTES = 1.0


def make(path: Path, rows: int) -> None:
    """Write the table, part by part."""
    level = np.random.default_rng(0).normal(size=5_000)
    with path.open("wb") as file:
        for number in range(-(-rows // PART)):
            random = np.random.default_rng([1, number])
            count = min(PART, rows - number * PART)
            x = random.normal(size=(count, NUMBERS)).round(4)
            kind, shop = random.integers(12, size=count), random.integers(5_000, size=count)
            y = x[:, 0] * x[:, 1] + np.abs(x[:, 2]) + 0.3 * (kind % 3) + level[shop]
            columns: dict[str, Any] = {f"x{i}": pl.Series(x[:, i]) for i in range(NUMBERS)}
            lost = pl.Series(random.random(count) < 0.02)
            frame = pl.DataFrame(columns).with_columns(
                pl.when(lost).then(None).otherwise(pl.col("x3")).alias("x3"),
                kind=pl.Series([f"kind {k}" for k in range(12)])[kind.tolist()],
                shop=pl.Series([f"shop {s}" for s in range(5_000)])[shop.tolist()],
                y=pl.Series((y + 0.5 * random.normal(size=count)).round(4)),
            )
            frame.write_csv(file, include_header=number == 0)


def fit(path: str, out: str) -> dict[str, float]:
    """Megabytes beside the import of torch, seconds, and how much of the target is told."""
    import torch  # noqa: F401

    before, began = peak(), time.perf_counter()
    run = fourfold.fit("mlp", path, out=out, target="y", minutes=MINUTES)
    seconds, megabytes = time.perf_counter() - began, peak() - before
    return {"megabytes": megabytes, "seconds": seconds, "r2": run.evaluate()["r2"]}


def measure(rows: int) -> dict[str, Any]:
    """One fit in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.csv"
        make(path, rows)
        command = [sys.executable, "-m", "benchmarks.tables_memory", str(path), f"{folder}/run"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return {
            "file, megabytes": round(path.stat().st_size / 1e6),
            "megabytes above the import of torch": round(found["megabytes"]),
            "seconds": round(found["seconds"]),
            "r2 of the test rows": round(found["r2"], 3),
        }


if __name__ == "__main__":
    print(json.dumps(fit(*sys.argv[1:])))
