"""Log-bilinear language model: Mnih and Hinton 2007, https://doi.org/10.1145/1273496.1273577.

The predicted vector is a linear function of the context's, r = sum_i C_i r_(w_i); a word's score is its vector times r,
plus its bias. One set of vectors serves context and prediction; under a tree (Mnih and Hinton 2008) the nodes have the
output's vectors. Shapes: B rows, T positions, C words of context, D width of a vector, V words.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fourfold.models.dropout import Dropout
from fourfold.models.nnlm import check_tokens, contexts


class LogBilinear(nn.Module):
    """Predicted vectors, which the output layer `head` compares with the words' (or the tree's nodes').

    Args:
        vectors: (V, D), shared with `head` where that has a row for each word.
        head: the output layer over states of D columns.
        context: C.
        diagonal: whether a place of the context has one weight for each feature instead of a matrix.
        dropout: share of the features of context and prediction left out while learning.
    """

    def __init__(
        self,
        vectors: nn.Embedding,
        head: nn.Module,
        context: int,
        *,
        diagonal: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.context, self.diagonal = context, diagonal
        self.embedding = vectors
        width = vectors.embedding_dim
        nn.init.normal_(vectors.weight, std=0.1)
        shape = (context, width) if diagonal else (context, width, width)
        self.places = nn.Parameter(torch.empty(shape))
        if diagonal:
            nn.init.constant_(self.places, 1 / context)
        else:
            nn.init.normal_(self.places, std=1 / math.sqrt(context * width))
        self.dropout = Dropout(dropout)
        self.head = head

    def states(self, tokens: Tensor) -> Tensor:
        """The predicted vector of each next word.

        Args:
            tokens: (B, C - 1 + T) int64 below V.

        Returns:
            (B, T, D): the state at t has read tokens t to C - 1 + t and no others.
        """
        check_tokens(tokens, self.context, type(self).__name__)
        vectors = self.dropout(self.embedding(tokens))
        if self.diagonal:
            time = tokens.shape[1] - self.context + 1
            parts = [vectors[:, i : i + time] * self.places[i] for i in range(self.context)]
            return self.dropout(torch.stack(parts).sum(0))
        return self.dropout(contexts(vectors, self.context) @ self.places.flatten(0, 1))

    def forward(self, tokens: Tensor) -> Tensor:
        """Log-probabilities of each next word, (B, T, V), from tokens (B, C - 1 + T)."""
        states = self.states(tokens)
        return self.head.log_probabilities(states.flatten(0, 1)).unflatten(0, states.shape[:2])  # type: ignore[operator]
