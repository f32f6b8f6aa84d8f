"""word2vec on a GPU: the same windows, draws and steps as `word2vec.train`, block by block.

What chance decides (which words sub-sampling keeps, each window's width, the drawn words) is drawn for a
block at once, so that whoever steps it, `word2vec_triton` or the plain form here, makes the same steps
up to their order. The plain form steps some windows at a time from where the matrices stood before
them; of one window at a time it is the papers' algorithm itself. Mikolov et al. 2013a, 2013b.
Shapes: N kept words of a block, R the widest window's radius, B windows stepped at once, M input rows and K
output rows of each, V words, P columns of a row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fourfold.kernels.word2vec import CONTRAST, LONGEST, PATH, SOFTMAX, Corpus, Settings, Tables

TOGETHER = 256
"""Windows that the plain form steps at once."""
ROWS = 1 << 22
"""Scores that it holds at once: fewer windows where each has many output rows."""


class Looked(NamedTuple):
    """`Tables` as tensors of one device."""

    keep: Tensor
    probability: Tensor
    alias: Tensor
    shift: Tensor
    begins: Tensor
    nodes: Tensor
    turns: Tensor

    @classmethod
    def of(cls, tables: Tables, device: torch.device) -> Looked:
        """The tables on a device."""
        arrays = (getattr(tables, name) for name in cls._fields)
        return cls(*(torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in arrays))


class Block(NamedTuple):
    """A stretch of text with all that chance decides."""

    words: Tensor
    """(N,) int32, what sub-sampling left."""
    sentences: Tensor
    """(N,) int32: words of one sentence have one number."""
    near: Tensor
    """(N,) int32, each window's radius, 1 to R."""
    drawn: Tensor
    """(N, negatives) int32; (N, 0) where nothing is drawn."""


def draw(
    corpus: Corpus, first: int, last: int, tables: Looked, settings: Settings, seed: int
) -> Block:
    """Draw what chance decides about sentences first to last - 1, on the tables' device.

    Args:
        corpus: see `Corpus`; it stays where it is, only this stretch travels.
        first, last: sentences.
        tables, settings: see there.
        seed: of this block alone, so that a block is the same whenever it comes.
    """
    device = tables.keep.device
    start, stop = int(corpus.ends[first]), int(corpus.ends[last])
    words = torch.from_numpy(np.array(corpus.words[start:stop])).to(device)
    ends = torch.from_numpy(corpus.ends[first : last + 1] - start).to(device)
    places = torch.arange(len(words), device=device)
    sentence = torch.searchsorted(ends, places, right=True)
    begins = (places - ends[sentence - 1]) % LONGEST == 0  # of a sentence, or where it is cut
    sentences = begins.cumsum(0).int()
    random = torch.Generator(device).manual_seed(seed)
    keep = tables.keep[words.long()]
    kept = torch.rand(len(words), generator=random, device=device) < keep
    words, sentences = words[kept], sentences[kept]
    near = torch.randint(
        1, settings.window + 1, (len(words),), generator=random, device=device, dtype=torch.int32
    )
    size = (len(words), 0 if settings.kind == PATH else max(0, settings.negatives))
    cells = torch.randint(len(tables.alias), size, generator=random, device=device)
    own = torch.rand(size, generator=random, device=device) < tables.probability[cells]
    return Block(words, sentences, near, torch.where(own, cells.int(), tables.alias[cells]))


def contexts(block: Block, at: Tensor, reach: int) -> Tensor:
    """The words around some places, (B, 2 R) int64, -1 where there is none.

    Args:
        block: see there.
        at: (B,) int64 places.
        reach: R.
    """
    device = at.device
    offsets = torch.cat(
        [torch.arange(-reach, 0, device=device), torch.arange(1, reach + 1, device=device)]
    )
    places = at[:, None] + offsets
    inside = (places >= 0) & (places < len(block.words))
    places = places.clamp(0, len(block.words) - 1)
    inside &= offsets.abs() <= block.near[at, None]
    inside &= block.sentences[places] == block.sentences[at, None]
    return torch.where(inside, block.words[places].long(), -1)


def step(
    block: Block, tables: Looked, settings: Settings, inputs: Tensor, outputs: Tensor,
    rates: tuple[float, float], *, together: int = TOGETHER,
) -> tuple[float, int]:  # fmt: skip
    """Step both matrices in place over a block, plainly.

    Args:
        block, tables, settings: see there.
        inputs: (V, P) float.
        outputs: (V or inner nodes, P) float.
        rates: learning rate at the block's beginning and end; linear in between.
        together: windows stepped at once, all from the same matrices.

    Returns:
        The loss in nats, summed over every prediction, and how many predictions.
    """
    everything = settings.negatives < 0 and settings.kind != PATH
    if everything:
        together = max(1, min(together, ROWS // (2 * settings.window * len(outputs))))
    total, predictions = inputs.new_zeros((), dtype=torch.float64), 0
    for start in range(0, len(block.words), together):
        at = torch.arange(start, min(start + together, len(block.words)), device=inputs.device)
        context = contexts(block, at, settings.window)
        some = (context >= 0).any(1)
        at, context = at[some], context[some]
        if not len(at):
            continue
        rate = rates[0] + (rates[1] - rates[0]) * at.to(inputs.dtype) / len(block.words)
        hidden, window, there = _hidden(inputs, context, settings)
        rows, labels, counts = _targets(block, tables, settings, at, len(outputs))
        chosen = outputs if everything else outputs[rows]
        scores = (
            hidden @ chosen.T if everything else torch.einsum("mp,mkp->mk", hidden, chosen[window])
        )
        slopes, losses = _slopes(
            scores, labels[window], counts[window], settings, tables, rows, window
        )
        total += losses.sum(dtype=torch.float64)
        predictions += len(window)
        slopes = slopes * rate[window, None]
        back = slopes @ chosen if everything else torch.einsum("mk,mkp->mp", slopes, chosen[window])
        if settings.bias >= 0:
            back[:, settings.bias] = 0
        if everything:
            outputs += slopes.T @ hidden
        else:
            change = slopes[:, :, None] * hidden[:, None, :]
            outputs.index_add_(0, rows[window].flatten(), change.flatten(0, 1))
        if settings.together:  # each word of the context takes the whole, as in the papers' program
            back = back[torch.searchsorted(window, there.nonzero()[:, 0])]
        inputs.index_add_(0, context[there], back)
    return float(total), predictions


def _hidden(inputs: Tensor, context: Tensor, settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
    """Input rows (M, P), the window of each (M,), and which places of the context (B, 2 R) hold a word."""
    there = context >= 0
    if settings.together:
        hidden = (inputs[context.clamp(min=0)] * there[..., None]).sum(1)
        if settings.mean:
            hidden = hidden / there.sum(1, keepdim=True)
        window = torch.arange(len(context), device=inputs.device)
    else:
        hidden, window = inputs[context[there]], there.nonzero()[:, 0]
    if settings.bias >= 0:
        hidden[:, settings.bias] = 1
    return hidden, window, there


def _targets(
    block: Block, tables: Looked, settings: Settings, at: Tensor, outputs: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Output rows (B, K) int64, their labels, and whether each counts; K is all of them for the full softmax."""
    true = block.words[at].long()
    if settings.kind == PATH:
        start, stop = tables.begins[true].long(), tables.begins[true + 1].long()
        places = start[:, None] + torch.arange(int((stop - start).max()), device=at.device)
        counts = places < stop[:, None]
        places = places.clamp(max=len(tables.nodes) - 1)
        return tables.nodes[places].long(), tables.turns[places], counts
    if settings.negatives < 0:
        rows = torch.arange(outputs, device=at.device).expand(len(at), -1)
        return rows, (rows == true[:, None]).float(), torch.ones_like(rows, dtype=torch.bool)
    drawn = block.drawn[at].long()
    counts = torch.cat(
        [torch.ones_like(true[:, None], dtype=torch.bool), drawn != true[:, None]], 1
    )
    labels = torch.zeros_like(counts, dtype=torch.float32)
    labels[:, 0] = 1
    return torch.cat([true[:, None], drawn], 1), labels, counts


def _slopes(
    scores: Tensor, labels: Tensor, counts: Tensor, settings: Settings, tables: Looked, rows: Tensor,
    window: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Minus the loss's gradient by each score, and the losses, both (M, K) or (M, 1)."""
    if settings.kind == SOFTMAX:
        likely = torch.log_softmax(scores.masked_fill(~counts, -torch.inf), 1)
        return labels - likely.exp(), -(likely.masked_fill(labels == 0, 0) * labels)
    if settings.kind == CONTRAST:
        scores = scores - tables.shift[rows[window]]
    signs = 2 * labels - 1
    losses = torch.nn.functional.softplus(-signs * scores) * counts
    return (labels - torch.sigmoid(scores)) * counts, losses


class Blocks:
    """Steps a model's matrices on their device, stretch after stretch of a text."""

    def __init__(
        self, corpus: Corpus, tables: Tables, settings: Settings, inputs: Tensor, outputs: Tensor
    ) -> None:
        self.corpus, self.settings, self.inputs, self.outputs = corpus, settings, inputs, outputs
        self.tables = Looked.of(tables, inputs.device)
        self.compiled: Any = None
        """`word2vec_triton.step` where it serves this device and loss, else None."""
        if inputs.device.type == "cuda" and not (settings.negatives < 0 and settings.kind != PATH):
            try:
                from fourfold.kernels import word2vec_triton

                self.compiled = word2vec_triton.step
            except ImportError:
                pass

    def advance(self, first: int, last: int, seen: int, seed: int) -> tuple[float, int]:
        """Step over sentences first to last - 1.

        Args:
            first, last: sentences.
            seen: words before them, over all epochs; the rate follows.
            seed: of what chance decides here.

        Returns:
            A sum of losses in nats and how many predictions it is of.
        """
        settings = self.settings
        count = int(self.corpus.ends[last] - self.corpus.ends[first])

        def rate(words: int) -> float:
            fall = (settings.rate_end - settings.rate) * words / settings.total
            return max(settings.rate_end, settings.rate + fall)

        block = draw(self.corpus, first, last, self.tables, settings, seed)
        run = step if self.compiled is None else self.compiled
        rates = rate(seen), rate(seen + count)
        return run(block, self.tables, settings, self.inputs, self.outputs, rates)  # type: ignore[no-any-return]
