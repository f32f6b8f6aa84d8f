"""The batched Muon beside torch's own, matrix after matrix."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fourfold.optimizers.muon import Muon, orthogonalized

SHAPES = [(8, 8), (8, 24), (24, 8), (8, 8), (5, 7), (16, 8)]


@pytest.mark.parametrize(
    "arguments",
    [{}, {"nesterov": False}, {"adjust_lr_fn": "match_rms_adamw"}, {"weight_decay": 0.1, "momentum": 0.8}],
)  # fmt: skip
def test_steps_equal_torchs(arguments: dict[str, Any]) -> None:
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(s)) for s in SHAPES]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    keywords = {"lr": 0.02, "weight_decay": 0.0, **arguments}
    optimizers = Muon(ours, **keywords), torch.optim.Muon(theirs, **keywords)
    for _ in range(5):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        # five steps of bfloat16 products: a per mille of what was moved
        torch.testing.assert_close(a, b, rtol=0, atol=2e-3)
    for a, b in zip(ours, theirs, strict=True):
        mine, own = optimizers[0].state[a], optimizers[1].state[b]
        assert mine.keys() == own.keys()
        torch.testing.assert_close(mine["momentum_buffer"], own["momentum_buffer"])


def test_singular_values_come_near_one() -> None:
    torch.manual_seed(0)
    matrices = [torch.randn(s) * 10 for s in SHAPES]
    for matrix, result in zip(
        matrices, orthogonalized(matrices, (3.4445, -4.7750, 2.0315), 5, 1e-7), strict=True
    ):
        assert result.shape == matrix.shape
        values = torch.linalg.svdvals(result.float())
        assert values.max() < 1.3 and values.median() > 0.5


def test_matrices_without_gradient_stay() -> None:
    moving, still = torch.nn.Parameter(torch.randn(4, 4)), torch.nn.Parameter(torch.randn(4, 4))
    before = still.detach().clone()
    moving.grad = torch.randn(4, 4)
    Muon([moving, still], lr=0.1).step()
    assert torch.equal(still, before)
