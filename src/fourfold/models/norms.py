"""Normalization of a Transformer's states: RMSNorm (Zhang & Sennrich 2019), LayerNorm (Ba et al. 2016).

Shapes: W features of the last dimension.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

NORMS = ("rms", "layer")


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
            # queries and keys come in autocast's dtype, for which torch has no kernel beside wider weights
            wide = x if x.dtype == self.weight.dtype else x.to(self.weight.dtype)
            return F.rms_norm(wide, self.weight.shape, self.weight, self.eps).to(x.dtype)
        lowered = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if lowered else x.dtype
        return _Normalize.apply(x, self.weight, self.eps, dtype)


def normalization(kind: str, width: int, eps: float) -> nn.Module:
    """RMSNorm ("rms") or LayerNorm with its bias ("layer")."""
    return RMSNorm(width, eps) if kind == "rms" else nn.LayerNorm(width, eps)
