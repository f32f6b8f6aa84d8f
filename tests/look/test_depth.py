"""Plain networks lose signal and gradient by a known factor a layer; residual ones do not."""

import math

import pytest
import torch
from torch import nn

from fourfold import api
from fourfold.look.depth import depth_picture, reach
from fourfold.systems.gpt import GPT


def test_a_plain_rectifier_loses_the_known_factor_a_layer() -> None:
    """torch draws weights of variance 1 / (3 W): a rectifier passes half of the square, so 1/6 a layer (He et al. 2015)."""
    found = reach(6, "plain", width=512, rows=128)
    factors = [b / a for a, b in zip(found.gradient[1:], found.gradient, strict=False)]
    assert sum(map(math.log, factors)) / len(factors) == pytest.approx(
        math.log(1 / 6) / 2, rel=0.05
    )


def test_an_orthogonal_network_without_activation_keeps_the_gradient_exactly() -> None:
    def initialize(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.orthogonal_(module.weight)

    found = reach(16, "plain", width=32, activation=nn.Identity, initialize=initialize)
    assert found.gradient == pytest.approx([found.gradient[-1]] * 16, rel=1e-5)


def test_the_way_around_keeps_the_gradient() -> None:
    ends = {f: reach(32, f).ends() for f in ("plain", "residual", "residual, normalized")}  # type: ignore[arg-type]
    assert ends["plain"][1] < 1e-8 and ends["plain"][0] < 1e-8
    assert 1 < ends["residual"][1] < 1e4
    assert 1 < ends["residual, normalized"][1] < 10 and ends["residual, normalized"][0] < 10


def test_the_picture_and_its_numbers() -> None:
    state = torch.get_rng_state()
    picture, table = depth_picture((4, 8), width=16)
    assert torch.equal(torch.get_rng_state(), state)
    again, other = depth_picture((4, 8), width=16), depth_picture((4, 8), width=16, seed=1)
    assert (picture.png, table) == (again[0].png, again[1]) and table != other[1]
    assert [row[0] for row in table.rows] == [4, 8]
    assert all(len(row) == len(table.columns) == 7 for row in table.rows)
    spread, gradient = reach(8, "plain", width=16).ends()
    assert table.rows[1][1:3] == pytest.approx((spread, gradient), rel=1e-2)
    assert "With 8 layers the first one gets that of the last times" in picture.caption


def test_inspect_draws_it_where_it_is_asked_to() -> None:
    toy, source = GPT.toy()
    run = api.fit(toy, source, out=False)
    found = run.inspect(depths=True)
    assert found.pictures[-1].title == found.tables[-1].title == "Plain and residual by depth"
    assert [row[0] for row in found.tables[-1].rows] == [4, 8, 16, 32, 64]
