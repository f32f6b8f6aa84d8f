"""Hierarchical log-bilinear language model: Mnih and Hinton 2008.

    fourfold fit hlbl wiki.txt --minutes 5
    fourfold fit hlbl wiki.txt --tree huffman

Result: perplexity 165.9 on the last twentieth but one of WikiText-2's validation part after three passes over its first
nine tenths, where modified Kneser-Ney of order 5 has 171.6 (--unit space --data.vocabulary 10000 --data.min-count 1
--optimizer.epochs 3, seed 0).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, ClassVar, Literal, cast

import numpy as np
import torch
from annotated_types import Ge, Gt, Lt
from pydantic import PositiveInt
from torch import nn

from fourfold.core.parts import Data
from fourfold.core.run import Run
from fourfold.core.system import system
from fourfold.core.types import Picture
from fourfold.data.text import Text
from fourfold.look.word_tree import word_tree
from fourfold.models.log_bilinear import LogBilinear
from fourfold.models.output import TreeOutput
from fourfold.models.word_tree import clustered, grow, halved, top_levels
from fourfold.objectives.vocabulary import Hierarchical
from fourfold.objectives.words import huffman
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.contexts import ContextModel, mean_predictions
from fourfold.tasks.language import text_data

LEVELS = 4
"""Of the tree in the report."""


@system("hlbl", reads="text")
class HierarchicalLogBilinear(ContextModel):
    """The next word found by decisions in a tree of words, each from the predicted vector: fast for many words."""

    search_space: ClassVar[dict[str, str]] = {
        "optimizer.lr": "5e-4..1e-2:log",
        "width": "64..512:log",
        "dropout": "0.1..0.6",
        "data.context": "2..8",
    }

    data: Text = Text(unit="word", min_count=2, window=64, context=5, batch=32)
    width: PositiveInt = 200
    """Features of a word's vector."""
    diagonal: bool = False
    """Whether a place of the context weighs each feature by itself, instead of by a matrix."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.3
    """Share of the features of context and prediction left out while learning."""
    tree: Literal["learned", "huffman", "random"] = "learned"
    """learned: begins as a random balanced tree and is made anew, once, by clustering the words by what predicts
    them; huffman: frequent words near the root; random: stays as it begins."""
    split: Literal["adaptive", "balanced"] = "adaptive"
    """How clusters become halves: each word where it more likely belongs, or equally many on both sides."""
    relearn: Annotated[float, Gt(0), Lt(1)] = 0.3
    """Share of the budget after which the tree is made anew."""
    objective: Hierarchical = Hierarchical()
    optimizer: Gradient = Gradient(
        lr=5e-3, minutes=3, schedule="wsd", warmup=50, decay_from=0.4, final=0.02
    )

    def build(self, data: Data) -> LogBilinear:
        """Vectors of words, vectors of the tree's nodes, and a matrix for each place of the context."""
        vocabulary = text_data(data).vocabulary
        words = len(vocabulary)
        if self.tree == "huffman":
            paths = huffman(vocabulary.counts)
        else:
            paths = grow(torch.randperm(words).numpy(), halved)
        head = TreeOutput(words, self.width, paths, vocabulary.counts)
        vectors = nn.Embedding(words, self.width)
        return LogBilinear(
            vectors, head, self.data.context, diagonal=self.diagonal, dropout=self.dropout
        )

    def advance(self, run: Run, progress: float) -> Iterable[nn.Parameter]:
        """Make the tree anew, once; see `System.advance`."""
        head = cast(TreeOutput, run.model.head)
        if self.tree != "learned" or progress < self.relearn or int(head.planted) > 1:
            return ()
        data = text_data(run.data)
        found = clustered(mean_predictions(run.model, data, run.device), self.split, run.seed)
        head.plant(found, data.vocabulary.counts)
        depth = float((data.vocabulary.counts * head.lengths).sum() / data.vocabulary.counts.sum())
        run.note(
            f"The tree was made anew from what predicts the words: {depth:.1f} decisions a word on average."
        )
        return head.parameters()

    def pictures(self, run: Run) -> Iterator[Picture]:
        """Beside those of every model with word vectors, the top of the tree with the words below."""
        yield from super().pictures(run)
        vocabulary = text_data(run.data).vocabulary
        branches = top_levels(cast(TreeOutput, run.model.head).paths(), LEVELS)
        names = [vocabulary.token(i) for i in range(len(vocabulary))]
        title = f"The top {LEVELS} decisions of the {self.tree} tree"
        yield word_tree(branches, names, np.asarray(vocabulary.counts), title)

    @classmethod
    def toy(cls) -> tuple[HierarchicalLogBilinear, Any]:
        """Sums in words."""
        sums = [f"{a} and {b} make {a + b}." for a in range(20) for b in range(20)]
        small = cls(
            data=Text(unit="word", window=16, context=3, batch=32),
            width=16,
            dropout=0.0,
            relearn=0.6,
            optimizer=Gradient(lr=3e-3, steps=12),
        )
        return small, {"text": ["\n".join(sums)]}
