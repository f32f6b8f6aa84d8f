"""`mlp` on tables beside scikit-learn's MLP, gradient boosting and linear models: quality, time, and PHM layers.

    python -m benchmarks.tables            # once 5-fold, one fold of the large sets: 15 minutes on two cores
    python -m benchmarks.tables --full     # five times 5-fold, one fold at three seeds of the large sets
    python -m benchmarks.tables housing digits --only phm
    python -m benchmarks.tables --rows 5_000_000    # peak memory on a CSV file (benchmarks/tables_memory.py)

All of a fold have the same rows to train on, to stop early or to choose settings by, and to be tested
on. Ours has its defaults; the peers are tuned (benchmarks/tables_peers.py). Errors are root mean
squared errors, in deviations of the target, or log losses; lower is better. Standard errors of paired
differences are those of Nadeau and Bengio (2003), because folds share their training rows.

`time` asks after how long ours has the best validation score (accuracy, R2) that scikit-learn's MLP had at
any of its epochs, as a share of the time that MLP took to it. Both run in turn, fold by fold, in one
process; both times include the preparation of the columns and each contender's own evaluations.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import polars as pl
import torch
from sklearn import datasets

import fourfold
from benchmarks import tables_memory
from benchmarks.side_by_side import data_file, keep
from benchmarks.tables_peers import PEERS, Result, Rows, network
from fourfold.core.console import Silent
from fourfold.core.run import Run
from fourfold.data.table import TableData
from fourfold.tasks.prediction import predictions

FOLDS = 5
SPLIT = (0.65, 0.15, 0.2)  # a fold takes the last share's place
PHM = (1, 2, 4, 8)


@dataclass(frozen=True)
class Set:
    """A table: where from, what to predict, which columns are categories."""

    load: Callable[[], pl.DataFrame]
    target: str
    classes: bool
    categories: tuple[str, ...] = ()
    many: tuple[str, ...] = ()
    """Categories of so many values that peers take their target's means (TargetEncoder)."""
    large: bool = False


def _builtin(name: str) -> Callable[[], pl.DataFrame]:
    return lambda: pl.from_pandas(getattr(datasets, f"load_{name}")(as_frame=True).frame)


def _titanic() -> pl.DataFrame:
    frame = pl.read_csv(data_file("titanic/train.csv"))
    return frame.drop("PassengerId", "Name", "Ticket", "Cabin")


def _rank() -> pl.DataFrame:
    path = data_file("lightgbm-lambdarank/rank.train.gz")
    x, y = datasets.load_svmlight_file(str(path))
    x = x.toarray()
    some = np.flatnonzero(x.std(axis=0) > 0)
    return pl.DataFrame({**{f"f{i}": x[:, i] for i in some}, "grade": y})


def _air() -> pl.DataFrame:
    path = data_file("small-time-series/beijing_pm25.csv.gz")
    frame = pl.read_csv(path, null_values="NA", infer_schema_length=None)
    return frame.drop("No").drop_nulls("pm2.5")


def _films() -> pl.DataFrame:
    from fourfold.data.catalog import find

    (path,) = find("movielens") or ()
    return pl.read_csv(path, separator="\t")


SETS: dict[str, Set] = {
    "wine": Set(_builtin("wine"), "target", True),
    "diabetes": Set(_builtin("diabetes"), "target", False),
    "breast cancer": Set(_builtin("breast_cancer"), "target", True),
    "titanic": Set(_titanic, "Survived", True, ("Sex", "Embarked", "Pclass")),
    "digits": Set(_builtin("digits"), "target", True),
    "web search": Set(_rank, "grade", False),
    "housing": Set(
        lambda: pl.read_csv(data_file("housing/housing.csv.gz")),
        "median_house_value",
        False,
        ("ocean_proximity",),
        large=True,
    ),
    "beijing air": Set(_air, "pm2.5", False, ("cbwd",), large=True),
    "movielens": Set(_films, "rating", False, many=("user", "item"), large=True),
}
"""From 178 to 100,000 rows."""


# --- ours ---------------------------------------------------------------------------------------


class Watch(Silent):
    """When each evaluation was done, and what it found."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.found: list[tuple[float, Mapping[str, float]]] = []

    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """See `Console.evaluation`."""
        self.found.append((time.perf_counter() - self.began, values))


@dataclass
class Fold:
    """One fold of a table: its rows are split as ours splits them."""

    chosen: Set
    frame: pl.DataFrame
    number: int
    seed: int

    def ours(self, **options: Any) -> tuple[Result, Watch, Run]:
        """Fit `mlp` in memory with its defaults but for these options."""
        watch = Watch()
        run = fourfold.fit(
            "mlp",
            self.frame,
            out=False,
            seed=self.seed,
            console=watch,
            target=self.chosen.target,
            target_kind="category" if self.chosen.classes else "number",
            fold=f"{self.number}/{FOLDS}",
            split=SPLIT,
            **options,
        )
        seconds = time.perf_counter() - watch.began
        rows = self.rows(run)
        found = predictions(run, cast(TableData, run.data), "test")[0]
        if not self.chosen.classes:  # standardized as the peers' targets are
            train = self.frame[self.chosen.target].cast(pl.Float64).to_numpy()[rows.splits["train"]]
            found = (found - train.mean()) / train.std()
        lowest = min(next(iter(values.values())) for _, values in watch.found)
        return Result(rows.error("test", found), lowest, seconds), watch, run

    def rows(self, run: Run) -> Rows:
        """The same rows for the peers."""
        parts = cast(TableData, run.data).parts
        assert parts is not None  # noqa: S101
        splits = {n: np.flatnonzero(parts == i) for i, n in enumerate(("train", "valid", "test"))}
        chosen = self.chosen
        return Rows.of(
            self.frame, chosen.target, splits, chosen.classes, chosen.categories, chosen.many
        )


def reached(watch: Watch, peer: Result, run: Run) -> float:
    """Seconds until ours had the best validation score of the peer, as scikit-learn scores; infinite if never."""
    data = cast(TableData, run.data)
    targets = torch.cat([batch["targets"] for batch in data.batches("valid")]).double()
    spread = float(targets.var(correction=0)) * data.target.scale**2
    for seconds, values in watch.found:
        score = values["accuracy"] if "accuracy" in values else 1 - values["mse"] / spread
        if score >= peer.score - 1e-9:
            return seconds
    return math.inf


def summary(
    errors: Mapping[str, list[float]], seconds: Mapping[str, list[float]]
) -> dict[str, Any]:
    """Means by contender, of one entry a fold; standard errors of the differences to ours, paired by fold."""
    ours = np.array(errors["fourfold"])
    told: dict[str, Any] = {"folds": len(ours)}
    for name, values in errors.items():
        told[name] = {
            "error": round(float(np.mean(values)), 4),
            "seconds": round(statistics.median(seconds[name]), 2),
        }
        if name != "fourfold":
            difference = np.array(values) - ours
            told[name]["worse than ours by"] = round(float(difference.mean()), 4)
            told[name]["standard error"] = round(corrected(difference), 4)
    return told


def corrected(differences: np.ndarray) -> float:
    """Standard error of a mean over folds that share training rows (Nadeau and Bengio 2003, equation 8)."""
    if len(differences) < 2:
        return math.nan
    share = SPLIT[2] / (1 - SPLIT[2])
    return float(math.sqrt((1 / len(differences) + share) * differences.var(ddof=1)))


def each_fold(name: str, repeats: int, folds: int) -> Iterator[Fold]:
    """Every repeat has a seed of its own."""
    chosen = SETS[name]
    frame = chosen.load()
    for seed in range(repeats):
        for number in range(1, folds + 1):
            yield Fold(chosen, frame, number, seed)


def quality(name: str, repeats: int, folds: int) -> dict[str, Any]:
    """Errors on test rows and seconds of whole fits: ours and the peers."""
    errors, seconds = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for fold in each_fold(name, repeats, folds):
        result, _, run = fold.ours()
        rows = fold.rows(run)
        results = {"fourfold": result, **{p: fit(rows, fold.seed) for p, fit in PEERS.items()}}
        for contender, found in results.items():
            errors[contender].append(found.test)
            seconds[contender].append(found.seconds)
    return summary(errors, seconds)


def race(name: str, repeats: int, folds: int) -> dict[str, Any]:
    """Time until ours has the best validation score of scikit-learn's MLP, over the time that MLP takes to it."""
    ratios, ours, theirs = [], [], []
    for fold in each_fold(name, repeats, folds):
        if not ratios:
            fold.ours(epochs=1)  # what is loaded once in a process is no part of a fit
        _, watch, run = fold.ours()
        peer = network(fold.rows(run), fold.seed)
        ours.append(reached(watch, peer, run))
        theirs.append(peer.best_after)
        ratios.append(ours[-1] / theirs[-1])
    there = [seconds for seconds in ours if seconds < math.inf]
    return {
        "of its time": round(statistics.median(ratios), 2),
        "reached in": f"{len(there)} of {len(ours)} folds",
        "seconds": round(statistics.median(ours), 3),
        "its seconds": round(statistics.median(theirs), 3),
    }


def phm(name: str, repeats: int, folds: int) -> dict[str, Any]:
    """PHM layers: error, parameters and seconds by n."""
    found: dict[str, list[tuple[float, int, float]]] = {f"n = {n}": [] for n in PHM}
    for fold in each_fold(name, repeats, folds):
        for n, results in zip(PHM, found.values(), strict=True):
            result, _, run = fold.ours(phm=n)
            parameters = sum(p.numel() for p in run.model.parameters())
            results.append((result.test, parameters, result.seconds))
    told: dict[str, Any] = {}
    for n, results in found.items():
        errors, parameters, seconds = zip(*results, strict=True)
        told[n] = {
            "error": round(statistics.mean(errors), 4),
            "parameters": int(statistics.median(parameters)),
            "seconds": round(statistics.median(seconds), 2),
        }
    return {"folds": len(results), **told}


PARTS = {"quality": quality, "time": race, "phm": phm}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sets", nargs="*", choices=[[], *SETS], help="of these tables only")
    parser.add_argument("--full", action="store_true", help="five times 5-fold, three seeds")
    parser.add_argument("--repeats", type=int, help="times that the folds are drawn anew")
    parser.add_argument("--only", choices=PARTS, action="append", help="a part of it only")
    parser.add_argument("--rows", type=int, help="peak memory on a CSV file of so many rows")
    given = parser.parse_args()
    if given.rows:
        memory = tables_memory.measure(given.rows)
        print(memory)
        keep("tables", {f"memory, CSV of {given.rows:,} rows": memory})
        return
    for part in given.only or PARTS:
        for name in given.sets or SETS:
            large = SETS[name].large
            repeats, folds = ((3, 1) if large else (5, 5)) if given.full else (1, 1 if large else 5)
            found = PARTS[part](name, given.repeats or repeats, folds)
            print(f"{name}, {part}", found, flush=True)
            keep("tables", {f"{name}, {part}": found})


if __name__ == "__main__":
    main()
