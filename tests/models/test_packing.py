"""Packed rows: examples neither see nor move one another, and the plan that takes them apart."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.models.attention import LONG_ROW, attention, attention_weights, looking
from fourfold.models.attention_forms import attention_packed
from fourfold.models.positions import KINDS
from fourfold.models.segments import Segments
from fourfold.models.transformer import Transformer

lengths = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def numbered(rows: list[list[int]]) -> torch.Tensor:
    """Segments of rows of examples, the shorter rows ended by one more example."""
    time = max(map(sum, rows))
    rows = [[*row, time - sum(row)] if sum(row) < time else row for row in rows]
    return torch.tensor([[i for i, n in enumerate(row) for _ in range(n)] for row in rows])


@settings(deadline=None, max_examples=30)
@given(st.lists(lengths, min_size=1, max_size=3), st.integers(1, 2), st.integers(1, 3))
def test_example_by_example_equals_the_masked_form(
    rows: list[list[int]], kv_heads: int, groups: int
) -> None:
    torch.manual_seed(0)
    segments = numbered(rows)
    batch, time = segments.shape
    q = torch.randn(batch, kv_heads * groups, time, 4, dtype=torch.float64, requires_grad=True)
    k, v = torch.randn(2, batch, kv_heads, time, 4, dtype=torch.float64).unbind()
    inputs = [q, k.requires_grad_(), v.requires_grad_()]
    found = attention_packed(*inputs, Segments(segments))
    oracle = attention_weights(q, k, segments=segments) @ v.repeat_interleave(groups, dim=1)
    torch.testing.assert_close(found, oracle, rtol=1e-10, atol=1e-12)
    gradient = torch.randn_like(found)
    ours, theirs = (torch.autograd.grad(y, inputs, gradient) for y in (found, oracle))
    for mine, true in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("time", [LONG_ROW - 1, LONG_ROW + 1])
def test_short_and_long_rows(time: int) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, time, 4, dtype=torch.float64).unbind()
    segments = (torch.rand(2, time) < 0.05).long().cumsum(1)
    with looking() as looked:
        found = attention(q.requires_grad_(), k, v, segments=segments)
    oracle = attention_weights(q, k, segments=segments) @ v
    torch.testing.assert_close(found, oracle, rtol=1e-10, atol=1e-12)
    weights = looked[0].weights(2)
    assert (weights[0, :, segments[0, :, None] != segments[0]] == 0).all()


def test_places_count_from_each_example() -> None:
    segments = torch.tensor([[7, 7, 7, 1, 1, 3], [0, 2, 2, 2, 2, 2]])
    assert Segments(segments).places().tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 3, 4]]
    assert not Segments(segments).single() and Segments(segments[:, :3] * 0).single()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sliding", [None, 3])
def test_packed_equals_alone(kind: str, sliding: int | None) -> None:
    """Logits and gradients of a packed row are those of its examples, each in a row of its own."""
    torch.manual_seed(0)
    model = Transformer(
        11, 16, 2, 4, kv_heads=2, window=32, positions=kind, sliding=sliding
    ).double()
    model.initialize(0.4)
    sizes = [5, 1, 9, 3, 14]
    tokens = torch.randint(11, (1, sum(sizes)))
    segments = numbered([sizes])
    packed = model(tokens, segments)
    alone = torch.cat([model(part) for part in tokens.split(sizes, dim=1)], dim=1)
    torch.testing.assert_close(packed, alone, rtol=1e-9, atol=1e-10)
    gradient = torch.randn_like(packed)
    weights = [p for p in model.parameters() if p.requires_grad]
    ours, theirs = (torch.autograd.grad(y, weights, gradient) for y in (packed, alone))
    for mine, true in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-8, atol=1e-9)
    assert not torch.allclose(packed, model(tokens))  # unpacked, they do see one another


@pytest.mark.parametrize("kind", ["rotary", "alibi", "learned"])
def test_packed_in_the_compiled_form(kind: str) -> None:
    """What a compiler is given, one mask for all, equals what runs without one."""
    torch.manual_seed(0)
    model = Transformer(11, 16, 2, 4, window=32, positions=kind).double()
    tokens, segments = torch.randint(11, (2, 12)), numbered([[5, 7], [12]])
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens, segments), model(tokens, segments))


def test_segments_of_another_shape() -> None:
    model = Transformer(11, 16, 1, 4, window=8)
    with pytest.raises(ValueError, match="segments of the shape of tokens"):
        model(torch.zeros(2, 4, dtype=torch.int64), torch.zeros(1, 4, dtype=torch.int64))
    q, k = torch.randn(1, 1, 3, 4), torch.randn(1, 1, 5, 4)
    with pytest.raises(ValueError, match="as many positions"):
        attention(q, k, k, segments=torch.zeros(1, 3, dtype=torch.int64))
