"""Negative log-likelihoods, in nats."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from fourfold.core.parts import Batch, Move, Objective

CHUNK = 1 << 18
"""Logits that the CPU form holds in float32 at a time: they stay in the cache."""
COMPILED = 256
"""Logits of a position from which the compiled kernel is faster than torch's operations."""
LINE = 16
"""Columns that matrices are padded to multiples of."""
LOGITS = 1 << 23
"""Logits that `linear_cross_entropy` holds at a time, in the format of the products."""


def _kernel_serves(logits: Tensor) -> bool:
    """Whether the Triton kernel takes these logits."""
    narrow = logits.dtype in (torch.bfloat16, torch.float16, torch.float32)
    return logits.is_cuda and narrow and logits.is_contiguous() and _has_triton()


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _differentiated(logits: Tensor, targets: Tensor, ignore: int, grad: Tensor | None) -> Tensor:
    """Summed cross-entropy; its gradient is written to `grad`, which may be the logits."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    if _kernel_serves(logits):
        from fourfold.kernels import softmax_triton

        return softmax_triton.differentiate(logits, targets, ignore, grad).sum()
    if logits.dtype == torch.bfloat16 and logits.shape[1] >= COMPILED:
        from fourfold.kernels.softmax import differentiate

        found = logits.clone() if grad is None else logits if grad is logits else grad.copy_(logits)
        return differentiate(found, targets, ignore).sum()
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
    return total


class _CrossEntropy(Function):
    """Summed cross-entropy in chunks of rows, differentiated while a chunk is at hand.

    Keeps the gradient in the dtype of the logits instead of several float32 copies of them.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, ignore: int) -> Tensor:
        grad = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        total = _differentiated(logits, targets, ignore, grad)
        ctx.save_for_backward(grad)
        ctx.scale = None
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (kept,) = ctx.saved_tensors
        if ctx.scale is not None:  # differentiated once more: what was handed out stays as it is
            return kept * (grad / ctx.scale).to(kept.dtype), None, None
        # in place, as nobody has it yet: at a small width a copy of all logits is 6% of a GPU's step. Through
        # .data, since autograd takes a kept tensor that was changed for an error
        ctx.scale = grad.clone()
        kept.data.mul_(grad.to(kept.dtype))
        return kept, None, None


def cross_entropy(logits: Tensor, targets: Tensor, ignore: int = -100) -> Tensor:
    """Summed cross-entropy, in nats.

    Args:
        logits: (N, V) float.
        targets: (N,) int64 below V; `ignore` does not count.

    Returns:
        () float32, or float64 where the logits are.
    """
    here = logits.device.type == "cpu" or _kernel_serves(logits)
    if here and not torch.compiler.is_compiling():
        return _CrossEntropy.apply(logits, targets, ignore)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide, targets, ignore_index=ignore, reduction="sum")


class _LinearCrossEntropy(Function):
    """Summed cross-entropy of a linear layer's logits, differentiated chunk by chunk while the logits are there.

    The bias is one more column of the weights (Goodfellow et al. 2016, 6.2.1), for which every row of the hidden
    states holds a one: its gradient then costs no pass over the logits. bfloat16 would round it to 3 digits, so
    what is rounded off is a second such column.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        ignore: int,
        dtype: torch.dtype,
    ) -> Tensor:
        width = weight.shape[1]
        columns = -(-(width + 2) // LINE) * LINE if bias is not None else width
        narrow = hidden.new_zeros(len(hidden), columns, dtype=dtype)
        matrix = weight.new_zeros(len(weight), columns, dtype=dtype)
        narrow[:, :width], matrix[:, :width] = hidden, weight
        if bias is not None:
            narrow[:, width : width + 2] = 1
            matrix[:, width] = bias
            matrix[:, width + 1] = bias - matrix[:, width]
        step = max(1, LOGITS // len(weight))
        wide = torch.promote_types(hidden.dtype, torch.float32)
        total = hidden.new_zeros((), dtype=wide)
        needed = any(ctx.needs_input_grad[:3])
        to_hidden: list[Tensor] = []
        to_matrix: Tensor | None = None
        for rows in (slice(i, i + step) for i in range(0, max(1, len(hidden)), step)):  # none too
            logits = narrow[rows] @ matrix.T
            total += _differentiated(logits, targets[rows], ignore, logits if needed else None)
            if needed:
                to_hidden.append(logits @ matrix)
                more = logits.T @ narrow[rows]
                # several chunks are summed in float32
                to_matrix = more if to_matrix is None else to_matrix.to(wide).add_(more)
        if needed:
            ctx.dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
            ctx.width = width
            ctx.save_for_backward(torch.cat(to_hidden), to_matrix)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        to_hidden, to_matrix = ctx.saved_tensors
        of_hidden, of_weight, of_bias = ctx.dtypes
        width = ctx.width
        found = [
            to_hidden[:, :width].to(of_hidden, copy=True),
            to_matrix[:, :width].to(of_weight, copy=True),
        ]
        if of_bias is not None:
            found.append(to_matrix[:, width].to(of_bias, copy=True))
        scaled = [g.mul_(grad) for g in found]
        return *scaled, *[None] * (6 - len(scaled))


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, ignore: int = -100
) -> Tensor:
    """`cross_entropy` of the logits hidden weight' + bias, which are never all there in float32.

    Products are in the autocast format; the gradients of all three are computed on the way.

    Args:
        hidden: (N, D) float.
        weight: (V, D) float.
        bias: (V,) float, or none.
        targets: (N,) int64 below V; `ignore` does not count.

    Returns:
        () float32, or float64 where the logits are.
    """
    if hidden.device.type != "cpu" or torch.compiler.is_compiling():
        return cross_entropy(F.linear(hidden, weight, bias), targets, ignore)
    dtype = hidden.dtype
    if torch.is_autocast_enabled("cpu") and dtype != torch.float64:
        dtype = torch.get_autocast_dtype("cpu")
    return _LinearCrossEntropy.apply(hidden, weight, bias, targets, ignore, dtype)


def beside(batch: Batch) -> dict[str, Tensor]:
    """What a language model is told beside the tokens: batch["segments"], where the batch has it."""
    return {"segments": batch["segments"]} if "segments" in batch else {}


class NextToken(Objective):
    """Cross-entropy of the next token: -log softmax(logits)[target], in nats.

    The model maps batch["tokens"], (B, T) int64, to logits (B, T, V); positions whose
    batch["targets"], (B, T) int64, equals `ignore` do not count. A model that `chooses` is asked for the logits where
    targets count alone: the product with the output weights is much of a small model's time.

    Raises:
        ValueError: logits and targets differ in (B, T).
    """

    kind: Literal["next-token"] = "next-token"
    ignore: int = -100
    """Target that does not count."""

    def units(self) -> Mapping[str, str]:
        """See `Objective.units`."""
        return {"loss": "nats per token"}

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """One move of the whole model: nats, summed over the tokens that count."""
        chosen = self._chosen(model, batch["targets"])
        if chosen is None:
            logits, targets = self.logits(model, batch)
        else:
            logits = model(batch["tokens"], **beside(batch), chosen=chosen)
            targets = batch["targets"][chosen]
        total = cross_entropy(logits, targets, self.ignore)
        yield Move("model", total, weight=(targets != self.ignore).sum())

    def _chosen(self, model: nn.Module, targets: Tensor) -> Tensor | None:
        """Where targets count, (B, T) bool, if the model can leave the other logits out and not all count.

        A GPU would have to be waited for to know how many do, and a compiled model wants shapes that stay.
        """
        compiled = getattr(model, "_compiled_call_impl", None) is not None
        if not getattr(model, "chooses", False) or compiled or targets.device.type != "cpu":
            return None
        chosen = targets != self.ignore
        return None if bool(chosen.all()) else chosen

    def logits(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits (B T, V) and targets (B T,); batch["segments"], (B, T) int64, goes to the model where it is there.

        Raises:
            ValueError: they differ in (B, T).
        """
        logits, targets = model(batch["tokens"], **beside(batch)), batch["targets"]
        if logits.shape[:-1] != targets.shape:
            got = f"{tuple(logits.shape)} and {tuple(targets.shape)}"
            raise ValueError(f"NextToken expects logits (B, T, V) and targets (B, T), got {got}")
        return logits.flatten(0, 1), targets.flatten()


class Likelihood(Objective):
    """-log p of the next token, in nats, of a model that knows its probabilities without being learned by gradient.

    The model maps batch["tokens"], (B, C - 1 + T) int64, and batch["targets"], (B, T) int64, to nats (B, T),
    0 where the target is negative and so does not count.
    """

    def units(self) -> Mapping[str, str]:
        """See `Objective.units`."""
        return {"loss": "nats per token"}

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """One move of the whole model: nats, summed over the tokens that count."""
        total = model(batch["tokens"], batch["targets"]).sum()
        yield Move("model", total, weight=(batch["targets"] >= 0).sum())
