"""Word vectors, CBOW and skip-gram: Mikolov et al. 2013, arXiv 1301.3781 and arXiv 1310.4546.

    fourfold fit word2vec corpus.txt --algorithm skip-gram --loss negative --width 300 --window 5 --epochs 5
    fourfold fit word2vec more/*.txt.gz --from runs/word2vec --grow
    fourfold similar runs/word2vec Paris
    fourfold analogy runs/word2vec king man woman

Result: training loss 2.35 nats a prediction after 5 epochs of the first 1.17 M words of text8, width 100, one
thread of 2 cores, 5 s: fourfold fit word2vec text8_first.txt.gz --threads 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import nn

from fourfold.core.parts import Data
from fourfold.core.system import system
from fourfold.data.sentences import Sentences, SentencesData
from fourfold.data.vector_files import looks_like_vectors, read_vectors
from fourfold.models.word_vectors import WordVectors
from fourfold.objectives.words import WordPrediction
from fourfold.optimizers.hogwild import Hogwild
from fourfold.tasks.word_vectors import LearnsVectors, small_language


@system("word2vec", reads="text")
class Word2Vec(LearnsVectors):
    """Vectors of words, learned by predicting a word from its neighbours."""

    imports: ClassVar[str] = (
        "word vectors: word2vec's binary and text form, GloVe's text, safetensors; the texts also gzipped"
    )

    data: Sentences = Sentences()
    algorithm: Literal["skip-gram", "cbow"] = "skip-gram"
    """skip-gram predicts from each word of the context by itself, cbow from all of them together."""
    width: PositiveInt = 100
    """Numbers of a vector."""
    mean: bool = True
    """With cbow, take the mean of the context's vectors; otherwise their sum."""
    objective: WordPrediction = WordPrediction()
    optimizer: Hogwild = Hogwild()

    def build(self, data: Data) -> WordVectors:
        """Two matrices for this vocabulary."""
        if not isinstance(data, SentencesData):
            raise TypeError(f"word2vec expects SentencesData, got {type(data).__name__}")
        words = len(data.vocabulary)
        return WordVectors(
            words, self.width, outputs=self.objective.rows(words), bias=self.objective.biased,
            algorithm=self.algorithm, mean=self.mean,
        )  # fmt: skip

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """Whether a file looks like word vectors."""
        return looks_like_vectors(path)

    @classmethod
    def imported(cls, path: Path) -> tuple[Word2Vec, Data, nn.Module, Sequence[str]]:
        """Vectors of another program, as those of words as context; it knows no counts and no output vectors."""
        found = read_vectors(path)
        width = found.vectors.shape[1]
        options = cls(width=width)
        data = SentencesData.of_words(options.data, found.words)
        model = options.build(data)
        with torch.no_grad():
            model.inputs[:, :width] = torch.from_numpy(found.vectors)
        said = f"{len(found.words):,} words with {width} numbers each, from {found.form}."
        return options, data, model, [said, *found.notes]

    @classmethod
    def toy(cls) -> tuple[Word2Vec, Any]:
        """Two topics whose words never meet."""
        small = cls(
            data=Sentences(min_count=1, split=(0.9, 0.1, 0.0)), width=8,
            optimizer=Hogwild(epochs=3, threads=1),
        )  # fmt: skip
        return small, small_language()
