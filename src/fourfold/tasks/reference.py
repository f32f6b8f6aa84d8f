"""What gradient boosting of trees makes of the same prepared rows: a yardstick that needs no tuning.

Histogram boosting as in LightGBM (Ke et al. 2017), from scikit-learn.
Shapes: N rows, D prepared columns, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fourfold.core.targets import Target
from fourfold.tasks.gathering import Predictions, Sample
from fourfold.tasks.losses import rowwise

CLASSES = 10
"""More classes take a tree each and too long."""


def reference_losses(
    target: Target, train: Sample, held: Sample, probable: bool
) -> np.ndarray | None:
    """(N,) the loss of each held-out row; None for labels and for very many classes.

    Args:
        target: of both.
        train: prepared rows to fit on.
        held: prepared rows to measure on.
        probable: whether losses are of probabilities, or of decisions.
    """
    if target.kind == "labels" or len(target.classes) > CLASSES:
        return None
    if target.kind == "number":
        told = _fitted("Regressor", train).predict(held.features)
    else:
        classifier = _fitted("Classifier", train)
        told = np.zeros((len(held.features), len(target.classes)))
        told[:, classifier.classes_] = classifier.predict_proba(held.features)
    return rowwise(target, Predictions(told, {}, held.true), probable)


def _fitted(kind: str, rows: Sample) -> Any:
    import sklearn.ensemble

    make = getattr(sklearn.ensemble, f"HistGradientBoosting{kind}")
    model = make(random_state=0, early_stopping=False)
    return model.fit(rows.features.astype(np.float64), rows.true, sample_weight=rows.weight)
