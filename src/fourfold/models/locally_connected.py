"""Locally connected layer: a convolution whose weights differ from place to place. LeCun 1989; Taigman et al. 2014.

It is the step between a dense layer and a convolution: as the latter it sees a small window at each place, as the
former it learns every place by itself. Shapes: B batch, C channels, O outputs, H and W pixels, L places.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LocallyConnected(nn.Module):
    """One layer of windows with weights of their own."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
    ) -> None:
        """Build it.

        Args:
            shape: (C, H, W) of its input, which it is bound to.
            outputs: O, channels of its output.
            kernel: side of the window, pixels.
            stride: pixels between windows.
            padding: zeros round the input.

        Raises:
            ValueError: the window is larger than the padded input.
        """
        super().__init__()
        channels, *sides = shape
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.sides = [(side + 2 * padding - kernel) // stride + 1 for side in sides]
        if min(self.sides) < 1:
            raise ValueError(f"a window of {kernel} is larger than {sides[0]} x {sides[1]} pixels")
        inside, places = channels * kernel**2, self.sides[0] * self.sides[1]
        bound = 1 / math.sqrt(inside)  # as torch.nn.Conv2d draws its weights
        self.weight = nn.Parameter(torch.empty(places, inside, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(places, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """(B, O, H', W') of (B, C, H, W)."""
        windows = F.unfold(
            x, self.kernel, padding=self.padding, stride=self.stride
        )  # (B, C k k, L)
        said = torch.baddbmm(self.bias[:, None], windows.permute(2, 0, 1), self.weight)  # (L, B, O)
        return said.permute(1, 2, 0).reshape(len(x), -1, *self.sides)
