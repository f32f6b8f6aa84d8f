"""Systems that learn word vectors from sentences: what they say, measure and draw.

Shapes: V words, D features.
"""

from __future__ import annotations

import numpy as np

from fourfold.core.run import Run
from fourfold.data.sentences import SentencesData
from fourfold.models.word_vectors import WordVectors
from fourfold.tasks.vectors import HasVectors, Which


class LearnsVectors(HasVectors):
    """A system that learns word vectors from sentences."""

    def word_vectors(self, run: Run, which: Which = "input") -> tuple[list[str], np.ndarray]:
        """See `HasVectors.word_vectors`."""
        data, model = parts(run)
        return data.vocabulary.words, model.vectors(which).cpu().numpy()


def parts(run: Run) -> tuple[SentencesData, WordVectors]:
    """The run's data and model by their types."""
    data, model = run.data, run.model
    if not isinstance(data, SentencesData) or not isinstance(model, WordVectors):
        raise TypeError(f"expected SentencesData and WordVectors, got {data!r} and {model!r}")
    return data, model


def small_language() -> dict[str, list[str]]:
    """A text of two topics whose words never meet, for toys."""
    random = np.random.default_rng(0)
    topics = [[f"{letter}{i}" for i in range(12)] for letter in "ab"]
    lines = [" ".join(random.choice(topics[random.integers(2)], 10)) for _ in range(120)]
    return {"text": [".\n".join(lines)]}
