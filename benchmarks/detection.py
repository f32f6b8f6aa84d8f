"""The detector on BCCD's photographs of blood (its own split lists) and on the embedded digits.

    python -m benchmarks.detection --minutes 22 --then 19    # gone on with, from its weights, for another 19
    python -m benchmarks.detection --digits
    python -m benchmarks.detection --run runs/detector-1     # a run that is fitted on bccd already

Goal: mAP@0.5 of 0.85 on the 72 test photographs. Training from drawn weights, no weights of other programs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import fourfold
from benchmarks.side_by_side import data_file, keep
from fourfold.core.run import Run

BLOOD = {"flip_vertical": True, "optimizer.ema": 0.995}
"""Under a microscope up and down mean nothing."""


THEN = {"flip_vertical": True, "optimizer.ema": 0.998, "optimizer.lr": 1.5e-3}


def scores(run: Run) -> dict[str, float]:
    """Average precision on the test split, and what it took."""
    found = {name: round(value, 4) for name, value in run.evaluate().values.items()}
    lines = [line for line in run.metrics.lines if "step" in line]
    return {**found, "steps": lines[-1]["step"]}


def fitted(place: Path, minutes: float, then: float) -> tuple[Run, list[float]]:
    """From drawn weights, and from those again."""
    first = place / "first"
    run = fourfold.fit("detector", "bccd", out=first, minutes=minutes, **BLOOD)
    if not then:
        return run, [minutes]
    more = fourfold.fit("detector", "bccd", from_=first, out=place / "second", minutes=then, **THEN)
    return more, [minutes, then]


def kept(run: Run, parts: list[float]) -> None:
    """Write the numbers down."""
    told = " + ".join(f"{part:g}" for part in parts)
    keep("detection", {f"BCCD, test split, {told} minutes": {**scores(run), "minutes": sum(parts)}})


def main() -> None:
    """Fit, or take a run that is fitted, and keep the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=22.0)
    parser.add_argument("--then", type=float, default=0.0)
    parser.add_argument("--digits", action="store_true")
    parser.add_argument("--run", default="")
    arguments = parser.parse_args()
    if arguments.digits:
        began = time.perf_counter()
        run = fourfold.fit("detector", None, out=False)
        seconds = round(time.perf_counter() - began)
        keep("detection", {"embedded digits": {**scores(run), "seconds": seconds}})
        return
    data_file("bccd/bccd.tar.gz")
    if arguments.run:
        run = fourfold.open(arguments.run)
        parts = [float(run.system.optimizer.model_dump()["minutes"] or 0)]
        if origin := run.about.get("from"):
            earlier = fourfold.open(origin)
            parts.insert(0, float(earlier.system.optimizer.model_dump()["minutes"] or 0))
        kept(run, parts)
        return
    with tempfile.TemporaryDirectory() as folder:
        kept(*fitted(Path(folder), arguments.minutes, arguments.then))


if __name__ == "__main__":
    main()
