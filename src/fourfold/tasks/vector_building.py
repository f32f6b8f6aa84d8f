"""What systems of word vectors are built of: their matrices, and a small text for toys."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from fourfold.core.parts import Data
from fourfold.data.sentences import SentencesData
from fourfold.kernels.subwords import grams
from fourfold.models.subword_vectors import SubwordVectors
from fourfold.models.word_vectors import WordVectors
from fourfold.objectives.words import WordPrediction


def contrast_only(objective: WordPrediction, algorithm: str) -> None:
    """Refuse another loss than the one that defines vLBL and ivLBL.

    Raises:
        ValueError: it is another.
    """
    if objective.loss != "contrast":
        raise ValueError(
            f"loss: this model is trained by contrast, got {objective.loss}; "
            f"that is fourfold fit word2vec --algorithm {algorithm} --loss {objective.loss}"
        )


def vectors_for(
    data: Data, width: int, objective: WordPrediction, algorithm: Literal["skip-gram", "cbow"],
    mean: bool = True, ngrams: tuple[int, int, int] | None = None,
) -> WordVectors:  # fmt: skip
    """Two matrices for a vocabulary; biases, where there are any, begin at the logarithm of each word's share.

    So the model begins as the words' own distribution, which noise-contrastive estimation, whose scores are
    those of a model that need not be normalized, would else have to learn first.

    Args:
        data: whose vocabulary it is.
        width: numbers of a vector.
        objective: says which output rows there are.
        algorithm, mean: as for `WordVectors`.
        ngrams: characters of n-grams at least and at most, and how many buckets they share; None for words alone.
    """
    if not isinstance(data, SentencesData):
        raise TypeError(f"expected SentencesData, got {type(data).__name__}")
    words = len(data.vocabulary)
    outputs, bias = objective.rows(words), objective.biased
    if ngrams is None:
        model = WordVectors(
            words, width, outputs=outputs, bias=bias, algorithm=algorithm, mean=mean
        )
    else:
        rows = grams(data.vocabulary.words, *ngrams)
        model = SubwordVectors(
            words, width, torch.from_numpy(rows.begins), torch.from_numpy(rows.rows), ngrams[2],
            outputs=outputs, bias=bias, algorithm=algorithm, mean=mean,
        )  # fmt: skip
    if objective.biased:
        shares = np.maximum(data.vocabulary.counts, 1) / max(1, data.vocabulary.counts.sum())
        with torch.no_grad():
            model.outputs[:, model.bias] = torch.from_numpy(np.log(shares).astype(np.float32))
    return model


def small_language() -> dict[str, list[str]]:
    """A text of two topics whose words never meet, for toys."""
    random = np.random.default_rng(0)
    topics = [[f"{letter}{i}" for i in range(12)] for letter in "ab"]
    lines = [" ".join(random.choice(topics[random.integers(2)], 10)) for _ in range(120)]
    return {"text": [".\n".join(lines)]}
