"""Word vectors, CBOW and skip-gram: Mikolov et al. 2013, arXiv 1301.3781 and arXiv 1310.4546.

    fourfold fit word2vec corpus.txt --algorithm skip-gram --loss negative --width 300 --window 5 --epochs 5
    fourfold fit word2vec more/*.txt.gz --from runs/word2vec --grow
    fourfold similar runs/word2vec Paris
    fourfold analogy runs/word2vec king man woman

Result: WordSim-353 0.526 (CBOW 0.482, hierarchical 0.560), Google analogies 5.8% (5.3%, 7.3%; with --subwords 45%) of the
6,571 whose words are known, after 5 epochs of the first 1.17 M words of text8 at width 100, means of three seeds:
benchmarks/results/word_vectors.json. Speed and quality beside gensim: benchmarks/results/word2vec.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import PositiveInt, model_validator
from torch import nn

from fourfold.core.errors import UserError
from fourfold.core.parts import Data
from fourfold.core.run import Run
from fourfold.core.system import system
from fourfold.data.sentences import Sentences, SentencesData
from fourfold.data.vector_files import looks_like_vectors, read_vectors
from fourfold.kernels.subwords import grams
from fourfold.models.subword_vectors import SubwordVectors
from fourfold.models.word_vectors import WordVectors
from fourfold.objectives.words import WordPrediction
from fourfold.optimizers.hogwild import Hogwild
from fourfold.tasks.vector_building import small_language, vectors_for
from fourfold.tasks.vectors import Which
from fourfold.tasks.word_vectors import LearnsVectors


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
    subwords: bool = False
    """Make a word's vector of those of its character n-grams too, so that unknown words have vectors (fastText)."""
    shortest: PositiveInt = 3
    """Characters of an n-gram at least; the word's ends count as one each."""
    longest: PositiveInt = 6
    """Characters of an n-gram at most."""
    buckets: PositiveInt = 200_000
    """Rows that all n-grams share, by their hash."""
    objective: WordPrediction = WordPrediction()
    optimizer: Hogwild = Hogwild()

    def build(self, data: Data) -> WordVectors:
        """Two matrices for this vocabulary, and rows for n-grams where there are to be any."""
        ngrams = (self.shortest, self.longest, self.buckets) if self.subwords else None
        return vectors_for(data, self.width, self.objective, self.algorithm, self.mean, ngrams)

    def accepts(self, other: Run) -> None:
        """Refuse another width, other output rows, or other n-grams, too."""
        super().accepts(other)
        for field in ("subwords", *(("shortest", "longest", "buckets") if self.subwords else ())):
            before, now = getattr(other.system, field, False), getattr(self, field)
            if before != now:
                raise UserError(f"--from {other.folder}: was made with {field} {before}, not {now}")

    def vector_of(self, run: Run, word: str, which: Which = "input") -> np.ndarray | None:
        """Of a word that is not in the vocabulary, from its n-grams."""
        model = run.model
        if not self.subwords or not isinstance(model, SubwordVectors) or which != "input":
            return None
        found = grams([word], self.shortest, self.longest, self.buckets, own=False)
        if not len(found.rows):
            return None
        return np.asarray(
            model.compose(torch.from_numpy(model.words + found.rows.astype(np.int64))).cpu()
        )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.shortest > self.longest:
            raise ValueError(f"shortest {self.shortest}: expected at most longest, {self.longest}")
        return self

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
