"""Embeddings of numbers and categories against their formulas."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fourfold.models.tabular import Codes, Columns, Periodic, PerNumber, PiecewiseLinear


def piecewise(x: float, edges: list[float]) -> list[float]:
    """Equation 1 of the paper, case by case."""
    bins = len(edges) - 1
    found = []
    for t in range(1, bins + 1):
        if x < edges[t - 1] and t > 1:
            found.append(0.0)
        elif x >= edges[t] and t < bins:
            found.append(1.0)
        else:
            found.append((x - edges[t - 1]) / (edges[t] - edges[t - 1]))
    return found


@given(
    st.lists(st.floats(0.1, 3), min_size=1, max_size=6),
    st.floats(-10, 10),
    st.floats(-5, 5),
)
def test_piecewise_linear_is_the_papers_equation(
    widths: list[float], x: float, start: float
) -> None:
    edges = np.cumsum([start, *widths])
    found = PiecewiseLinear(edges[None]).double()(torch.tensor([[x]], dtype=torch.float64))
    # the buffers are float32, as features are
    np.testing.assert_allclose(found[0, 0], piecewise(x, list(edges)), rtol=1e-4, atol=1e-4)


def test_bins_without_width_stay_zero_and_the_ends_go_on() -> None:
    edges = np.array([[0.0, 0.0, 1.0, 1.0, 2.0, 2.0], [5.0] * 6, [0, 1, 1, 1, 1, 1]])
    x = torch.tensor([[-1.0, 5.0, 3.0], [0.5, 7.0, 0.5], [4.0, 5.0, -1.0]])
    found = PiecewiseLinear(edges)(x)
    torch.testing.assert_close(found[:, 0, [0, 2, 4]], torch.zeros(3, 3))
    torch.testing.assert_close(found[:, 0, [1, 3]], torch.tensor([[-1.0, 0], [0.5, 0], [1, 3]]))
    torch.testing.assert_close(found[:, 1], torch.zeros(3, 5))  # a constant number tells nothing
    torch.testing.assert_close(found[:, 2, 0], torch.tensor([3.0, 0.5, -1.0]))


def test_edges_come_with_the_weights() -> None:
    fitted, restored = PiecewiseLinear(np.array([[0.0, 1, 2]])), PiecewiseLinear(np.zeros((1, 3)))
    restored.load_state_dict(fitted.state_dict())
    x = torch.tensor([[-1.0], [0.5], [3.0]])
    torch.testing.assert_close(restored(x), fitted(x))


def test_periodic_is_the_papers_equation() -> None:
    torch.manual_seed(0)
    module = Periodic(2, 3, scale=0.5).double()
    x = torch.randn(4, 2, dtype=torch.float64)
    c = module.frequencies.detach().numpy()
    v = 2 * math.pi * c[None] * x.numpy()[..., None]
    expected = np.concatenate([np.sin(v), np.cos(v)], axis=-1)
    np.testing.assert_allclose(module(x).detach(), expected, atol=1e-12)
    spread = Periodic(1, 20_000, scale=0.5).frequencies.detach().std()
    assert float(spread) == pytest.approx(0.5, rel=0.03)


def test_each_number_has_a_linear_layer_of_its_own() -> None:
    module = PerNumber(2, 3, 4).double()
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    for i in range(2):
        layer = nn.Linear(3, 4).double()
        layer.weight.data = module.weight.data[i].T
        layer.bias.data = module.bias.data.view(2, 4)[i]
        torch.testing.assert_close(module(x)[:, i], layer(x[:, i]).relu())


def test_codes_are_embeddings_of_each_column() -> None:
    module = Codes([3, 5], 4)
    tables = [nn.Embedding(3, 4), nn.Embedding(5, 4)]
    tables[0].weight.data, tables[1].weight.data = module.weight.data[:3], module.weight.data[3:]
    x = torch.tensor([[0.0, 4.0], [2.0, 0.0]])
    expected = torch.cat([table(x[:, i].long()) for i, table in enumerate(tables)], dim=1)
    torch.testing.assert_close(module(x), expected)
    assert not module(torch.zeros(1, 2)).any()  # unseen or missing: nothing is known of it


def test_columns_come_in_their_order() -> None:
    kinds = ["number", "category", "code", "binary", "number"]
    numbers = PiecewiseLinear(np.array([[0.0, 1, 2]] * 2))
    columns = Columns(kinds, numbers=numbers, sizes=[4], code_width=3)
    x = torch.tensor([[0.5, 1.0, 2.0, 0.0, 1.5]])
    codes = columns.codes
    assert codes is not None
    seen = torch.tensor([[0.5, 1, 0, 1.5, 0.5, 0, 1, 0.5]])
    expected = torch.cat([seen, codes(x[:, 2:3])], dim=1)
    torch.testing.assert_close(columns(x), expected)
    assert columns.outputs == expected.shape[1]


def test_plain_columns_are_passed_on() -> None:
    x = torch.randn(3, 2)
    assert Columns(["number", "binary"])(x) is x


def test_noise_spares_codes_and_ends_with_learning() -> None:
    torch.manual_seed(0)
    columns = Columns(["number", "code"], sizes=[3], code_width=2, noise=0.5)
    x = torch.tensor([[1.0, 2.0]]).repeat(20_000, 1)
    noisy = columns(x).detach()
    assert (noisy[:, 1:] == noisy[0, 1:]).all()
    assert float(noisy[:, 0].mean()) == pytest.approx(1, abs=0.02)
    assert float(noisy[:, 0].std()) == pytest.approx(0.5, rel=0.03)
    assert (columns.eval()(x)[:, 0] == 1).all()
