"""n-gram language model in back-off form: Shannon 1948; Katz 1987; as ARPA files hold it.

Nothing here is learned by gradient: the search counts, and leaves its tables in the buffers, whose size it
decides. Shapes: V words, M n-grams of all orders, I those of orders 1 to n - 1, R rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn

from fourfold.core.state import TakesShape
from fourfold.kernels import ngram as kernel
from fourfold.kernels.ngram import Tables
from fourfold.kernels.ngram_discounts import HIGHEST
from fourfold.kernels.ngram_smoothing import Order

SHARED = 1 << 16
"""Tokens from which on a further thread is worth its start."""


class NGram(TakesShape, nn.Module):  # type: ignore[misc]
    """Probabilities of n-grams of all orders up to the highest, and the weights of backing off.

    Args:
        order: the longest n-gram.
        vocabulary: V.
        end: the token that ends a document.
        stop: the token that ends a sentence; may be `end`. Contexts reach across neither.
    """

    words: Tensor
    """(M,) int32: see `fourfold.kernels.ngram.Tables`, as for the next three."""
    first: Tensor
    """(I + 1,) int32."""
    logs: Tensor
    """(M,) float32, nats."""
    backoffs: Tensor
    """(I,) float32, nats."""
    sizes: Tensor
    """(order, 2) int64: different n-grams in the text, and those in the tables."""
    counts_of_counts: Tensor
    """(order, 6) int64: n-grams with count 1, 2, ..., as discounts are taken from them."""
    discounts: Tensor
    """(order, 5) float64: see `Order.discounts`; 0 where there are fewer."""

    def __init__(self, order: int, vocabulary: int, end: int, stop: int) -> None:
        super().__init__()
        self.order, self.vocabulary, self.end, self.stop = order, vocabulary, end, stop
        for name, kind in (("words", torch.int32), ("first", torch.int32), ("logs", torch.float32),
                           ("backoffs", torch.float32), ("sizes", torch.int64),
                           ("counts_of_counts", torch.int64), ("discounts", torch.float64)):  # fmt: skip
            self.register_buffer(name, torch.empty(0, dtype=kind))

    def take(self, tables: Tables, told: Sequence[Order]) -> None:
        """Put the tables of a search into the buffers, without a copy."""
        place = self.words.device
        for name in ("words", "first", "logs", "backoffs"):
            setattr(self, name, torch.from_numpy(getattr(tables, name)).to(place))
        self.sizes = torch.tensor([[o.size, o.kept] for o in told], device=place)
        counts = [(*o.counts, *[0] * (HIGHEST + 1))[: HIGHEST + 1] for o in told]
        self.counts_of_counts = torch.tensor(counts, device=place)
        shares = [(*o.discounts, *[0.0] * HIGHEST)[:HIGHEST] for o in told]
        self.discounts = torch.tensor(shares, dtype=torch.float64, device=place)

    @property
    def tables(self) -> Tables:
        """The buffers as the kernels take them: views, where they are on the CPU.

        Raises:
            ValueError: nothing has been counted yet.
        """
        if len(self.words) < self.vocabulary:
            raise ValueError("this n-gram model is empty: it has not been counted yet")
        words, first = self.words.cpu().numpy(), self.first.cpu().numpy()
        logs, backoffs = self.logs.cpu().numpy(), self.backoffs.cpu().numpy()
        return Tables(words, first, logs, backoffs, self.end, self.stop, self.order)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """-log p of targets, each after the tokens of its row before it.

        Args:
            tokens: (B, C - 1 + T) int64.
            targets: (B, T) int64: target t follows token C - 1 + t; negative ones do not count.

        Returns:
            (B, T) float64, nats; 0 for those that do not count.
        """
        found = np.zeros(targets.shape)
        kernel.row_surprises(self.tables, tokens.cpu().numpy(), targets.cpu().numpy(), found)
        return torch.from_numpy(found).to(targets.device)

    def surprises(self, tokens: np.ndarray) -> np.ndarray:
        """-log p of tokens[1:], each after all before it.

        Args:
            tokens: (N + 1,) integers; the first is a boundary.

        Returns:
            (N,) float64, nats.
        """
        tokens, tables = np.ascontiguousarray(tokens), self.tables
        found = np.empty(len(tokens) - 1)
        edges = self._edges(tokens, torch.get_num_threads())
        spans = list(zip(edges, edges[1:], strict=False))
        if len(spans) == 1:
            kernel.surprises(tables, tokens, found)
        elif spans:
            with ThreadPoolExecutor(len(spans)) as pool:
                list(
                    pool.map(
                        lambda s: kernel.surprises(
                            tables, tokens[s[0] : s[1] + 1], found[s[0] : s[1]]
                        ),
                        spans,
                    )
                )
        return found

    def _edges(self, tokens: np.ndarray, parts: int) -> list[int]:
        """Boundaries in a text that cut it into about equal parts: nothing is looked back on across them."""
        last = len(tokens) - 1
        edges = [0]
        for part in range(1, min(parts, last // SHARED) + 1 if last else 0):
            at = part * last // min(parts, last // SHARED)
            ends = np.flatnonzero(np.isin(tokens[at : at + SHARED], (self.end, self.stop)))
            if len(ends) and edges[-1] < at + int(ends[0]) < last:
                edges.append(at + int(ends[0]))
        return [*edges, last] if last else edges
