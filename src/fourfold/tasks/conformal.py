"""Intervals and sets that hold the truth as often as they say, whatever the model and the distribution.

Split conformal prediction: Papadopoulos et al. 2002; Lei et al. 2018, https://arxiv.org/abs/1604.04173.
Around predicted quantiles: Romano, Patterson and Candès 2019, https://arxiv.org/abs/1905.03222. From
folds, CV+: Barber et al. 2021, https://arxiv.org/abs/1905.02928. Sets of classes, least ambiguous:
Sadinle, Lei and Wasserman 2019. All assume that new rows come from where the held-out rows came from.
Shapes: N new rows, M held-out rows, F folds, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

AT_ONCE = 1 << 22
"""Numbers that are sorted at a time."""


def rank(level: float, count: int) -> int:
    """The place, from 1, of the held-out score that bounds a new one with probability `level`.

    Of `count` held-out scores and a new one every order is as likely as another, so the new one lies
    at or below the k-th with probability k / (count + 1). Beyond `count` nothing bounds it.
    """
    return math.ceil(level * (count + 1) - 1e-9)


def fewest(level: float) -> int:
    """Held-out rows that a level takes at least: below, intervals are infinite."""
    return math.ceil(level / (1 - level) - 1e-9)


def bound(scores: np.ndarray, level: float) -> float:
    """The score that a new row's stays at or below with probability `level`; infinite if there are too few.

    Args:
        scores: (M,) of held-out rows, higher for rows that are further from what was predicted.
        level: between 0 and 1.
    """
    place = rank(level, len(scores))
    if place > len(scores):
        return math.inf
    return float(np.partition(scores, place - 1)[place - 1])


def distance(low: np.ndarray, high: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(M,) how far the truth lies outside of the predicted band; negative within it."""
    return np.maximum(low - true, true - high)


def interval(
    low: np.ndarray, high: np.ndarray, scores: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Split conformal intervals (N,), (N,): the predicted band, widened or narrowed by one number.

    Args:
        low, high: (N,) the band; twice the prediction where the model predicts one number.
        scores: (M,) `distance` of held-out rows.
        level: probability with which the interval should hold the truth.
    """
    margin = bound(scores, level)
    lower, upper = low - margin, high + margin
    crossed = lower > upper  # a band that was too wide may shrink beyond nothing
    middle = (low + high) / 2
    return np.where(crossed, middle, lower), np.where(crossed, middle, upper)


def cross_interval(
    low: np.ndarray, high: np.ndarray, scores: Sequence[np.ndarray], level: float
) -> tuple[np.ndarray, np.ndarray]:
    """CV+ intervals (N,), (N,): each held-out row's error around what the model that had not seen it predicts.

    They hold the truth with probability 2 level - 1 at least, and about `level` in practice.

    Args:
        low, high: (F, N) bands that the models of the folds predict.
        scores: of each fold, (M_f,) `distance` of the rows that its model had not seen.
        level: probability aimed at.
    """
    total = sum(map(len, scores))
    place = rank(level, total)
    count = low.shape[1]
    if place > total:
        return np.full(count, -math.inf), np.full(count, math.inf)
    lower, upper = np.empty(count), np.empty(count)
    step = max(1, AT_ONCE // total)
    for start in range(0, count, step):
        rows = slice(start, start + step)
        below = [band[rows, None] - s for band, s in zip(low, scores, strict=True)]
        above = [band[rows, None] + s for band, s in zip(high, scores, strict=True)]
        lower[rows] = np.partition(np.concatenate(below, 1), total - place, axis=1)[
            :, total - place
        ]
        upper[rows] = np.partition(np.concatenate(above, 1), place - 1, axis=1)[:, place - 1]
    middle = (lower + upper) / 2
    crossed = lower > upper
    return np.where(crossed, middle, lower), np.where(crossed, middle, upper)


def improbability(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(M,) one minus the probability (M, C) of the true class (M,)."""
    return 1 - predicted[np.arange(len(true)), true]


def sets(predicted: np.ndarray, scores: np.ndarray, level: float) -> np.ndarray:
    """(N, C) bool: the classes that are probable enough; the most probable one always is.

    Args:
        predicted: (N, C) probabilities.
        scores: (M,) `improbability` of held-out rows.
        level: probability with which the set should hold the true class.
    """
    return _with_the_best(1 - predicted <= bound(scores, level), predicted)


def cross_sets(predicted: np.ndarray, scores: Sequence[np.ndarray], level: float) -> np.ndarray:
    """(N, C) bool: the same from folds, after Romano, Sesia and Candès 2020, https://arxiv.org/abs/2006.02544.

    Args:
        predicted: (F, N, C) probabilities that the models of the folds predict.
        scores: of each fold, (M_f,) `improbability` of the rows that its model had not seen.
        level: probability aimed at.
    """
    below = np.zeros(predicted.shape[1:])
    for fold, held_out in zip(predicted, scores, strict=True):
        below += np.searchsorted(np.sort(held_out), 1 - fold, side="left")
    place = rank(level, sum(map(len, scores)))
    return _with_the_best(below < place, predicted.mean(axis=0))


def _with_the_best(chosen: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    chosen[np.arange(len(predicted)), predicted.argmax(axis=1)] = True
    return chosen
