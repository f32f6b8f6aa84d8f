"""Contributions against their definition, importance against closed forms, dependence against scikit-learn."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from fourfold.tasks.attribution import (
    groups_of,
    linear,
    partial_dependence,
    permutation,
    shapley,
)


def curved(rows: np.ndarray) -> np.ndarray:
    return rows[:, 0] * rows[:, 1] + np.sin(rows[:, 2]) + rows[:, 3] * rows[:, 4] ** 2


def exact(row: np.ndarray, background: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Shapley values by their definition: every subset of the groups."""
    count = int(group.max()) + 1

    def value(subset: tuple[int, ...]) -> float:
        mixed = np.where(np.isin(group, subset), row, background)
        return float(curved(mixed).mean())

    found = np.zeros(count)
    for player in range(count):
        others = [g for g in range(count) if g != player]
        for size in range(count):
            for subset in itertools.combinations(others, size):
                share = (
                    math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
                )
                found[player] += share * (value((*subset, player)) - value(subset))
    return found


def test_contributions_are_shapley_values_of_the_original_columns() -> None:
    random = np.random.default_rng(0)
    background, rows = random.normal(size=(20, 5)), random.normal(size=(3, 5))
    group = np.array([0, 1, 1, 2, 3])  # columns 1 and 2 come from one
    found = shapley(curved, rows, background, group, permutations=4_000, random=random)
    assert found.permutations == 4_000
    wanted = np.stack([exact(row, background, group) for row in rows])
    # 5 standard errors, which must be small themselves
    assert (np.abs(found.contributions - wanted) < 5 * found.errors + 1e-9).all()
    assert found.errors.max() < 0.1


def test_contributions_add_up_exactly_with_few_permutations() -> None:
    random = np.random.default_rng(1)
    background, rows = random.normal(size=(7, 5)), random.normal(size=(4, 5))
    found = shapley(curved, rows, background, np.arange(5), permutations=1, random=random)
    assert found.permutations == 14  # each background row, there and back
    total = found.base + found.contributions.sum(axis=1)
    np.testing.assert_allclose(total, curved(rows), rtol=1e-10)
    np.testing.assert_allclose(found.base, curved(background).mean(), rtol=1e-10)


def test_a_linear_model_needs_no_sampling() -> None:
    random = np.random.default_rng(2)
    weights, group = random.normal(size=6), np.array([0, 0, 1, 2, 2, 2])
    background, rows = random.normal(size=(30, 6)), random.normal(size=(5, 6))
    found = linear(weights, rows, background.mean(axis=0), group)
    sampled = shapley(
        lambda x: x @ weights, rows, background, group, permutations=60, random=random
    )
    np.testing.assert_allclose(found, sampled.contributions, rtol=1e-9, atol=1e-12)


def test_a_column_that_nothing_depends_on_has_no_part() -> None:
    random = np.random.default_rng(3)
    background, rows = random.normal(size=(10, 3)), random.normal(size=(2, 3))
    told = shapley(
        lambda x: x[:, 0] ** 2, rows, background, np.arange(3), permutations=20, random=random
    )
    np.testing.assert_array_equal(told.contributions[:, 1:], 0)
    worse, _ = permutation(
        lambda x: float((x[:, 0] ** 2).mean()), rows, np.arange(3), repeats=2, random=random
    )
    np.testing.assert_allclose(worse, 0, atol=1e-15)


def test_shuffling_a_column_of_a_linear_model_costs_twice_its_share_of_the_variance() -> None:
    random = np.random.default_rng(4)
    x, weights = random.normal(size=(4_000, 3)), np.array([3.0, 1.0, 0.0])
    y = x @ weights + random.normal(size=4_000)
    found, spread = permutation(
        lambda rows: float(((rows @ weights - y) ** 2).mean()),
        x,
        np.arange(3),
        repeats=20,
        random=random,
    )
    np.testing.assert_allclose(found, 2 * weights**2, atol=0.5)
    assert found[2] == 0 and spread[2] == 0 and (spread[:2] > 0).all()


def test_columns_of_one_source_are_shuffled_together() -> None:
    random = np.random.default_rng(5)
    one_hot = np.eye(3)[random.integers(0, 3, 200)]
    seen = []

    def look(rows: np.ndarray) -> float:
        seen.append(rows.sum(axis=1))
        return 0.0

    permutation(look, one_hot, np.zeros(3, dtype=int), repeats=2, random=random)
    assert len(seen) == 3 and all((s == 1).all() for s in seen)


def test_partial_dependence_equals_scikit_learn() -> None:
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.inspection import partial_dependence as oracle

    random = np.random.default_rng(6)
    x = random.normal(size=(300, 3))
    model = HistGradientBoostingRegressor(max_iter=20).fit(x, x[:, 0] * x[:, 1] + x[:, 2])
    wanted = oracle(model, x, [1], grid_resolution=7, kind="average", method="brute")
    found = partial_dependence(model.predict, x, np.array([1]), wanted["grid_values"][0][:, None])
    np.testing.assert_allclose(found[:, 0], wanted["average"][0], rtol=1e-10)


@pytest.mark.parametrize("sources", [["a", "a", "b"], ["b", "a", "b"]])
def test_groups_follow_the_original_columns(sources: list[str]) -> None:
    names, group = groups_of(sources)
    assert [names[g] for g in group] == sources


def test_what_a_column_is_set_to() -> None:
    """A number with gaps also loses its indicator; yes and no are 0 and 1; units are the column's own."""
    from fourfold.data.table import Tabular
    from fourfold.tasks.effects import _settings

    random = np.random.default_rng(0)
    age = random.normal(50, 10, 200)
    age[::5] = np.nan
    frame = {"age": age, "smokes": random.choice(["no", "yes"], 200), "y": random.normal(size=200)}
    data = Tabular(target="y", dtype="float64").open(frame)
    rows = next(data.batches("train"))["features"].numpy()
    names = [(c.source, c.kind) for c in data.columns]
    ((_, which, values, units),) = _settings(data, "age", rows)
    assert [names[i] for i in which] == [("age", "number"), ("age", "missing")]
    assert (values[:, 1] == 0).all()
    assert 30 < units[0] < 45 and 55 < units[-1] < 70
    ((_, which, values, words),) = _settings(data, "smokes", rows)
    assert dict(zip(words, values[:, 0].tolist(), strict=True)) == {"no": 0.0, "yes": 1.0}
