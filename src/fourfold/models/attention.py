"""Causal self-attention (Vaswani et al. 2017) with rotary positions (RoFormer, Su et al. 2021).

The rotary layout is the one of Hugging Face's Llama: feature i turns with feature i + D/2. Each
fast form stands beside its plain one; tests hold them equal. Shapes: B batch, T time, H heads,
D features of a head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

LONGEST_EXPLICIT = 1024
"""Positions up to which the explicit form is used on a CPU: still faster there, but it stores half the scores."""
ROWS = 64
"""Queries in a block of the explicit form: a block skips the keys after its last query."""


class Looked(NamedTuple):
    """What one call of `attention` compared: queries and keys, detached."""

    q: Tensor
    k: Tensor


_looked: ContextVar[list[Looked] | None] = ContextVar("looked", default=None)


@contextlib.contextmanager
def looking() -> Iterator[list[Looked]]:
    """Gather the queries and keys of every `attention` while entered; the products stay as fast as they are."""
    found: list[Looked] = []
    token = _looked.set(found)
    try:
        yield found
    finally:
        _looked.reset(token)


def attention_weights(q: Tensor, k: Tensor) -> Tensor:
    """The weights that `attention` uses and does not keep: softmax(q k' / sqrt(D)) over the positions so far.

    Args:
        q: (B, H, T, D) float.
        k: (B, H_kv, T, D), as for `attention`.

    Returns:
        (B, H, T, T); each row sums to 1, and is 0 after its own position.
    """
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(future, float("-inf")).softmax(dim=-1)


def rotary_table(window: int, head_dim: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position, each (window, D / 2) float32."""
    turns = base ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = torch.arange(window, dtype=torch.float64).outer(turns)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of features by its position's angle.

    Args:
        x: (B, T, H, D) float.
        cos: (T, D / 2), as sin, in the dtype of x.
        sin: (T, D / 2).

    Returns:
        (B, H, T, D), contiguous: the layout of the products that follow.
    """
    first, second = x.transpose(1, 2).chunk(2, dim=-1)
    turned = (
        torch.addcmul(first * cos, second, sin, value=-1),
        torch.addcmul(second * cos, first, sin),
    )
    return torch.cat(turned, dim=-1)


class _Explicit(Function):
    """softmax(q k' / sqrt(D)) v with the scores stored, in blocks of queries, over (B * H, T, D).

    On a CPU in bfloat16, forward and backward at T = 256 take about a third of the flash
    kernel's time, whose inner loops compute in float32.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        time, scale = q.shape[1], q.shape[2] ** -0.5
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
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        q, k, v, *kept = ctx.saved_tensors
        time, scale = q.shape[1], q.shape[2] ** -0.5
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
        return dq, dk, dv


def _product(out: Tensor, a: Tensor, b: Tensor, add: int, scale: float) -> None:
    torch.baddbmm(out, a, b, beta=add, alpha=scale, out=out)


def attention_explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention by plain matrix products; arguments and result as in `attention`."""
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    return _Explicit.apply(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)).view(q.shape)


def attention_flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention by torch's own kernels; arguments and result as in `attention`."""
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Each position's mean of the values so far, weighted by softmax(q k' / sqrt(D)).

    The form is chosen by device and length (see `LONGEST_EXPLICIT`).

    Args:
        q: (B, H, T, D) float.
        k: (B, H_kv, T, D) with H a multiple of H_kv: each key serves H / H_kv queries in a row.
        v: as k.

    Returns:
        (B, H, T, D).
    """
    # a compiled model is not looked into, so that the compiler sees no context variable
    if not torch.compiler.is_compiling() and (looked := _looked.get()) is not None:
        looked.append(Looked(q.detach(), k.detach()))
    short = q.shape[2] <= LONGEST_EXPLICIT and torch.is_grad_enabled()
    if q.device.type == "cpu" and short and not torch.compiler.is_compiling():
        return attention_explicit(q, k, v)
    return attention_flash(q, k, v)
