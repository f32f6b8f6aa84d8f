"""Output layers over a vocabulary: what makes probabilities of words from hidden states.

Full: a row and a bias for every word. Adaptive: the frequent words and a few clusters of rare ones, which have
narrower rows (Grave et al. 2017, https://arxiv.org/abs/1609.04309; here with biases). Tree: decisions on the way
to a word in a binary tree (Morin and Bengio 2005; Mnih and Hinton 2008). Biases begin at the words' frequencies.
Shapes: N positions, H hidden, V words, L decisions on the longest path.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.core.state import TakesShape

BLOCK = 1 << 22
"""Scores that an evaluation holds at a time."""
SHRINK = 4
"""By which the rows of each further cluster of an adaptive layer are narrower."""
Paths = tuple[np.ndarray, np.ndarray, np.ndarray]
"""A binary tree over V words: begins (V + 1,), and nodes (0 to V - 2) and labels (1 or 0) of all paths from the
root, word w's at begins[w] to begins[w + 1] - 1."""


class Output(Protocol):
    """What every output layer offers, exactly and normalized."""

    def log_probabilities(self, hidden: Tensor) -> Tensor:
        """Of every word, (N, V) nats that sum to one, from hidden states (N, H)."""

    def negative_log(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """-log p of one word each, (N,) nats, from (N, H) and (N,) int64; memory does not grow with N V."""


class FullOutput(nn.Linear):
    """A row and a bias for every word; its forward gives logits (N, V).

    Args:
        vocabulary: V.
        width: H.
        counts: (V,) how often each word occurs; None means all alike.
        rows: whose weight, (V, H), to share; None means its own, which begins at zero: the first guess is the
            words' frequencies.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        counts: np.ndarray | None = None,
        rows: nn.Embedding | None = None,
    ) -> None:
        super().__init__(width, vocabulary)
        with torch.no_grad():
            self.weight.zero_()
            self.bias.copy_(log_frequencies(counts, vocabulary))
        if rows is not None:
            self.weight = rows.weight

    def log_probabilities(self, hidden: Tensor) -> Tensor:
        """See `Output.log_probabilities`."""
        return _wide(self(hidden)).log_softmax(-1)

    def negative_log(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """See `Output.negative_log`."""
        step = max(1, BLOCK // self.out_features)
        found = [
            F.cross_entropy(_wide(self(some)), wanted, reduction="none")
            for some, wanted in zip(hidden.split(step), targets.split(step), strict=True)
        ]
        return torch.cat(found)


class AdaptiveOutput(nn.Module):
    """The most frequent words and one entry for each cluster of rarer ones; within a cluster a softmax of its own.

    Cluster i reads the hidden state through width / 4^i columns.

    Args:
        vocabulary: V.
        width: H.
        counts: (V,) how often each word occurs; None means in falling order.
        cutoffs: words up to each of the clusters, as [2000, 10000] for words 0 to 1999 (by frequency), 2000 to
            9999 and the rest; None takes two where multiplications are fewest.

    Raises:
        ValueError: cutoffs that do not rise from 1 to below V.
    """

    rank: Tensor

    def __init__(
        self,
        vocabulary: int,
        width: int,
        counts: np.ndarray | None = None,
        cutoffs: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        counts = np.arange(vocabulary, 0, -1) if counts is None else np.asarray(counts)
        order = np.argsort(-counts, kind="stable")
        inner = cheapest_cutoffs(counts[order], width) if cutoffs is None else list(cutoffs)
        edges = [0, *inner, vocabulary]
        if any(a >= b for a, b in zip(edges, edges[1:], strict=False)):
            raise ValueError(
                f"AdaptiveOutput expects cutoffs that rise from 1 to below {vocabulary}, got {inner}"
            )
        self.cutoffs = edges[1:]
        rank = np.empty(vocabulary, np.int64)
        rank[order] = np.arange(vocabulary)
        self.register_buffer("rank", torch.from_numpy(rank))
        shares = np.exp(log_frequencies(counts[order], vocabulary).double().numpy())
        clusters = [shares[a:b] for a, b in zip(inner, edges[2:], strict=True)]
        begin = np.concatenate([shares[: edges[1]], [c.sum() for c in clusters]])
        self.frequent = _biased(width, begin)
        self.rare = nn.ModuleList()
        for i, cluster in enumerate(clusters):
            narrow = max(1, width // SHRINK ** (i + 1))
            reads = nn.Linear(width, narrow, bias=False)
            self.rare.append(nn.Sequential(reads, _biased(narrow, cluster / cluster.sum())))

    def pieces(self, hidden: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The choices that make up each word's probability: the cross-entropies of all of them sum to -log p.

        Args:
            hidden: (N, H).
            targets: (N,) int64.

        Yields:
            Which positions (M,), their logits (M, C) and what is chosen among them (M,).
        """
        rank = self.rank[targets]
        inner = torch.tensor(self.cutoffs[:-1], device=rank.device)
        cluster = torch.bucketize(rank, inner, right=True)  # 0: a frequent word
        first = self.cutoffs[0]
        chosen = torch.where(cluster == 0, rank, first + cluster - 1)
        yield torch.arange(len(rank), device=rank.device), self.frequent(hidden), chosen
        for i, rare in enumerate(self.rare):
            rows = (cluster == i + 1).nonzero()[:, 0]
            if len(rows):
                yield rows, rare(hidden[rows]), rank[rows] - self.cutoffs[i]

    def log_probabilities(self, hidden: Tensor) -> Tensor:
        """See `Output.log_probabilities`."""
        first = self.cutoffs[0]
        top = _wide(self.frequent(hidden)).log_softmax(-1)
        found = [top[:, :first]]
        for i, rare in enumerate(self.rare):
            found.append(_wide(rare(hidden)).log_softmax(-1) + top[:, first + i, None])
        return torch.cat(found, -1)[:, self.rank]

    def negative_log(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """See `Output.negative_log`."""
        step = max(1, BLOCK // max(self.cutoffs[0], self.cutoffs[-1] - self.cutoffs[0]))
        found = []
        for some, wanted in zip(hidden.split(step), targets.split(step), strict=True):
            total = some.new_zeros(len(some), dtype=torch.promote_types(some.dtype, torch.float32))
            for rows, logits, chosen in self.pieces(some, wanted):
                nats = F.cross_entropy(_wide(logits), chosen, reduction="none")
                total = total.index_add(0, rows, nats.to(total.dtype))
            found.append(total)
        return torch.cat(found)


class TreeOutput(TakesShape, nn.Module):  # type: ignore[misc]
    """A row and a bias for every inner node of a binary tree: p(word) is a product of sigmoids on its path.

    Args:
        vocabulary: V.
        width: H.
        paths: the tree.
        counts: (V,) how often each word occurs; None means all alike.
    """

    nodes: Tensor
    signs: Tensor
    planted: Tensor
    """() int64, how many trees there have been."""

    def __init__(
        self, vocabulary: int, width: int, paths: Paths, counts: np.ndarray | None = None
    ) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.weight = nn.Parameter(torch.zeros(max(1, vocabulary - 1), width))
        self.bias = nn.Parameter(torch.zeros(max(1, vocabulary - 1)))
        self.register_buffer("planted", torch.zeros((), dtype=torch.int64))
        self.plant(paths, counts)

    @torch.no_grad()
    def plant(self, paths: Paths, counts: np.ndarray | None = None) -> None:
        """Begin anew with this tree: rows at zero, biases so that the first guess is the words' frequencies."""
        begins, nodes, labels = paths
        lengths = np.diff(begins)
        if len(lengths) != self.vocabulary:
            raise ValueError(
                f"TreeOutput expects paths of {self.vocabulary} words, got {len(lengths)}"
            )
        depth = int(lengths.max(initial=0))
        there = np.arange(depth) < lengths[:, None]  # (V, L)
        padded, signs = np.zeros(there.shape, np.int32), np.zeros(there.shape, np.int8)
        count = int(lengths.sum())
        padded[there], signs[there] = nodes[:count], 2 * labels[:count] - 1
        place = self.weight.device
        self.register_buffer("nodes", torch.from_numpy(padded).to(place))
        self.register_buffer("signs", torch.from_numpy(signs).to(place))
        self.planted += 1
        weights = np.ones(len(lengths)) if counts is None else np.asarray(counts, np.float64) + 1
        each = np.broadcast_to(weights[:, None], there.shape)
        rows = len(self.weight)
        plus, minus = (
            np.bincount(padded[signs == s], each[signs == s], minlength=rows) for s in (1, -1)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            odds = np.where((plus > 0) & (minus > 0), np.log(plus / minus), 0.0)
        self.weight.zero_()
        self.bias.copy_(torch.from_numpy(odds))

    @property
    def lengths(self) -> np.ndarray:
        """(V,) int64: decisions on each word's path."""
        return self.signs.abs().sum(1).cpu().numpy()

    def paths(self) -> Paths:
        """The tree as it is."""
        there = self.signs.cpu().numpy() != 0
        begins = np.concatenate([[0], np.cumsum(there.sum(1))]).astype(np.int32)
        labels = (self.signs.cpu().numpy()[there] > 0).astype(np.float32)
        return begins, self.nodes.cpu().numpy()[there], labels

    def decisions(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The decisions on the way to each word: -log p is the sum of softplus(-signs * scores) where signs are not 0.

        Args:
            hidden: (N, H).
            targets: (N,) int64.

        Returns:
            Scores (N, L) float and signs (N, L) int8: 1, -1, or 0 where the path has ended.
        """
        nodes, signs = self.nodes[targets], self.signs[targets]
        # products of single rows gain nothing from bfloat16, whose casts would cost more than they do
        with torch.autocast(hidden.device.type, enabled=False):
            rows = F.embedding(nodes, self.weight)  # (N, L, H)
            scores = torch.bmm(rows, hidden.to(rows.dtype).unsqueeze(-1)).squeeze(-1)
        return scores + F.embedding(nodes, self.bias.unsqueeze(-1)).squeeze(-1), signs

    def log_probabilities(self, hidden: Tensor) -> Tensor:
        """See `Output.log_probabilities`."""
        scores = _wide(F.linear(hidden, self.weight, self.bias))
        found = scores.new_zeros(len(hidden), self.vocabulary)
        for nodes, signs in zip(self.nodes.T, self.signs.T, strict=True):  # decision by decision
            words = signs.nonzero()[:, 0]
            step = F.logsigmoid(signs[words] * scores[:, nodes[words].long()])
            found = found.index_add(1, words, step)
        return found

    def negative_log(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """See `Output.negative_log`."""
        step = max(1, BLOCK // max(1, self.nodes.shape[1] * self.weight.shape[1]))
        found = []
        for some, wanted in zip(hidden.split(step), targets.split(step), strict=True):
            scores, signs = self.decisions(some, wanted)
            found.append((F.softplus(-signs * scores) * signs.abs()).sum(-1))
        return torch.cat(found)


def log_frequencies(counts: np.ndarray | None, vocabulary: int) -> Tensor:
    """(V,) float32: log of each word's share, one added to every count so that none is impossible."""
    if counts is None:
        return torch.full((vocabulary,), -float(np.log(vocabulary)))
    weights = np.asarray(counts, np.float64) + 1
    return torch.from_numpy(np.log(weights / weights.sum())).float()


def cheapest_cutoffs(counts: np.ndarray, width: int, clusters: int = 2) -> list[int]:
    """Where an adaptive layer with so many clusters multiplies least for a word of the text.

    Args:
        counts: (V,) how often each word occurs, the most frequent first.
        width: H.
        clusters: 2, or fewer where the vocabulary is tiny.

    Returns:
        Rising words from 1 to below V; empty for a vocabulary of one.
    """
    vocabulary = len(counts)
    if vocabulary < 4 or clusters < 2:
        return list(range(1, min(vocabulary, clusters + 1)))
    places = np.unique(np.geomspace(1, vocabulary - 1, 60).astype(np.int64))
    mass = np.concatenate([[0], np.cumsum(counts + 1.0)])
    first, second = np.meshgrid(places, places, indexing="ij")
    first_share, second_share = mass[second] - mass[first], mass[vocabulary] - mass[second]
    cost = width * (first + 2.0)
    for i, (share, size) in enumerate(
        ((first_share, second - first), (second_share, vocabulary - second))
    ):
        cost = cost + share / mass[-1] * max(1, width // SHRINK ** (i + 1)) * (width + size)
    best = np.where(first < second, cost, np.inf).argmin()
    return [int(first.flat[best]), int(second.flat[best])]


def _biased(width: int, shares: np.ndarray) -> nn.Linear:
    """An affine map that begins at zero rows and the shares' logarithms."""
    layer = nn.Linear(width, len(shares))
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.from_numpy(np.log(shares)))
    return layer


def _wide(scores: Tensor) -> Tensor:
    return scores.to(torch.promote_types(scores.dtype, torch.float32))
