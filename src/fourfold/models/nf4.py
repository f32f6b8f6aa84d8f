"""4-bit weights that are read, not learned: NormalFloat of QLoRA, Dettmers et al. 2023, https://arxiv.org/abs/2305.14314.

A weight is one of 16 levels, which halve the normal distribution's mass evenly, times the largest absolute value of
its block of 64 weights. Two weights are a byte, the first in the upper half. 4.5 bits a weight, or 4.13 where the
blocks' scales are themselves 8-bit floats ("double quantization").
Shapes: O outputs, I inputs, N = ceil(O * I / 64) blocks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

BLOCK = 64
"""Weights that share a scale."""
SCALES = 256
"""Scales that share a step, where they are quantized too."""
LARGEST = 448.0
"""Largest number of the 8-bit format (4 bits of exponent, 3 of mantissa)."""
CODE = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The 16 levels, as the paper's appendix E prints them."""


def to_nf4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round weights to the nearest of the 16 levels of their block.

    Args:
        weight: float of any shape.

    Returns:
        (32 N,) uint8, two weights a byte, and the blocks' largest absolute values, (N,) float32. The last block is
        filled up with zeros.
    """
    flat = weight.detach().float().flatten()
    blocks = F.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(1)
    code = torch.tensor(CODE, device=weight.device)
    # a block of zeros has no largest value: all of it is the level 0
    shares = blocks / scales.where(scales > 0, 1.0).unsqueeze(1)
    levels = torch.bucketize(shares, (code[1:] + code[:-1]) / 2).byte().flatten()
    return levels[::2] << 4 | levels[1::2], scales


def from_nf4(
    packed: Tensor, scales: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> Tensor:
    """The weights that `to_nf4` rounded to, of a shape, in a float format."""
    pairs = F.embedding(packed.int(), _pairs(packed.device))  # (32 N, 2)
    weights = pairs.view(-1, BLOCK).mul_(scales.unsqueeze(1)).view(-1)
    count = shape[0] * shape[1] if len(shape) == 2 else int(torch.Size(shape).numel())
    return weights[:count].view(shape).to(dtype)


def _pairs(device: torch.device) -> Tensor:
    """The two levels of every byte, (256, 2) float32."""
    if device not in _tables:
        code = torch.tensor(CODE)
        both = (code.repeat_interleave(16), code.repeat(16))
        _tables[device] = torch.stack(both, dim=1).to(device)
    return _tables[device]


_tables: dict[torch.device, Tensor] = {}


def to_eight_bits(scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scales (N,) as 8-bit floats of their distance from the mean: (N,) uint8, the steps of each 256, and the mean ()."""
    mean = scales.mean()
    away = F.pad(scales - mean, (0, -len(scales) % SCALES)).view(-1, SCALES)
    steps = away.abs().amax(1) / LARGEST
    narrow = (away / steps.where(steps > 0, 1.0).unsqueeze(1)).to(torch.float8_e4m3fn)
    return narrow.view(torch.uint8).flatten()[: len(scales)].clone(), steps, mean


def from_eight_bits(narrow: Tensor, steps: Tensor, mean: Tensor) -> Tensor:
    """The scales that `to_eight_bits` rounded to, (N,) float32."""
    away = narrow.view(torch.float8_e4m3fn).float()
    return away * steps.repeat_interleave(SCALES)[: len(away)] + mean


class _Product(Function):
    """x W' with W unpacked for the product alone: between forward and backward only the packed form is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: NF4Linear, dtype: torch.dtype) -> Tensor:
        ctx.layer, ctx.dtypes = layer, (x.dtype, dtype)
        return F.linear(x.to(dtype), layer.unpacked(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        of_x, dtype = ctx.dtypes
        return (grad.to(dtype) @ ctx.layer.unpacked(dtype)).to(of_x), None, None


class NF4Linear(nn.Module):
    """A linear layer whose weight is stored in 4 bits; only its input is differentiated.

    Args:
        inputs: I.
        outputs: O.
        bias: whether there is one, in float32; it is not learned either.
        double: whether the blocks' scales are stored in 8 bits.
    """

    constant = ("packed", "scales", "steps", "mean")
    """Buffers that no step changes, which a checkpoint need not hold."""
    packed: Tensor
    scales: Tensor
    steps: Tensor
    mean: Tensor

    def __init__(
        self, inputs: int, outputs: int, *, bias: bool = False, double: bool = False
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.narrow_scales = inputs, outputs, double
        blocks = -(-inputs * outputs // BLOCK)
        self.register_buffer("packed", torch.zeros(blocks * BLOCK // 2, dtype=torch.uint8))
        self.register_buffer(
            "scales", torch.zeros(blocks, dtype=torch.uint8 if double else torch.float32)
        )
        if double:
            self.register_buffer("steps", torch.zeros(-(-blocks // SCALES)))
            self.register_buffer("mean", torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs), requires_grad=False) if bias else None

    @torch.no_grad()
    def fill(self, weight: Tensor) -> None:
        """Take a weight (O, I), rounded.

        Raises:
            ValueError: it is of another shape.
        """
        if weight.shape != (self.out_features, self.in_features):
            raise ValueError(
                f"NF4Linear expects a weight of shape {(self.out_features, self.in_features)}, "
                f"got {tuple(weight.shape)}"
            )
        packed, scales = to_nf4(weight.to(self.packed.device))
        self.packed.copy_(packed)
        if self.narrow_scales:
            narrow, steps, mean = to_eight_bits(scales)
            self.scales.copy_(narrow)
            self.steps.copy_(steps)
            self.mean.copy_(mean)
        else:
            self.scales.copy_(scales)

    def unpacked(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight (O, I), made anew at every call."""
        scales = self.scales
        if self.narrow_scales:
            scales = from_eight_bits(scales, self.steps, self.mean)
        return from_nf4(self.packed, scales, (self.out_features, self.in_features), dtype)

    @property
    def weight(self) -> Tensor:
        """As `unpacked`, in float32."""
        return self.unpacked()

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) to (..., O), in autocast's dtype where that is on."""
        kind, dtype = x.device.type, x.dtype
        if torch.is_autocast_enabled(kind) and dtype != torch.float64:
            dtype = torch.get_autocast_dtype(kind)
        found: Tensor = _Product.apply(x, self, dtype)
        return found if self.bias is None else found + self.bias.to(dtype)


def with_nf4(model: nn.Module, *, double: bool = False, but: tuple[str, ...] = ("head",)) -> None:
    """Replace every linear layer by an empty one in 4 bits, to be filled by `models.adapters.give`.

    Args:
        model: changed in place.
        double: see `NF4Linear`.
        but: names of layers that stay, as the output.
    """
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and name.rpartition(".")[2] not in but:
            bias = layer.bias is not None
            new = NF4Linear(layer.in_features, layer.out_features, bias=bias, double=double)
            model.set_submodule(name, new.to(layer.weight.device))


def nf4_bytes(model: nn.Module) -> tuple[int, int]:
    """Bytes of all 4-bit weights with their scales, and of the same in float32."""
    here = there = 0
    for layer in model.modules():
        if isinstance(layer, NF4Linear):
            here += sum(b.numel() * b.element_size() for b in layer.buffers())
            there += 4 * layer.in_features * layer.out_features
    return here, there
