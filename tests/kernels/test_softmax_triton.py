"""The GPU's cross-entropy against torch's own in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fourfold.objectives.likelihood import cross_entropy, linear_cross_entropy

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("columns", [1, 7, 4096, 4097, 50_001])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_losses_and_gradients_equal_torchs(columns: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits = (3 * torch.randn(33, columns, device="cuda")).to(dtype).requires_grad_()
    targets = torch.randint(columns, (33,), device="cuda")
    targets[::5] = -100
    found = cross_entropy(logits, targets)
    (ours,) = torch.autograd.grad(2 * found, logits)
    plain = logits.detach().double().requires_grad_()
    expected = F.cross_entropy(plain, targets, ignore_index=-100, reduction="sum")
    (theirs,) = torch.autograd.grad(2 * expected, plain)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=tolerance / 100)
    assert (ours[::5] == 0).all()


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_extreme_logits_are_exact_and_none_is_hidden(scale: float) -> None:
    logits = torch.zeros(3, 5000, device="cuda")
    logits[:, 17] = scale
    targets = torch.full((3,), 17, device="cuda")
    expected = F.cross_entropy(logits.double(), targets, reduction="sum")
    torch.testing.assert_close(cross_entropy(logits, targets).double(), expected)
    logits[1, 4999] = float("nan")
    assert cross_entropy(logits, targets).isnan()
    logits[1, 4999] = float("-inf")
    assert cross_entropy(logits, targets).isfinite()
    targets[2] = 5000
    assert cross_entropy(logits, targets).isnan()  # out of bounds


def test_a_layer_and_its_loss_together_equal_torchs() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(300, 64, device="cuda", requires_grad=True)
    weight = torch.randn(5001, 64, device="cuda", requires_grad=True)
    bias = torch.randn(5001, device="cuda", requires_grad=True)
    targets = torch.randint(5001, (300,), device="cuda")
    found = linear_cross_entropy(hidden, weight, bias, targets)
    expected = F.cross_entropy(F.linear(hidden, weight, bias), targets, reduction="sum")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-2)
    ours = torch.autograd.grad(found, (hidden, weight, bias))
    theirs = torch.autograd.grad(expected, (hidden, weight, bias))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
