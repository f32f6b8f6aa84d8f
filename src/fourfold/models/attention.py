"""Scaled dot-product attention (Vaswani et al. 2017): self or cross, causal or not, masked, packed, grouped-query.

One function that takes what may be seen as arguments and chooses the form that is fastest for it
(`models/attention_forms.py`); what it compared can be looked at (`looking`). Positions are in
`models/positions.py`, the scorers of recurrent models in `models/scorers.py`. Shapes: B batch, T queries,
S keys, H heads, D features of a head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

from fourfold.core.errors import UserError
from fourfold.models.attention_forms import (
    attention_explicit,
    attention_flash,
    attention_packed,
    attention_products,
    repeated,
)
from fourfold.models.segments import Segments

LONGEST_EXPLICIT = 1024
"""Positions up to which the explicit form is used on a CPU: still faster there, but it stores half the scores."""
LONGEST_PRODUCTS = {torch.bfloat16: 1024}
"""Positions up to which masked products are stored on a CPU, by format; others up to `FEW`. At 24 positions they take
a quarter of the time of torch's kernel in bfloat16 and three quarters in float32, at 256 half and 1.5 times it."""
FEW = 96
MANY = 32
"""Heads of sequences in a batch from which products gain in inference."""
LONG_ROW = 192
"""Positions from which packed rows are taken apart: gathering costs more than the pairs of short rows."""


class Looked(NamedTuple):
    """What one call of `attention` compared: queries, keys and values, detached, and what it was told."""

    q: Tensor
    k: Tensor
    v: Tensor
    seen: Tensor | None = None
    """Bool, True where a key may be seen, broadcastable to (B, H, T, S)."""
    bias: Tensor | None = None
    scale: float | None = None

    def weights(self, first: int = 1) -> Tensor:
        """The weights of the first rows of the batch: (rows, H, T, S) float32."""
        q, k = self.q[:first].float(), self.k[:first].float()
        seen, bias = (
            m if m is None or m.shape[0] == 1 else m[:first] for m in (self.seen, self.bias)
        )
        return _weights(q, k, seen, bias, self.scale)


_looked: ContextVar[list[Looked] | None] = ContextVar("looked", default=None)


@contextlib.contextmanager
def looking() -> Iterator[list[Looked]]:
    """Gather what every `attention` compares while entered; the products stay as fast as they are."""
    found: list[Looked] = []
    token = _looked.set(found)
    try:
        yield found
    finally:
        _looked.reset(token)


def note(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = True,
    keep: Tensor | None = None,
    segments: Tensor | Segments | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    sliding: int | None = None,
) -> None:
    """Put what is compared before those who are `looking`; for forms of attention beside `attention`. Arguments as there."""
    # a compiled model is not looked into, so that the compiler sees no context variable
    if torch.compiler.is_compiling() or (looked := _looked.get()) is None:
        return
    with torch.no_grad():
        seen = visible(q, k, causal, keep, segments, sliding)
        told = bias.detach() if bias is not None else None
        looked.append(Looked(q.detach(), k.detach(), v.detach(), seen, told, scale))


def attention_weights(
    q: Tensor,
    k: Tensor,
    *,
    causal: bool = True,
    keep: Tensor | None = None,
    segments: Tensor | Segments | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    sliding: int | None = None,
) -> Tensor:
    """The weights that `attention` uses and does not keep; the plain formula. Arguments as there.

    Returns:
        (B, H, T, S); each row sums to 1, or is 0 where no key may be seen.
    """
    return _weights(q, k, visible(q, k, causal, keep, segments, sliding), bias, scale)


def _weights(
    q: Tensor, k: Tensor, seen: Tensor | None, bias: Tensor | None, scale: float | None
) -> Tensor:
    scores = (
        q @ repeated(q, k).transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    )
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    if seen is None:
        return scores.softmax(-1)
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return torch.where(seen, weights, 0.0)  # a row without keys is no number


def lengths_mask(lengths: Tensor, size: int) -> Tensor:
    """What padded sequences show: True at the first `lengths` of `size` positions.

    Args:
        lengths: (B,) int64.
        size: S.

    Returns:
        (B, 1, 1, S) bool, for `keep`.
    """
    return (torch.arange(size, device=lengths.device) < lengths[:, None])[:, None, None]


def visible(
    q: Tensor,
    k: Tensor,
    causal: bool,
    keep: Tensor | None,
    segments: Tensor | Segments | None,
    sliding: int | None,
) -> Tensor | None:
    """Which key each query may see, bool and broadcastable to (B, H, T, S); None where it may see all."""
    time, size = q.shape[2], k.shape[2]
    seen = keep
    if segments is not None:
        same = (segments if isinstance(segments, Segments) else Segments(segments)).mask
        seen = same if seen is None else seen & same
    if causal or sliding is not None:
        # the queries are the last of the keys' positions
        distance = torch.arange(size - time, size, device=q.device)[:, None]
        distance = distance - torch.arange(size, device=q.device)  # (T, S)
        near = distance >= 0 if causal else distance > -(sliding or 0)
        if sliding is not None:
            near = near & (distance < sliding)
        seen = near if seen is None else seen & near
    return seen if seen is None or seen.ndim == 4 else seen[None, None]


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = True,
    keep: Tensor | None = None,
    segments: Tensor | Segments | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    sliding: int | None = None,
) -> Tensor:
    """Each query's mean of the values it may see, weighted by softmax(scale q k' + bias).

    The form is chosen by device, length and what is hidden (see `LONGEST_EXPLICIT`). A query that may
    see no key gets zeros.

    Args:
        q: (B, H, T, D) float.
        k: (B, H_kv, S, D) with H a multiple of H_kv: each key serves H / H_kv queries in a row.
        v: as k.
        causal: a query sees no key after its own position, the queries being the last T of the S positions.
        keep: bool, True where a key may be seen, broadcastable to (B, H, T, S); see `lengths_mask`.
        segments: (B, T) int64, which example of a packed row a position belongs to; it sees only its own
            (T = S). Several calls over the same rows share one `Segments`.
        bias: float added to the scores, broadcastable to (B, H, T, S).
        scale: of the products; None takes D ** -0.5.
        sliding: how many positions up to its own a query sees; without causal, as many after it.

    Returns:
        (B, H, T, D).

    Raises:
        ValueError: segments with queries and keys of different length.
    """
    if isinstance(segments, Tensor):
        segments = Segments(segments)
    if segments is not None and not segments.numbers.shape[1] == q.shape[2] == k.shape[2]:
        raise ValueError(
            f"attention expects segments (B, T) of as many positions as queries and keys, got "
            f"{tuple(segments.numbers.shape)}, {q.shape[2]} queries and {k.shape[2]} keys"
        )
    sliding = sliding if sliding is not None and sliding < k.shape[2] else None
    compiling = torch.compiler.is_compiling()
    note(
        q,
        k,
        v,
        causal=causal,
        keep=keep,
        segments=segments,
        bias=bias,
        scale=scale,
        sliding=sliding,
    )
    here = q.device.type == "cpu" and not compiling
    if causal and keep is None and bias is None and sliding is None and q.shape[2] == k.shape[2]:
        one = segments is None or (here and segments.single())
        if one:
            stored = here and torch.is_grad_enabled() and q.shape[2] <= LONGEST_EXPLICIT
            return (attention_explicit if stored else attention_flash)(q, k, v, scale=scale)
        if here and segments is not None and q.shape[2] >= LONG_ROW:
            return attention_packed(q, k, v, segments, scale)
    stored = here and torch.is_grad_enabled()
    stored = stored and max(q.shape[2], k.shape[2]) <= LONGEST_PRODUCTS.get(q.dtype, FEW)
    # without gradients, too, where the pairs are few and the sequences many: half the time at 36 positions
    many = here and max(q.shape[2], k.shape[2]) <= FEW and q.shape[0] * q.shape[1] >= MANY
    stored = stored or (many and q.dtype == torch.bfloat16) or (many and q.shape[2] == 1)
    return _masked(q, k, v, visible(q, k, causal, keep, segments, sliding), bias, scale, stored)


def _masked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    seen: Tensor | None,
    bias: Tensor | None,
    scale: float | None,
    stored: bool,
) -> Tensor:
    mask = seen
    if bias is not None:
        mask = bias if seen is None else bias.to(q.dtype).masked_fill(~seen, -torch.inf)
        mask = mask.to(q.dtype)
    if stored:
        if seen is None or bool(seen.any(-1).all()):
            return attention_products(q, k, v, mask, scale)
        # rows without keys are no numbers in the plain products
    return attention_flash(q, k, v, mask, scale, causal=False)


def dividing(width: int, heads: int) -> int:
    """The heads, where they divide the width.

    Raises:
        UserError: they do not; the nearest number that does is named.
    """
    if width % heads:
        near = min((h for h in range(1, width + 1) if width % h == 0), key=lambda h: abs(h - heads))
        raise UserError(
            f"width {width}, heads {heads}: expected heads that divide the width; heads {near} would do"
        )
    return heads
