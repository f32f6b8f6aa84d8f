"""Cheap dropout: the share, the independence and the expectation are torch's."""

import pytest
import torch
from torch import nn

from fourfold.models.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5, 0.9])
def test_share_and_expectation(p: float) -> None:
    torch.manual_seed(0)
    found = Dropout(p)(torch.full((1001, 1001), 3.0))
    values = found.unique()
    assert values.tolist() == pytest.approx([0, 3 / (1 - p)], rel=2e-4)
    assert float((found == 0).float().mean()) == pytest.approx(p, abs=0.002)
    assert float(found.mean()) == pytest.approx(3, rel=0.01)


def test_units_fall_out_independently() -> None:
    torch.manual_seed(0)
    gone = (Dropout(0.3)(torch.ones(200_000)) == 0).double()
    for distance in (1, 2, 3, 4, 5, 8):  # neighbours share a 64-bit draw
        together = float((gone[:-distance] * gone[distance:]).mean())
        assert together == pytest.approx(0.09, abs=0.004)


def test_gradients_pass_where_units_stay() -> None:
    x = torch.randn(7, 5, requires_grad=True)
    found = Dropout(0.4)(x)
    found.sum().backward()
    expected = torch.where(found == 0, 0.0, 1 / 0.6)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, expected, rtol=1e-4, atol=0)


def test_the_ends_and_evaluation() -> None:
    x = torch.randn(4, 3)
    assert Dropout(0.0)(x) is x
    assert not Dropout(1.0)(x).any()
    assert Dropout(0.5).eval()(x) is x
    assert isinstance(Dropout(0.5), nn.Dropout)


def test_what_is_not_contiguous_and_other_formats() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 4, dtype=torch.float64).T
    found = Dropout(0.5)(x)
    kept = found != 0
    assert found.dtype == torch.float64 and found.shape == x.shape
    torch.testing.assert_close(found[kept], 2 * x[kept])


def test_draws_follow_the_seed() -> None:
    layer, x = Dropout(0.5), torch.ones(100)
    torch.manual_seed(1)
    first = layer(x)
    torch.manual_seed(1)
    assert torch.equal(layer(x), first) and not torch.equal(layer(x), first)
