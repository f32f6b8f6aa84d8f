"""Parameterized hypercomplex multiplication: Zhang et al. 2021, https://arxiv.org/abs/2102.08597.

W = sum_i kron(A_i, S_i) with n small matrices A_i, (n, n), which learn the rule of multiplication, and
n matrices S_i, (K/n, D/n): n^3 + K D / n numbers where a dense layer has K D. n = 1 is a dense layer;
n = 4 with Hamilton's matrices multiplies quaternions. Sizes that n does not divide are rounded up, and
what is too much of W is cut off (the paper asks for sizes that n divides).
Shapes: B rows, D inputs, K outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourfold.models.noise import perturbed


class PHM(nn.Module):
    """Affine map whose matrix is a sum of Kronecker products."""

    def __init__(self, inputs: int, outputs: int, n: int, *, noise: float = 0.0) -> None:
        """A layer.

        Args:
            inputs: D.
            outputs: K.
            n: how many products are summed, and the size of each A_i.
            noise: standard deviation of what is added to the weights while learning.
        """
        super().__init__()
        self.inputs, self.outputs, self.n, self.noise = inputs, outputs, n, noise
        self.rules = nn.Parameter(torch.empty(n, n, n))  # A
        self.weights = nn.Parameter(torch.empty(n, -(-outputs // n), -(-inputs // n)))  # S
        self.bias = nn.Parameter(torch.empty(outputs))
        bound = inputs**-0.5
        self.spread(bound / 3**0.5)  # the variance of torch.nn.Linear's weights
        nn.init.uniform_(self.bias, -bound, bound)

    def spread(self, std: float) -> None:
        """Draw A and S anew so that each entry of W has mean 0 and this standard deviation."""
        # an entry of W sums n products of an entry of A and one of S
        nn.init.normal_(self.rules, std=self.n**-0.5)
        nn.init.normal_(self.weights, std=std)
        if self.n == 1:
            nn.init.ones_(self.rules)

    @property
    def weight(self) -> Tensor:
        """W, (K, D)."""
        n, rows, columns = self.weights.shape
        blocks = self.rules.flatten(1).T @ self.weights.flatten(1)  # (n n, K/n D/n)
        whole = blocks.view(n, n, rows, columns).transpose(1, 2).reshape(n * rows, n * columns)
        return whole[: self.outputs, : self.inputs]

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., K)."""
        return F.linear(x, perturbed(self.weight, self.noise, self.training), self.bias)

    def extra_repr(self) -> str:
        """For print."""
        return f"{self.inputs}, {self.outputs}, n={self.n}"
