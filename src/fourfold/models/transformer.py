"""Decoder-only Transformer in today's standard form, Llama's: Touvron et al. 2023.

Pre-normalization with RMSNorm (Zhang & Sennrich 2019), rotary positions (Su et al. 2021), SwiGLU
(Shazeer 2020), grouped-query attention (Ainslie et al. 2023), no biases, output weights tied to
the embedding or not. Weights map one to one to Hugging Face's LlamaForCausalLM (`models/llama.py`).
Shapes: B batch, T time, W width, H heads, D = W / H, F hidden, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from fourfold.models.attention import attention, rotary_table, rotate

Cache = list[tuple[Tensor, Tensor]]
"""Per layer the rotated keys and the values, each (B, H_kv, positions, D)."""


class _Normalize(Function):
    """`F.rms_norm` for the CPU, where torch differentiates it in many passes over memory (2.13).

    Computes in the weight's dtype and hands over in `dtype`: under autocast the cast is part of it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        ctx.dtype, x = x.dtype, x.to(weight.dtype)
        scale = x.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore[override]
        x, weight, scale = ctx.saved_tensors
        grad = grad.to(weight.dtype).contiguous()
        # layer norm's own fused backward for a mean of zero, less the term of the mean
        into_x, into_weight, _ = torch.ops.aten.native_layer_norm_backward(
            grad, x, weight.shape, torch.zeros_like(scale), scale, weight, None, [True, True, False]
        )
        with torch.autocast("cpu", enabled=False):
            along = grad @ weight
        into_x.add_(along.unsqueeze(-1).mul_(scale / x.shape[-1]))
        return into_x.to(ctx.dtype), into_weight, None, None


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., W) to (..., W), in autocast's dtype where that is on."""
        if x.device.type != "cpu" or torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        lowered = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if lowered else x.dtype
        return _Normalize.apply(x, self.weight, self.eps, dtype)


class Attention(nn.Module):
    """Causal self-attention; `kv_heads` keys and values each serve heads / kv_heads queries."""

    def __init__(self, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.head_dim = width // heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, kv_heads * self.head_dim, bias=False)
        self.value = nn.Linear(width, kv_heads * self.head_dim, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, cache: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """(B, T, W) to (B, T, W); a cache takes the T rotated keys and values."""
        split = (-1, self.head_dim)
        q = self.query(x).unflatten(-1, split)  # (B, T, H, D)
        cos, sin = cos.to(q.dtype), sin.to(q.dtype)
        q = rotate(q, cos, sin)  # (B, H, T, D)
        k = rotate(self.key(x).unflatten(-1, split), cos, sin)
        v = self.value(x).unflatten(-1, split).transpose(1, 2)
        if cache is not None:
            cache[0][:, :, : k.shape[2]], cache[1][:, :, : k.shape[2]] = k, v
        return self.out(attention(q, k, v).transpose(1, 2).flatten(-2))


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., W) to (..., W)."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(
        self, width: int, heads: int, kv_heads: int, hidden: int, dropout: float, eps: float
    ) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(width, eps)
        self.attention = Attention(width, heads, kv_heads)
        self.feedforward_norm = RMSNorm(width, eps)
        self.feedforward = SwiGLU(width, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, cache: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """(B, T, W) to (B, T, W)."""
        # casting before adding is twice as fast on the CPU as adding bfloat16 to float32
        change = self.attention(self.attention_norm(x), cos, sin, cache)
        x = x + self.dropout(change).to(x.dtype)
        return x + self.dropout(self.feedforward(self.feedforward_norm(x))).to(x.dtype)


class Transformer(nn.Module):
    """Decoder-only language model.

    Args:
        vocabulary: number of tokens, V.
        width: features of a position, W; a multiple of `heads`, with an even quotient.
        layers: number of blocks.
        heads: attention heads, H.
        kv_heads: heads of keys and values, a divisor of `heads`; None means `heads`.
        hidden: features inside the feed-forward; None means 8/3 of the width, rounded up to 32.
        window: most positions at once.
        base: wavelength factor of the rotary positions.
        tied: whether the output weights are the embedding's.
        dropout: probability, on the embedding and on what each sublayer adds.
        eps: added to the mean square in the norms.

    Raises:
        ValueError: the sizes do not divide.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        vocabulary: int,
        width: int,
        layers: int,
        heads: int,
        kv_heads: int | None = None,
        hidden: int | None = None,
        window: int = 1024,
        base: float = 10_000.0,
        tied: bool = True,
        dropout: float = 0.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        kv_heads = kv_heads or heads
        if width % (2 * heads) or heads % kv_heads:
            raise ValueError(
                f"Transformer expects width divisible by 2 * heads and heads by kv_heads, "
                f"got width {width}, heads {heads}, kv_heads {kv_heads}"
            )
        self.vocabulary, self.width, self.heads, self.kv_heads = vocabulary, width, heads, kv_heads
        self.hidden = hidden or default_hidden(width)
        self.window, self.base, self.tied, self.eps = window, base, tied, eps
        self.embedding = nn.Embedding(vocabulary, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(width, heads, kv_heads, self.hidden, dropout, eps) for _ in range(layers)
        )
        self.norm = RMSNorm(width, eps)
        self.head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.embedding.weight
        self.reset_positions()
        self.initialize()

    def reset_positions(self) -> None:
        """Compute the tables of the rotary positions, which are not stored with the weights."""
        cos, sin = rotary_table(self.window, self.width // self.heads, self.base)
        device = self.embedding.weight.device
        self.register_buffer("cos", cos.to(device), persistent=False)
        self.register_buffer("sin", sin.to(device), persistent=False)

    @torch.no_grad()
    def initialize(self, deviation: float = 0.02) -> None:
        """Draw the weights anew: normal; what adds to the residual stream is scaled by its depth (GPT-2)."""
        for name, weight in self.named_parameters():
            if weight.ndim < 2:
                weight.fill_(1.0)
                continue
            into_residual = name.endswith((".out.weight", ".down.weight"))
            scale = 1 / math.sqrt(2 * len(self.blocks)) if into_residual else 1.0
            weight.normal_(0.0, deviation * scale)

    @torch.no_grad()
    def begin_plain(self) -> None:
        """Zero what adds to the residual stream, and an output that is not tied: the first guess is uniform.

        Each block begins as the identity (Goyal et al. 2017 for residual networks), and early steps
        are spent on learning instead of unlearning.
        """
        for name, weight in self.named_parameters():
            if name.endswith((".out.weight", ".down.weight")):
                weight.zero_()
        if not self.tied:
            self.head.weight.zero_()

    def states(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """The normalized last states, which the output weights read.

        Args:
            tokens: (B, T) int64 below V, T at most the window.
            cache: takes each layer's rotated keys and values at its positions 0..T-1.

        Returns:
            (B, T, W) float.

        Raises:
            ValueError: tokens is not (B, T) or longer than the window.
        """
        if tokens.ndim != 2 or tokens.shape[1] > self.window:
            raise ValueError(
                f"Transformer expects tokens of shape (B, T) with T <= {self.window} (its window), "
                f"got {tuple(tokens.shape)}"
            )
        cos, sin = self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]]
        x = self.dropout(self.embedding(tokens))
        for i, block in enumerate(self.blocks):
            x = block(x, cos, sin, cache[i] if cache else None)
        return self.norm(x)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of every position's next token, (B, T, V), from tokens (B, T); see `states`."""
        return self.head(self.states(tokens))


def default_hidden(width: int) -> int:
    """8/3 of the width, as many weights as a plain feed-forward of 4 widths, rounded up to 32."""
    return -(-8 * width // (3 * 32)) * 32
