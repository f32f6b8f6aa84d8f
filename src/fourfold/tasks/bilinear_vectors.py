"""What vLBL and ivLBL share: vector log-bilinear models by noise-contrastive estimation, Mnih and Kavukcuoglu 2013."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import PositiveInt, model_validator

from fourfold.core.parts import Data
from fourfold.data.sentences import Sentences
from fourfold.models.word_vectors import WordVectors
from fourfold.objectives.words import WordPrediction
from fourfold.optimizers.hogwild import Hogwild
from fourfold.tasks.vector_building import contrast_only, small_language, vectors_for
from fourfold.tasks.word_vectors import LearnsVectors


class BilinearVectors(LearnsVectors):
    """Vectors of words, learned by telling words from noise; a system says which predicts which."""

    algorithm: ClassVar[Literal["skip-gram", "cbow"]]
    """cbow predicts the middle word from its context, skip-gram the context's words from the middle one."""

    data: Sentences = Sentences()
    width: PositiveInt = 100
    """Numbers of a vector."""
    objective: WordPrediction = WordPrediction(loss="contrast", negatives=10, power=1.0)
    optimizer: Hogwild = Hogwild()

    @model_validator(mode="after")
    def _check(self) -> Self:
        contrast_only(self.objective, self.algorithm)
        return self

    def build(self, data: Data) -> WordVectors:
        """Two matrices for this vocabulary, and a bias for each word."""
        return vectors_for(data, self.width, self.objective, self.algorithm)

    @classmethod
    def toy(cls) -> tuple[Self, Any]:
        """Two topics whose words never meet."""
        small = cls(
            data=Sentences(min_count=1, split=(0.9, 0.1, 0.0)), width=8,
            optimizer=Hogwild(epochs=3, threads=1),
        )  # fmt: skip
        return small, small_language()
