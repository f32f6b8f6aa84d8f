"""What an attention compared, and the weights it does not keep."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fourfold.models.attention import attention, attention_weights, looking
from fourfold.models.transformer import Transformer


def plain(q: Tensor, k: Tensor) -> Tensor:
    """softmax(q k' / sqrt(d)) head by head, position by position."""
    batch, heads, time, size = q.shape
    found = torch.zeros(batch, heads, time, time, dtype=q.dtype)
    for b in range(batch):
        for h in range(heads):
            key = k[b, h * k.shape[1] // heads]
            for t in range(time):
                found[b, h, t, : t + 1] = torch.softmax(
                    key[: t + 1] @ q[b, h, t] / size**0.5, dim=0
                )
    return found


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_weights_are_the_plain_formula(kv_heads: int) -> None:
    q = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    k = torch.randn(2, kv_heads, 7, 6, dtype=torch.float64)
    v = torch.randn(2, kv_heads, 7, 6, dtype=torch.float64)
    weights = attention_weights(q, k)
    torch.testing.assert_close(weights, plain(q, k), rtol=1e-10, atol=1e-12)
    mixed = weights @ v.repeat_interleave(4 // kv_heads, dim=1)
    torch.testing.assert_close(mixed, attention(q, k, v), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("gradients", [True, False])
def test_looking_gathers_every_call_and_only_while_entered(gradients: bool) -> None:
    model = Transformer(11, 8, layers=3, heads=2, kv_heads=1, hidden=12, window=6).eval()
    tokens = torch.randint(11, (2, 5))
    with torch.set_grad_enabled(gradients):
        before = model(tokens)
        with looking() as outer, looking() as inner:
            during = model(tokens)
        model(tokens)
    assert torch.equal(before, during)
    assert not outer and [looked.q.shape for looked in inner] == [(2, 2, 5, 4)] * 3
    assert all(not looked.q.requires_grad and looked.k.shape == (2, 1, 5, 4) for looked in inner)
