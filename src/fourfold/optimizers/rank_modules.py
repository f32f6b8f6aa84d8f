"""Modules that look beyond a process's rows: batch normalization over all of them, dropout of its own in each.

Batch normalization over several processes: Peng et al. 2018 (MegDet). torch.nn.SyncBatchNorm is for GPUs only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fourfold.core.ranks import Ranks, current
from fourfold.core.shares import idle

_masks: dict[torch.device, torch.Generator] = {}


class _Summed(torch.autograd.Function):
    """The sum over all processes; each one's loss depends on it, so its gradient is summed too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        return current().sum(x.clone(), "moments of a batch")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        return _Summed.apply(gradient.contiguous())


class _Over:
    """Mixin: batch normalization by the moments of all processes' rows."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) to the same shape."""
        own: Any = self
        if not own.training:
            return super().forward(x)  # type: ignore[misc, no-any-return]
        axes = [0, *range(2, x.ndim)]
        shape = [1, -1] + [1] * (x.ndim - 2)
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        counts = 0.0 if idle() else 1.0
        size = wide.new_tensor([counts * x.numel() / x.shape[1]])
        told = _Summed.apply(torch.cat([counts * wide.sum(axes), size]))
        size = told[-1].detach()
        apart = wide - (told[:-1] / size).view(shape)
        variance = _Summed.apply(counts * apart.square().sum(axes)) / size
        own._remember((told[:-1] / size).detach(), variance.detach(), size)
        y = apart * torch.rsqrt(variance + own.eps).view(shape)
        if own.affine:
            y = y * own.weight.view(shape) + own.bias.view(shape)
        return y.to(x.dtype)

    def _remember(self, mean: Tensor, variance: Tensor, size: Tensor) -> None:
        own: Any = self
        if not own.track_running_stats:
            return
        own.num_batches_tracked.add_(1)
        rate = 1 / float(own.num_batches_tracked) if own.momentum is None else own.momentum
        own.running_mean.lerp_(mean.to(own.running_mean.dtype), rate)
        unbiased = variance * size / (size - 1).clamp(min=1)
        own.running_var.lerp_(unbiased.to(own.running_var.dtype), rate)


class _Own:
    """Mixin: dropout whose masks differ between processes, and leave the common generators alone."""

    def forward(self, x: Tensor) -> Tensor:
        """A tensor of the shape of x."""
        own: Any = self
        if not own.training or own.p == 0:
            return x
        if own.p == 1:
            return x * 0
        mask = torch.empty_like(x, memory_format=torch.contiguous_format)
        return x * mask.bernoulli_(1 - own.p, generator=_generator(x.device)).div_(1 - own.p)


def same_masks() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts for a forward pass and for the one that computes it again: the same masks of dropout."""
    states = {device: generator.get_state() for device, generator in _masks.items()}
    return contextlib.nullcontext(), _from(states)


@contextlib.contextmanager
def _from(states: dict[torch.device, Tensor]) -> Iterator[None]:
    after = {device: generator.get_state() for device, generator in _masks.items()}
    for device, state in states.items():
        _masks[device].set_state(state)
    try:
        yield
    finally:
        for device, state in after.items():
            _masks[device].set_state(state)


def _generator(device: torch.device) -> torch.Generator:
    if device not in _masks:
        _masks[device] = torch.Generator(device=device)
    return _masks[device]


def begin_step(seed: int, step: int, rank: int) -> None:
    """Masks of a step are fixed by seed, step and rank: nothing of them is in a checkpoint."""
    for generator in _masks.values():
        generator.manual_seed(_number(seed, step, rank))


def seed_step(seed: int, step: int, rank: int, device: torch.device) -> None:
    """What this process draws in a step is fixed likewise."""
    torch.default_generator.manual_seed(_number(seed, step, rank))
    if device.type == "cuda":
        torch.cuda.manual_seed(_number(seed, step, rank))


def _number(seed: int, step: int, rank: int) -> int:
    return (seed * 1_000_003 + step) * 65_537 + rank


@contextlib.contextmanager
def spread(model: nn.Module, ranks: Ranks, device: torch.device) -> Iterator[None]:
    """While inside, the model's batch normalizations and dropouts know of the other processes."""
    if not ranks.several:
        yield
        return
    before = {}
    for module in model.modules():
        for kind, mixin in ((_BatchNorm, _Over), (nn.Dropout, _Own)):
            if isinstance(module, kind):
                before[module] = type(module)
                module.__class__ = type(type(module).__name__, (mixin, type(module)), {})
                if kind is nn.Dropout:
                    _generator(device)
    try:
        yield
    finally:
        for module, cls in before.items():
            module.__class__ = cls
