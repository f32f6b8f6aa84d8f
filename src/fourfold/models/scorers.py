"""Attention of recurrent models: how well a decoder's state matches each state of the encoder.

Additive: v' tanh(W q + U k) (Bahdanau et al. 2015). Dot: q' k (Luong et al. 2015). Scaled dot: q' k / sqrt(D)
(Vaswani et al. 2017). Shapes: B batch, T queries, S keys, Q and K features of a query and a key, H hidden.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from fourfold.core.errors import nearest

Kind = Literal["additive", "dot", "scaled_dot"]
KINDS: tuple[str, ...] = get_args(Kind)


class Scorer(nn.Module):
    """Weighs an encoder's states for each query. What depends on the keys alone is computed once, by `prepare`."""

    def prepare(self, keys: Tensor) -> Tensor:
        """What `scores` compares with, (B, S, ...), from keys (B, S, K)."""
        return keys

    def scores(self, queries: Tensor, prepared: Tensor) -> Tensor:
        """(B, T, S), from queries (B, T, Q)."""
        raise NotImplementedError

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        keep: Tensor | None = None,
        prepared: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The mean of the keys that each query sees, weighted by the softmax of the scores.

        Args:
            queries: (B, T, Q) float; one step is T = 1.
            keys: (B, S, K) float.
            keep: (B, S) bool, True where a key is no padding; None keeps all. At least one of each row.
            prepared: what `prepare` gave for these keys; None computes it.

        Returns:
            (B, T, K) contexts, and the weights (B, T, S) for pictures.
        """
        scores = self.scores(queries, self.prepare(keys) if prepared is None else prepared)
        if keep is not None:
            scores = scores.masked_fill(~keep[:, None], -torch.inf)
        weights = scores.softmax(-1)
        return weights @ keys, weights


class AdditiveAttention(Scorer):
    """v' tanh(W q + U k), with a hidden layer of H units."""

    def __init__(self, query_size: int, key_size: int, hidden: int) -> None:
        super().__init__()
        self.from_query = nn.Linear(query_size, hidden, bias=False)
        self.from_key = nn.Linear(key_size, hidden)
        self.score = nn.Linear(hidden, 1, bias=False)

    def prepare(self, keys: Tensor) -> Tensor:
        """See `Scorer.prepare`: (B, S, H)."""
        return self.from_key(keys)

    def scores(self, queries: Tensor, prepared: Tensor) -> Tensor:
        """See `Scorer.scores`."""
        joined = self.from_query(queries).unsqueeze(2) + prepared.unsqueeze(1)  # (B, T, S, H)
        return self.score(joined.tanh()).squeeze(-1)


class DotAttention(Scorer):
    """scale q' k; nothing is learned, so queries and keys have the same size."""

    def __init__(self, size: int, scale: float = 1.0) -> None:
        super().__init__()
        self.size, self.scale = size, scale

    def scores(self, queries: Tensor, prepared: Tensor) -> Tensor:
        """See `Scorer.scores`."""
        return (queries * self.scale) @ prepared.transpose(1, 2)


def make_scorer(kind: str, query_size: int, key_size: int, hidden: int | None = None) -> Scorer:
    """A scorer by its name.

    Args:
        kind: "additive", "dot" or "scaled_dot".
        query_size: Q.
        key_size: K; for the dots it must be Q.
        hidden: units of the additive one's hidden layer; None means Q.

    Raises:
        ValueError: another kind, or sizes that a dot product cannot join.
    """
    if kind not in KINDS:
        raise ValueError(
            f'attention: no kind "{kind}"{nearest(kind, KINDS)}; there are {", ".join(KINDS)}'
        )
    if kind == "additive":
        return AdditiveAttention(query_size, key_size, hidden or query_size)
    if query_size != key_size:
        raise ValueError(
            f"{kind} attention expects queries and keys of one size, got {query_size} and {key_size}"
        )
    return DotAttention(query_size, 1.0 if kind == "dot" else query_size**-0.5)
