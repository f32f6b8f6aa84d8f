"""What a run predicts of the rows of a table, gathered in stored order.

Shapes: N rows, C classes or labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch

from fourfold.core.evaluation import to_device
from fourfold.core.parts import Split
from fourfold.core.run import Run
from fourfold.data.table import TableData
from fourfold.objectives.supervised import Supervised

AT_ONCE = 16_384
"""Rows predicted at a time."""


@dataclass(frozen=True)
class Predictions:
    """What is predicted of a split's rows in stored order, and what was true."""

    values: np.ndarray
    """(N,) numbers in the target's own units, or (N, C) probabilities, float64."""
    further: dict[str, np.ndarray] = field(default_factory=dict)
    """Further numbers by name, as quantiles, (N,) in the target's own units."""
    true: np.ndarray | None = None
    """(N,) numbers in the target's own units or numbers of classes, or (N, C) of 0 and 1."""
    weight: np.ndarray | None = None
    """(N,) how much each row counts; None is once each."""


def gather(run: Run, data: TableData, split: Split) -> Predictions:
    """Predict a split's rows in stored order."""
    objective, model = cast(Supervised, run.objective), run.model.eval()
    parts: dict[str, list[np.ndarray]] = {}
    with torch.no_grad():
        for batch in data.batches(split):
            moved: Any = to_device(batch, run.device)
            # doubles: the logarithm of a probability near 1 needs the digits
            outputs = model(moved["features"]).cpu().double()
            parts.setdefault("values", []).append(objective.predict(outputs).numpy())
            for name, values in objective.further(outputs).items():
                parts.setdefault(f"further {name}", []).append(values.numpy())
            for name in ("targets", "weight"):
                if name in batch:
                    parts.setdefault(name, []).append(batch[name].numpy())
    joined = {name: np.concatenate(pieces) for name, pieces in parts.items()}
    target = data.target
    shape = (0,) if target.kind == "number" else (0, len(target.classes))
    found, true = joined.get("values", np.empty(shape)), joined.get("targets")
    more = {n.removeprefix("further "): v for n, v in joined.items() if n.startswith("further ")}
    if target.kind == "number":
        found = data.original(found)
        true = None if true is None else data.original(true.astype(np.float64))
        more = {name: data.original(v) for name, v in more.items()}
    return Predictions(found, more, true, joined.get("weight"))


def answers(run: Run, features: np.ndarray) -> np.ndarray:
    """Predictions of prepared rows (N, D): (N,) numbers in the target's own units, or (N, C) probabilities."""
    data, objective = cast(TableData, run.data), cast(Supervised, run.objective)
    model = run.model.eval()
    given = torch.from_numpy(np.ascontiguousarray(features)).to(getattr(torch, data.options.dtype))
    with torch.no_grad():
        found = [
            objective.predict(model(part.to(run.device)).cpu().double()).numpy()
            for part in given.split(AT_ONCE)
        ]
    joined = np.concatenate(found)
    return data.original(joined) if data.target.kind == "number" else joined


@dataclass(frozen=True)
class Sample:
    """Some prepared rows of a split, with what is known of them."""

    features: np.ndarray
    """(N, D)."""
    true: np.ndarray | None = None
    """(N,) in the target's own units or numbers of classes, or (N, C)."""
    weight: np.ndarray | None = None


def sample(data: TableData, split: Split, most: int) -> Sample:
    """At most so many rows of a split, in even steps; a table that is streamed is passed over once."""
    count = data.size(split)
    places = np.linspace(0, count - 1, min(most, count)).astype(np.int64)
    if not len(places):
        return Sample(np.empty((0, len(data.columns))))
    if data.prepared.streams(split):
        parts: dict[str, list[np.ndarray]] = {}
        start = 0
        for batch in data.batches(split):
            size = len(batch["features"])
            here = places[(places >= start) & (places < start + size)] - start
            for name, values in batch.items():
                parts.setdefault(name, []).append(values.numpy()[here])
            start += size
        found = {name: np.concatenate(pieces) for name, pieces in parts.items()}
    else:
        found = {name: values.numpy() for name, values in data.take(split, places, None).items()}
    true = found.get("targets")
    if true is not None and data.target.kind == "number":
        true = data.original(true.astype(np.float64))
    return Sample(found["features"], true, found.get("weight"))


def samples(data: TableData, splits: Sequence[Split], most: int) -> Sample:
    """At most so many rows of several splits below one another, as many of each as its share."""
    total = max(1, sum(data.size(split) for split in splits))
    some = [sample(data, split, -(-most * data.size(split) // total)) for split in splits]
    return Sample(
        np.concatenate([s.features for s in some]),
        _below([s.true for s in some]),
        _below([s.weight for s in some]),
    )


def _below(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if known and len(known) == len(parts) else None
