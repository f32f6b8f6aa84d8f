"""What gradient boosting of trees makes of the same prepared rows: a yardstick that needs no tuning.

Histogram boosting as in LightGBM (Ke et al. 2017), from scikit-learn.
Shapes: N rows, D prepared columns, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fourfold.core.parts import Split
from fourfold.data.table import TableData
from fourfold.tasks.gathering import Predictions
from fourfold.tasks.losses import places, rowwise

CLASSES = 30
"""More classes take a tree each and too long."""


def reference_losses(data: TableData, splits: Sequence[Split], probable: bool) -> np.ndarray | None:
    """(N,) the loss of each held-out row; None for labels and for very many classes.

    Args:
        data: the examples.
        splits: the held-out rows.
        probable: whether losses are of probabilities, or of decisions.
    """
    target = data.target
    if target.kind == "labels" or len(target.classes) > CLASSES:
        return None
    features, known, weights = _rows(data, ["train"])
    new, true, _ = _rows(data, splits)
    if target.kind == "number":
        values = data.original(_fitted("Regressor", features, known, weights).predict(new))
        found = Predictions(values, {}, data.original(true))
        return rowwise(target, found, probable)
    classifier = _fitted("Classifier", features, known, weights)
    told = np.zeros((len(new), len(target.classes)))
    told[:, classifier.classes_] = classifier.predict_proba(new)
    return rowwise(target, Predictions(told, {}, true), probable)


def _fitted(kind: str, features: np.ndarray, known: np.ndarray, weights: np.ndarray | None) -> Any:
    import sklearn.ensemble

    make = getattr(sklearn.ensemble, f"HistGradientBoosting{kind}")
    return make(random_state=0, early_stopping=False).fit(features, known, sample_weight=weights)


def _rows(
    data: TableData, splits: Sequence[Split]
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Features (N, D), targets and weights (N,) of some splits' rows, as they were prepared."""
    batches = [batch for split in splits for batch in data.batches(split)]
    chosen = places(sum(data.size(split) for split in splits))
    joined = {
        name: np.concatenate([batch[name].numpy() for batch in batches])[chosen]
        for name in batches[0]
    }
    return joined["features"].astype(np.float64), joined["targets"], joined.get("weight")
