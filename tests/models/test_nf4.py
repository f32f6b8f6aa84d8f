"""NF4: the published levels are the normal distribution's, rounding is to the nearest, the product is the plain one's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from torch import nn

from fourfold.models.nf4 import (
    CODE,
    NF4Linear,
    from_eight_bits,
    from_nf4,
    nf4_bytes,
    to_eight_bits,
    to_nf4,
    with_nf4,
)

# Dettmers et al. 2023, appendix E, "NormalFloat 4-bit data type"
PUBLISHED = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
]  # fmt: skip


def test_levels_are_those_published_and_those_of_the_definition() -> None:
    assert list(CODE) == PUBLISHED
    # section 3: quantiles of the normal distribution, each half on its own so that there is an exact zero
    offset = (1 - 1 / 30 + 1 - 1 / 32) / 2
    positive = norm.ppf(torch.linspace(offset, 0.5, 9, dtype=torch.float64)[:-1].numpy())
    negative = -norm.ppf(torch.linspace(offset, 0.5, 8, dtype=torch.float64)[:-1].numpy())
    levels = torch.tensor(sorted([*positive, 0.0, *negative]))
    torch.testing.assert_close(
        levels / levels.max(), torch.tensor(CODE).double(), atol=2e-6, rtol=0
    )


@given(st.integers(1, 9), st.integers(1, 70), st.integers(0, 100))
def test_each_weight_becomes_the_nearest_level_of_its_block(
    rows: int, columns: int, seed: int
) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    packed, scales = to_nf4(weight)
    found = from_nf4(packed, scales, (rows, columns))
    flat, again = weight.flatten(), found.flatten()
    for start in range(0, len(flat), 64):
        block = flat[start : start + 64]
        levels = torch.tensor(PUBLISHED) * block.abs().max()
        nearest = (block[:, None] - levels).abs().amin(1)
        torch.testing.assert_close((block - again[start : start + 64]).abs(), nearest)
    packed_again, scales_again = to_nf4(found)
    assert torch.equal(packed, packed_again) and torch.equal(scales, scales_again)


def test_the_first_weight_of_a_byte_is_its_upper_half() -> None:
    weight = torch.zeros(64)
    weight[0], weight[1], weight[2] = 1.0, -1.0, 0.0
    packed, scales = to_nf4(weight)
    assert packed[:2].tolist() == [0xF0, 0x77] and scales.tolist() == [1.0]
    assert to_nf4(torch.zeros(64))[0].unique().tolist() == [0x77]


def test_scales_in_eight_bits() -> None:
    scales = torch.rand(700) + 0.5
    found = from_eight_bits(*to_eight_bits(scales))
    # 3 bits of mantissa: at most 1/16 of a scale's distance from the mean
    away = (scales - scales.mean()).abs()
    assert ((found - scales).abs() <= away / 16 + 1e-4).all()
    assert to_eight_bits(torch.full((3,), 2.0))[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_product_and_its_derivative_are_those_of_the_unpacked_weight(
    double: bool, bias: bool
) -> None:
    torch.manual_seed(0)
    layer = NF4Linear(48, 40, bias=bias, double=double)
    layer.fill(torch.randn(40, 48))
    if bias:
        layer.bias.data.normal_()
    x = torch.randn(2, 5, 48, requires_grad=True)
    wanted = F.linear(x, layer.unpacked(), layer.bias)
    found = layer(x)
    torch.testing.assert_close(found, wanted)
    weight = torch.randn_like(found)
    (one,) = torch.autograd.grad((found * weight).sum(), x)
    (other,) = torch.autograd.grad((wanted * weight).sum(), x)
    torch.testing.assert_close(one, other)
    assert not any(p.requires_grad for p in layer.parameters())


def test_autocast_multiplies_in_its_format() -> None:
    layer = NF4Linear(64, 64)
    layer.fill(torch.randn(64, 64))
    x = torch.randn(3, 64, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.bfloat16
    found.float().sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32
    torch.testing.assert_close(found.float(), x @ layer.weight.T, atol=0.1, rtol=0.05)


def test_nothing_unpacked_is_kept_for_the_backward_pass() -> None:
    layer = NF4Linear(256, 256)
    layer.fill(torch.randn(256, 256))
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        layer(torch.randn(2, 256, requires_grad=True))
    assert sum(kept) < 256 * 256


@pytest.mark.parametrize("double, bits", [(False, 4.5), (True, 4.127)])
def test_memory(double: bool, bits: float) -> None:
    model = nn.Sequential()
    model.add_module("first", nn.Linear(512, 512))
    model.add_module("head", nn.Linear(512, 512))
    with_nf4(model, double=double)
    assert isinstance(model.first, NF4Linear) and isinstance(model.head, nn.Linear)
    here, there = nf4_bytes(model)
    assert there == 4 * 512 * 512
    assert 8 * here / (512 * 512) == pytest.approx(bits, abs=0.001)


def test_state_goes_through_a_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from fourfold.core.state import load_weights, save_weights

    model = nn.Sequential(NF4Linear(32, 8, bias=True, double=True))
    model[0].fill(torch.randn(8, 32))
    save_weights(tmp_path / "w.safetensors", model)
    again = nn.Sequential(NF4Linear(32, 8, bias=True, double=True))
    load_weights(tmp_path / "w.safetensors", again)
    assert torch.equal(again[0].weight, model[0].weight)


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(8, 32\), got \(32, 8\)"):
        NF4Linear(32, 8).fill(torch.zeros(32, 8))
