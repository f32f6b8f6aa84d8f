"""Multi-layer perceptron: Rumelhart, Hinton and Williams 1986.

Hidden layers are linear (or PHM), normalization, activation, noise and dropout, with a skip around
them where they are residual (He et al. 2016): the identity, or a learned matrix where widths differ.
Members share all of it but a scale of each input and their output layer, and are averaged: TabM-mini
of Gorishniy, Kotelnikov and Babenko 2024, https://arxiv.org/abs/2410.24210, after BatchEnsemble, Wen
et al. 2020. Batch normalization: Ioffe and Szegedy 2015; layer normalization: Ba et al. 2016; dropout:
Srivastava et al. 2014.
Shapes: B rows, E inputs, H units, M members, K outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourfold.models.activations import activation, gain
from fourfold.models.dropout import Dropout
from fourfold.models.initialize import Scheme, initialize
from fourfold.models.noise import Noise, NoisyLinear, perturbed
from fourfold.models.phm import PHM

Norm = Literal["none", "batch", "layer"]


@dataclass(frozen=True)
class Layers:
    """What all hidden layers of a network have in common."""

    activation: str = "relu"
    norm: Norm = "none"
    dropout: float = 0.0
    noise: float = 0.0
    """Standard deviation of what is added to activations while learning."""
    weight_noise: float = 0.0
    """Standard deviation of what is added to weights while learning."""
    residual: bool = False
    phm: int = 1
    """Kronecker products that a layer's matrix is made of; 1 is a dense layer."""
    initialization: Scheme = "torch"


class BatchNorm(nn.BatchNorm1d):
    """torch's, but for a batch of one row, which has no spread: the running moments stand in there."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, H) to (N, H)."""
        if self.training and len(x) == 1:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)


class Block(nn.Module):
    """One hidden layer."""

    def __init__(self, inputs: int, width: int, layers: Layers) -> None:
        super().__init__()
        self.linear = _linear(inputs, width, layers)
        initialize(self.linear, layers.initialization, gain(layers.activation))
        self.norm = NORMS[layers.norm](width)
        self.activation = activation(layers.activation)
        self.noise = Noise(layers.noise) if layers.noise else None
        self.dropout = Dropout(layers.dropout) if layers.dropout else None
        self.skip: nn.Module | None = None
        if layers.residual:
            self.skip = nn.Identity() if inputs == width else nn.Linear(inputs, width, bias=False)
            initialize(self.skip, layers.initialization)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., H)."""
        h: Tensor = self.linear(x)
        if self.norm is not None:
            # the moments of a batch are taken over rows and members alike
            h = self.norm(h.flatten(0, -2)).view_as(h)
        h = self.activation(h)
        if self.noise is not None:
            h = self.noise(h)
        if self.dropout is not None:
            h = self.dropout(h)
        return h if self.skip is None else self.skip(x) + h


def _linear(inputs: int, outputs: int, layers: Layers) -> nn.Module:
    noise = layers.weight_noise
    if layers.phm > 1:
        return PHM(inputs, outputs, layers.phm, noise=noise)
    return NoisyLinear(inputs, outputs, noise=noise) if noise else nn.Linear(inputs, outputs)


NORMS: dict[Norm, Callable[[int], nn.Module | None]] = {
    "none": lambda _: None,
    "batch": BatchNorm,
    "layer": nn.LayerNorm,
}


class Members(nn.Module):
    """Each member's view of the inputs: their product with signs of its own, which are learned further."""

    def __init__(self, members: int, inputs: int) -> None:
        super().__init__()
        self.members = members
        # one axis, so that weight decay, which leaves vectors alone, does not draw it to zero
        self.scale = nn.Parameter(torch.randint(0, 2, (members * inputs,)) * 2.0 - 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, E) to (B, M, E)."""
        return x[:, None] * self.scale.view(self.members, -1)


class Heads(nn.Module):
    """An output layer for each member."""

    def __init__(self, members: int, inputs: int, outputs: int, *, noise: float = 0.0) -> None:
        super().__init__()
        bound = max(1, inputs) ** -0.5
        self.outputs, self.noise = outputs, noise
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members * outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """(B, M, H) to (B, M, K)."""
        weight = perturbed(self.weight, self.noise, self.training)
        bias = self.bias.view(-1, 1, self.outputs)
        return torch.baddbmm(bias, x.transpose(0, 1), weight).transpose(0, 1)


class MLP(nn.Module):
    """Columns, hidden layers, an output layer; or several members of an ensemble that share the layers.

    With members it gives (B, M, K) while learning, so that each has a loss of its own, and their mean
    (B, K) afterwards.
    """

    def __init__(
        self,
        columns: nn.Module,
        inputs: int,
        widths: Sequence[int],
        outputs: int,
        layers: Layers,
        *,
        members: int = 1,
    ) -> None:
        """A network.

        Args:
            columns: what makes the inputs of a row: (B, D) to (B, E).
            inputs: E.
            widths: units of each hidden layer; none make a linear model.
            outputs: K.
            layers: what hidden layers consist of.
            members: M.
        """
        super().__init__()
        self.columns, self.layers, self.inputs = columns, layers, inputs
        self.members = Members(members, inputs) if members > 1 else None
        sizes = [inputs, *widths]
        self.blocks = nn.ModuleList(
            Block(a, b, layers) for a, b in zip(sizes, widths, strict=False)
        )
        self.head: nn.Module
        if members > 1:
            self.head = Heads(members, sizes[-1], outputs, noise=layers.weight_noise)
        else:
            self.head = _linear(sizes[-1], outputs, replace(layers, phm=1))
            initialize(self.head, layers.initialization)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) to (B, K); to (B, M, K) while several members learn."""
        outputs = self.after_columns(self.columns(features))
        return outputs.mean(1) if self.members is not None and not self.training else outputs

    def after_columns(self, x: Tensor) -> Tensor:
        """(B, E) to (B, K), or (B, M, K): the part of the network that is one layer where no activation is."""
        if self.members is not None:
            x = self.members(x)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(x)
        return out

    @property
    def layer_count(self) -> int:
        """Hidden layers and the output layer."""
        return len(self.blocks) + 1

    @torch.no_grad()
    def collapsed(self) -> tuple[Tensor, Tensor]:
        """The one layer that a network without activations is, W2 W1 and W2 b1 + b2: (K, E) and (K,).

        Raises:
            ValueError: something between the layers is not linear.
        """
        if self.layers.activation != "none" and len(self.blocks):
            raise ValueError(f"a network with activation {self.layers.activation} is no one layer")
        if self.layers.norm == "layer" and len(self.blocks):
            raise ValueError("layer normalization is not linear")
        training = self.training
        self.eval()
        like = next(self.parameters())
        rows = torch.eye(self.inputs, dtype=like.dtype, device=like.device)
        found = self.after_columns(torch.cat((torch.zeros_like(rows[:1]), rows)))
        self.train(training)
        found = found.mean(1) if self.members is not None else found
        return (found[1:] - found[0]).T, found[0]
