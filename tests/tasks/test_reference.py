"""The yardstick of gradient boosting counts rows as the run does."""

from __future__ import annotations

import numpy as np

from fourfold.core.targets import Target
from fourfold.tasks.gathering import Sample
from fourfold.tasks.reference import reference_losses


def test_rows_of_weight_zero_teach_it_nothing() -> None:
    x = np.random.default_rng(0).normal(size=(400, 1))
    weight = np.tile([1.0, 0.0], 200)
    opposite = np.where(weight > 0, 1.0, -1.0)
    number = Sample(x, x[:, 0] * opposite, weight)
    held = Sample(x[:100], x[:100, 0])
    losses = reference_losses(Target("y", "number"), number, held, True)
    assert losses is not None and losses.mean() < 0.05
    side = Target("side", "category", ("left", "right"))
    classes = Sample(x, (x[:, 0] * opposite > 0).astype(np.int64), weight)
    wrong = reference_losses(side, classes, Sample(x[:100], held.true > 0), False)  # type: ignore[operator]
    assert wrong is not None and wrong.mean() < 0.05
