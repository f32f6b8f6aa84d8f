"""Where a model's output layer meets the objective that is learned with it."""

from __future__ import annotations

import numpy as np
from torch import nn

from fourfold.core.errors import UserError
from fourfold.models.output import AdaptiveOutput, FullOutput, TreeOutput
from fourfold.objectives.vocabulary import Adaptive, NextWord
from fourfold.objectives.words import huffman


def output_layer(
    objective: NextWord, counts: np.ndarray, width: int, rows: nn.Embedding | None = None
) -> FullOutput | AdaptiveOutput | TreeOutput:
    """The output layer that an objective needs.

    Args:
        objective: from objectives/vocabulary.py.
        counts: (V,) how often each word occurs in the training text.
        width: of the hidden states.
        rows: word vectors (V, width) that are the output's too; None means rows of its own.

    Raises:
        UserError: cutoffs beyond the vocabulary, or an objective whose layer has no row for a word to share.
    """
    words = len(counts)
    if objective.layer == "full":
        return FullOutput(words, width, counts, rows)
    name = getattr(objective, "kind", "this objective")
    if rows is not None:
        raise UserError(
            f"objective {name}: has no output row for each word that could be its input vector too; "
            "softmax, sampled and contrast have"
        )
    if objective.layer == "tree":
        return TreeOutput(words, width, huffman(counts), counts)
    cutoffs = objective.cutoffs if isinstance(objective, Adaptive) else None
    if cutoffs is not None and (sorted({*cutoffs}) != [*cutoffs] or cutoffs[-1] >= words):
        raise UserError(
            f"objective.cutoffs {', '.join(map(str, cutoffs))}: expected rising numbers below the "
            f"vocabulary of {words:,}"
        )
    return AdaptiveOutput(words, width, counts, cutoffs)
