"""Contrastive losses by loops, and what they are at what they want."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fourfold.objectives.contrastive import (
    nt_xent,
    semi_hard,
    siamese,
    supervised_contrastive,
    triplet,
)

count = st.integers(2, 6)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


@given(count, st.integers(0, 100))
def test_nt_xent_by_loops(size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(size, 3, dtype=torch.float64, generator=generator) for _ in "ab")
    both, total = torch.cat([first, second]), 0.0
    for i in range(2 * size):
        twin = (i + size) % (2 * size)
        below = sum(math.exp(cosine(both[i], both[k]) / 0.5) for k in range(2 * size) if k != i)
        total -= math.log(math.exp(cosine(both[i], both[twin]) / 0.5) / below)
    assert float(nt_xent(first, second)) == pytest.approx(total, rel=1e-9)


@given(count, st.integers(0, 100))
def test_supervised_contrastive_by_loops(size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(size, 3, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, 3, (size,), generator=generator)
    total, counted = 0.0, 0
    for i in range(size):
        alike = [j for j in range(size) if j != i and labels[j] == labels[i]]
        below = sum(math.exp(cosine(z[i], z[k]) / 0.1) for k in range(size) if k != i)
        for j in alike:
            total -= math.log(math.exp(cosine(z[i], z[j]) / 0.1) / below) / len(alike)
        counted += bool(alike)
    loss, weight = supervised_contrastive(z, labels)
    assert float(loss) == pytest.approx(total, rel=1e-9, abs=1e-12) and int(weight) == counted


def test_two_views_are_two_of_a_class_each() -> None:
    """With each example a class of its own and two views, supervised contrast is NT-Xent."""
    first, second = torch.randn(2, 5, 4, dtype=torch.float64)
    labels = torch.arange(5).repeat(2)
    loss, weight = supervised_contrastive(torch.cat([first, second]), labels, 0.5)
    torch.testing.assert_close(loss, nt_xent(first, second))
    assert int(weight) == 10


def test_pairs_and_triplets_equal_torchs() -> None:
    torch.manual_seed(0)
    a, b, c = torch.randn(3, 8, 4, dtype=torch.float64)
    alike = torch.rand(8) < 0.5
    wanted = torch.nn.functional.pairwise_distance(a, b, eps=0)
    by_hand = sum(
        float(d) ** 2 / 2 if same else max(0.0, 1.5 - float(d)) ** 2 / 2
        for d, same in zip(wanted, alike, strict=True)
    )
    assert float(siamese(a, b, alike, 1.5)) == pytest.approx(by_hand)
    peer = torch.nn.TripletMarginWithDistanceLoss(
        distance_function=lambda x, y: (x - y).square().sum(1), margin=0.2, reduction="sum"
    )
    torch.testing.assert_close(triplet(a, b, c), peer(a, b, c))


def test_unlike_examples_at_one_place_are_driven_apart() -> None:
    a = torch.zeros(1, 3, requires_grad=True)
    siamese(a, torch.full((1, 3), 1e-3), torch.tensor([False])).backward()
    assert a.grad is not None and torch.isfinite(a.grad).all() and a.grad.abs().max() > 0


@settings(max_examples=40)
@given(st.integers(3, 9), st.integers(0, 200))
def test_semi_hard_triplets_by_loops(size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(size, 2, generator=generator)
    labels = torch.randint(0, 3, (size,), generator=generator)
    found = list(zip(*(t.tolist() for t in semi_hard(z, labels)), strict=True))
    expected = []
    for i in range(size):
        for j in range(size):
            others = [k for k in range(size) if labels[k] != labels[i]]
            if i == j or labels[i] != labels[j] or not others:
                continue
            d = {k: float((z[i] - z[k]).square().sum()) for k in range(size)}
            within = [k for k in others if d[j] < d[k] < d[j] + 0.2]
            best = min(within, key=lambda k: d[k]) if within else max(others, key=lambda k: d[k])
            expected.append((i, j, best))
    assert found == expected


def test_refusals() -> None:
    with pytest.raises(ValueError, match="nt_xent expects two"):
        nt_xent(torch.zeros(1, 3), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="supervised_contrastive expects"):
        supervised_contrastive(torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64))
