"""Bias and variance of a system over values of its options, by fits on bootstrap samples.

Geman, Bienenstock and Doursat 1992; of probabilities, by the Brier score. Bootstrap: Efron 1979.
Shapes: N rows, C classes or labels, F fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out
from fourfold.core.options import options, resolve
from fourfold.core.run import Run
from fourfold.core.targets import Target
from fourfold.data.splits import TEST, TRAIN, VALID
from fourfold.data.table import TableData
from fourfold.tasks.gathering import gather
from fourfold.tasks.losses import places, some
from fourfold.tasks.refit import bootstrap, budget, codes_of, refitted, rows_of, share_of, told

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of an option's own value."""
FROM_ZERO = (0.0, 1e-4, 1e-3, 1e-2, 1e-1)
"""Where its own value is 0, as of weight decay."""
SHARES = (0.1, 0.2, 0.4, 0.8, 1.0)
"""Of the training rows."""
ROWS = "rows"


@dataclass(frozen=True)
class Spread:
    """Bias and variance over one option's values."""

    option: str
    values: tuple[float, ...]
    bias: tuple[float, ...]
    """Squared bias with the noise of the target, which no model takes away."""
    variance: tuple[float, ...]
    fits: int


def decompose(predicted: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Squared bias with noise, and variance, both unbiased; their sum is the mean squared error.

    Args:
        predicted: (F, N) or (F, N, C) of F fits on drawn rows, F >= 2.
        true: (N,) or (N, C) of 0 and 1.
    """
    variance = predicted.var(axis=0, ddof=1)
    error = ((predicted - true) ** 2).mean(axis=0)
    if predicted.ndim == 3:
        variance, error = variance.sum(axis=-1), error.sum(axis=-1)
    return float((error - variance).mean()), float(variance.mean())


def spreads(run: Run, names: Sequence[str], fits: int) -> list[Spread]:
    """Bias and variance on the held-out rows, one option at a time, the others as the run has them.

    Args:
        run: the run.
        names: options by full or short name, or "rows".
        fits: bootstrap samples for each value, 2 at least.

    Raises:
        UserError: no such option, or none that is a number; the rows are gone.
    """
    wanted = [(name, values_of(run, name)) for name in names]
    return [_spread(run, name, values, fits) for name, values in wanted]


def values_of(run: Run, name: str) -> tuple[float, ...]:
    """Values to be tried of an option: a quarter to four times its own.

    Raises:
        UserError: no such option, or it is no number.
    """
    if name == ROWS:
        return SHARES
    path = resolve(type(run.system), name)
    value: Any = run.system
    for key in path:
        value = getattr(value, key, None)
    if isinstance(value, bool) or not isinstance(value, int | float):
        numbers = [
            o.name for o in options(type(run.system)).values() if type(o.default) in (int, float)
        ]
        raise UserError(
            f"--spread {name}: expected an option that is a number, or rows, got {value!r}; "
            f"choose from {', '.join([ROWS, *numbers])}"
        )
    if value == 0:
        return FROM_ZERO
    if isinstance(value, int):
        return tuple(sorted({max(1, round(value * factor)) for factor in FACTORS}))
    return tuple(value * factor for factor in FACTORS)


def _spread(run: Run, name: str, values: tuple[float, ...], fits: int) -> Spread:
    frame, parts = rows_of(run)
    examples, split, _ = held_out(run)
    data = cast(TableData, examples)
    codes, train = codes_of(run, frame), np.flatnonzero(parts == TRAIN)
    held = frame[np.flatnonzero(parts == (TEST if split == "test" else VALID))]
    held = held[places(held.height)]
    true = some(gather(run, data, split)).true
    assert true is not None  # noqa: S101  # rows of a run's own source have their target
    bias, variance = [], []
    for value in values:
        predicted = []
        for number in range(fits):
            # the same samples for every value, so that the curves differ by the value alone
            random = np.random.default_rng([run.seed, number])
            if name == ROWS:
                rows = bootstrap(codes, share_of(codes, train, value, random), random)
                again = refitted(run, rows, budget(run, value))
            else:
                again = refitted(run, bootstrap(codes, train, random), {name: value})
            predicted.append(told(run, again, held).values)
        found = decompose(np.stack(predicted), _as_numbers(data.target, true))
        bias.append(found[0])
        variance.append(found[1])
    shown = tuple(float(round(v * len(train))) for v in values) if name == ROWS else values
    return Spread(name, shown, tuple(bias), tuple(variance), fits)


def _as_numbers(target: Target, true: np.ndarray) -> np.ndarray:
    """Targets as `decompose` takes them."""
    if target.kind != "category":
        return true
    return (true[:, None] == np.arange(len(target.classes))).astype(float)
