"""Negative log-likelihoods, in nats."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from fourfold.core.parts import Batch, Move, Objective

CHUNK = 1 << 18
"""Logits that the CPU form holds in float32 at a time: they stay in the cache."""


class _CrossEntropy(Function):
    """Summed cross-entropy in chunks of rows, differentiated while a chunk is at hand.

    Keeps the gradient in the dtype of the logits instead of several float32 copies of them.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, ignore: int) -> Tensor:
        grad = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        wide = torch.promote_types(logits.dtype, torch.float32)
        total = logits.new_zeros((), dtype=wide)
        step = max(1, CHUNK // logits.shape[-1])
        for rows in (slice(i, i + step) for i in range(0, len(logits), step)):
            counts = (targets[rows] != ignore).to(wide).unsqueeze(-1)
            column = targets[rows].unsqueeze(-1).where(counts > 0, 0)
            chunk = logits[rows].to(wide).log_softmax(-1)
            total -= (chunk.gather(-1, column) * counts).sum()
            if grad is not None:
                chunk.exp_().scatter_add_(-1, column, -torch.ones_like(counts))
                grad[rows] = chunk.mul_(counts)
        ctx.save_for_backward(grad)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (kept,) = ctx.saved_tensors
        return kept * grad.to(kept.dtype), None, None


def cross_entropy(logits: Tensor, targets: Tensor, ignore: int = -100) -> Tensor:
    """Summed cross-entropy, in nats.

    Args:
        logits: (N, V) float.
        targets: (N,) int64 below V; `ignore` does not count.

    Returns:
        () float32, or float64 where the logits are.
    """
    if logits.device.type == "cpu" and not torch.compiler.is_compiling():
        return _CrossEntropy.apply(logits, targets, ignore)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide, targets, ignore_index=ignore, reduction="sum")


class NextToken(Objective):
    """Cross-entropy of the next token: -log softmax(logits)[target], in nats.

    The model maps batch["tokens"], (B, T) int64, to logits (B, T, V); positions whose
    batch["targets"], (B, T) int64, equals `ignore` do not count.

    Raises:
        ValueError: logits and targets differ in (B, T).
    """

    ignore: int = -100
    """Target that does not count."""

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """One move of the whole model: nats, summed over the tokens that count."""
        logits, targets = model(batch["tokens"]), batch["targets"]
        if logits.shape[:-1] != targets.shape:
            got = f"{tuple(logits.shape)} and {tuple(targets.shape)}"
            raise ValueError(f"NextToken expects logits (B, T, V) and targets (B, T), got {got}")
        total = cross_entropy(logits.flatten(0, 1), targets.flatten(), self.ignore)
        yield Move("model", total, weight=(targets != self.ignore).sum())
