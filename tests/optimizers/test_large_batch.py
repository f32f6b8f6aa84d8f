"""LARS and LAMB by their papers' formulas, and on digits with batches up to the whole set."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import fourfold
from fourfold.core.errors import UserError
from fourfold.optimizers.gradient import Gradient
from fourfold.optimizers.large_batch import LAMB, LARS

Array = np.ndarray


def gradients(steps: int) -> list[Array]:
    random = np.random.default_rng(3)
    return [random.normal(size=(4, 3)) * 10.0**-i for i in range(steps)]


def moved(optimizer: torch.optim.Optimizer, weight: nn.Parameter, steps: list[Array]) -> Array:
    for gradient in steps:
        weight.grad = torch.from_numpy(gradient)
        optimizer.step()
    found: Array = weight.detach().numpy()
    return found


def start() -> Array:
    return np.random.default_rng(1).normal(size=(4, 3))


@pytest.mark.parametrize("nesterov", [False, True])
def test_lars_is_the_papers(nesterov: bool) -> None:
    w, v = start(), np.zeros((4, 3))
    for g in gradients(4):
        n, m = np.linalg.norm(w), np.linalg.norm(g)
        local = 0.02 * n / (m + 0.1 * n)
        step = 0.5 * local * (g + 0.1 * w)
        v = 0.9 * v + step
        w = w - (0.9 * v + step if nesterov else v)
    weight = nn.Parameter(torch.from_numpy(start()))
    lars = LARS([weight], lr=0.5, momentum=0.9, weight_decay=0.1, trust=0.02, nesterov=nesterov)
    np.testing.assert_allclose(moved(lars, weight, gradients(4)), w, rtol=1e-8)


def test_lamb_is_the_papers() -> None:
    w, m, v = start(), np.zeros((4, 3)), np.zeros((4, 3))
    for t, g in enumerate(gradients(4), 1):
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        r = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-6) + 0.1 * w
        w = w - 0.05 * np.linalg.norm(w) / np.linalg.norm(r) * r
    weight = nn.Parameter(torch.from_numpy(start()))
    lamb = LAMB([weight], lr=0.05, betas=(0.9, 0.99), weight_decay=0.1)
    np.testing.assert_allclose(moved(lamb, weight, gradients(4)), w, rtol=1e-8)


def test_vectors_are_left_alone() -> None:
    bias, g = nn.Parameter(torch.ones(3, dtype=torch.float64)), torch.full((3,), 2.0).double()
    bias.grad = g
    LARS([bias], lr=0.5, momentum=0.0).step()
    assert torch.allclose(bias, torch.zeros(3).double())
    bias = nn.Parameter(torch.ones(3, dtype=torch.float64))
    bias.grad = g
    LAMB([bias], lr=0.5).step()
    assert torch.allclose(bias, torch.full((3,), 0.5).double(), atol=1e-5)


def test_weights_of_zero_still_move() -> None:
    for cls in (LARS, LAMB):
        weight = nn.Parameter(torch.zeros(2, 2))
        weight.grad = torch.ones(2, 2)
        cls([weight], lr=0.5).step()
        assert torch.isfinite(weight).all() and (weight < 0).all()


def test_rates_grow_with_the_batch() -> None:
    config = Gradient(lr=0.1, lr_batch=32, accumulate=2, rates={"b": 0.2})
    assert config.settings("a", 64).lr == pytest.approx(0.4)
    assert config.settings("b", 8).lr == pytest.approx(0.1)
    assert Gradient(lr=0.1).settings("a", 64).lr == 0.1
    muon = Gradient(algorithm="muon", lr=0.1, other_lr=0.01, lr_batch=32).settings("a", 64)
    assert (muon.lr, muon.other_lr) == (pytest.approx(0.2), pytest.approx(0.02))


@pytest.mark.parametrize(("algorithm", "lr"), [("lars", 3.0), ("lamb", 0.02)])
@pytest.mark.parametrize("batch", [32, 1024])
def test_digits(algorithm: str, lr: float, batch: int) -> None:
    """A network on the embedded digits learns with small batches and with nearly all rows at once."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    table = {f"p{i}": digits.data[:, i] for i in range(64)} | {
        "digit": [f"d{t}" for t in digits.target]
    }
    run = fourfold.fit(
        "mlp", table, target="digit", out=False, width=64, layers=1, dropout=0, algorithm=algorithm, lr=lr,
        decay=0.0, epochs=6 if batch == 32 else 60, warmup=0.1, ema=None, patience=None, evaluate_every="50%",
        **{"data.batch": batch},
    )  # fmt: skip
    assert run.evaluate()["accuracy"] > 0.93


def test_an_argument_that_lars_does_not_have() -> None:
    with pytest.raises((UserError, ValueError), match="trust"):
        Gradient(algorithm="lars", arguments={"truts": 0.1})
