"""The forms of attention's product: explicit blocks, torch's kernels, batched products, example by example.

All compute softmax(scale q k' + mask) v and differ in what they store and where they are fast: `attention` in
`models/attention.py` chooses. Tests hold them equal. Shapes: B batch, T queries, S keys, H heads, D features of
a head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from fourfold.models.segments import Segments

ROWS = 64
"""Queries in a block of the explicit form: a block skips the keys after its last query."""


class _Explicit(Function):
    """softmax(scale q k') v, causal, with the scores stored, in blocks of queries, over (B * H, T, D).

    On a CPU in bfloat16, forward and backward at T = 256 take about a third of the flash
    kernel's time, whose inner loops compute in float32.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        time, ctx.scale = q.shape[1], scale
        out, kept = torch.empty_like(q), []
        future = q.new_full((time, time), float("-inf")).triu_(1)
        for start in range(0, time, ROWS):
            end = min(start + ROWS, time)
            scores = torch.baddbmm(
                future[start:end, :end], q[:, start:end], k[:, :end].transpose(1, 2), alpha=scale
            )
            kept.append(torch.softmax(scores, dim=-1))
            torch.bmm(kept[-1], v[:, :end], out=out[:, start:end])
        ctx.save_for_backward(q, k, v, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # type: ignore[override]
        q, k, v, *kept = ctx.saved_tensors
        time, scale = q.shape[1], ctx.scale
        grad = grad.contiguous()
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        last = (time - 1) // ROWS * ROWS
        for start in range(
            last, -1, -ROWS
        ):  # the last block sees all keys: it sets, the others add
            end, weights, add = min(start + ROWS, time), kept[start // ROWS], int(start != last)
            rows, kept_rows = slice(start, end), weights.transpose(1, 2)
            into = torch.bmm(grad[:, rows], v[:, :end].transpose(1, 2))
            into = torch._softmax_backward_data(into, weights, -1, weights.dtype)
            _product(dq[:, rows], into, k[:, :end], 0, scale)
            _product(dk[:, :end], into.transpose(1, 2), q[:, rows], add, scale)
            _product(dv[:, :end], kept_rows, grad[:, rows], add, 1.0)
        return dq, dk, dv, None


def _product(out: Tensor, a: Tensor, b: Tensor, add: int, scale: float) -> None:
    torch.baddbmm(out, a, b, beta=add, alpha=scale, out=out)


def attention_explicit(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """Causal attention by plain matrix products; arguments and result as in `attention`."""
    k, v = repeated(q, k), repeated(q, v)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return _Explicit.apply(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), scale).view(q.shape)


def attention_flash(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    scale: float | None = None,
    causal: bool | None = None,
) -> Tensor:
    """Attention by torch's own kernels.

    Args:
        q: (B, H, T, D) float; k and v as in `attention`.
        mask: bool (True: seen) or float (added to the scores), broadcastable to (B, H, T, S).
        scale: of the products; None takes D ** -0.5.
        causal: whether what follows is hidden; None: where there is no mask.
    """
    causal = mask is None if causal is None else causal
    if (
        mask is not None and q.is_cuda
    ):  # no kernel of torch's takes both a mask and shared keys (2.13)
        k, v = repeated(q, k), repeated(q, v)
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped
    )


def attention_products(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Attention by two batched products and a softmax that autograd knows; as `attention_flash`, never causal by itself."""
    k, v = repeated(q, k), repeated(q, v)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    batch, heads, time, _ = q.shape
    shape = (batch * heads, time, k.shape[2])
    left, right = q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2)
    if mask is None:
        scores = torch.bmm(left * scale, right)
    else:
        added = additive(mask, q.dtype).expand(batch, heads, *shape[1:]).reshape(shape)
        scores = torch.baddbmm(added, left, right, alpha=scale)
    return torch.bmm(scores.softmax(-1), v.flatten(0, 1)).view(batch, heads, time, v.shape[-1])


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A bool mask (True: seen) as what is added to the scores: 0, or -inf; a float one in `dtype`."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)


def repeated(q: Tensor, k: Tensor) -> Tensor:
    """Keys or values, each as often as there are queries' heads that share it: (B, H, S, D)."""
    groups = q.shape[1] // k.shape[1]
    return k.repeat_interleave(groups, dim=1) if groups > 1 else k


# --- packed rows ------------------------------------------------------------------------------------


class _Take(Function):
    """Rows of a matrix, (N, D) to (M, D); what flows back is taken as well, so that nothing is added up.

    `there` numbers the M rows that are taken, `back` those of the result that each of the N came to.
    Rows of the gradient that are `filling` (M or none) do not count.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Tensor, back: Tensor, filling: Tensor | None) -> Tensor:
        ctx.save_for_backward(back, filling)
        return x.index_select(0, there)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        back, filling = ctx.saved_tensors
        found = grad.index_select(0, back)
        if filling is not None:
            found.index_fill_(0, filling, 0.0)
        return found, None, None, None


def attention_packed(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float | None = None
) -> Tensor:
    """Causal attention example by example: pairs from two examples are not computed.

    Examples of like length stand in one batch, the shorter ones filled at their end, which causal attention never
    shows to what precedes.
    """
    k, v = repeated(q, k), repeated(q, v)
    batch, heads, time, size = q.shape
    scale = size**-0.5 if scale is None else scale
    plan = segments.plan(heads)
    rows = [
        _Take.apply(x.reshape(-1, size), plan.there, plan.back, None) for x in (q, k, v)
    ]  # each (M, D)
    parts, first = [], 0
    for count, length in plan.groups:
        last = first + count * length
        some = [x[first:last].view(count, length, size) for x in rows]
        parts.append(_Explicit.apply(*some, scale).view(-1, size))
        first = last
    whole = torch.cat(parts) if len(parts) > 1 else parts[0]
    return _Take.apply(whole, plan.back, plan.there, plan.filling).view(batch, heads, time, size)
