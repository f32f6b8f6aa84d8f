"""The loss along two directions: filter norms, a surface that is known, weights put back exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fourfold.core.errors import UserError
from fourfold.look.landscape import direction, landscape, surface


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_filters_have_the_norms_of_the_models_own() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 4))
    drawn = direction(model, generator(0))
    for parameter, found in zip(model.parameters(), drawn, strict=True):
        if parameter.ndim < 2:
            assert not found.any()
            continue
        norms = [v.flatten(1).norm(dim=1) for v in (parameter.detach(), found)]
        torch.testing.assert_close(norms[0], norms[1])
    again, other = direction(model, generator(0)), direction(model, generator(1))
    assert torch.equal(drawn[0], again[0]) and not torch.equal(drawn[0], other[0])


def test_a_quadratic_surface() -> None:
    model = nn.Linear(3, 2, bias=False).double()
    target = torch.randn(2, 3, dtype=torch.float64)
    weight = model.weight.detach().clone()
    first, second = direction(model, generator(0)), direction(model, generator(1))
    places, losses = surface(
        model,
        lambda: float((model.weight - target).square().sum()),
        (first, second),
        steps=5,
        span=0.5,
    )
    assert places.tolist() == [-0.5, -0.25, 0.0, 0.25, 0.5]
    for i, a in enumerate(places):
        for j, b in enumerate(places):
            want = (weight + a * first[0] + b * second[0] - target).square().sum().item()
            assert losses[i, j] == pytest.approx(want, rel=1e-12)
    assert torch.equal(model.weight, weight) and losses[2, 2] == pytest.approx(
        (weight - target).square().sum().item()
    )


def test_weights_are_put_back_when_the_loss_fails() -> None:
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    along = direction(model, generator(0)), direction(model, generator(1))

    def fails() -> float:
        raise RuntimeError("no loss")

    with pytest.raises(RuntimeError, match="no loss"):
        surface(model, fails, along)
    assert torch.equal(model.weight, before)
    with pytest.raises(ValueError, match="odd number"):
        surface(model, fails, along, steps=4)


def test_the_surface_is_drawn() -> None:
    places = np.linspace(-1, 1, 5)
    bowl = places[:, None] ** 2 + places**2 + 1
    drawn = landscape(places, bowl)
    assert "1 at the weights, 1 at the lowest point seen and 3 at the highest" in drawn.caption
    steep = np.exp(8 * bowl)
    steep[0, 0] = np.inf
    assert landscape(places, steep).png.startswith(b"\x89PNG")
    assert landscape(places, np.ones((5, 5))).png.startswith(b"\x89PNG")
    with pytest.raises(UserError, match="nowhere finite"):
        landscape(places, np.full((5, 5), np.nan))
