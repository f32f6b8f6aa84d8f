"""torch.compile for training: one shape is compiled, the odd one out runs as it is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SHARE = 0.05
"""Calls in other shapes that run uncompiled: an epoch's last batch, not lengths that change all the time."""
FREE = 2
"""Such calls that are too few to tell."""


class Compiled:
    """A model's compiled call, to be its `_compiled_call_impl`.

    A new shape is compiled anew, which takes half a minute on a GPU and longer with torch's dynamic shapes: a bad
    bargain for the last, shorter batch of an epoch. It runs uncompiled, unless other shapes are more than `SHARE` of
    all calls; then torch decides, and makes the sizes that change dynamic.
    """

    def __init__(self, model: nn.Module, **options: Any) -> None:
        self.plain = model._call_impl
        self.compiled = torch.compile(model._call_impl, **options)
        self.usual: dict[bool, Any] = {}
        """The first shapes that came with gradients, and without."""
        self.calls = self.odd = 0

    def __call__(self, *args: Any, **named: Any) -> Any:
        """What the model says."""
        self.calls += 1
        shapes = [_shape(value) for value in (*args, *named.values())]
        if shapes != self.usual.setdefault(torch.is_grad_enabled(), shapes):
            self.odd += 1
            if self.odd <= max(FREE, SHARE * self.calls):
                return self.plain(*args, **named)
        return self.compiled(*args, **named)


def _shape(value: Any) -> Any:
    return value.shape if isinstance(value, Tensor) else None
