"""What is said of word vectors in sentences, tables and a map, for `explain` and the report.

Shapes: V words, D features, N words given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from fourfold.core.run import Run
from fourfold.core.types import Picture, Table
from fourfold.data.sentences import SentencesData
from fourfold.look.projection import projection_map
from fourfold.models.word_vectors import WordVectors
from fourfold.objectives.words import WordPrediction
from fourfold.tasks.neighbours import Space

MAPPED = 250
"""Words on the report's map."""


def counted(data: SentencesData) -> float:
    """The share of words that sub-sampling leaves."""
    counts = data.vocabulary.counts
    return float((counts * data.keep()).sum() / max(1, counts.sum()))


def touched(objective: WordPrediction, counts: np.ndarray) -> tuple[float, int]:
    """Output rows that a prediction steps, on average over the text, and how many there are."""
    rows = objective.rows(len(counts))
    if objective.loss == "softmax":
        return float(rows), rows
    if objective.loss == "hierarchical":
        begins, _, _ = objective.tree
        weights = counts if counts.sum() else np.ones(len(counts))
        return float((np.diff(begins) * weights).sum() / weights.sum()), rows
    return float(min(rows, objective.negatives + 1)), rows


def text_table(run: Run, data: SentencesData, model: WordVectors) -> Table:
    """The text, what was left out and removed, and what a step touches."""
    about = data.summary()
    rows: list[tuple[Any, ...]] = []
    if "words" in about:
        rows += [
            ("words of the text", f"{about['words']:,}"),
            ("sentences", f"{about['sentences']['train']:,}"),
            ("different words", f"{about['different words']:,}"),
        ]
    rows.append(("vocabulary", f"{len(data.vocabulary):,}"))
    if "left out" in about:
        rows.append(
            (
                "occurrences of other words, left out",
                f"{about['left out']:,} ({about['left out'] / max(1, about['words']):.2%})",
            )
        )
        rows.append(("phrases joined", f"{about['phrases']:,}"))
    rows.append(("removed by sub-sampling", f"{1 - counted(data):.1%} of the rest"))
    objective = run.objective
    assert isinstance(objective, WordPrediction)  # noqa: S101
    some, whole = touched(objective, data.vocabulary.counts)
    rows.append(
        ("output rows that a step touches", f"{some:.3g} of {whole:,} ({some / whole:.3%})")
    )
    rows.append(("numbers of a word's vector", f"{model.width:,}"))
    return Table("The text and what is learned from it", ("", ""), tuple(rows))


def over_time(run: Run) -> Table | None:
    """The previews that were logged, a column each."""
    seen = [line for line in run.metrics.lines if isinstance(line.get("sample"), str)]
    progress = {line["step"]: line["progress"] for line in run.metrics.lines if "progress" in line}
    if len(seen) < 2:
        return None
    chosen = [seen[i] for i in np.unique(np.linspace(0, len(seen) - 1, 5).round().astype(int))]
    columns = [
        dict(entry.split(": ", 1) for entry in s["sample"].split(" · ") if ": " in entry)
        for s in chosen
    ]
    heads = [
        f"{progress[s['step']]:.0%}" if s["step"] in progress else f"step {s['step']:,}"
        for s in chosen
    ]
    rows = tuple((word, *(c.get(word, "") for c in columns)) for word in columns[-1])
    return Table(
        "Nearest words while learning", ("word", *heads), rows,
        "Three frequent words, then three rare ones; columns are shares of the training.",
    )  # fmt: skip


def frequent_map(run: Run, space: Space, projection: Literal["pca", "tsne"], seed: int) -> Picture:
    """The most frequent words, without the first ones, which are mostly particles."""
    first = min(50, len(space) // 10)
    some = slice(first, first + MAPPED)
    return projection_map(
        space.unit[some], space.words[some], f"{len(space.words[some])} frequent words",
        method=projection, seed=seed,
    )  # fmt: skip


def norms(words: list[str], vectors: np.ndarray) -> str:
    """How long vectors are, in a sentence: (V) words, (V, D) vectors."""
    lengths = np.linalg.norm(vectors, axis=1)
    longest = ", ".join(words[i] for i in np.argsort(-lengths)[:5])
    return (
        f"{len(words):,} vectors of {vectors.shape[1]} numbers; their lengths have median {np.median(lengths):.3g}, "
        f"the longest are of {longest}."
    )


def analogy_words(space: Space, words: Sequence[str], given: np.ndarray) -> list[str]:
    """Whether the fourth word is the answer, and how alike the two arrows are."""
    a, b, c, d = words
    question = given[1] - given[0] + given[2]
    question = question / (np.linalg.norm(question) or 1.0)
    hidden = [space.numbers[w] for w in (a, b, c) if w in space.numbers]
    rows, cosines = space.nearest(question, 5, [hidden])
    said = ", ".join(
        f"{space.words[r]} {s:.2f}"
        for r, s in zip(rows[0].tolist(), cosines[0].tolist(), strict=True)
    )
    sentences = [f"{b} - {a} + {c}: {said}."]
    if d in space.numbers:
        products = space.unit @ question.astype(np.float32)
        products[hidden] = -np.inf
        rank = int((products > products[space.numbers[d]]).sum()) + 1
        sentences.append(f"{d} is at place {rank:,} of {len(space) - len(set(hidden)):,}.")
    arrows = given[1] - given[0], given[3] - given[2]
    lengths = [float(np.linalg.norm(v)) for v in arrows]
    alike = float(arrows[0] @ arrows[1]) / ((lengths[0] * lengths[1]) or 1.0)
    sentences.append(
        f"The arrows {a} to {b} and {c} to {d} have lengths {lengths[0]:.2f} and {lengths[1]:.2f} and cosine {alike:.2f} "
        "(1 would be parallel)."
    )
    return sentences


def pair_words(words: Sequence[str], given: np.ndarray) -> list[str]:
    """The cosine of each pair of (N) words, of (N, D) unit vectors, in a sentence; nothing for one word."""
    if len(words) < 2:
        return []
    pairs = [
        f"{words[i]} {words[j]} {float(given[i] @ given[j]):.2f}"
        for i in range(len(words)) for j in range(i + 1, len(words))
    ]  # fmt: skip
    return [f"Cosines: {', '.join(pairs[:15])}{', ...' if len(pairs) > 15 else ''}."]
