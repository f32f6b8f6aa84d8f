"""Gradients summed over processes while the backward pass goes on (Li et al. 2020, PyTorch's distributed data parallel).

torch's DistributedDataParallel wraps a module and divides by the number of processes; here a player may be any child,
is called as often as the game wants, and the weight of the step divides. What is taken from it are the buckets.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fourfold.core.ranks import Ranks
from fourfold.core.shares import local

BUCKET = 25 << 20
"""Bytes of gradients that are summed at once, as in torch's DistributedDataParallel."""
FIRST = 1 << 20
"""Bytes of the first bucket, which is small so that summing begins early."""


class Reducer:
    """Sums the gradients of some parameters over processes, bucket after bucket as they are there.

    Args:
        parameters: in the order of the forward pass; their gradients come about in the reverse.
        ranks: the processes.
        group: of a process group of its own, as the order of its sums must be the same on every rank.
    """

    def __init__(self, parameters: list[nn.Parameter], ranks: Ranks, group: Any) -> None:
        self.ranks, self.group = ranks, group
        self.buckets = _buckets(parameters)
        self.place = {p: number for number, b in enumerate(self.buckets) for p in b}
        self.armed = False
        self.left: list[int] = []
        self.work: list[tuple[Any, Tensor]] = []
        self.sent = 0
        """Bytes handed to sums so far."""
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(self._ready)

    def arm(self) -> None:
        """The next backward pass is the last of the step: its gradients are whole."""
        self.armed, self.left = True, [len(bucket) for bucket in self.buckets]
        self.work = []

    def _ready(self, parameter: Tensor) -> None:
        if not self.armed:
            return
        self.left[self.place[parameter]] -= 1  # type: ignore[index]
        # in the order of the buckets, whatever becomes ready first
        while len(self.work) < len(self.buckets) and self.left[len(self.work)] == 0:
            self._send()

    def _send(self) -> None:
        bucket = self.buckets[len(self.work)]
        parts = [
            p.new_zeros(p.numel()) if p.grad is None else local(p.grad).flatten() for p in bucket
        ]
        flat = torch.cat(parts)
        self.sent += flat.numel() * flat.element_size()
        self.work.append((dist.all_reduce(flat, group=self.group, async_op=True), flat))

    def finish(self) -> None:
        """Wait until every gradient is the sum over all processes; a parameter without one gets zeros."""
        while len(self.work) < len(self.buckets):
            self._send()
        self.armed = False
        with self.ranks.waiting("the sum of the gradients"), torch.no_grad():
            for (work, flat), bucket in zip(self.work, self.buckets, strict=True):
                work.wait()
                for parameter in bucket:
                    if parameter.grad is None:
                        parameter.grad = torch.zeros_like(parameter)
                grads = [local(p.grad) for p in bucket if p.grad is not None]
                pieces = flat.split([g.numel() for g in grads])
                torch._foreach_copy_(
                    grads, [x.view(g.shape) for x, g in zip(pieces, grads, strict=True)]
                )
        self.work = []


def _buckets(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    found: list[list[nn.Parameter]] = []
    size, most = 0, FIRST
    for parameter in reversed(parameters):
        bytes_ = local(parameter).numel() * parameter.element_size()
        fits = found and found[-1][0].dtype == parameter.dtype and size + bytes_ <= most
        if not fits:
            most = FIRST if not found else BUCKET
            found.append([])
            size = 0
        found[-1].append(parameter)
        size += bytes_
    return found
