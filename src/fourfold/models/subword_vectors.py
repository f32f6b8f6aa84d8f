"""Word vectors made of character n-grams: Bojanowski et al. 2017, arXiv 1607.04606 (fastText).

A word's input is the mean of its own row and its n-grams' rows. Shapes: B windows, M words of context at most,
V words, G buckets, P padded columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fourfold.models.word_vectors import Which, WordVectors

if TYPE_CHECKING:
    from fourfold.kernels.subwords import Grams


class SubwordVectors(WordVectors):
    """Vectors of words and of the n-grams of their characters.

    Args:
        words: V.
        width: numbers of a vector.
        begins: (V + 1,) int64: word w's input rows are rows[begins[w] : begins[w + 1]].
        rows: int: its own row and V + a bucket for each n-gram.
        buckets: G, rows that the n-grams share.
        outputs, bias, algorithm, mean: as for `WordVectors`.
    """

    begins: Tensor
    rows: Tensor

    def __init__(
        self, words: int, width: int, begins: Tensor, rows: Tensor, buckets: int, *,
        outputs: int | None = None, bias: bool = False,
        algorithm: Literal["skip-gram", "cbow"] = "skip-gram", mean: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(
            words + buckets, width, outputs=words if outputs is None else outputs, bias=bias,
            algorithm=algorithm, mean=mean,
        )  # fmt: skip
        self.words, self.tail = words, buckets
        # made again from the vocabulary, so they are not stored
        self.register_buffer("begins", begins.long(), persistent=False)
        self.register_buffer("rows", rows.long(), persistent=False)

    def grams(self) -> Grams:
        """The input rows of each word, for the compiled kernel."""
        from fourfold.kernels.subwords import Grams

        return Grams(self.begins.cpu().numpy(), self.rows.cpu().numpy().astype("int32"))

    def compose(self, rows: Tensor) -> Tensor:
        """(width,) the mean of input rows `rows`, (N,) int64: the vector of a word that is not in the vocabulary."""
        return self.inputs.detach()[rows].mean(0)[: self.width]

    def _sums(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """(N, P) sums of the input rows of words (N,), and (N,) how many rows each has."""
        starts, counts = self.begins[words], self.begins[words + 1] - self.begins[words]
        offsets = counts.cumsum(0) - counts
        places = torch.arange(int(counts.sum()), device=words.device) + (
            starts - offsets
        ).repeat_interleave(counts)
        sums = F.embedding_bag(self.rows[places], self.inputs, offsets, mode="sum")
        return sums, counts.to(sums.dtype)

    def forward(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """See `WordVectors.forward`; a word's row is the mean of its input rows, of a context that of all of them."""
        there = context >= 0
        window = there.nonzero()[:, 0]
        sums, counts = self._sums(context[there])
        if self.algorithm == "skip-gram":
            found = sums / counts[:, None]
        else:
            some, place = window.unique(return_inverse=True)
            total = sums.new_zeros(len(some), sums.shape[1]).index_add(0, place, sums)
            parts = counts.new_zeros(len(some)).index_add(0, place, counts)
            found, window = total / parts[:, None] if self.mean else total, some
        if self.bias >= 0:
            found = torch.cat(
                [found[:, : self.bias], torch.ones_like(found[:, :1]), found[:, self.bias + 1 :]], 1
            )
        return found, window

    def vectors(self, which: Which = "input") -> Tensor:
        """See `WordVectors.vectors`; as context a word's vector is made of its n-grams too."""
        found = {"output": lambda: self.outputs.detach()[:, : self.width], "input": self._composed}
        if which != "joined":
            return found[which]()
        return torch.cat([made() for made in found.values()][::-1], 1)

    def _composed(self) -> Tensor:
        blocks = torch.arange(self.words, device=self.inputs.device).split(1 << 16)
        with torch.no_grad():
            made = [self._sums(block) for block in blocks]
            return torch.cat([(sums / counts[:, None])[:, : self.width] for sums, counts in made])
