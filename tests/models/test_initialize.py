"""Initial weights: their spread, their orthogonality, and that activations keep their size through depth."""

import pytest
import torch
from torch import nn

from fourfold.models.activations import gain
from fourfold.models.initialize import initialize
from fourfold.models.mlp import MLP, Layers
from fourfold.models.phm import PHM
from fourfold.models.tabular import Columns


@pytest.mark.parametrize(
    ("scheme", "expected"), [("xavier", 2 * (2 / (300 + 500)) ** 0.5), ("he", 2 * 300**-0.5)]
)
def test_the_spread_is_the_papers(scheme: str, expected: float) -> None:
    layer = nn.Linear(300, 500)
    initialize(layer, scheme, gain=2.0)  # type: ignore[arg-type]
    assert float(layer.weight.detach().std()) == pytest.approx(expected, rel=0.02)
    assert not layer.bias.any()


def test_orthogonal_rows() -> None:
    layer = nn.Linear(8, 5)
    initialize(layer, "orthogonal", gain=2.0)
    torch.testing.assert_close(layer.weight @ layer.weight.T, 4 * torch.eye(5))


def test_torchs_own_is_left() -> None:
    layer = nn.Linear(3, 4)
    before = layer.weight.detach().clone()
    initialize(layer, "torch")
    assert torch.equal(layer.weight, before) and layer.bias.any()


def test_phm_layers() -> None:
    layer = PHM(64, 64, 1)
    initialize(layer, "he", gain=2.0)
    assert float(layer.weight.detach().std()) == pytest.approx(0.25, rel=0.05)
    initialize(layer, "orthogonal")
    torch.testing.assert_close(layer.weight @ layer.weight.T, torch.eye(64), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="n = 4"):
        initialize(PHM(8, 8, 4), "orthogonal")


@pytest.mark.parametrize("name", ["relu", "tanh"])
@pytest.mark.parametrize("scheme", ["he", "orthogonal"])
def test_activations_keep_their_size_through_twenty_layers(name: str, scheme: str) -> None:
    torch.manual_seed(0)
    columns = Columns(["number"] * 256)
    layers = Layers(activation=name, initialization=scheme)  # type: ignore[arg-type]
    model = MLP(columns, 256, (256,) * 20, 1, layers)
    h = torch.randn(512, 256)
    with torch.no_grad():
        for block in model.blocks:
            h = block(h)
    assert 0.4 < gain(name) ** 2 * float(h.square().mean()) < 2.5
    # torch's own shrinks relu's activations by a factor of 2.4 a layer
    assert float(h.square().mean()) > 0.1
