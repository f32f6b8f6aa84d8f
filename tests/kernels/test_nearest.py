"""kernels.nearest against all products."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.kernels.nearest import coded, nearest


def plain(vectors: np.ndarray, asked: np.ndarray, top: int, kept: Any = None) -> np.ndarray:
    products = vectors.astype(np.float64) @ asked.astype(np.float64)
    if kept is not None:
        products[~kept] = -np.inf
    order = np.argsort(-products, kind="stable")[:top]
    return order[products[order] > -np.inf]


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 300),
    size=st.integers(1, 70),
    top=st.integers(1, 20),
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(["normal", "sparse", "alike", "uneven"]),
    some=st.booleans(),
)
def test_the_same_rows_as_all_products(
    count: int, size: int, top: int, seed: int, kind: str, some: bool
) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, size)).astype(np.float32)
    if kind == "sparse":
        vectors *= rng.random((count, size)) < 0.1  # many zero vectors, many equal products
    elif kind == "alike":
        vectors = vectors[:1] + 1e-3 * vectors  # rounding alone could not tell them apart
    elif kind == "uneven":
        vectors *= 10.0 ** rng.integers(-3, 4, (count, 1))
    vectors = vectors.astype(np.float32)
    asked = rng.standard_normal(size).astype(np.float32)
    kept = rng.random(count) < 0.5 if some else None
    rows, products = nearest(coded(vectors), vectors, asked, top, kept)
    expected = plain(vectors, asked, top, kept)
    assert len(rows) == len(expected) == len(set(rows.tolist()))
    exact = vectors.astype(np.float64) @ asked.astype(np.float64)
    # rows whose products float32 cannot tell apart may stand for one another
    scale = np.abs(vectors.astype(np.float64)).max(initial=1e-9) * np.abs(asked).sum()
    np.testing.assert_allclose(exact[rows], exact[expected], rtol=0, atol=1e-6 * scale)
    np.testing.assert_allclose(products, exact[rows], rtol=0, atol=1e-6 * scale)
    assert kept is None or kept[rows].all()


def test_equal_products_keep_their_order() -> None:
    vectors = np.ones((40, 8), np.float32)
    rows, products = nearest(coded(vectors), vectors, np.ones(8, np.float32), 5)
    assert rows.tolist() == [0, 1, 2, 3, 4] and products.tolist() == [8.0] * 5


def test_few_are_multiplied_in_full() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((4000, 128)).astype(np.float32)
    asked = vectors[7] + 0.1 * rng.standard_normal(128).astype(np.float32)
    read: list[int] = []

    class Watched(np.ndarray):
        def __getitem__(self, key: Any) -> Any:
            read.append(len(key))
            return np.asarray(self)[key]

    rows, _ = nearest(coded(vectors), vectors.view(Watched), asked, 10)
    assert rows.tolist() == plain(vectors, asked, 10).tolist()
    assert 10 <= sum(read) < 200


def test_nothing_asked_and_nothing_there() -> None:
    vectors = np.zeros((5, 3), np.float32)
    rows, products = nearest(coded(vectors), vectors, np.zeros(3, np.float32), 2)
    assert rows.tolist() == [0, 1] and products.tolist() == [0, 0]
    none = np.empty((0, 3), np.float32)
    rows, _ = nearest(coded(none), none, np.ones(3, np.float32), 2)
    assert rows.tolist() == []
    assert (
        nearest(coded(vectors), vectors, np.ones(3, np.float32), 2, np.zeros(5, bool))[0].size == 0
    )


@pytest.mark.parametrize("rows", [8191, 8193])
def test_rounding_in_blocks_is_rounding(rows: int) -> None:
    vectors = np.random.default_rng(1).standard_normal((rows, 4)).astype(np.float32)
    made = coded(vectors)
    back = made.codes * made.scales[:, None]
    np.testing.assert_allclose(np.linalg.norm(vectors - back, axis=1), made.errors, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(back, axis=1), made.lengths, rtol=1e-5)
