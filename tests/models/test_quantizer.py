"""Vector quantization against brute force, its averages against the paper's recurrence, its gradients against the map."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fourfold.core.shares import Share, set_share
from fourfold.models.quantizer import Quantizer, nearest, rotated
from fourfold.objectives.quantized import use

small = st.integers(1, 6)


@settings(deadline=None, max_examples=60)
@given(small, small, small, st.integers(0, 2**31))
def test_the_nearest_code_is_that_of_brute_force(n: int, k: int, d: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(n, d, generator=generator, dtype=torch.float64)
    codebook = torch.randn(k, d, generator=generator, dtype=torch.float64)
    expected = [
        min(range(k), key=lambda j: sum((float(a) - float(b)) ** 2 for a, b in zip(x, codebook[j], strict=True)))
        for x in vectors
    ]  # fmt: skip
    assert nearest(vectors, codebook).tolist() == expected


def test_residual_levels_take_the_nearest_of_what_is_left() -> None:
    torch.manual_seed(0)
    quantizer = Quantizer(3, 5, levels=3).eval()
    x = torch.randn(7, 4, 3)
    found = quantizer(x)
    for place in itertools.product(range(7), range(4)):
        left = x[place]
        for level in range(3):
            distances = (quantizer.codebook[level] - left).square().sum(1)
            assert found.codes[place][level] == distances.argmin()
            left = left - quantizer.codebook[level][found.codes[place][level]]
        torch.testing.assert_close(x[place] - left, found.values[place])
    torch.testing.assert_close(quantizer.values(found.codes), found.values)
    # one level's own distance is what commitment counts
    single = Quantizer(3, 5).eval()
    given_ = single(x)
    torch.testing.assert_close(given_.commitment, (x - given_.values).square().sum(-1))


def test_the_codebook_follows_the_recurrence_of_the_paper() -> None:
    torch.manual_seed(1)
    quantizer = Quantizer(2, 3, decay=0.9, restart=0.0)
    quantizer.begun.fill_(True)
    counts, sums = quantizer.counts[0].clone().double(), quantizer.sums[0].clone().double()
    for _ in range(5):
        x = torch.randn(20, 2)
        codes = nearest(x, quantizer.codebook[0])
        quantizer(x)
        for k in range(3):  # N_k = 0.9 N_k + 0.1 n_k, m_k = 0.9 m_k + 0.1 sum, e_k = m_k / N_k
            counts[k] = 0.9 * counts[k] + 0.1 * float((codes == k).sum())
            sums[k] = 0.9 * sums[k] + 0.1 * x[codes == k].double().sum(0)
        expected = (sums / counts[:, None]).float()
        torch.testing.assert_close(quantizer.codebook[0], expected, rtol=1e-4, atol=1e-5)
    before = quantizer.codebook.clone()
    quantizer.eval()(torch.randn(9, 2))
    assert torch.equal(before, quantizer.codebook), "evaluation moves no code"


def test_codes_find_the_clusters_that_there_are() -> None:
    torch.manual_seed(0)
    means = torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 4.0], [0.0, -4.0]])
    quantizer = Quantizer(2, 16, decay=0.8)

    def drawn() -> Tensor:
        return means[torch.randint(4, (64,))] + 0.1 * torch.randn(64, 2)

    for _ in range(100):
        quantizer(drawn())
    distance = torch.cdist(means, quantizer.codebook[0]).min(1).values
    assert distance.max() < 0.2
    # one code a cluster would leave the noise's variance, 0.02; four of them less
    assert quantizer.eval()(drawn()).commitment.mean() < 0.02


@pytest.mark.parametrize("restart", [0.0, 0.1])
def test_dead_codes_begin_anew(restart: float) -> None:
    torch.manual_seed(0)
    quantizer = Quantizer(4, 32, restart=restart, decay=0.9)
    quantizer.begun.fill_(True)
    quantizer.codebook[0, 1:] = 100.0  # out of reach of everything
    quantizer.sums[0, 1:] = 100.0
    for _ in range(60):
        quantizer(torch.randn(128, 4))
    codes = quantizer.eval()(torch.randn(2000, 4)).codes
    perplexity, share = use(codes, 32)
    assert (share[0] > 0.9 and perplexity[0] > 16) if restart else share[0] < 0.1


def test_a_code_that_begins_anew_lies_at_a_vector_of_the_batch() -> None:
    torch.manual_seed(0)
    quantizer = Quantizer(2, 8, restart=0.5, decay=0.5)
    quantizer.begun.fill_(True)
    quantizer.codebook[0, 1:] = quantizer.sums[0, 1:] = (
        1e3  # out of reach: all but the first are dead
    )
    x = torch.randn(64, 2) + 5
    quantizer(x)
    away = torch.cdist(quantizer.codebook[0, 1:], x).min(1).values
    assert away.max() < 0.05
    assert quantizer.counts[0, 1:].min() >= 0.5 * quantizer.counts[0].mean()  # and it is given time


def _jacobian(gradient: str, x: Tensor, quantizer: Quantizer) -> Tensor:
    quantizer.gradient = gradient  # type: ignore[assignment]
    return torch.autograd.functional.jacobian(lambda v: quantizer(v[None]).values[0], x)  # type: ignore[no-untyped-call]


def test_gradients_pass_straight_through_or_turned() -> None:
    torch.manual_seed(0)
    quantizer = Quantizer(3, 8).eval()
    x = torch.randn(3)
    torch.testing.assert_close(_jacobian("straight-through", x, quantizer), torch.eye(3))
    value = quantizer(x[None]).values[0]
    jacobian = _jacobian("rotation", x, quantizer)
    torch.testing.assert_close(jacobian @ x, value)  # it takes the vector to its code
    scale = value.norm() / x.norm()  # and is a rotation times a factor
    torch.testing.assert_close(jacobian.T @ jacobian, scale**2 * torch.eye(3), rtol=1e-4, atol=1e-5)
    assert math.isclose(float(torch.linalg.det(jacobian)), float(scale**3), rel_tol=1e-3)


def test_values_are_the_codes_with_either_gradient() -> None:
    torch.manual_seed(0)
    x, values = torch.randn(5, 4, requires_grad=True), torch.randn(5, 4)
    values[0] = 0
    assert torch.equal(rotated(x, values), values)


def test_the_commitment_moves_vectors_and_not_codes() -> None:
    torch.manual_seed(0)
    quantizer = Quantizer(3, 4, levels=2).eval()
    x = torch.randn(6, 3, requires_grad=True)
    found = quantizer(x)
    found.commitment.sum().backward()
    parts = [quantizer.codebook[level][found.codes[:, level]] for level in range(2)]
    expected = 2 * (x - parts[0]) + 2 * (x - parts[0] - parts[1])
    torch.testing.assert_close(x.grad, expected.detach())


def test_dropped_levels_leave_the_first_ones() -> None:
    torch.manual_seed(0)
    quantizer = Quantizer(3, 4, levels=3, drop=1.0)
    x = torch.randn(40, 2, 3)
    quantizer(x)  # begins
    before = quantizer.codebook.clone()
    quantizer.decay = 1.0
    quantizer.restart = 0.0
    found = quantizer(x)
    quantizer.codebook.copy_(before)
    sums = torch.stack([quantizer.values(found.codes[..., : n + 1]) for n in range(3)])
    misfit = (sums - found.values).abs().amax((2, 3))  # (3, 40)
    assert (misfit.min(0).values < 1e-4).all()
    assert all((misfit.argmin(0) == n).any() for n in range(3))


def test_wrong_calls_are_refused() -> None:
    quantizer = Quantizer(3, 4)
    with pytest.raises(ValueError, match=r"expects vectors \(B, ..., 3\), got \(2, 4\)"):
        quantizer(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="from 0 to 3, got .* from 0 to 4"):
        quantizer.values(torch.tensor([[0], [4]]))
    with pytest.raises(ValueError, match=">= 1, got 3, 0, 1"):
        Quantizer(3, 0)


def test_a_row_that_does_not_count_moves_no_code() -> None:
    """A process without rows of a batch computes one all the same, for the sums that others wait for."""
    quantizer = Quantizer(3, 4).train()
    quantizer(torch.randn(20, 3))
    before = quantizer.counts.clone(), quantizer.sums.clone()
    set_share(Share(0, 0, 1))
    try:
        quantizer(torch.randn(1, 3))
    finally:
        set_share(None)
    for was, now in zip(before, (quantizer.counts, quantizer.sums), strict=True):
        torch.testing.assert_close(now, was * 0.99)
