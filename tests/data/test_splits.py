"""Splits: nothing leaks, every row once, proportions, against scikit-learn's splitters where they are exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.data.splits import NONE, TEST, TRAIN, VALID, Fold, allot, divide

SHARES = (0.8, 0.1, 0.1)
seeds = st.integers(0, 10_000)


def drawn(seed: int, count: int, kinds: int) -> np.ndarray:
    return np.random.default_rng([seed, 1]).integers(0, kinds, count)


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(20, 200), st.integers(2, 7), st.integers(0, 2))
def test_each_row_is_tested_in_one_fold(seed: int, count: int, folds: int, kind: int) -> None:
    given_ = {}
    if kind == 1:
        given_["classes"] = drawn(seed, count, 3)
    if kind == 2:
        given_["groups"] = drawn(seed, count, 4 * folds)
    parts = [divide(count, SHARES, seed, fold=Fold(k + 1, folds), **given_) for k in range(folds)]
    tested = sum((p == TEST).astype(int) for p in parts)
    assert (tested == 1).all()
    for part in parts:
        assert set(np.unique(part)) <= {TRAIN, VALID, TEST} and (part == TRAIN).any()
        if kind != 2:
            assert abs((part == TEST).sum() - count / folds) < 1
            rest = count - (part == TEST).sum()
            assert abs((part == VALID).sum() - rest / 9) <= 3
    again = divide(count, SHARES, seed, fold=Fold(1, folds), **given_)
    np.testing.assert_array_equal(again, parts[0])


def test_the_seed_decides() -> None:
    for options in ({}, {"classes": np.arange(100) % 3}, {"groups": np.arange(100) // 2}):
        first = divide(100, SHARES, 1, **options)
        assert (divide(100, SHARES, 2, **options) != first).any()
        np.testing.assert_array_equal(divide(100, SHARES, 1, **options), first)


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(30, 300), st.integers(2, 6), st.booleans())
def test_groups_are_never_on_two_sides(seed: int, count: int, folds: int, classed: bool) -> None:
    groups = np.random.default_rng(seed).permutation(
        np.resize(np.arange(max(folds, count // 6)), count)
    )
    classes = drawn(seed + 1, count, 3) if classed else None
    for fold in (None, *(Fold(k, folds) for k in range(1, folds + 1))):
        parts = divide(count, SHARES, seed, fold=fold, groups=groups, classes=classes)
        for group in np.unique(groups):
            assert len(np.unique(parts[groups == group])) == 1
        assert {TRAIN, TEST} <= set(parts.tolist())


def test_groups_come_near_their_shares_and_classes() -> None:
    groups = np.repeat(np.arange(200), np.random.default_rng(0).integers(1, 30, 200))
    classes = (groups % 4 == 0).astype(int)  # a group is of one class
    parts = divide(len(groups), SHARES, 3, groups=groups, classes=classes)
    for part, share in enumerate(SHARES):
        assert (parts == part).mean() == pytest.approx(share, abs=0.01)
        assert classes[parts == part].mean() == pytest.approx(classes.mean(), abs=0.01)
    few = divide(15, SHARES, 0, groups=np.repeat([7, 8, 9], 5))
    assert sorted(np.bincount(few).tolist()) == [5, 5, 5]  # no part stays empty


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(30, 300), st.integers(2, 6))
def test_classes_keep_their_proportions(seed: int, count: int, kinds: int) -> None:
    random = np.random.default_rng(seed)
    classes = random.choice(kinds, count, p=random.dirichlet(np.ones(kinds)))
    parts = divide(count, SHARES, seed, classes=classes)
    for kind in np.unique(classes):
        of = parts[classes == kind]
        assert (of == TRAIN).any()
        for part, share in enumerate(SHARES):
            assert abs((of == part).sum() - share * len(of)) <= 2
    folds = [divide(count, SHARES, seed, fold=Fold(k, 5), classes=classes) for k in range(1, 6)]
    for kind in np.unique(classes):
        counts = [int((p[classes == kind] == TEST).sum()) for p in folds]
        assert max(counts) - min(counts) <= 1
        for part in folds:
            assert (part[classes == kind] == TRAIN).any() or (classes == kind).sum() == 1


def test_folds_have_the_counts_of_sklearn() -> None:
    from sklearn.model_selection import StratifiedKFold

    classes = np.repeat([0, 1, 2], [59, 71, 48])
    oracle = StratifiedKFold(4, shuffle=True, random_state=0).split(classes[:, None], classes)
    theirs = np.array([np.bincount(classes[test]) for _, test in oracle])
    parts = [divide(178, SHARES, 0, fold=Fold(k, 4), classes=classes) for k in range(1, 5)]
    ours = np.array([np.bincount(classes[p == TEST]) for p in parts])
    for axis in (0, 1):  # rows of each class in all folds, and of all classes in each fold
        np.testing.assert_array_equal(np.sort(ours.sum(axis)), np.sort(theirs.sum(axis)))
    np.testing.assert_array_equal(np.sort(ours, axis=0), np.sort(theirs, axis=0))


@given(st.integers(12, 200), st.integers(2, 8))
def test_forward_chaining_is_that_of_sklearn_and_never_sees_the_future(
    count: int, folds: int
) -> None:
    from sklearn.model_selection import TimeSeriesSplit

    oracle = TimeSeriesSplit(folds).split(np.zeros(count)) if count > folds else []
    for number, (train, test) in enumerate(oracle, start=1):
        parts = divide(count, SHARES, 0, fold=Fold(number, folds), ordered=True)
        np.testing.assert_array_equal(np.flatnonzero(parts == TEST), test)
        np.testing.assert_array_equal(np.flatnonzero((parts == TRAIN) | (parts == VALID)), train)
        learned, checked = np.flatnonzero(parts == TRAIN), np.flatnonzero(parts == VALID)
        assert learned.max() < test.min()
        assert not len(checked) or learned.max() < checked.min() <= checked.max() < test.min()
        assert (parts[test.max() + 1 :] == NONE).all()


def test_hold_out_in_order_and_at_random() -> None:
    assert divide(10, SHARES, 0, ordered=True).tolist() == [0] * 8 + [1, 2]
    parts = divide(1000, SHARES, 4)
    assert np.bincount(parts).tolist() == [800, 100, 100]
    assert allot(7, (1, 0), np.random.default_rng(0)).tolist() == [0] * 7


@pytest.mark.parametrize("text", ["2", "0/5", "6/5", "1/1", "a/b", "2/5/7", "-1/5", "1.0/5", "²/5"])
def test_no_fold(text: str) -> None:
    with pytest.raises(ValueError, match="expected a fold and how many there are, as 2/5"):
        Fold.parse(text)


def test_many_small_groups() -> None:
    groups = np.arange(20_000) // 2
    parts = divide(len(groups), SHARES, 0, groups=groups)
    assert np.abs(np.bincount(parts) / len(groups) - SHARES).max() < 0.001
