"""What `subwords.train` does, said plainly: the same draws, the same order, in NumPy.

A test holds the compiled kernel to this; nothing else uses it.
"""

from __future__ import annotations

import numpy as np

from fourfold.kernels.subwords import Grams
from fourfold.kernels.word2vec import CONTRAST, PATH, SOFTMAX, Corpus, Settings, Tables
from fourfold.kernels.word2vec_plain import Generator, windows


def train(
    corpus: Corpus, tables: Tables, grams: Grams, settings: Settings, inputs: np.ndarray,
    outputs: np.ndarray, first: int, last: int, state: int,
) -> int:  # fmt: skip
    """Step both matrices in place over sentences first to last - 1; returns the generator's last state.

    Args:
        corpus, tables, grams, settings: as for `subwords.train`.
        inputs, outputs: (V + G, P) and (R, P) float64.
        first, last: sentences.
        state: of the generator, not zero.
    """
    random = Generator(state)
    for context, middle, rate in windows(corpus, tables, settings, first, last, random):
        _window(tables, grams, settings, inputs, outputs, context, middle, rate, random)
    return random.state


def _window(
    tables: Tables, grams: Grams, settings: Settings, inputs: np.ndarray, outputs: np.ndarray,
    context: list[int], middle: int, rate: float, random: Generator,
) -> None:  # fmt: skip
    """Step the rows of one window, target after target; the inputs at the end."""
    words = context if settings.together else [middle]
    rows = np.concatenate([grams.rows[grams.begins[w] : grams.begins[w + 1]] for w in words])
    hidden = inputs[rows].sum(0) / (len(rows) if settings.mean or not settings.together else 1)
    if settings.bias >= 0:
        hidden[settings.bias] = 1
    change = np.zeros_like(hidden)
    for target in [middle] if settings.together else context:
        chosen, labels, counts = _targets(tables, settings, target, len(outputs), random)
        scores = outputs[chosen] @ hidden
        if settings.kind == CONTRAST:
            scores = scores - tables.shift[chosen]
        if settings.kind == SOFTMAX:
            likely = np.exp(scores - scores.max()) * counts
            likely /= likely.sum()
        else:
            likely = 1 / (1 + np.exp(-scores))
        slopes = rate * (labels - likely) * counts
        change += slopes @ outputs[chosen]
        np.add.at(outputs, chosen, slopes[:, None] * hidden)
    if settings.bias >= 0:
        change[settings.bias] = 0
    np.add.at(inputs, rows, change)


def _targets(
    tables: Tables, settings: Settings, target: int, outputs: int, random: Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Output rows, their labels, and whether each counts."""
    if settings.kind == PATH:
        path = slice(tables.begins[target], tables.begins[target + 1])
        return tables.nodes[path], tables.turns[path], np.ones(len(tables.nodes[path]))
    if settings.negatives < 0:
        every = np.arange(outputs)
        return every, (every == target).astype(float), np.ones(outputs)
    drawn = [random.sample(tables.probability, tables.alias) for _ in range(settings.negatives)]
    labels = np.zeros(len(drawn) + 1)
    labels[0] = 1
    return np.array([target, *drawn]), labels, np.array([1.0, *(float(d != target) for d in drawn)])
