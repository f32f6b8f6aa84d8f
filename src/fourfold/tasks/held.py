"""What a run keeps of rows that its model has not learned from: how far predictions were off, calibrations.

    runs/housing/
      held-out.safetensors   conformal scores of the validation rows (of a fold: of its test rows too), calibrators
      folds/1 ...            runs of the folds, each with its own

Shapes: M held-out rows, N rows, C classes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.core.state import load_state, save_state
from fourfold.core.targets import Target
from fourfold.data.splits import TEST
from fourfold.data.table import TableData
from fourfold.tasks import conformal
from fourfold.tasks.calibration import METHODS, Calibrator, fit_all
from fourfold.tasks.gathering import Predictions, gather

FILE = "held-out.safetensors"


@dataclass(frozen=True)
class Held:
    """What is kept of the validation rows."""

    scores: np.ndarray
    """(M,) conformal scores of the validation rows."""
    unseen: np.ndarray
    """(M,) of the test rows, where the run is one fold of several; otherwise empty."""
    calibrators: dict[str, Calibrator] = field(default_factory=dict)


def hold(run: Run) -> Held:
    """Predict the held-out rows of a run whose examples are there."""
    data = cast(TableData, run.examples())
    found = gather(run, data, "valid")
    unseen = np.empty(0)
    if getattr(data.options, "fold", None):
        unseen = _scores(data.target, gather(run, data, "test"))
    calibrators: dict[str, Calibrator] = {}
    if data.target.kind != "number" and found.true is not None:
        calibrators = fit_all(found.values, found.true, found.weight)
    return Held(_scores(data.target, found), unseen, calibrators)


def keep(run: Run) -> None:
    """Write what a later predict needs, while the rows are there; a run in memory keeps its rows instead."""
    if run.folder is None:
        return
    try:
        run.examples()
    except UserError:
        return  # a run that is saved after its rows were given away; what needs them will say so
    held = hold(run)
    calibrators = {name: c.state() for name, c in held.calibrators.items()}
    arrays = {"scores": held.scores, "unseen": held.unseen}
    tensors = {name: torch.from_numpy(values) for name, values in arrays.items()}
    save_state(run.folder / FILE, {**tensors, "calibrators": calibrators})


def held(run: Run) -> Held:
    """What was kept of the held-out rows, or what they say now.

    Raises:
        UserError: nothing was kept and the rows are gone.
    """
    path = run.folder / FILE if run.folder is not None else None
    if path is None or not path.exists():
        return hold(run)
    state = load_state(path)
    calibrators = {
        name: METHODS[name].of_state(stored)  # type: ignore[index]
        for name, stored in state["calibrators"].items()
    }
    return Held(state["scores"].numpy(), state["unseen"].numpy(), calibrators)


@dataclass(frozen=True)
class Bounds:
    """Intervals or sets of new rows, and where they come from."""

    sentence: str
    low: np.ndarray | None = None
    """(N,) in the target's units."""
    high: np.ndarray | None = None
    chosen: np.ndarray | None = None
    """(N, C) bool: the classes that are probable enough."""


def bounds(
    run: Run, data: TableData, found: Predictions, level: float, *, folds: bool = True
) -> Bounds:
    """Conformal intervals of predicted numbers or sets of predicted classes.

    From the folds where the run was cross-validated, otherwise from its validation rows.

    Args:
        run: the run.
        data: the new rows, as its test split.
        found: what the run predicts of them.
        level: probability with which the truth should lie within.
        folds: False leaves the folds aside, as for rows of the run's own table, which most of them have seen.

    Raises:
        UserError: the target is a set of labels, or there are no held-out rows.
    """
    target = data.target
    if target.kind == "labels":
        raise UserError(
            f"--interval is for a number or a category; {target.name} is a set of labels"
        )
    runs = fold_runs(run.folder) if folds and run.folder is not None else []
    if runs and not data.options.ordered:
        kept = [held(fold).unseen for fold in runs]
        each = [gather(fold, _under(fold, data), "test") for fold in runs]
        made = _crossed(target, each, kept, level)
        count, source = sum(map(len, kept)), f"rows of {len(runs)} folds"
    else:
        scores = held(run).scores
        count, source = len(scores), "validation rows"
        made = _split(target, found, scores, level)
    if not count:
        raise UserError(
            "--interval: this run has no validation rows to measure its errors on; "
            "fit it with some: --data.split 0.8,0.1,0.1, --valid FILE or --folds 5"
        )
    said = f"{'Intervals' if target.kind == 'number' else 'Sets'} at {level:.4g} from {count:,} {source}"
    if conformal.rank(level, count) > count:
        needed = conformal.fewest(level)
        said += f", too few: this level takes {needed:,}, so that every {_whole(target)}"
    if data.options.ordered:
        said += "; rows in order of time may drift away from them"
    return Bounds(f"{said}.", **made)


def fold_runs(folder: Path) -> list[Run]:
    """The runs of the folds of the first repeat, where a run was cross-validated."""
    path = folder / "folds.json"
    if not path.exists():
        return []
    told = json.loads(path.read_text(encoding="utf-8"))
    return [Run.open(folder / place) for place in told["runs"][: told["folds"]]]


def _whole(target: Target) -> str:
    return "interval is infinite" if target.kind == "number" else "set holds all classes"


def _scores(target: Target, found: Predictions) -> np.ndarray:
    """(M,) conformal scores; rows of weight 0 do not count, all others once."""
    if found.true is None or target.kind == "labels":
        return np.empty(0)
    counted = np.ones(len(found.true), bool) if found.weight is None else found.weight > 0
    if target.kind == "category":
        return conformal.improbability(found.values, found.true)[counted]
    return conformal.distance(*_band(found), found.true)[counted]


def _band(found: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """(N,), (N,) the outermost predicted quantiles; twice the prediction where there are none."""
    levels = [name for name in found.further if name.startswith("quantile_")]
    if len(levels) < 2:
        return found.values, found.values
    return found.further[levels[0]], found.further[levels[-1]]


def _split(target: Target, found: Predictions, scores: np.ndarray, level: float) -> dict[str, Any]:
    if target.kind == "category":
        return {"chosen": conformal.sets(found.values, scores, level)}
    low, high = conformal.interval(*_band(found), scores, level)
    return {"low": low, "high": high}


def _crossed(
    target: Target, each: list[Predictions], scores: list[np.ndarray], level: float
) -> dict[str, Any]:
    if target.kind == "category":
        told = np.stack([found.values for found in each])
        return {"chosen": conformal.cross_sets(told, scores, level)}
    bands = [_band(found) for found in each]
    low, high = (np.stack([band[i] for band in bands]) for i in (0, 1))
    low, high = conformal.cross_interval(low, high, scores, level)
    return {"low": low, "high": high}


def _under(fold: Run, data: TableData) -> TableData:
    """The same rows, prepared as a fold's run prepares them."""
    assert data.rows is not None and data.parts is not None  # noqa: S101
    frame = data.rows.frame()[np.flatnonzero(data.parts == TEST)]
    return cast(TableData, fold.data).reopen(frame, seed=fold.seed, whole=True, targets=False)
