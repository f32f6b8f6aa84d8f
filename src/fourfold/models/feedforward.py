"""Feed-forwards of a Transformer: gated (GLU variants, Shazeer 2020) and plain. Shapes: W width, F hidden."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its tanh formula, GPT-2's (Hendrycks & Gimpel 2016)."""
    return F.gelu(x, approximate="tanh")


GATED: dict[str, Callable[[Tensor], Tensor]] = {
    "swiglu": F.silu,
    "geglu": F.gelu,
    "geglu_tanh": gelu_tanh,
    "reglu": F.relu,
}
PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "relu": F.relu,
    "silu": F.silu,
}
FEEDFORWARDS = (*GATED, *PLAIN)


class Gated(nn.Module):
    """down(f(gate(x)) * up(x)); with silu for f this is SwiGLU."""

    def __init__(self, width: int, hidden: int, kind: str = "swiglu", bias: bool = False) -> None:
        super().__init__()
        self.function = GATED[kind]
        self.gate = nn.Linear(width, hidden, bias=bias)
        self.up = nn.Linear(width, hidden, bias=bias)
        self.down = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., W) to (..., W)."""
        return self.down(self.function(self.gate(x)) * self.up(x))


class Plain(nn.Module):
    """down(f(up(x)))."""

    def __init__(self, width: int, hidden: int, kind: str = "gelu", bias: bool = False) -> None:
        super().__init__()
        self.function = PLAIN[kind]
        self.up = nn.Linear(width, hidden, bias=bias)
        self.down = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., W) to (..., W)."""
        return self.down(self.function(self.up(x)))


def make_feedforward(kind: str, width: int, hidden: int, bias: bool = False) -> Gated | Plain:
    """One of `FEEDFORWARDS`.

    Args:
        kind: its name.
        width: W.
        hidden: F.
        bias: whether its products have biases.
    """
    return (Gated if kind in GATED else Plain)(width, hidden, kind, bias)
