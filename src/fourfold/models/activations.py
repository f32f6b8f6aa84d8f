"""torch's activations by name, and how they scale what passes through them."""

from __future__ import annotations

import functools
import inspect

import numpy as np
import torch
from torch import nn
from torch.nn.modules import activation as torch_activations

from fourfold.core.errors import nearest

NOT_ELEMENTWISE = {"MultiheadAttention", "Softmax2d", "GLU", "Threshold"}
"""Modules among torch's activations that take other shapes, halve the width or have no default."""


@functools.cache
def activations() -> dict[str, type[nn.Module]]:
    """torch's activations by lower-case name, with and without underscores: relu, leaky_relu, leakyrelu."""
    found: dict[str, type[nn.Module]] = {"none": nn.Identity}
    for name in torch_activations.__all__:
        if name not in NOT_ELEMENTWISE:
            found[_spelt(name)] = getattr(torch_activations, name)
    return found


def _spelt(name: str) -> str:
    return name.lower().replace("_", "")


def known_activation(name: str) -> str:
    """An activation's name as it is kept.

    Raises:
        ValueError: torch has none of this name.
    """
    if _spelt(name) not in activations():
        raise ValueError(f'torch has no activation "{name}"{nearest(_spelt(name), activations())}')
    return _spelt(name)


def activation(name: str) -> nn.Module:
    """A module of its own: those with parameters learn them layer by layer.

    Raises:
        ValueError: torch has none of this name.
    """
    cls = activations()[known_activation(name)]
    # those that sum over an axis (softmax and its like) do so over a row's units
    return cls(dim=-1) if "dim" in inspect.signature(cls).parameters else cls()


@functools.cache
def gain(name: str) -> float:
    """1 / sqrt(E[f(z)^2]), z normal: what keeps the mean square of activations alike from layer to layer.

    sqrt(2) for relu (He et al. 2015), 1 for none and selu, 1.59 for tanh. torch.nn.init.calculate_gain
    gives 5/3 for tanh and knows few others.
    """
    z, weights = np.polynomial.hermite_e.hermegauss(200)
    module = activation(name).double().eval()
    if "dim" in inspect.signature(type(module)).parameters:
        return 1.0  # a share of a whole has no gain of its own
    with torch.no_grad():
        squares = module(torch.from_numpy(z)).square().numpy()
    mean = float((weights * squares).sum() / weights.sum())
    return mean**-0.5 if mean > 0 else 1.0
