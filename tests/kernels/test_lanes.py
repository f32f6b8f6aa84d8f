"""Vectors in registers do what their names say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numba import njit

from fourfold.kernels.lanes import (
    LANES,
    exp,
    fma,
    load,
    lower,
    pointer,
    splat,
    store,
    store_pair,
    sums,
    upper,
)


@pytest.fixture
def numbers() -> np.ndarray:
    return np.random.default_rng(0).normal(size=13 * LANES).astype(np.float32)


@njit
def _twelve(numbers: Any, found: Any) -> None:
    at, to = pointer(numbers), pointer(found)
    sums(
        to, 0, load(at, 0), load(at, LANES), load(at, 2 * LANES), load(at, 3 * LANES),
        load(at, 4 * LANES), load(at, 5 * LANES), load(at, 6 * LANES), load(at, 7 * LANES),
        load(at, 8 * LANES), load(at, 9 * LANES), load(at, 10 * LANES), load(at, 11 * LANES),
    )  # fmt: skip


@njit
def _exponentials(numbers: Any, found: Any) -> None:
    for at in range(0, len(numbers), LANES):
        store(pointer(found), at, exp(load(pointer(numbers), at)))


@njit
def _line(numbers: Any, found: Any) -> None:
    slope, start = splat(np.float32(2)), splat(np.float32(-1))
    store(pointer(found), 0, fma(load(pointer(numbers), 3), slope, start))


def test_twelve_sums_at_once(numbers: np.ndarray) -> None:
    found = np.full(16, np.nan, np.float32)
    _twelve(numbers, found)
    wanted = numbers[: 12 * LANES].reshape(12, LANES).sum(1)
    np.testing.assert_allclose(found[:12], wanted, rtol=1e-5, atol=1e-5)


def test_the_exponential_is_right_to_one_in_300_000() -> None:
    numbers = np.linspace(-79, 79, 1000 * LANES).astype(np.float32)
    found = np.zeros_like(numbers)
    _exponentials(numbers, found)
    # float32's own rounding of x log2(e), up to 114, adds 114 x 6e-8
    wanted = np.exp(numbers.astype(np.float64))
    small = np.abs(numbers) < 1
    np.testing.assert_allclose(found[small], wanted[small], rtol=3e-6)
    np.testing.assert_allclose(found, wanted, rtol=1.5e-5)


def test_beyond_its_range_the_exponential_stays_finite() -> None:
    numbers = np.full(LANES, 1e4, np.float32)
    numbers[: LANES // 2] = -1e4
    found = np.zeros_like(numbers)
    _exponentials(numbers, found)
    np.testing.assert_allclose(found[-1], np.exp(80), rtol=1e-4)
    np.testing.assert_allclose(found[0], np.exp(-80), rtol=1e-4)


@njit
def _pairs(numbers: Any, kept: Any, found: Any) -> None:
    source, place, to = pointer(numbers), pointer(kept), pointer(found)
    store_pair(place, 2 * LANES, load(source, 0), load(source, LANES))
    store(to, 0, lower(place, 2 * LANES))
    store(to, LANES, upper(place, 2 * LANES))


@pytest.mark.parametrize("kind", [np.float32, np.uint16])
def test_pairs_are_kept_whole_or_in_halves(numbers: np.ndarray, kind: Any) -> None:
    numbers[:8] = [0.0, -0.0, 1e-38, 3e38, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8 - 2**-20, 65504]
    kept, found = np.zeros(4 * LANES, kind), np.empty(2 * LANES, np.float32)
    _pairs(numbers, kept, found)
    expected = torch.from_numpy(numbers[: 2 * LANES])
    if kind == np.uint16:  # torch rounds in the same way
        expected = expected.bfloat16().float()
    assert torch.equal(torch.from_numpy(found), expected)
    assert not kept[: 2 * LANES].any()


def test_a_vector_may_begin_anywhere(numbers: np.ndarray) -> None:
    found = np.zeros(LANES, np.float32)
    _line(numbers, found)
    np.testing.assert_allclose(found, 2 * numbers[3 : 3 + LANES] - 1, rtol=1e-6)
