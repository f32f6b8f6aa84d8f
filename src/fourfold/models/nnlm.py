"""Neural probabilistic language model: Bengio, Ducharme, Vincent and Janvin 2003.

The last C words' vectors, side by side, go through one hidden layer of tanh units; scores are y = b + W x + U tanh(d + H x),
with the direct connections W or without. Shapes: B rows, T positions, C words of context, D width of a vector, H hidden
units, V words.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fourfold.models.dropout import Dropout


def contexts(vectors: Tensor, words: int) -> Tensor:
    """The vectors of each position's context side by side, the oldest first: (B, T, C D) from (B, C - 1 + T, D)."""
    time = vectors.shape[1] - words + 1
    return torch.cat([vectors[:, i : i + time] for i in range(words)], -1)


def check_tokens(tokens: Tensor, context: int, name: str) -> None:
    """Refuse tokens that do not hold one whole context.

    Raises:
        ValueError: not (B, C - 1 + T) with T >= 1.
    """
    if tokens.ndim != 2 or tokens.shape[1] < context:
        raise ValueError(
            f"{name} expects tokens of shape (B, C - 1 + T) with C = {context} words of context and T >= 1, "
            f"got {tuple(tokens.shape)}"
        )


class NeuralLanguageModel(nn.Module):
    """States of which the output layer `head` makes the next word's probabilities.

    Args:
        vocabulary: V.
        head: the output layer, over states of `features(...)` columns.
        width: D.
        hidden: H.
        context: C.
        direct: whether the context's vectors are part of the state, beside the hidden units: then their columns of
            the output rows are the paper's W, the others its U.
        dropout: share of the vectors' and the hidden units' features left out while learning.
    """

    def __init__(
        self,
        vocabulary: int,
        head: nn.Module,
        width: int,
        hidden: int,
        context: int,
        *,
        direct: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.context, self.direct, self.hidden_units = context, direct, hidden
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.hidden = nn.Linear(context * width, hidden)
        self.dropout = Dropout(dropout)
        self.head = head

    @staticmethod
    def features(width: int, hidden: int, context: int, *, direct: bool) -> int:
        """Columns of a state: what the output layer reads."""
        return hidden + context * width * direct

    def states(self, tokens: Tensor) -> Tensor:
        """What predicts each next word.

        Args:
            tokens: (B, C - 1 + T) int64 below V.

        Returns:
            (B, T, features): the state at t has read tokens t to C - 1 + t and no others.
        """
        check_tokens(tokens, self.context, type(self).__name__)
        x = contexts(self.dropout(self.embedding(tokens)), self.context)  # (B, T, C D)
        hidden = self.dropout(torch.tanh(self.hidden(x)))
        return torch.cat([hidden, x.to(hidden.dtype)], -1) if self.direct else hidden

    def forward(self, tokens: Tensor) -> Tensor:
        """Log-probabilities of each next word, (B, T, V), from tokens (B, C - 1 + T)."""
        states = self.states(tokens)
        return self.head.log_probabilities(states.flatten(0, 1)).unflatten(0, states.shape[:2])  # type: ignore[operator]
