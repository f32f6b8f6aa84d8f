"""The multi-layer perceptron: normalizations by hand and by torch, skips, members, what its noise keeps."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourfold.models.activations import activation, activations, gain, known_activation
from fourfold.models.mlp import MLP, Block, Heads, Layers, Members
from fourfold.models.noise import Noise, NoisyLinear
from fourfold.models.tabular import Columns


def network(inputs: int, widths: tuple[int, ...], outputs: int = 1, **given: object) -> MLP:
    members = int(given.pop("members", 1))  # type: ignore[call-overload]
    layers = Layers(**given)  # type: ignore[arg-type]
    return MLP(Columns(["number"] * inputs), inputs, widths, outputs, layers, members=members)


def test_it_is_layers_of_torch() -> None:
    model = network(3, (5, 4), 2, activation="tanh").double()
    first, second = model.blocks[0].linear, model.blocks[1].linear
    oracle = nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), model.head)
    x = torch.randn(6, 3, dtype=torch.float64)
    torch.testing.assert_close(model(x), oracle(x), rtol=1e-12, atol=1e-12)


def normalized(x: np.ndarray, axis: int) -> np.ndarray:
    spread = x.var(axis=axis, keepdims=True)
    return np.asarray((x - x.mean(axis=axis, keepdims=True)) / np.sqrt(spread + 1e-5))


@pytest.mark.parametrize(("norm", "axis"), [("batch", 0), ("layer", 1)])
def test_normalizations_average_over_their_axis(norm: str, axis: int) -> None:
    block = Block(3, 4, Layers(activation="none", norm=norm)).double()  # type: ignore[arg-type]
    x = torch.randn(6, 3, dtype=torch.float64)
    by_hand = normalized(block.linear(x).detach().numpy(), axis)
    np.testing.assert_allclose(block(x).detach(), by_hand, atol=1e-10)


@pytest.mark.parametrize(("norm", "axis"), [("batch", 0), ("layer", 1)])
def test_normalizations_pass_gradients_as_by_hand(norm: str, axis: int) -> None:
    """d loss / d z of z' = (z - mean) / s: (g - mean(g) - z' mean(g z')) / s over the axis."""
    block = Block(3, 4, Layers(activation="none", norm=norm)).double()  # type: ignore[arg-type]
    x, g = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    z = block.linear(x)
    z.retain_grad()
    assert block.norm is not None
    block.norm(z).backward(g)
    values, grads = z.detach().numpy(), g.numpy()
    scaled = normalized(values, axis)
    spread = np.sqrt(values.var(axis=axis, keepdims=True) + 1e-5)
    along = (grads * scaled).mean(axis=axis, keepdims=True)
    expected = (grads - grads.mean(axis=axis, keepdims=True) - scaled * along) / spread
    assert z.grad is not None
    np.testing.assert_allclose(z.grad, expected, atol=1e-10)


def test_batch_normalization_keeps_running_moments() -> None:
    block = Block(3, 4, Layers(activation="none", norm="batch")).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    block(x)
    z = block.linear(x).detach()
    assert isinstance(block.norm, nn.BatchNorm1d)
    torch.testing.assert_close(block.norm.running_mean, 0.1 * z.mean(0))
    torch.testing.assert_close(block.norm.running_var, 0.9 + 0.1 * z.var(0))
    block.eval()
    expected = (z - 0.1 * z.mean(0)) / (0.9 + 0.1 * z.var(0) + 1e-5).sqrt()
    torch.testing.assert_close(block(x), expected)


def test_a_batch_of_one_row_takes_the_running_moments() -> None:
    block = Block(3, 4, Layers(norm="batch"))
    assert block.norm is not None
    block(torch.randn(8, 3))
    before = {name: value.clone() for name, value in block.norm.named_buffers()}
    x = torch.randn(1, 3)
    torch.testing.assert_close(block(x), block.eval()(x))
    assert all(torch.equal(value, before[n]) for n, value in block.norm.named_buffers())


def test_residual_blocks() -> None:
    same = Block(4, 4, Layers("tanh", residual=True)).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(same(x), x + same.linear(x).tanh())
    assert isinstance(same.skip, nn.Identity)
    other = Block(4, 6, Layers(residual=True)).double()
    assert isinstance(other.skip, nn.Linear) and other.skip.bias is None
    expected = x @ other.skip.weight.T + other.linear(x).relu()
    torch.testing.assert_close(other(x), expected)


def test_dropout_keeps_the_expected_activation() -> None:
    torch.manual_seed(0)
    block = Block(8, 50, Layers(dropout=0.3))
    x = torch.randn(1, 8)
    still = block.eval()(x).detach()
    drawn = block.train()(x.expand(20_000, 8)).detach()
    there = still[0] > 0
    # the mean of 20,000 draws of a value or nothing: deviation sqrt(p / (1 - p) / n) of the value
    torch.testing.assert_close(drawn.mean(0)[there], still[0][there], rtol=0.025, atol=0)
    assert float((drawn[:, there] == 0).float().mean()) == pytest.approx(0.3, abs=0.01)


def test_noise_has_its_spread_and_mean() -> None:
    torch.manual_seed(0)
    x = torch.full((100_000,), 2.0)
    noisy = Noise(0.5)(x)
    assert float(noisy.mean()) == pytest.approx(2, abs=0.01)
    assert float(noisy.std()) == pytest.approx(0.5, rel=0.01)
    assert Noise(0.5).eval()(x) is x


def test_weights_are_perturbed_anew_for_each_batch() -> None:
    torch.manual_seed(0)
    layer = NoisyLinear(1, 1, noise=0.1)
    x = torch.ones(2, 1)
    drawn = torch.stack([layer(x)[:, 0] for _ in range(4000)]).detach()
    assert torch.equal(drawn[:, 0], drawn[:, 1])  # the weight is noisy, not the rows
    assert float(drawn[:, 0].std()) == pytest.approx(0.1, rel=0.05)
    plain = F.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(layer.eval()(x), plain)


@pytest.mark.parametrize("members", [1, 3])
def test_without_activation_it_is_one_layer(members: int) -> None:
    model = network(3, (5, 4), 2, activation="none", members=members).double().eval()
    matrix, bias = model.collapsed()
    x = torch.randn(6, 3, dtype=torch.float64)
    torch.testing.assert_close(model(x), x @ matrix.T + bias, rtol=1e-10, atol=1e-12)
    if members == 1:
        w1, w2 = (b.linear.weight for b in model.blocks)
        b1, b2 = (b.linear.bias for b in model.blocks)
        w3, b3 = model.head.weight, model.head.bias
        torch.testing.assert_close(matrix, w3 @ w2 @ w1)
        torch.testing.assert_close(bias, w3 @ (w2 @ b1 + b2) + b3)


def test_a_network_with_activations_has_no_one_layer() -> None:
    assert network(3, (4,)).layer_count == 2
    with pytest.raises(ValueError, match="activation relu"):
        network(3, (4,)).collapsed()
    with pytest.raises(ValueError, match="layer normalization"):
        network(3, (4,), activation="none", norm="layer").collapsed()


def test_members_share_the_layers_and_are_averaged() -> None:
    model = network(3, (5, 4), 2, members=3).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    assert isinstance(model.members, Members) and isinstance(model.head, Heads)
    scales = model.members.scale.view(3, 3)
    assert set(scales.flatten().tolist()) <= {-1.0, 1.0}
    found = model(x)
    assert found.shape == (6, 3, 2)
    for m in range(3):
        h = x * scales[m]
        for block in model.blocks:
            h = block(h)
        expected = h @ model.head.weight[m] + model.head.bias.view(3, 2)[m]
        torch.testing.assert_close(found[:, m], expected)
    torch.testing.assert_close(model.eval()(x), found.mean(1))


def test_batch_normalization_of_members_is_over_rows_and_members() -> None:
    model = network(3, (5,), members=2, norm="batch", activation="none").double()
    assert model.members is not None
    x = torch.randn(7, 3, dtype=torch.float64)
    z = model.blocks[0](model.members(x)).detach()
    torch.testing.assert_close(z.mean((0, 1)), torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize("name", sorted(set(activations()) - {"none"}))
def test_every_activation_is_torchs(name: str) -> None:
    module = activation(name).eval()
    assert type(module) is getattr(nn, type(module).__name__)
    model = network(3, (4,), activation=name)
    assert model(torch.randn(5, 3)).shape == (5, 1)


def test_activations_by_name() -> None:
    assert known_activation("Leaky_ReLU") == "leakyrelu"
    with pytest.raises(ValueError, match='no activation "rellu"; did you mean relu?'):
        known_activation("rellu")


@pytest.mark.parametrize(
    ("name", "expected"), [("relu", 2**0.5), ("none", 1.0), ("leakyrelu", (2 / 1.0001) ** 0.5)]
)
def test_gains_of_piecewise_linear_activations_are_torchs(name: str, expected: float) -> None:
    assert gain(name) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["tanh", "silu", "gelu", "selu", "sigmoid"])
def test_a_gain_keeps_the_mean_square(name: str) -> None:
    z = torch.randn(1_000_000, dtype=torch.float64)
    after: Tensor = gain(name) * activation(name)(z)
    assert float(after.square().mean()) == pytest.approx(1, rel=0.01)
