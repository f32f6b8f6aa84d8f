"""Attention with everything that can be told it, against the plain formula, torch.nn's layer and what it promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fourfold.models.attention import attention, attention_weights, lengths_mask, looking


def pair_by_pair(q: Tensor, k: Tensor, v: Tensor, told: dict[str, Any]) -> Tensor:
    """softmax over the keys that each query may see, one query at a time; zeros where there is none."""
    batch, heads, time, size = q.shape
    keys = k.shape[2]
    found = torch.zeros(batch, heads, time, v.shape[-1], dtype=q.dtype)
    keep = told.get("keep")
    keep = torch.ones(1, dtype=torch.bool) if keep is None else keep
    keep = keep.expand(batch, heads, time, keys)
    bias = told.get("bias")
    bias = (torch.zeros(1, dtype=q.dtype) if bias is None else bias).expand(
        batch, heads, time, keys
    )
    segments, sliding = told.get("segments"), told.get("sliding")
    scale = told.get("scale") or size**-0.5
    for b in range(batch):
        for h in range(heads):
            shared = h * k.shape[1] // heads
            for t in range(time):
                place = keys - time + t
                seen = [
                    s
                    for s in range(keys)
                    if keep[b, h, t, s]
                    and (not told.get("causal", True) or s <= place)
                    and (sliding is None or abs(place - s) < sliding)
                    and (segments is None or segments[b, t] == segments[b, s])
                ]
                if seen:
                    scores = k[b, shared, seen] @ q[b, h, t] * scale + bias[b, h, t, seen]
                    found[b, h, t] = scores.softmax(0) @ v[b, shared, seen]
    return found


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 2), st.integers(1, 5)),
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from(["none", "lengths", "any"]),
    st.sampled_from(["none", "heads", "all"]),
    st.sampled_from([None, 1, 2, 4]),
    st.booleans(),
    st.sampled_from([None, 0.3]),
)
def test_everything_that_can_be_told(
    sizes: tuple[int, int, int, int],
    more: int,
    causal: bool,
    keep: str,
    bias: str,
    sliding: int | None,
    packed: bool,
    scale: float | None,
) -> None:
    torch.manual_seed(0)
    batch, kv_heads, groups, time = sizes
    heads, keys = kv_heads * groups, time + (0 if packed else more)
    q = torch.randn(batch, heads, time, 3, dtype=torch.float64, requires_grad=True)
    k, v = torch.randn(2, batch, kv_heads, keys, 3, dtype=torch.float64).unbind()
    inputs = [q, k.requires_grad_(), v.requires_grad_()]
    told: dict[str, Any] = {"causal": causal, "sliding": sliding, "scale": scale}
    if keep == "lengths":
        told["keep"] = lengths_mask(torch.randint(0, keys + 1, (batch,)), keys)
    elif keep == "any":
        told["keep"] = torch.rand(batch, heads, time, keys) < 0.5
    if bias != "none":
        shape = (heads, time, keys) if bias == "heads" else (batch, heads, time, keys)
        told["bias"] = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        inputs.append(told["bias"])
    if packed:
        told["segments"] = (torch.rand(batch, time) < 0.3).long().cumsum(1)
    found, oracle = attention(q, k, v, **told), pair_by_pair(q, k, v, told)
    torch.testing.assert_close(found, oracle, rtol=1e-9, atol=1e-11)
    weights = attention_weights(q, k, **told) @ v.repeat_interleave(groups, dim=1)
    torch.testing.assert_close(weights, oracle, rtol=1e-9, atol=1e-11)
    with torch.no_grad():
        torch.testing.assert_close(attention(q, k, v, **told), oracle, rtol=1e-9, atol=1e-11)
    if oracle.requires_grad:
        gradient = torch.randn_like(found)
        ours, theirs = (
            torch.autograd.grad(y, inputs, gradient, allow_unused=True, materialize_grads=True)
            for y in (found, oracle)
        )
        for mine, true in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, true, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("causal", [True, False])
def test_equals_torch_multihead_attention(causal: bool) -> None:
    """Cross-attention of 7 queries over padded keys, or causal self-attention, with torch.nn's weights."""
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(24, 4, batch_first=True, dtype=torch.float64)
    x = torch.randn(3, 7, 24, dtype=torch.float64)
    source = x if causal else torch.randn(3, 9, 24, dtype=torch.float64)
    lengths = torch.tensor([7, 7, 7]) if causal else torch.tensor([9, 4, 1])
    keep = lengths_mask(lengths, source.shape[1])
    future = torch.ones(7, 7, dtype=torch.bool).triu(1) if causal else None
    oracle, weights = layer(
        x, source, source, key_padding_mask=~keep[:, 0, 0], attn_mask=future, average_attn_weights=False
    )  # fmt: skip
    into = zip(layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3), strict=True)
    q, k, v = (
        nn.functional.linear(y, w, b).unflatten(-1, (4, 6)).transpose(1, 2)
        for y, (w, b) in zip((x, source, source), into, strict=True)
    )
    with looking() as looked:
        found = attention(q, k, v, causal=causal, keep=keep)
    found = layer.out_proj(found.transpose(1, 2).flatten(-2))
    torch.testing.assert_close(found, oracle, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(looked[0].weights(3).double(), weights, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(looked[0].weights(2).double(), weights[:2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gradients", [True, False])
def test_padding_changes_nothing(gradients: bool) -> None:
    """Batch mates and what stands in padded places, infinities left aside, never change an answer."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 6, 8).unbind()
    keep = lengths_mask(torch.tensor([6, 4]), 6)
    with torch.set_grad_enabled(gradients):
        q = q.requires_grad_(gradients)
        before = attention(q, k, v, causal=False, keep=keep)
        k[1, :, 4:], v[1, :, 4:] = 1e4, -1e4
        torch.testing.assert_close(
            attention(q, k, v, causal=False, keep=keep), before, rtol=0, atol=0
        )
        alone = attention(q[1:], k[1:, :, :4], v[1:, :, :4], causal=False)
    torch.testing.assert_close(alone, before[1:], rtol=1e-5, atol=1e-6)


def test_the_compiled_form_of_every_mask() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 6, 8, dtype=torch.float64).unbind()
    segments = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 2, 2]])

    def several(q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
        keep = lengths_mask(torch.tensor([6, 4]), 6)
        return [
            attention(q, k, v),
            attention(q, k, v, causal=False, keep=keep),
            attention(q, k, v, sliding=2, bias=torch.ones(4, 6, 6, dtype=q.dtype)),
            attention(q, k, v, segments=segments),
        ]

    compiled = torch.compile(several, backend="aot_eager", fullgraph=True)
    for mine, plain in zip(compiled(q, k, v), several(q, k, v), strict=True):
        torch.testing.assert_close(mine, plain)
