"""Language models that see a fixed number of words: how their runs are read, and their words' vectors.

Shapes: R rows, N tokens, C words of context, V words.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from fourfold.core.run import Run
from fourfold.core.types import Picture
from fourfold.data.text import TextData
from fourfold.look.projection import projection_map
from fourfold.tasks.embedded import EmbedsWords
from fourfold.tasks.language import LanguageModel, Reader, vocabulary_of

MAPPED = 250
"""Words on the report's map."""
AT_ONCE = 1 << 12
"""Positions whose states are computed together."""


class ContextReader(Reader):
    """Reads with a model that has `states(tokens)`, (R, C - 1 + T) to (R, T, H), and an output layer `head`.

    The state is the last C tokens of each row, (R, C). Before a text, end tokens stand for them, as in training.
    """

    def __init__(self, run: Run) -> None:
        self.vocabulary = vocabulary_of(run.data)
        self.model = cast(Any, run.model)
        self.device = run.device
        self.context: int = self.model.context

    def start(self, rows: int = 1) -> Tensor:
        """See `Reader.start`."""
        return torch.full((rows, self.context), self.vocabulary.end, device=self.device)

    @torch.no_grad()
    def next(self, state: Tensor) -> Tensor:
        """See `Reader.next`."""
        found: Tensor = self.model.head.log_probabilities(self.model.states(state)[:, 0])
        return found

    def push(self, state: Tensor, tokens: Tensor) -> Tensor:
        """See `Reader.push`."""
        return torch.cat([state[:, 1:], tokens.to(state).unsqueeze(-1)], 1)

    @torch.no_grad()
    def surprises(self, tokens: np.ndarray) -> np.ndarray:
        """See `Reader.surprises`."""
        before = np.full(self.context - 1, self.vocabulary.end)
        whole = torch.from_numpy(np.concatenate([before, tokens]).astype(np.int64)).to(self.device)
        found = np.zeros(len(tokens) - 1)
        for begin in range(0, len(found), AT_ONCE):
            end = min(begin + AT_ONCE, len(found))
            states = self.model.states(whole[None, begin : end + self.context - 1])[0]
            targets = whole[begin + self.context : end + self.context]
            found[begin:end] = self.model.head.negative_log(states, targets).double().cpu().numpy()
        return found


@torch.no_grad()
def mean_predictions(model: Any, data: TextData, device: torch.device) -> np.ndarray:
    """What predicts each word, on average over the training text: (V, H) float32, zero for words that do not occur.

    Args:
        model: with `states(tokens)` and `context`.
        data: with its examples.
        device: of the model.
    """
    tokens = np.asarray(data.tokens("train"), np.int64)
    before = np.full(model.context - 1, data.vocabulary.end)
    whole = torch.from_numpy(np.concatenate([before, tokens])).to(device)
    words, count = len(data.vocabulary), len(tokens) - 1
    total: Tensor | None = None
    times = torch.zeros(words, device=device)
    training = model.training
    model.eval()
    try:
        for begin in range(0, count, AT_ONCE):
            end = min(begin + AT_ONCE, count)
            states = model.states(whole[None, begin : end + model.context - 1])[0].float()
            targets = whole[begin + model.context : end + model.context]
            if total is None:
                total = states.new_zeros(words, states.shape[1])
            total.index_add_(0, targets, states)
            times.index_add_(0, targets, torch.ones_like(targets, dtype=times.dtype))
    finally:
        model.train(training)
    assert total is not None  # noqa: S101  # a search has at least one token
    return (total / times.clamp(min=1).unsqueeze(-1)).cpu().numpy()


class ContextModel(LanguageModel, EmbedsWords):
    """A language model that predicts each word from the C words before it, through vectors of words."""

    def reader(self, run: Run) -> Reader:
        """See `LanguageModel.reader`."""
        return ContextReader(run)

    def pictures(self, run: Run) -> Iterator[Picture]:
        """Beside those of every language model: the most frequent words on a map, from what learning made of them."""
        yield from super().pictures(run)
        words, vectors = self.word_vectors(run)
        shown = [i for i, word in enumerate(words) if any(c.isalpha() for c in word)][:MAPPED]
        if len(shown) >= 3:
            title = f"Vectors of the {len(shown)} most frequent words"
            yield projection_map(vectors[shown], [words[i] for i in shown], title, method="tsne")
