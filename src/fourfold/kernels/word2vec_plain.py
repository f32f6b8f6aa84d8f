"""What `word2vec.train` does, said plainly: the same draws, the same order, one word after the other, in NumPy.

A test holds the compiled kernel to this; nothing else uses it. It is about 1,000 times slower.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fourfold.kernels.word2vec import CONTRAST, LONGEST, PATH, SOFTMAX, Corpus, Settings, Tables

WORD = 2**64 - 1


class Generator:
    """xorshift64* (Vigna 2016) on Python's whole numbers."""

    def __init__(self, state: int) -> None:
        self.state = state

    def bits(self) -> int:
        """64 random bits."""
        x = self.state
        x ^= x >> 12
        x ^= (x << 25) & WORD
        x ^= x >> 27
        self.state = x
        return (x * 2685821657736338717) & WORD

    def uniform(self) -> float:
        """In [0, 1)."""
        return (self.bits() >> 40) * 2.0**-24

    def sample(self, probability: np.ndarray, alias: np.ndarray) -> int:
        """A word by the alias method."""
        bits = self.bits()
        cell = ((bits >> 32) * len(alias)) >> 32
        return cell if (bits & 0xFFFFFF) * 2.0**-24 < probability[cell] else int(alias[cell])


def train(
    corpus: Corpus, tables: Tables, settings: Settings, inputs: np.ndarray, outputs: np.ndarray,
    first: int, last: int, state: int,
) -> int:  # fmt: skip
    """Step both matrices in place over sentences first to last - 1; returns the generator's last state.

    Args:
        corpus, tables, settings: as for `word2vec.train`.
        inputs, outputs: (V, P) and (R, P) float64.
        first, last: sentences.
        state: of the generator, not zero.
    """
    random = Generator(state)
    for context, middle, rate in windows(corpus, tables, settings, first, last, random):
        _window(tables, settings, inputs, outputs, context, middle, rate, random)
    return random.state


def windows(
    corpus: Corpus, tables: Tables, settings: Settings, first: int, last: int, random: Generator
) -> Iterator[tuple[list[int], int, float]]:
    """The words around each word that is kept, the word, and the rate; alone in its piece a word has no window."""
    seen = 0
    for sentence in range(first, last):
        words = corpus.words[corpus.ends[sentence] : corpus.ends[sentence + 1]]
        for start in range(0, len(words), LONGEST):
            piece = words[start : start + LONGEST]
            kept = [
                int(w) for w in piece if tables.keep[w] >= 1 or tables.keep[w] > random.uniform()
            ]
            seen += len(piece)
            rate = settings.rate + (settings.rate_end - settings.rate) * seen / settings.total
            rate = max(settings.rate_end, rate)
            for i, middle in enumerate(kept if len(kept) > 1 else []):
                near = 1 + (random.bits() >> 33) % settings.window
                yield kept[max(0, i - near) : i] + kept[i + 1 : i + near + 1], middle, rate


def _window(
    tables: Tables, settings: Settings, inputs: np.ndarray, outputs: np.ndarray,
    context: list[int], middle: int, rate: float, random: Generator,
) -> None:  # fmt: skip
    """Step the rows of one window by the gradients of its summed losses."""
    rows, labels, counts = _targets(tables, settings, middle, len(outputs), random)
    hidden, chosen = inputs[context].copy(), outputs[rows].copy()
    if settings.together:
        hidden = hidden.sum(0, keepdims=True) / (len(context) if settings.mean else 1)
    if settings.bias >= 0:
        hidden[:, settings.bias] = 1
    scores = hidden @ chosen.T
    if settings.kind == CONTRAST:
        scores = scores - tables.shift[rows]
    if settings.kind == SOFTMAX:
        scores = np.where(counts, scores, -np.inf)
        likely = np.exp(scores - scores.max(1, keepdims=True))
        likely /= likely.sum(1, keepdims=True)
    else:
        likely = 1 / (1 + np.exp(-scores))
    slopes = rate * (labels - likely) * counts
    back = slopes @ chosen
    if settings.bias >= 0:
        back[:, settings.bias] = 0
    np.add.at(inputs, context, back)  # of a combination, each word of the context takes the whole
    np.add.at(outputs, rows, slopes.T @ hidden)


def _targets(
    tables: Tables, settings: Settings, middle: int, outputs: int, random: Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Output rows, their labels, and whether each counts."""
    if settings.kind == PATH:
        path = slice(tables.begins[middle], tables.begins[middle + 1])
        return tables.nodes[path], tables.turns[path], np.ones(len(tables.nodes[path]))
    if settings.negatives < 0:
        every = np.arange(outputs)
        return every, (every == middle).astype(float), np.ones(outputs)
    drawn = [random.sample(tables.probability, tables.alias) for _ in range(settings.negatives)]
    rows = np.array([middle, *drawn])
    labels = np.zeros(len(rows))
    labels[0] = 1
    return rows, labels, np.array([1.0, *(float(d != middle) for d in drawn)])
