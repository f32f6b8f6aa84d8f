"""Texts to vectors by whatever run can: `embedder`, `bert`, `word2vec` (SIF: Arora et al. 2017), or somebody else's model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.core.system import verbs
from fourfold.data.question_pairs import QuestionPairsData, padded
from fourfold.data.subwords import Subwords
from fourfold.models.sentence_encoder import SentenceEncoder
from fourfold.models.word_vectors import WordVectors

Encoder = Callable[[Sequence[str]], np.ndarray]
"""N texts to (N, D) float32, of length 1 or zero."""
ROWS = 64
"""Texts that are read at once."""
RARE = 1e-3
"""The constant a of SIF: a word of probability p weighs a / (a + p)."""


def encoder_of(run: Run) -> Encoder:
    """What makes a run's vectors.

    Raises:
        UserError: it makes none.
    """
    model = run.model
    if isinstance(model, SentenceEncoder) and isinstance(run.data, QuestionPairsData):
        data = run.data
        return lambda texts: sentence_vectors(model, data, texts)
    if isinstance(model, WordVectors):
        return _word_vectors(run)
    if "embed" not in verbs(run.system):
        raise UserError(f"{run.place}: a run of {run.system.name} makes no vectors of texts")
    return lambda texts: _by_verb(run, texts)


def unknown_share(run: Run, texts: Sequence[str]) -> float:
    """The share of texts' tokens that a run with a vocabulary of word pieces does not know; 0 with any other.

    A piece is missing where a script is; of a vocabulary of words many are missing in any text.
    """
    vocabulary = getattr(run.data, "vocabulary", None)
    if not isinstance(vocabulary, Subwords) or vocabulary.unknown is None:
        return 0.0
    tokens = np.concatenate([np.asarray(vocabulary.encode(text)) for text in texts])
    return float((tokens == vocabulary.unknown).mean()) if len(tokens) else 0.0


def sentence_vectors(
    model: SentenceEncoder, data: QuestionPairsData, texts: Sequence[str]
) -> np.ndarray:
    """(N, W) float32 vectors of texts, those of like length together."""
    device = model.body.embedding.weight.device
    rows = [data.encode(text) for text in texts]
    order = np.argsort([len(row) for row in rows], kind="stable")
    found = np.empty((len(rows), model.body.width), np.float32)
    with torch.no_grad():
        for some in np.split(order, range(ROWS, len(order), ROWS)):
            if len(some):
                tokens, keep = padded([rows[n] for n in some], data.specials.pad)
                found[some] = model(tokens.to(device), keep.to(device)).cpu().numpy()
    return found


def _by_verb(run: Run, texts: Sequence[str]) -> np.ndarray:
    """Through the verb `embed`; what is longer than the model reads is cut where it can be."""
    given = [text if text.strip() else "." for text in texts]
    import inspect

    method = verbs(run.system)["embed"]
    more = {"cut": True} if "cut" in inspect.signature(method).parameters else {}
    frame = getattr(run, "embed")(given, **more)  # noqa: B009  # a verb, found at run time
    return unit(frame.drop("text").to_numpy().astype(np.float32))


def _word_vectors(run: Run) -> Encoder:
    """Means of word vectors, frequent words weighing less, without the mean of all that words have in common.

    The first principal direction that SIF takes away is that of the vocabulary's own vectors, so that a text's vector
    does not depend on other texts.
    """
    from fourfold.data.words import split_words

    words, matrix = run.system.word_vectors(run, "input")  # type: ignore[attr-defined]
    numbers = {word: n for n, word in enumerate(words)}
    counts = np.asarray(run.data.vocabulary.counts, np.float64)  # type: ignore[attr-defined]
    counts = counts[-len(words) :] if len(counts) > len(words) else counts
    shares = counts / counts.sum() if counts.sum() else np.zeros(len(words))
    weights = (RARE / (RARE + shares)).astype(np.float32)
    common = (matrix * weights[:, None] * shares[:, None].astype(np.float32)).sum(0)
    common /= max(float(np.linalg.norm(common)), 1e-9)

    def encode(texts: Sequence[str]) -> np.ndarray:
        found = np.zeros((len(texts), matrix.shape[1]), np.float32)
        for n, text in enumerate(texts):
            rows = [
                numbers[w] for w in (*split_words(text), *split_words(text.lower())) if w in numbers
            ]
            if rows:
                found[n] = (matrix[rows] * weights[rows, None]).mean(0)
        return unit(found - np.outer(found @ common, common))

    return encode


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)
