"""Predicting a word from its neighbours: four output layers.

negative: k + 1 sigmoids for the true word and k drawn ones (Mikolov et al. 2013b, formula 4); sampled: a
softmax over the true word and k drawn ones; hierarchical: sigmoids along the word's Huffman path (Morin
and Bengio 2005; Mikolov et al. 2013a); softmax: over all words; contrast: noise-contrastive estimation
(Gutmann and Hyvarinen 2010; Mnih and Kavukcuoglu 2013). In nats a prediction.
Shapes: N predictions, k drawn words, L nodes of a path, V words, P columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from pydantic import NonNegativeFloat, PositiveInt, PrivateAttr
from torch.nn import functional as F

from fourfold.core.parts import Batch, Move, Objective

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fourfold.core.run import Run
    from fourfold.kernels.word2vec import Tables

Loss = Literal["negative", "sampled", "hierarchical", "softmax", "contrast"]


class WordPrediction(Objective):
    """Negative log-likelihood of the middle word given its context, or what stands for it."""

    loss: Loss = "negative"
    """negative: sigmoids of the true and of drawn words; sampled: a softmax over them; hierarchical: sigmoids on a
    Huffman tree; softmax: over all words, for small vocabularies; contrast: noise-contrastive estimation."""
    negatives: PositiveInt = 5
    """Words drawn for every window."""
    power: NonNegativeFloat = 0.75
    """They are drawn in proportion to count^power."""
    _counts: Any = PrivateAttr(None)
    _cache: dict[str, Any] = PrivateAttr(default_factory=dict)

    def prepare(self, run: Run) -> Self:
        """Takes how often each word occurs."""
        fresh = self.model_copy()
        fresh._counts, fresh._cache = np.asarray(run.data.vocabulary.counts, np.float64), {}  # type: ignore[attr-defined]
        return fresh

    def rows(self, words: int) -> int:
        """Output rows that the model needs."""
        return max(1, words - 1) if self.loss == "hierarchical" else words

    @property
    def biased(self) -> bool:
        """Whether output rows have a bias."""
        return self.loss == "contrast"

    # --- tables -----------------------------------------------------------------------------------------

    def _kept(self, name: str, make: Any) -> Any:
        if name not in self._cache:
            self._cache[name] = make()
        return self._cache[name]

    @property
    def noise(self) -> np.ndarray:
        """(V,) float64: the distribution that words are drawn from."""
        weights = np.maximum(self._counts, 1e-12) ** self.power
        return weights / weights.sum()

    @property
    def tree(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The Huffman tree's paths: begins (V + 1,), nodes and labels of all, see `kernels.word2vec.Tables`."""
        return self._kept("tree", lambda: huffman(self._counts))

    def tables(self, keep: np.ndarray) -> Tables:
        """What the compiled kernels look up; `keep` is the data's, (V,) float32."""
        from fourfold.kernels.word2vec import Tables

        probability, alias = self._kept("alias", lambda: alias_cells(self.noise))
        shift = np.zeros(len(keep), np.float32)
        if self.loss == "contrast":
            shift = np.log(self.negatives * self.noise).astype(np.float32)
        empty = np.zeros(1, np.int32), np.zeros(1, np.int32), np.zeros(1, np.float32)
        begins, nodes, labels = self.tree if self.loss == "hierarchical" else empty
        return Tables(keep, probability, alias, shift, begins, nodes, labels)

    # --- plainly ------------------------------------------------------------------------------------------

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """See `Objective.losses`; batch["context"] (B, M), batch["middle"] (B,), or also "negatives" (B, k) drawn before."""
        hidden, window = model(batch["context"])
        true = batch["middle"][window]
        outputs: Tensor = model.outputs  # type: ignore[assignment]
        if self.loss == "hierarchical":
            total = self._along_paths(hidden, outputs, true)
        elif self.loss == "softmax":
            total = F.cross_entropy(hidden @ outputs.T, true, reduction="sum")
        else:
            drawn = batch.get("negatives")
            if drawn is None:
                weights = torch.as_tensor(self.noise, dtype=torch.float32, device=hidden.device)
                size = len(batch["middle"]) * self.negatives
                drawn = torch.multinomial(weights, size, replacement=True).view(-1, self.negatives)
            total = self._against(hidden, outputs, true, drawn[window])
        yield Move("model", total, len(true))

    def _against(self, hidden: Tensor, outputs: Tensor, true: Tensor, drawn: Tensor) -> Tensor:
        words = torch.cat([true[:, None], drawn], 1)  # (N, 1 + k)
        scores = torch.einsum("np,nkp->nk", hidden, outputs[words])
        counts = torch.cat(
            [torch.ones_like(true[:, None], dtype=torch.bool), drawn != true[:, None]], 1
        )
        if self.loss == "sampled":
            scores = scores.masked_fill(~counts, -torch.inf)
            return -torch.log_softmax(scores, 1)[:, 0].sum()
        if self.loss == "contrast":
            noise = torch.as_tensor(self.noise, dtype=scores.dtype, device=scores.device)
            scores = scores - (self.negatives * noise).log()[words]
        signs = torch.ones_like(scores)
        signs[:, 1:] = -1
        return (F.softplus(-signs * scores) * counts).sum()

    def _along_paths(self, hidden: Tensor, outputs: Tensor, true: Tensor) -> Tensor:
        begins, nodes, labels = (torch.as_tensor(a, device=hidden.device) for a in self.tree)
        start, stop = begins[true].long(), begins[true + 1].long()
        places = start[:, None] + torch.arange(int((stop - start).max()), device=hidden.device)
        there = places < stop[:, None]  # (N, L)
        places = places.clamp(max=len(nodes) - 1)
        scores = torch.einsum("np,nlp->nl", hidden, outputs[nodes[places].long()])
        signs = 2 * labels[places] - 1
        return (F.softplus(-signs * scores) * there).sum()


def alias_cells(distribution: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The alias method's cells (Walker 1977; Vose 1991).

    Args:
        distribution: (V,) float64 that sums to 1.

    Returns:
        (V,) float32, the share of each cell that is its own, and (V,) int32, whose the rest is.
    """
    scaled = distribution * len(distribution)
    share, alias = np.ones(len(scaled), np.float32), np.arange(len(scaled), dtype=np.int32)
    small, large = list(np.flatnonzero(scaled < 1)), list(np.flatnonzero(scaled >= 1))
    while small and large:
        less, more = small.pop(), large.pop()
        share[less], alias[less] = scaled[less], more
        scaled[more] -= 1 - scaled[less]
        (small if scaled[more] < 1 else large).append(more)
    return share, alias


def huffman(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Huffman's tree (1952) by the two-queue method: sorted leaves, and inner nodes as they are made.

    Args:
        counts: (V,) how often each word occurs.

    Returns:
        begins (V + 1,) int32; nodes, int32, and labels, float32 (1 where the code's bit is 0), of all
        paths from the root, word w's at begins[w] to begins[w + 1] - 1. Nodes are numbered 0 to V - 2,
        the root last.
    """
    words = len(counts)
    order = np.argsort(counts, kind="stable")
    weights = np.concatenate(
        [np.asarray(counts, np.float64)[order], np.full(max(0, words - 1), np.inf)]
    )
    parent, bit = np.zeros(2 * words, np.int64), np.zeros(2 * words, np.int8)
    leaf, inner = 0, words
    for made in range(words, 2 * words - 1):
        total = 0.0
        for side in (0, 1):
            if leaf < words and weights[leaf] <= weights[inner]:
                chosen, leaf = leaf, leaf + 1
            else:
                chosen, inner = inner, inner + 1
            parent[chosen], bit[chosen] = made, side
            total += weights[chosen]
        weights[made] = total
    paths: list[tuple[list[int], list[float]]] = [([], [])] * words
    for place in range(words):
        nodes, labels, at = [], [], place
        while at != 2 * words - 2:
            nodes.append(int(parent[at]) - words)
            labels.append(1.0 - bit[at])
            at = int(parent[at])
        paths[order[place]] = nodes[::-1], labels[::-1]
    begins = np.concatenate([[0], np.cumsum([len(n) for n, _ in paths])]).astype(np.int32)
    return (
        begins,
        np.array([n for p, _ in paths for n in p] or [0], np.int32),
        np.array([b for _, p in paths for b in p] or [0], np.float32),
    )
