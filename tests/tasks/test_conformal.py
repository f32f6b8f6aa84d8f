"""Intervals and sets: coverage on a known process, and the definitions by brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.tasks import conformal

SEEDS = 200


@pytest.mark.parametrize("level", [0.8, 0.9])
def test_split_intervals_hold_the_truth_as_often_as_they_say(level: float) -> None:
    # errors that are skewed, heavy-tailed and wider where x is large; the model knows nothing of it
    inside = []
    for seed in range(SEEDS):
        random = np.random.default_rng(seed)
        x = random.uniform(0, 3, 499 + 2_000)
        y = np.sin(x) + (0.2 + x) * (random.gamma(2, 1, len(x)) - 2)
        predicted = 0.5 * x  # a poor model: coverage must hold all the same
        held, new = slice(0, 499), slice(499, None)
        scores = conformal.distance(predicted[held], predicted[held], y[held])
        low, high = conformal.interval(predicted[new], predicted[new], scores, level)
        inside.append(np.mean((low <= y[new]) & (y[new] <= high)))
    assert np.mean(inside) == pytest.approx(level, abs=0.02)
    # the exact law: level is the mean over draws of the held-out rows
    assert np.mean(inside) == pytest.approx(level, abs=4 * np.std(inside) / math.sqrt(SEEDS))


def test_intervals_around_quantiles_hold_the_truth_and_follow_the_spread() -> None:
    inside, ratio = [], []
    for seed in range(SEEDS):
        random = np.random.default_rng(seed)
        x = random.uniform(0.1, 3, 499 + 2_000)
        y = x * random.normal(size=len(x))
        low, high = -x, x  # a band of about 68%, asked for 90%
        scores = conformal.distance(low[:499], high[:499], y[:499])
        lower, upper = conformal.interval(low[499:], high[499:], scores, 0.9)
        inside.append(np.mean((lower <= y[499:]) & (y[499:] <= upper)))
        wide = upper - lower
        ratio.append(wide[x[499:] > 2.5].mean() / wide[x[499:] < 0.5].mean())
    assert np.mean(inside) == pytest.approx(0.9, abs=0.02)
    assert np.mean(ratio) > 1.5


def test_cv_plus_holds_the_truth_on_ridge_folds() -> None:
    level, folds, inside = 0.9, 5, []
    for seed in range(SEEDS):
        random = np.random.default_rng(seed)
        weights = random.normal(size=8)
        x = random.normal(size=(60 + 400, 8))
        y = x @ weights + random.standard_t(4, len(x))
        fold = np.arange(60) % folds
        low, scores = [], []
        for k in range(folds):
            seen, out = x[:60][fold != k], x[:60][fold == k]
            solved = np.linalg.solve(seen.T @ seen + np.eye(8), seen.T @ y[:60][fold != k])
            low.append(x[60:] @ solved)
            scores.append(np.abs(out @ solved - y[:60][fold == k]))
        band = np.array(low)
        lower, upper = conformal.cross_interval(band, band, scores, level)
        inside.append(np.mean((lower <= y[60:]) & (y[60:] <= upper)))
    assert np.mean(inside) == pytest.approx(level, abs=0.02)


@given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from([0.5, 0.8, 0.9]))
def test_cv_plus_equals_its_definition(seed: int, folds: int, level: float) -> None:
    random = np.random.default_rng(seed)
    scores = [random.uniform(0, 1, random.integers(1, 12)) for _ in range(folds)]
    predicted = random.normal(size=(folds, 3))
    lower, upper = conformal.cross_interval(predicted, predicted, scores, level)
    total = sum(map(len, scores))
    for row in range(3):
        below = sorted(
            p - s for p, some in zip(predicted[:, row], scores, strict=True) for s in some
        )
        above = sorted(
            p + s for p, some in zip(predicted[:, row], scores, strict=True) for s in some
        )
        # Barber et al.: the floor(alpha (n + 1))-th smallest below, the ceil((1 - alpha)(n + 1))-th above
        first = math.floor((1 - level) * (total + 1) + 1e-9)
        last = math.ceil(level * (total + 1) - 1e-9)
        wanted = (-math.inf, math.inf) if first < 1 else (below[first - 1], above[last - 1])
        if wanted[0] > wanted[1]:
            wanted = (sum(wanted) / 2,) * 2
        assert (lower[row], upper[row]) == pytest.approx(wanted)


@pytest.mark.parametrize("level", [0.8, 0.9])
def test_sets_hold_the_true_class_as_often_as_they_say(level: float) -> None:
    inside, across = [], []
    for seed in range(SEEDS):
        random = np.random.default_rng(seed)
        x = random.normal(size=(500 + 1_000, 4))
        true = (x + random.gumbel(size=x.shape)).argmax(
            axis=1
        )  # softmax(x) is the truth: 50% right
        told = np.exp(2 * x) / np.exp(2 * x).sum(axis=1, keepdims=True)  # over-confident
        scores = conformal.improbability(told[:500], true[:500])
        new = np.arange(1_000), true[500:]
        inside.append(conformal.sets(told[500:], scores, level)[new].mean())
        parts = [scores[k::5] for k in range(5)]
        across.append(
            conformal.cross_sets(np.repeat(told[None, 500:], 5, 0), parts, level)[new].mean()
        )
    assert np.mean(inside) == pytest.approx(level, abs=0.02)
    np.testing.assert_allclose(across, inside)  # one model in all folds is the split


def test_a_set_is_never_empty() -> None:
    told = np.array([[0.4, 0.35, 0.25]])
    chosen = conformal.sets(told, np.zeros(100), 0.9)
    assert chosen.tolist() == [[True, False, False]]


@pytest.mark.parametrize(
    ("level", "needed"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)]
)
def test_too_few_rows_give_infinite_intervals(level: float, needed: int) -> None:
    assert conformal.fewest(level) == needed
    assert math.isinf(conformal.bound(np.zeros(needed - 1), level))
    assert conformal.bound(np.arange(needed, dtype=float), level) == needed - 1
    one = np.zeros((1, 1))
    lower, upper = conformal.cross_interval(one, one, [np.zeros(needed - 1)], level)
    assert math.isinf(lower[0]) and math.isinf(upper[0])
