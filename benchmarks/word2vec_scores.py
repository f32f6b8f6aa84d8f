"""What `benchmarks.word2vec` measures of vectors, by the same code whoever made them.

Fitted vectors come as an .npz file: words (V,), inputs (V, D), outputs (V or V - 1, D), a bias of output
rows (V,) where there is one, and for hierarchical softmax begins (V + 1,), nodes and labels of the paths.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from benchmarks.side_by_side import data_file

WINDOW, NEGATIVES = 5, 5


class Vectors:
    """Word vectors from a file."""

    def __init__(self, path: Path) -> None:
        stored: dict[str, Any] = dict(np.load(path))
        self.words: list[str] = [str(w) for w in stored["words"]]
        self.numbers = {word: number for number, word in enumerate(self.words)}
        self.inputs, self.outputs = stored["inputs"], stored["outputs"]
        self.bias = stored.get("bias")
        self.paths = (
            [stored[k] for k in ("begins", "nodes", "labels")] if "begins" in stored else None
        )
        self.unit = self.inputs / np.maximum(
            np.linalg.norm(self.inputs, axis=1, keepdims=True), 1e-12
        )


def similarity(vectors: Vectors, name: str) -> dict[str, float]:
    """Spearman's correlation with people's judgements, its 95% interval over 1,000 bootstrap samples, pairs known."""
    theirs, ours = [], []
    for line in data_file(f"word-tests/{name}").read_text().splitlines():
        first, second, score = line.lower().split("\t")
        if first in vectors.numbers and second in vectors.numbers:
            a, b = vectors.numbers[first], vectors.numbers[second]
            ours.append(float(vectors.unit[a] @ vectors.unit[b]))
            theirs.append(float(score))
    x, y = np.array(ours), np.array(theirs)
    random = np.random.default_rng(0)
    drawn = [spearmanr(x[i], y[i])[0] for i in random.integers(0, len(x), (1000, len(x)))]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"value": float(spearmanr(x, y)[0]), "low": low, "high": high, "pairs": len(x)}


def answered(vectors: Vectors, questions: list[tuple[str, str, str, str]]) -> np.ndarray:
    """Which questions, of those whose words are all known, 3CosAdd answers; the three given words are no answer."""
    known = [
        [vectors.numbers[w] for w in q] for q in questions if all(w in vectors.numbers for w in q)
    ]
    rows = np.array(known).reshape(-1, 4)
    right = np.zeros(len(rows), bool)
    for start in range(0, len(rows), 500):
        a, b, c, d = rows[start : start + 500].T
        scores = (vectors.unit[b] - vectors.unit[a] + vectors.unit[c]) @ vectors.unit.T
        for given in (a, b, c):
            scores[np.arange(len(a)), given] = -np.inf
        right[start : start + 500] = scores.argmax(1) == d
    return right


def share(right: np.ndarray) -> dict[str, float]:
    """The share that is right, and its 95% interval over 1,000 bootstrap samples."""
    random = np.random.default_rng(0)
    drawn = [right[random.integers(0, len(right), len(right))].mean() for _ in range(1000)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"value": float(right.mean()), "low": low, "high": high, "questions": len(right)}


def google() -> list[tuple[str, str, str, str]]:
    """The analogies of Mikolov et al. 2013a, in lower case."""
    lines = data_file("word-tests/questions-words.txt").read_text().lower().splitlines()
    return [tuple(line.split()) for line in lines if not line.startswith(":")]  # type: ignore[misc]


def pairs_of(
    held: Path, counts: Counter[str], words: set[str], seed: int = 0
) -> tuple[list[Any], list[int]]:
    """Held-out windows, (middle, words around, negatives) as strings, thinned and narrowed as in training.

    Drawn once, from the counts alone, so that every contender is measured on the same ones.
    """
    random = np.random.default_rng(seed)
    order = sorted(words, key=lambda w: (-counts[w], w))
    total = sum(counts[w] for w in order)
    ratio = {w: counts[w] / (1e-3 * total) for w in order}
    keep = {w: min(1.0, (r**0.5 + 1) / r) for w, r in ratio.items()}
    noise = np.array([counts[w] for w in order], float) ** 0.75
    windows = []
    for line in held.read_text().splitlines():
        kept = [w for w in line.split() if w in words and keep[w] > random.random()]
        near = random.integers(1, WINDOW + 1, len(kept))
        for i, n in enumerate(near):
            around = kept[max(0, i - n) : i] + kept[i + 1 : i + n + 1]
            if around:
                windows.append((kept[i], around))
    size = sum(len(around) for _, around in windows)
    drawn = random.choice(len(order), (size, NEGATIVES), p=noise / noise.sum())
    return [windows, [[order[d] for d in row] for row in drawn]], [size]


def softplus(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


class HeldOut:
    """Loss on text that nobody trained on."""

    def __init__(self, held: Path, train: Path, min_count: int = 5) -> None:
        counts = Counter(w for line in train.open() for w in line.split())
        words = {w for w, c in counts.items() if c >= min_count}
        (self.windows, drawn), _ = pairs_of(held, counts, words)
        order = sorted(words)
        self.order, place = order, {w: i for i, w in enumerate(order)}
        self.middle = np.array([place[m] for m, _ in self.windows])
        self.around = np.array([place[w] for _, around in self.windows for w in around])
        self.window = np.repeat(np.arange(len(self.windows)), [len(a) for _, a in self.windows])
        self.drawn = np.array([[place[w] for w in row] for row in drawn])

    def loss(self, vectors: Vectors, *, together: bool) -> float:
        """Mean over predictions, in nats: of the 1 + 5 sigmoids, or along the path.

        Args:
            together: predict the middle word from the mean of the words around (CBOW), else from each of them.
        """
        rows = np.array([vectors.numbers[w] for w in self.order])
        around, middle, drawn = rows[self.around], rows[self.middle], rows[self.drawn]
        if together:
            hidden = np.zeros((len(middle), vectors.inputs.shape[1]), np.float32)
            np.add.at(hidden, self.window, vectors.inputs[around])
            hidden /= np.bincount(self.window)[:, None]
            first = np.flatnonzero(np.diff(self.window, prepend=-1))
            true, drawn, source = middle, drawn[first], hidden
        else:
            true, source = middle[self.window], vectors.inputs[around]
        losses = [
            self._block(
                vectors, source[s : s + 20_000], true[s : s + 20_000], drawn[s : s + 20_000]
            )
            for s in range(0, len(true), 20_000)
        ]
        return float(np.concatenate(losses).mean())

    def normalized(self, vectors: Vectors, count: int = 5000) -> float:
        """Mean of -log p(middle word | one word around) in nats, over all words, of every so many-th pair.

        Along the path where there is one, else by the softmax of all scores: what each model says the words'
        probabilities are, so that models of different losses can be compared.
        """
        rows = np.array([vectors.numbers[w] for w in self.order])
        some = np.linspace(0, len(self.around) - 1, count).astype(int)
        hidden, true = vectors.inputs[rows[self.around[some]]], rows[self.middle[self.window[some]]]
        if vectors.paths is not None:
            return float(self._block(vectors, hidden, true, true[:, None]).mean())
        found = []
        for start in range(0, count, 1000):
            scores = hidden[start : start + 1000] @ vectors.outputs.T
            scores += 0 if vectors.bias is None else vectors.bias
            top = scores.max(1, keepdims=True)
            total = np.log(np.exp(scores - top).sum(1)) + top[:, 0]
            found.append(total - scores[np.arange(len(scores)), true[start : start + 1000]])
        return float(np.concatenate(found).mean())

    def _block(
        self, vectors: Vectors, hidden: np.ndarray, true: np.ndarray, drawn: np.ndarray
    ) -> np.ndarray:
        if vectors.paths is not None:
            begins, nodes, labels = vectors.paths
            start, stop = begins[true], begins[true + 1]
            found = np.zeros(len(true))
            for step in range(int((stop - start).max())):
                there = np.flatnonzero(start + step < stop)
                place = start[there] + step
                scores = np.einsum("nd,nd->n", hidden[there], vectors.outputs[nodes[place]])
                found[there] += softplus(np.where(labels[place] > 0.5, -scores, scores))
            return found
        right = np.einsum("nd,nd->n", hidden, vectors.outputs[true])
        wrong = np.einsum("nd,nkd->nk", hidden, vectors.outputs[drawn])
        return np.asarray(softplus(-right) + (softplus(wrong) * (drawn != true[:, None])).sum(1))
