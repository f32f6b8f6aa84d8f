"""Fitting a run's system again on other rows of its own table, in memory: fewer rows, drawn rows, other options.

Shapes: N rows, C classes or labels, F fits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from fourfold.core.options import merge
from fourfold.core.run import Run
from fourfold.data.splits import VALID
from fourfold.data.table import TableData
from fourfold.tasks.gathering import Predictions, gather

if TYPE_CHECKING:
    import polars as pl


def rows_of(run: Run) -> tuple[pl.DataFrame, np.ndarray]:
    """A run's whole table and the part of each row.

    Raises:
        UserError: the source is gone or has changed.
    """
    data = cast(TableData, run.examples())
    assert data.rows is not None and data.parts is not None  # noqa: S101
    return data.rows.frame(), data.parts


def refitted(run: Run, rows: np.ndarray, options: dict[str, Any] | None = None) -> Run:
    """The run's system on some of its table's rows, from data to weights, in memory.

    Args:
        run: whose configuration and validation rows to take.
        rows: numbers of training rows; one that stands there twice counts twice.
        options: overrides by field path.
    """
    frame, parts = rows_of(run)
    held = frame[np.flatnonzero(parts == VALID)]
    whole = {"data.split": (1.0, 0.0, 0.0), "data.fold": None}
    system = merge(type(run.system), {**whole, **(options or {})}, base=run.system)
    again = Run(system, seed=run.seed, device=run.device_name)
    devices = [run.device] if run.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        torch.manual_seed(run.seed)
        valid = held if held.height else None
        again.data = system.data.open(frame[rows], seed=run.seed, valid=valid)
        again.model = system.build(again.data).to(again.device)
        again.objective = system.objective.prepare(again)
        torch.manual_seed(run.seed + 1)
        system.optimizer.minimize(again.objective, again.model, again.data, again)
    if again.best is not None:
        again.model.load_state_dict(again.best)
    again.model.eval()
    return again


def budget(run: Run, share: float) -> dict[str, Any]:
    """Options by which a share of the rows is trained on for as many steps as all of them."""
    epochs = getattr(run.system.optimizer, "epochs", None)
    return {} if epochs is None else {"optimizer.epochs": epochs / share}


def told(run: Run, again: Run, frame: pl.DataFrame) -> Predictions:
    """What a run that was fitted again predicts of rows, its classes in the order of the first run's."""
    data = cast(TableData, again.data).reopen(frame, seed=run.seed, whole=True, targets=False)
    found = gather(again, data, "test")
    wanted, given = cast(TableData, run.data).target.classes, data.target.classes
    if data.target.kind != "category" or wanted == given:
        return found
    values = np.zeros((len(found.values), len(wanted)))
    values[:, [wanted.index(name) for name in given]] = found.values
    return Predictions(values)


def share_of(
    codes: np.ndarray | None, rows: np.ndarray, share: float, random: np.random.Generator
) -> np.ndarray:
    """A share of some rows, drawn, with one row of each class at least.

    Args:
        codes: (N,) class of every row; None where there are no classes.
        rows: numbers of rows to draw from.
        share: above 0; 1 takes all.
        random: draws.
    """
    if share == 1:
        return rows
    some = random.permutation(rows)[: max(2, round(share * len(rows)))]
    return np.sort(_with_all_classes(codes, rows, some))


def bootstrap(
    codes: np.ndarray | None, rows: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """As many rows drawn with replacement, and one more of each class that was missed (Efron 1979)."""
    return np.sort(_with_all_classes(codes, rows, random.choice(rows, len(rows))))


def codes_of(run: Run, frame: pl.DataFrame) -> np.ndarray | None:
    """(N,) number of each row's class, whatever it is; None if the target is no category."""
    target = cast(TableData, run.data).target
    if target.kind != "category":
        return None
    return frame[target.name].rank("dense").fill_null(0).to_numpy()


def _with_all_classes(codes: np.ndarray | None, rows: np.ndarray, some: np.ndarray) -> np.ndarray:
    if codes is None:
        return some
    missed = np.setdiff1d(codes[rows], codes[some])
    firsts = [rows[np.argmax(codes[rows] == code)] for code in missed]
    return np.concatenate([some, np.array(firsts, dtype=some.dtype)])
