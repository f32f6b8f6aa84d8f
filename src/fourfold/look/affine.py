"""Layers without an activation between them: together they are one affine map, W2 (W1 x + b1) + b2.

Shapes: D features, K outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fourfold.look.seen import Call

AFFINE = {"Linear", "NonDynamicallyQuantizableLinear"} | {
    f"{kind}{n}d" for kind in ("Conv", "ConvTranspose") for n in (1, 2, 3)
}
"""Kinds of layers that are affine maps."""


def affine_chains(calls: Sequence[Call]) -> list[tuple[str, ...]]:
    """Runs of two or more affine layers with nothing between them (dropout aside), each once."""
    chains: list[list[str]] = []
    for call in calls:
        if call.kind not in AFFINE or call.block:
            continue
        before = next((c for c in chains if c[-1] == call.reads and call.name not in c), None)
        if before is None:
            chains.append([call.name])
        else:
            before.append(call.name)
    return list(dict.fromkeys(tuple(c) for c in chains if len(c) > 1))


def collapsed(layers: Sequence[nn.Linear]) -> tuple[Tensor, Tensor]:
    """The one affine layer that a chain equals: W2 W1 and W2 b1 + b2, in float64.

    Returns:
        (K, D) weight and (K,) bias, from the first layer's D features to the last one's K outputs.
    """
    weight = layers[0].weight.detach().double()
    bias = weight.new_zeros(len(weight)) if layers[0].bias is None else layers[0].bias.detach()
    for layer in layers[1:]:
        w = layer.weight.detach().double()
        weight, bias = w @ weight, w @ bias.double()
        bias = bias if layer.bias is None else bias + layer.bias.detach()
    return weight, bias.double()


def equal_to_one(names: Sequence[str], layers: Sequence[nn.Module | None]) -> str:
    """A sentence that says so of a chain, and for linear layers shows it on random rows."""
    told = f"No activation lies between {', '.join(names)}: together they are one affine map"
    linear = [m for m in layers if isinstance(m, nn.Linear)]
    if len(linear) < len(layers):
        return f"{told}, which a single layer expresses."
    weight, bias = collapsed(linear)
    x = torch.randn(64, weight.shape[1], generator=torch.Generator().manual_seed(0)).to(weight)
    y = x
    for layer in linear:
        own = None if layer.bias is None else layer.bias.detach().double()
        y = nn.functional.linear(y, layer.weight.detach().double(), own)
    apart = float((y - x @ weight.T - bias).abs().max())
    many = sum(p.numel() for layer in linear for p in layer.parameters())
    rank = min(min(layer.weight.shape) for layer in linear)
    bottleneck = f" of rank {rank} at most" if rank < min(weight.shape) else ""
    return (
        f"{told}{bottleneck}, x -> W x + b with W of {tuple(weight.shape)} = the product of their weights "
        f"({many:,} parameters do the work of {weight.numel() + bias.numel():,}; on 64 random rows the two differ by {apart:.1g})."
    )
