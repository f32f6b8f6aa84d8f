"""The compiled cross-entropy against torch's, of the same bfloat16 logits in float32."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fourfold.kernels.softmax import differentiate


def _oracle(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    wide = logits.float().requires_grad_()
    losses = F.cross_entropy(wide, targets, reduction="none")
    (gradient,) = torch.autograd.grad(losses.sum(), wide)
    return losses.detach(), gradient


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 20),
    st.integers(1, 700),
    st.sampled_from([0.1, 3.0, 30.0, 300.0]),
    st.sampled_from([-400.0, 0.0, 400.0]),
    st.integers(0, 99),
)
def test_losses_and_gradients(rows: int, count: int, scale: float, shift: float, seed: int) -> None:
    torch.manual_seed(seed)
    logits = (scale * torch.randn(rows, count) + shift).bfloat16()
    targets = torch.randint(count, (rows,))
    targets[torch.rand(rows) < 0.2] = -100
    losses, gradient = _oracle(logits, targets)
    found = differentiate(logits, targets, -100)  # in place
    torch.testing.assert_close(found, losses, rtol=1e-5, atol=2e-5)
    # a bfloat16 has 8 bits: half a unit in the last place of the largest is 2^-9
    torch.testing.assert_close(logits.float(), gradient, rtol=2**-8, atol=1e-6)


def test_one_entry_far_above_the_others() -> None:
    logits = torch.tensor([[-1e30, 5.0, -1e30], [1e30, 0.0, 0.0]]).bfloat16()
    found = differentiate(logits, torch.tensor([1, 0]), -100)
    assert found.tolist() == [0.0, 0.0] and float(logits.abs().max()) < 1e-37


@pytest.mark.parametrize("wrong", [math.nan, -math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 7, 399])
def test_what_is_no_number_stays_so(wrong: float, place: int) -> None:
    """Divergence is found by a loss that is not finite."""
    logits = torch.randn(3, 400).bfloat16()
    logits[1, place] = wrong
    found = differentiate(logits, torch.tensor([3, 5, 9]), -100)
    assert not math.isfinite(float(found[1])) and bool(found[[0, 2]].isfinite().all())


def test_threads_do_not_change_a_bit() -> None:
    torch.manual_seed(0)
    logits, targets = (2 * torch.randn(37, 500)).bfloat16(), torch.randint(500, (37,))
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            mine = logits.clone()
            results.append((differentiate(mine, targets, -100), mine))
    finally:
        torch.set_num_threads(threads)
    for losses, gradient in results[1:]:
        assert torch.equal(losses, results[0][0]) and torch.equal(gradient, results[0][1])


@pytest.mark.parametrize("target", [-1, 9])
def test_targets_out_of_bounds_are_refused(target: int) -> None:
    with pytest.raises(IndexError, match="out of bounds: expected 0 to 8"):
        differentiate(torch.zeros(2, 9).bfloat16(), torch.tensor([0, target]), -100)
