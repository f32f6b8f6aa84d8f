"""vLBL, the vector log-bilinear model of a word given the words around it: Mnih and Kavukcuoglu 2013.

"Learning word embeddings efficiently with noise-contrastive estimation", NIPS 26: the score of a word is the
product of its vector with the mean of its context's, plus a bias, without position-dependent weights.
Trained by SGD at a falling rate, where the paper has Adagrad.

    fourfold fit vlbl corpus.txt --width 300 --window 5 --negatives 25

Result: WordSim-353 0.497 (25 negatives: 0.521), Google analogies 6.0% (7.0%) of the 6,571 whose words are known, after 5
epochs of the first 1.17 M words of text8 at width 100, means of three seeds: fourfold fit vlbl text8_first.txt.gz, then
evaluate.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import PositiveInt, model_validator

from fourfold.core.parts import Data
from fourfold.core.system import system
from fourfold.data.sentences import Sentences
from fourfold.models.word_vectors import WordVectors
from fourfold.objectives.words import WordPrediction
from fourfold.optimizers.hogwild import Hogwild
from fourfold.tasks.vector_building import contrast_only, small_language, vectors_for
from fourfold.tasks.word_vectors import LearnsVectors


@system("vlbl", reads="text")
class VLBL(LearnsVectors):
    """Vectors of words, learned by telling the middle word of a window from noise."""

    data: Sentences = Sentences()
    width: PositiveInt = 100
    """Numbers of a vector."""
    objective: WordPrediction = WordPrediction(loss="contrast", negatives=10, power=1.0)
    optimizer: Hogwild = Hogwild()

    @model_validator(mode="after")
    def _check(self) -> Self:
        contrast_only(self.objective, "cbow")
        return self

    def build(self, data: Data) -> WordVectors:
        """Two matrices for this vocabulary, and a bias for each word."""
        return vectors_for(data, self.width, self.objective, "cbow")

    @classmethod
    def toy(cls) -> tuple[VLBL, Any]:
        """Two topics whose words never meet."""
        small = cls(
            data=Sentences(min_count=1, split=(0.9, 0.1, 0.0)), width=8,
            optimizer=Hogwild(epochs=3, threads=1),
        )  # fmt: skip
        return small, small_language()
