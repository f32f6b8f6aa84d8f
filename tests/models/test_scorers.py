"""Scorers against their formulas, written out pair by pair."""

from __future__ import annotations

import math

import pytest
import torch

from fourfold.models.scorers import KINDS, AdditiveAttention, make_scorer

B, T, S = 2, 3, 5


def inputs(query_size: int, key_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    queries = torch.randn(B, T, query_size, dtype=torch.float64)
    return queries, torch.randn(B, S, key_size, dtype=torch.float64)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_contexts_by_definition(kind: str) -> None:
    q, k = inputs(4, 4)
    scorer = make_scorer(kind, 4, 4, hidden=6).double()
    contexts, weights = scorer(q, k)
    for b in range(B):
        for t in range(T):
            if isinstance(scorer, AdditiveAttention):
                w, u, c = scorer.from_query.weight, scorer.from_key.weight, scorer.from_key.bias
                v = scorer.score.weight[0]
                scores = [float(v @ torch.tanh(w @ q[b, t] + u @ k[b, s] + c)) for s in range(S)]
            else:
                scale = 0.5 if kind == "scaled_dot" else 1.0
                scores = [scale * float(q[b, t] @ k[b, s]) for s in range(S)]
            total = sum(math.exp(s) for s in scores)
            wanted = torch.tensor([math.exp(s) / total for s in scores], dtype=torch.float64)
            torch.testing.assert_close(weights[b, t], wanted)
            torch.testing.assert_close(contexts[b, t], sum(wanted[s] * k[b, s] for s in range(S)))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind: str) -> None:
    q, k = inputs(4, 4)
    scorer = make_scorer(kind, 4, 4).double()
    alone, weights = scorer(q, k[:, :3])
    keep = torch.arange(S)[None].expand(B, S) < 3
    padded, wider = scorer(q, k, keep)
    torch.testing.assert_close(padded, alone)
    torch.testing.assert_close(wider[..., :3], weights)
    assert (wider[..., 3:] == 0).all()
    torch.testing.assert_close(scorer(q, k, keep, scorer.prepare(k))[0], padded, rtol=0, atol=0)


def test_sizes_and_names() -> None:
    q, k = inputs(4, 7)
    assert make_scorer("additive", 4, 7).double()(q, k)[0].shape == (B, T, 7)
    with pytest.raises(ValueError, match="one size, got 4 and 7"):
        make_scorer("dot", 4, 7)
    with pytest.raises(ValueError, match='no kind "aditive".*additive'):
        make_scorer("aditive", 4, 4)
