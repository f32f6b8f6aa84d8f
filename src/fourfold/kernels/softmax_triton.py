"""Cross-entropy of logits with its gradient on a CUDA GPU, in Triton: each row is read twice and written once.

The counterpart of `softmax.differentiate`; the plain reference is torch's cross-entropy in float32, which goes
some six times over float32 copies of the logits. Normalizer in one pass: Milakov and Gimelshein 2018, arXiv 1805.02867.
Imported only where triton is. Shapes: N rows, V logits of a row.
"""

# mypy: disable-error-code="attr-defined, no-untyped-def, untyped-decorator"
# inside a kernel numbers are tensors of Triton's

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096
"""Logits of a row at a time."""


@triton.jit
def _row(
    logits, into, targets, losses, columns, ignore, WRITE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """One row: its loss, then its gradient."""
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + row)
    at = tl.arange(0, BLOCK)
    begin = logits + row * columns
    counts = target != ignore
    # a largest and a sum for each place of a block, joined at the end
    top = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, columns, BLOCK):
        x = tl.load(begin + start + at, mask=start + at < columns, other=float("-inf")).to(
            tl.float32
        )
        more = tl.maximum(top, x, propagate_nan=tl.PropagateNan.ALL)
        # a place that has seen nothing but -inf has no difference to take
        safe = tl.where(more == float("-inf"), 0.0, more)
        total = total * tl.exp(top - safe) + tl.exp(x - safe)
        top = more
    largest = tl.max(top, 0)
    safe = tl.where(largest == float("-inf"), 0.0, largest)
    normalizer = tl.log(tl.sum(total * tl.exp(top - safe), 0)) + safe
    known = counts & (target >= 0) & (target < columns)
    true = tl.load(begin + target, mask=known, other=float("nan")).to(tl.float32)
    tl.store(losses + row, tl.where(counts, normalizer - true, 0.0))
    if WRITE:
        for start in range(0, columns, BLOCK):
            inside = start + at < columns
            x = tl.load(begin + start + at, mask=inside, other=0.0).to(tl.float32)
            slope = tl.exp(x - normalizer) - tl.where(start + at == target, 1.0, 0.0)
            slope = tl.where(counts, slope, 0.0)
            tl.store(
                into + row * columns + start + at, slope.to(into.dtype.element_ty), mask=inside
            )


def differentiate(logits: Tensor, targets: Tensor, ignore: int, into: Tensor | None) -> Tensor:
    """Cross-entropies, and their gradients where they are wanted.

    Args:
        logits: (N, V) bfloat16, float16 or float32 on a CUDA device, contiguous.
        targets: (N,) int64 from 0 to below V; `ignore` does not count.
        into: (N, V), contiguous, takes the gradient of the sum; may be `logits`. None: no gradient.

    Returns:
        (N,) float32 in nats, 0 where a row does not count, not a number where a target is out of bounds: the
        device is not waited for.

    Raises:
        ValueError: the logits are no contiguous matrix.
    """
    if logits.ndim != 2 or not logits.is_contiguous():
        raise ValueError(f"expected contiguous logits (N, V), got {tuple(logits.shape)}")
    losses = torch.empty(len(logits), device=logits.device)
    if len(logits):
        grad = logits if into is None else into
        _row[(len(logits),)](
            logits, grad, targets.contiguous(), losses, logits.shape[1], ignore,
            WRITE=into is not None, BLOCK=BLOCK, num_warps=8,
        )  # fmt: skip
    return losses
