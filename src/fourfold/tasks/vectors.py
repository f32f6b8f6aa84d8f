"""What can be asked of word vectors, for every system whose runs have them: neighbours and analogies.

3CosAdd: Mikolov et al. 2013, "Linguistic regularities in continuous space word representations";
3CosMul: Levy and Goldberg 2014, "Linguistic regularities in sparse and explicit word representations".
Shapes: V words, D features.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import PositiveInt

from fourfold.core.run import Run
from fourfold.core.system import System
from fourfold.tasks.neighbours import Space

if TYPE_CHECKING:
    import polars as pl

Which = Literal["input", "output", "joined"]
Method = Literal["add", "multiply"]
SMALL = 1e-3
"""Added to the divisor of 3CosMul, as in the paper."""


class HasVectors(System):
    """A system whose runs have a vector for each of their words."""

    @abstractmethod
    def word_vectors(self, run: Run, which: Which = "input") -> tuple[list[str], np.ndarray]:
        """The words, most frequent first, and their vectors.

        Args:
            run: the trained run.
            which: the vectors of words as context (input), as what is predicted (output), or both side by side.

        Returns:
            (V) words and (V, D) float32.

        Raises:
            UserError: this run has no such vectors.
        """

    def vector_of(self, run: Run, word: str, which: Which = "input") -> np.ndarray | None:
        """(D,) of a word that is not in the vocabulary, or None where there can be none."""
        return None

    def similar(
        self, run: Run, word: str, *, top: PositiveInt = 10, vectors: Which = "input"
    ) -> pl.DataFrame:
        """The words whose vectors point most nearly the same way, by cosine.

        Args:
            word: one word of the run's vocabulary.
            top: how many.
            vectors: of words as context, as what is predicted, or both side by side.
        """
        space = space_of(run, vectors)
        rows, cosines = space.nearest(unit_of(run, word, vectors), top, [_known(space, word)])
        return _frame(space, rows[0], cosines[0], "cosine")

    def analogy(
        self, run: Run, word: str, minus: str, plus: str, *, method: Method = "add",
        top: PositiveInt = 5, vectors: Which = "input",
    ) -> pl.DataFrame:  # fmt: skip
        """What is to the third word as the first is to the second: king man woman gives queen.

        Args:
            word: as king, the word to begin from.
            minus: as man, what to take away.
            plus: as woman, what to add.
            method: add seeks the largest cos(x, word - minus + plus), multiply the largest
                cos(x, word) cos(x, plus) / cos(x, minus) with cosines moved to 0..1.
            top: how many words.
            vectors: of words as context, as what is predicted, or both side by side.
        """
        space = space_of(run, vectors)
        given = np.stack([unit_of(run, w, vectors) for w in (word, minus, plus)])
        hidden = [n for w in (word, minus, plus) for n in _known(space, w)]
        if method == "add":
            question = given[0] - given[1] + given[2]
            length = float(np.linalg.norm(question))
            rows, scores = space.nearest(question / (length or 1.0), top, [hidden])
            return _frame(space, rows[0], scores[0], "cosine")
        score = multiplied(*((given @ space.unit.T + 1) / 2))
        score[hidden] = -np.inf
        best = np.argsort(-score, kind="stable")[: min(top, len(space) - len(set(hidden)))]
        return _frame(space, best, score[best], "score")


def multiplied(word: np.ndarray, minus: np.ndarray, plus: np.ndarray) -> np.ndarray:
    """3CosMul of cosines that were moved to 0..1."""
    return word * plus / (minus + SMALL)


def space_of(run: Run, which: Which = "input") -> Space:
    """The run's words and vectors, made once for a run that is opened."""
    known: dict[str, Space] = vars(run).setdefault("_spaces", {})
    if which not in known:
        assert isinstance(run.system, HasVectors)  # noqa: S101
        known[which] = Space(*run.system.word_vectors(run, which))
    return known[which]


def unit_of(run: Run, word: str, which: Which = "input") -> np.ndarray:
    """(D,) float32 of length 1: a word's vector, or what the system makes of a word that it does not know.

    Raises:
        UserError: it is not in the vocabulary, and the system can make nothing of it.
    """
    space = space_of(run, which)
    if word not in space.numbers:
        assert isinstance(run.system, HasVectors)  # noqa: S101
        made = run.system.vector_of(run, word, which)
        if made is not None:
            length = float(np.linalg.norm(made))
            return np.asarray(made, np.float32) / (length or 1.0)
    return space.unit[space.number(word)]


def _known(space: Space, word: str) -> list[int]:
    return [space.numbers[word]] if word in space.numbers else []


def _frame(space: Space, rows: np.ndarray, scores: np.ndarray, name: str) -> pl.DataFrame:
    import polars as pl

    words = [space.words[r] for r in rows.tolist()]
    return pl.DataFrame(
        {"word": words, name: scores.astype(np.float64)}, schema_overrides={"word": pl.String}
    )
