"""Convolution and pooling written out against torch's; shifts; published counts of residual networks; wavelets."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from fourfold.models.cnn import ConvNet, Norm, Pooling
from fourfold.models.lenet import LeNet
from fourfold.models.locally_connected import LocallyConnected
from fourfold.models.resnet import ResNet, Shortcut
from fourfold.models.wavemix import Block, WaveMix, haar

# --- written out -----------------------------------------------------------------------------------


def convolve(
    x: np.ndarray, w: np.ndarray, stride: int, padding: int, grad: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The output, and the gradients by x and w of sum(output * grad), one product at a time."""
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    k = w.shape[2]
    out, dx, dw = np.zeros(grad.shape), np.zeros(padded.shape), np.zeros(w.shape)
    for b, o, i, j in np.ndindex(*grad.shape):
        for c, r, s in np.ndindex(w.shape[1], k, k):
            y, z = i * stride + r, j * stride + s
            out[b, o, i, j] += padded[b, c, y, z] * w[o, c, r, s]
            dx[b, c, y, z] += grad[b, o, i, j] * w[o, c, r, s]
            dw[o, c, r, s] += grad[b, o, i, j] * padded[b, c, y, z]
    inner = slice(padding, dx.shape[2] - padding), slice(padding, dx.shape[3] - padding)
    return out, dx[:, :, inner[0], inner[1]], dw


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 2), st.integers(0, 1), st.integers(1, 3), st.integers(3, 5))
def test_convolution_forward_and_backward_written_out(
    stride: int, padding: int, kernel: int, side: int
) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 2, side, side + 1, dtype=torch.float64, requires_grad=True)
    w = torch.randn(3, 2, kernel, kernel, dtype=torch.float64, requires_grad=True)
    out = F.conv2d(x, w, stride=stride, padding=padding)
    grad = torch.randn_like(out)
    out.backward(grad)
    slow = convolve(x.detach().numpy(), w.detach().numpy(), stride, padding, grad.numpy())
    for ours, theirs in zip((out.detach(), x.grad, w.grad), slow, strict=True):
        np.testing.assert_allclose(np.asarray(ours), theirs, atol=1e-10)


@pytest.mark.parametrize("kind", ["max", "mean"])
def test_pooling_forward_and_backward_written_out(kind: str) -> None:
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    out = (nn.MaxPool2d(2) if kind == "max" else nn.AvgPool2d(2))(x)
    grad = torch.randn_like(out)
    out.backward(grad)
    values, expected, dx = x.detach().numpy(), np.zeros(out.shape), np.zeros(x.shape)
    for b, c, i, j in np.ndindex(*out.shape):
        window = values[b, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        expected[b, c, i, j] = window.max() if kind == "max" else window.mean()
        share = (window == window.max()) if kind == "max" else np.full((2, 2), 0.25)
        dx[b, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = share * float(grad[b, c, i, j])
    np.testing.assert_allclose(out.detach(), expected, atol=1e-12)
    np.testing.assert_allclose(np.asarray(x.grad), dx, atol=1e-12)


# --- shifts ----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.integers(-3, 3), st.integers(-3, 3), st.integers(0, 1000))
def test_convolution_commutes_with_shifts_and_a_locally_connected_layer_does_not(
    down: int, right: int, seed: int
) -> None:
    torch.manual_seed(seed)
    x = torch.zeros(1, 2, 14, 14, dtype=torch.float64)
    x[..., 5:9, 5:9] = torch.randn(4, 4, dtype=torch.float64)
    convolution = nn.Conv2d(2, 3, 3, padding=1, bias=False).double()
    local = LocallyConnected((2, 14, 14), 3, 3, padding=1).double()

    def shifted(values: Tensor) -> Tensor:
        return values.roll((down, right), (2, 3))  # nothing lies near enough to come round

    torch.testing.assert_close(convolution(shifted(x)), shifted(convolution(x)))
    if (down, right) != (0, 0):
        apart = (local(shifted(x)) - shifted(local(x))).abs().max()
        assert float(apart.detach()) > 1e-2


def test_a_locally_connected_layer_of_equal_weights_is_a_convolution() -> None:
    convolution = nn.Conv2d(2, 3, 3, stride=2, padding=1).double()
    local = LocallyConnected((2, 7, 9), 3, 3, stride=2, padding=1).double()
    weight, bias = convolution.weight.detach(), convolution.bias
    assert bias is not None
    with torch.no_grad():
        local.weight.copy_(weight.flatten(1).T.expand_as(local.weight))
        local.bias.copy_(bias.expand_as(local.bias))
    x = torch.randn(4, 2, 7, 9, dtype=torch.float64)
    torch.testing.assert_close(local(x), convolution(x))
    with pytest.raises(ValueError, match="a window of 9 is larger than 7 x 9 pixels"):
        LocallyConnected((2, 7, 9), 3, 9)


# --- networks --------------------------------------------------------------------------------------


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("depth", "count"), [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032)])
def test_imagenet_networks_have_torchvisions_parameters(depth: int, count: int) -> None:
    with torch.device("meta"):
        model = ResNet(3, 1000, depth, style="imagenet")
    assert parameters(model) == count


LAYERS_18 = {
    "conv1.weight": (64, 3, 7, 7),
    "bn1.running_mean": (64,),
    "layer1.1.conv2.weight": (64, 64, 3, 3),
    "layer2.0.conv1.weight": (128, 64, 3, 3),
    "layer2.0.downsample.0.weight": (128, 64, 1, 1),
    "layer4.1.bn2.weight": (512,),
    "fc.weight": (1000, 512),
}


def test_the_layer_table_of_resnet_18_is_the_papers() -> None:
    with torch.device("meta"):
        model = ResNet(3, 1000, 18, style="imagenet")
    found = model.state_dict()
    assert {name: tuple(found[name].shape) for name in LAYERS_18} == LAYERS_18
    assert len(found) == 122  # torchvision's resnet18 has so many entries
    sizes = []
    for name in ("conv1", "layer1", "layer2", "layer3", "layer4"):
        model.get_submodule(name).register_forward_hook(
            lambda _, __, out: sizes.append(tuple(out.shape[1:]))
        )
    with torch.device("meta"):
        model(torch.empty(1, 3, 224, 224))
    assert sizes == [(64, 112, 112), (64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)]


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_cifar_networks_have_the_papers_parameters(depth: int, millions: float) -> None:
    model = ResNet(3, 10, depth, shortcut="identity")
    assert parameters(model) / 1e6 == pytest.approx(millions, abs=0.0051)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth


@pytest.mark.parametrize("norm", ["batch", "layer", "group", "none"])
@pytest.mark.parametrize("shortcut", ["identity", "projection", "none"])
def test_residual_networks_of_every_kind_run(norm: Norm, shortcut: Shortcut) -> None:
    model = ResNet(1, 3, 8, norm=norm, shortcut=shortcut, width=8).eval()
    x = torch.randn(4, 1, 8, 8)
    out = model(x)
    assert out.shape == (4, 3) and model.features(x).shape == (4, 32, 2, 2)
    torch.testing.assert_close(model(x[:1]), out[:1])


def test_a_residual_block_whose_weights_are_zero_passes_its_input() -> None:
    model = ResNet(1, 3, 8, shortcut="identity")
    block = model.get_submodule("layer2.0")
    with torch.no_grad():
        for p in block.parameters():
            p.zero_()
    x = torch.rand(2, 16, 8, 8)
    out = block(x)
    torch.testing.assert_close(out[:, :16], x[:, :, ::2, ::2])
    assert not out[:, 16:].any()


@pytest.mark.parametrize(("depth", "style"), [(9, "cifar"), (2, "cifar"), (101, "imagenet")])
def test_depths_that_there_are_not(depth: int, style: str) -> None:
    with pytest.raises(ValueError, match=f"depth {depth}: expected"):
        ResNet(3, 10, depth, style=style)  # type: ignore[arg-type]


def test_lenet_has_the_published_parameters() -> None:
    assert parameters(LeNet((1, 32, 32), 10)) == 61_706
    for side in (8, 28, 32, 40):
        assert LeNet((1, side, side), 10)(torch.zeros(2, 1, side, side)).shape == (2, 10)


@pytest.mark.parametrize("pooling", ["max", "mean", "stride"])
@pytest.mark.parametrize("size", [(28, 28), (9, 13)])
def test_a_plain_network_takes_its_size_and_others(pooling: Pooling, size: tuple[int, int]) -> None:
    model = ConvNet((1, *size), 4, width=4, dense=8, pooling=pooling).eval()
    assert model(torch.zeros(2, 1, *size)).shape == (2, 4)
    assert model(torch.zeros(2, 1, 16, 16)).shape == (2, 4)


def test_images_smaller_than_the_stride_are_refused() -> None:
    with pytest.raises(
        ValueError, match="4 x 8 pixels cannot be halved 3 times; expected at least 8"
    ):
        ConvNet((1, 4, 8), 2)


def test_the_haar_transform_by_hand_keeps_the_sum_of_squares() -> None:
    x = torch.tensor([[1.0, 2], [3, 5]]).view(1, 1, 2, 2)
    assert haar(x).flatten().tolist() == [5.5, -1.5, -2.5, 0.5]
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    torch.testing.assert_close(haar(x).square().sum(), x.square().sum())


def test_wavemix_takes_any_size() -> None:
    model = WaveMix(3, 5, width=8, blocks=2).eval()
    for side in (8, 9):
        assert model(torch.randn(2, 3, side, side)).shape == (2, 5)
    assert Block(8, 2, 0.0)(torch.randn(1, 8, 5, 7)).shape == (1, 8, 5, 7)
    with pytest.raises(ValueError, match="width 6: expected a multiple of 4"):
        WaveMix(3, 5, width=6)
