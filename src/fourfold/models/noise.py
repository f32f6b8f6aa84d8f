"""Gaussian noise while learning: on inputs, Bishop 1995 (small noise acts as a penalty on the gradient); on weights, Graves 2011."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourfold.core.shares import drawn


class Noise(nn.Module):
    """Adds Gaussian noise of a standard deviation while learning, and nothing afterwards."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        """A tensor of the shape of x."""
        return perturbed_rows(x, self.std) if self.training and self.std else x

    def extra_repr(self) -> str:
        """For print."""
        return f"{self.std:g}"


class NoisyLinear(nn.Linear):
    """torch.nn.Linear whose weights are perturbed anew for every batch while learning."""

    def __init__(self, inputs: int, outputs: int, *, noise: float) -> None:
        super().__init__(inputs, outputs)
        self.noise = noise

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., K)."""
        return F.linear(x, perturbed(self.weight, self.noise, self.training), self.bias)


def perturbed(x: Tensor, std: float, training: bool) -> Tensor:
    """x, with Gaussian noise on it while learning."""
    return x + std * torch.randn_like(x) if training and std else x


def perturbed_rows(x: Tensor, std: float | Tensor) -> Tensor:
    """The rows of a batch, (B, ...), with Gaussian noise on them."""
    like: dict[str, Any] = {"device": x.device, "dtype": x.dtype}
    return x + std * drawn(len(x), lambda rows: torch.randn(rows, *x.shape[1:], **like))
