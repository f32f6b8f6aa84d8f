"""PHM layers against dense layers, against numpy's Kronecker products and against quaternions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fourfold.models.phm import PHM

size = st.integers(1, 7)


def test_one_product_is_a_dense_layer() -> None:
    layer, dense = PHM(6, 5, 1).double(), nn.Linear(6, 5).double()
    dense.weight.data, dense.bias.data = layer.weights.data[0], layer.bias.data
    x = torch.randn(4, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x), dense(x), rtol=1e-12, atol=1e-12)


@given(n=st.integers(1, 5), rows=size, columns=size, extra=st.tuples(size, size))
def test_the_matrix_is_the_sum_of_kronecker_products(
    n: int, rows: int, columns: int, extra: tuple[int, int]
) -> None:
    outputs = max(1, n * rows - extra[0] % n)  # also sizes that n does not divide
    inputs = max(1, n * columns - extra[1] % n)
    layer = PHM(inputs, outputs, n).double()
    a, s = layer.rules.detach().numpy(), layer.weights.detach().numpy()
    whole = sum(np.kron(a[i], s[i]) for i in range(n))
    np.testing.assert_allclose(layer.weight.detach().numpy(), whole[:outputs, :inputs], atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_it_has_a_share_of_the_parameters(n: int) -> None:
    layer = PHM(64, 128, n)
    counted = sum(p.numel() for p in layer.parameters())
    assert counted == 64 * 128 // n + n**3 + 128


def hamilton(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """The product of quaternions, component by component, last axis 4."""
    a, b, c, d = np.moveaxis(p, -1, 0)
    e, f, g, h = np.moveaxis(q, -1, 0)
    parts = [
        a * e - b * f - c * g - d * h,
        a * f + b * e + c * h - d * g,
        a * g - b * h + c * e + d * f,
        a * h + b * g - c * f + d * e,
    ]
    return np.stack(parts, axis=-1)


def test_four_products_with_hamiltons_matrices_are_a_quaternion_layer() -> None:
    units = np.eye(4)
    # A_i maps q to (unit i) q: its columns are the products with 1, i, j, k
    rules = np.stack([np.stack([hamilton(u, v) for v in units], axis=1) for u in units])
    layer = PHM(4 * 3, 4 * 2, 4).double()
    layer.rules.data = torch.from_numpy(rules)
    nn.init.zeros_(layer.bias)
    x = np.random.default_rng(0).normal(size=(5, 4, 3))  # 3 quaternions, components first
    weights = layer.weights.detach().numpy()  # (4, 2, 3): 2 x 3 quaternions
    w, q = np.moveaxis(weights, 0, -1), np.moveaxis(x, 1, -1)
    expected = hamilton(w[None], q[:, None]).sum(axis=2)  # (5, 2, 4)
    found = layer(torch.from_numpy(x.reshape(5, 12))).detach().numpy().reshape(5, 4, 2)
    np.testing.assert_allclose(np.moveaxis(found, 1, -1), expected, atol=1e-12)


def test_its_gradient() -> None:
    layer = PHM(3, 5, 2).double()
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)

    def applied(rules: torch.Tensor, weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        given = {"rules": rules, "weights": weights, "bias": layer.bias}
        return torch.func.functional_call(layer, given, (x,))

    assert torch.autograd.gradcheck(applied, (layer.rules, layer.weights, x))


@pytest.mark.parametrize("n", [1, 4])
def test_its_matrix_has_the_spread_that_was_asked_for(n: int) -> None:
    layer = PHM(256, 256, n)
    layer.spread(0.1)
    assert float(layer.weight.detach().std()) == pytest.approx(0.1, rel=0.35 if n > 1 else 0.02)
    drawn = []
    for _ in range(200):
        layer = PHM(16, 16, n)
        layer.spread(0.1)
        drawn.append(layer.weight.detach().square().mean())
    # over draws of the rules the mean square is exact; 200 of them tell it to some percent
    assert float(torch.stack(drawn).mean()) == pytest.approx(0.01, rel=0.15)
