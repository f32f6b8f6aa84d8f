"""Initial weights that keep the size of activations alike from layer to layer.

Xavier: Glorot and Bengio 2010; He: He et al. 2015, https://arxiv.org/abs/1502.01852;
orthogonal: Saxe et al. 2014, https://arxiv.org/abs/1312.6120.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from fourfold.models.phm import PHM

Scheme = Literal["torch", "xavier", "he", "orthogonal"]


def initialize(module: nn.Module, scheme: Scheme, gain: float = 1.0) -> None:
    """Draw the weights of every linear and PHM layer of a module anew; biases become 0.

    Args:
        module: changed in place.
        scheme: torch leaves torch's own; xavier has deviation gain sqrt(2 / (inputs + outputs)), he
            gain / sqrt(inputs), orthogonal gives gain times orthonormal rows or columns.
        gain: of the activation that follows (`activations.gain`).

    Raises:
        ValueError: orthogonal, for a PHM layer with n > 1, whose matrix is a sum of products.
    """
    if scheme == "torch":
        return
    for layer in module.modules():
        if isinstance(layer, PHM):
            _initialize_phm(layer, scheme, gain)
        elif isinstance(layer, nn.Linear):
            DRAW[scheme](layer.weight, gain)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _initialize_phm(layer: PHM, scheme: Scheme, gain: float) -> None:
    if scheme == "orthogonal":
        if layer.n > 1:
            raise ValueError(
                f"orthogonal initialization is for dense layers; a PHM layer of n = {layer.n} has no matrix to draw"
            )
        nn.init.ones_(layer.rules)
        nn.init.orthogonal_(layer.weights[0], gain)
        return
    fans = layer.inputs if scheme == "he" else (layer.inputs + layer.outputs) / 2
    layer.spread(gain * fans**-0.5)


def _he(weight: Tensor, gain: float) -> None:
    nn.init.normal_(weight, std=gain * weight.shape[1] ** -0.5)


DRAW: dict[str, Callable[[Tensor, float], object]] = {
    "xavier": lambda weight, gain: nn.init.xavier_normal_(weight, gain),
    "he": _he,
    "orthogonal": lambda weight, gain: nn.init.orthogonal_(weight, gain),
}
