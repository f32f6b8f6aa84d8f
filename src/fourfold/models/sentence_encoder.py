"""Texts as vectors, and pairs of texts as scores: BERT's body with pooling, or with one number on top.

Sentence embeddings: Reimers and Gurevych 2019, arXiv 1908.10084. Cross-encoder: Nogueira and Cho 2019, arXiv 1901.04085.
Shapes: B texts, T tokens, W width.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.models.bert import Bert

HEAD = ("transform", "transform_norm", "decoder")
"""What a masked language model has on top of its body."""


def headless(model: Bert) -> Bert:
    """The body alone; `Bert.states` needs no more."""
    for name in HEAD:
        if hasattr(model, name):
            delattr(model, name)
    return model


class SentenceEncoder(nn.Module):
    """A vector for each text.

    Args:
        body: its head is taken off.
        pooling: the mean of all positions, or the state of [CLS].
        normalize: to length 1.
    """

    def __init__(self, body: Bert, pooling: Literal["mean", "cls"], normalize: bool) -> None:
        super().__init__()
        self.body, self.pooling, self.normalize = headless(body), pooling, normalize

    def forward(self, tokens: Tensor, keep: Tensor) -> Tensor:
        """(B, T) int64 tokens and (B, T) bool, where they are, to (B, W) float32."""
        states = self.body.states(tokens, keep=keep).float()
        if self.pooling == "cls":
            found = states[:, 0]
        else:
            counted = keep.unsqueeze(-1)
            found = (states * counted).sum(1) / counted.sum(1)
        return F.normalize(found, dim=-1) if self.normalize else found


class CrossEncoder(nn.Module):
    """A score for each pair of texts, read together: the higher, the better the second answers the first."""

    def __init__(self, body: Bert) -> None:
        super().__init__()
        self.body = headless(body)
        self.pool = nn.Linear(body.width, body.width)
        self.score = nn.Linear(body.width, 1)
        for layer in (self.pool, self.score):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor, keep: Tensor, types: Tensor) -> Tensor:
        """(B, T) int64 tokens, (B, T) bool where they are, (B, T) int64 0 for the first text, to (B,) float32."""
        states = self.body.states(tokens, keep=keep, types=types)
        return self.score(torch.tanh(self.pool(states[:, 0]))).squeeze(-1).float()
