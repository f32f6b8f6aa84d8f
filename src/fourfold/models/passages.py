"""An index of passages by their words: inverted lists, scored by BM25 (Robertson et al. 1994) in Lucene's form.

Nothing here is learned by gradient: the search counts, and leaves its lists in the buffers, whose size it decides.
Shapes: N passages, P different terms of each, summed, V different terms, Q terms of a question, B questions.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor, nn

from fourfold.core.state import TakesShape
from fourfold.kernels import bm25, terms


class PassageIndex(TakesShape, nn.Module):  # type: ignore[misc]
    """Which passages hold each term, and how often.

    Args:
        k1: how soon a term that comes again counts no more.
        b: how much long passages are scored down, from 0 to 1.
        stem: whether plurals are taken away.
    """

    terms: Tensor
    """(V,) int64 hashes of terms, rising as uint64."""
    offsets: Tensor
    """(V + 1,) int64: the list of term v is from offsets[v] to offsets[v + 1]."""
    rows: Tensor
    """(P,) int32 passages."""
    often: Tensor
    """(P,) int16, how often."""
    lengths: Tensor
    """(N,) int32 terms of each passage in all."""
    digest: Tensor
    """(32,) uint8: SHA-256 of the passages that this is an index of."""
    versions: Tensor
    """(H,) int64: states of the store, the present one last; empty in memory."""

    def __init__(self, k1: float, b: float, stem: bool) -> None:
        super().__init__()
        self.k1, self.b, self.stem = k1, b, stem
        for name, kind in (("terms", torch.int64), ("offsets", torch.int64), ("rows", torch.int32),
                           ("often", torch.int16), ("lengths", torch.int32), ("digest", torch.uint8),
                           ("versions", torch.int64)):  # fmt: skip
            self.register_buffer(name, torch.empty(0, dtype=kind))

    def take(self, texts: list[str], digest: str, versions: list[int]) -> None:
        """Count texts.

        Args:
            texts: N passages.
            digest: SHA-256 of them, in hexadecimal digits.
            versions: see `versions`.
        """
        hashed, often, ends, lengths = terms.counts(texts, stem=self.stem)
        found = bm25.inverted(hashed, often, ends)
        self.terms = torch.from_numpy(found[0].view(np.int64))
        self.offsets, self.rows, self.often = (torch.from_numpy(a) for a in found[1:])
        self.lengths = torch.from_numpy(lengths)
        self.digest = torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8)
        self.versions = torch.tensor(versions, dtype=torch.int64)
        self.__dict__.pop("_lists", None)

    @property
    def made_of(self) -> str:
        """The digest, in hexadecimal digits."""
        return bytes(self.digest.tolist()).hex()

    @functools.cached_property
    def _lists(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Terms, offsets, rows, and what each entry adds to a score."""
        offsets, rows, often, lengths = (
            getattr(self, name).cpu().numpy() for name in ("offsets", "rows", "often", "lengths")
        )
        gains = np.empty(len(rows), np.float32)
        mean = float(lengths.mean()) if len(lengths) else 1.0
        bm25.impacts(offsets, rows, often, lengths, max(mean, 1e-9), self.k1, self.b, gains)
        return self.terms.cpu().numpy().view(np.uint64), offsets, rows, gains

    def scores(self, asked: np.ndarray) -> np.ndarray:
        """(N,) float32: BM25 of each passage for a question's hashed terms, (Q,) uint64, each counted as often as it comes."""
        hashed, offsets, rows, gains = self._lists
        found = np.zeros(len(self.lengths), np.float32)
        if len(hashed):
            places = np.searchsorted(hashed, asked)
            places = places[hashed[np.minimum(places, len(hashed) - 1)] == asked]
            bm25.add_scores(offsets, rows, gains, places, found)
        return found

    def score_text(self, question: str) -> np.ndarray:
        """As `scores`, of a question's text."""
        return self.scores(terms.hashes([question], stem=self.stem)[0])

    def rarity(self, asked: np.ndarray) -> np.ndarray:
        """(Q,) float64: idf of hashed terms, that of a term in no passage for those that are unknown."""
        hashed, offsets, _, _ = self._lists
        total = len(self.lengths)
        having = np.zeros(len(asked))
        if len(hashed):
            places = np.minimum(np.searchsorted(hashed, asked), len(hashed) - 1)
            having = np.where(hashed[places] == asked, np.diff(offsets)[places], 0)
        return np.log(1 + (total - having + 0.5) / (having + 0.5))

    def forward(self, asked: Tensor) -> Tensor:
        """(B, N) float32 scores for hashed terms (B, Q) int64, 0 where there is none."""
        rows = asked.cpu().numpy().view(np.uint64)
        return torch.from_numpy(np.stack([self.scores(row[row != 0]) for row in rows]))
