"""The batched Muon beside torch's own, matrix after matrix."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fourfold.models.phm import PHM
from fourfold.optimizers.gradient import Gradient
from fourfold.optimizers.muon import Muon, orthogonalized
from fourfold.optimizers.players import Player

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


def test_filters_move_as_matrices_of_a_row_for_each_output() -> None:
    torch.manual_seed(0)
    filters = torch.nn.Parameter(torch.randn(8, 3, 3, 3).to(memory_format=torch.channels_last))
    matrix = torch.nn.Parameter(filters.detach().reshape(8, 27).clone())
    ours, theirs = Muon([filters], lr=0.1), torch.optim.Muon([matrix], lr=0.1)
    for _ in range(4):
        gradient = torch.randn(8, 3, 3, 3)
        filters.grad = gradient.to(memory_format=torch.channels_last)
        matrix.grad = gradient.reshape(8, 27)
        ours.step()
        theirs.step()
    torch.testing.assert_close(filters.detach().reshape(8, 27), matrix.detach(), rtol=0, atol=2e-3)
    assert filters.is_contiguous(memory_format=torch.channels_last)


def test_muon_takes_matrices_and_filters_and_leaves_the_rest() -> None:
    hidden, convolution = torch.nn.Linear(4, 4), torch.nn.Conv2d(3, 8, 3)
    model = torch.nn.ModuleDict(
        {
            "hidden": hidden,
            "convolution": convolution,
            "transposed": torch.nn.ConvTranspose2d(3, 8, 3),  # its first axis is of inputs
            "products": PHM(8, 8, n=2),
            "table": torch.nn.Embedding(5, 4),
            "head": torch.nn.Linear(4, 2),
        }
    )
    settings = Gradient(algorithm="muon", lr=0.1).settings("model")
    moved = Player(model, settings).optimizers[0]
    assert isinstance(moved, Muon)
    taken = [id(p) for group in moved.param_groups for p in group["params"]]
    assert taken == [id(hidden.weight), id(convolution.weight)]


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"momentum": -0.1}, {"adjust_lr_fn": "half"}])
def test_arguments_are_checked_as_by_torch(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Muon([torch.nn.Parameter(torch.zeros(2, 2))], **wrong)
