"""What can be asked of word vectors, for every system whose runs have them: neighbours and analogies.

3CosAdd: Mikolov et al. 2013, "Linguistic regularities in continuous space word representations";
3CosMul: Levy and Goldberg 2014, "Linguistic regularities in sparse and explicit word representations".
Shapes: V words, D features.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import PositiveInt

from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.core.system import System
from fourfold.data.vector_files import read_vectors, write_vectors
from fourfold.tasks.index import How, index_of
from fourfold.tasks.neighbours import Space

if TYPE_CHECKING:
    import polars as pl

Which = Literal["input", "output", "joined"]
Method = Literal["add", "multiply"]
To = Literal["word2vec", "text", "gensim", "safetensors"]
SUFFIX = {"word2vec": ".bin", "text": ".txt", "gensim": ".kv", "safetensors": ".safetensors"}
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
        self,
        run: Run,
        word: str,
        *,
        top: PositiveInt = 10,
        vectors: Which = "input",
        index: How = "auto",
    ) -> pl.DataFrame:
        """The words whose vectors point most nearly the same way, by cosine.

        Args:
            word: one word of the run's vocabulary.
            top: how many.
            vectors: of words as context, as what is predicted, or both side by side.
            index: exact takes every product; hnsw an index that misses a few neighbours, made once; auto
                the index where there is one and the words are more than a million.
        """
        space = space_of(run, vectors)
        found = index_of(run, space, vectors, index)
        given = unit_of(run, word, vectors)
        rows, cosines = space.nearest(given, top, [_known(space, word)], index=found)
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

    def export(
        self, run: Run, *, to: To = "word2vec", vectors: Which = "input", out: Path | None = None
    ) -> Path:
        """Write the words and their vectors for other programs; what was written is read back and compared.

        Args:
            to: word2vec's binary form, its text form, gensim's KeyedVectors (which gensim writes itself, with
                pickle), or safetensors with the words in its metadata.
            vectors: of words as context, as what is predicted, or both side by side.
            out: the file; the first two forms are gzipped where it ends in .gz. None takes the run's name.
        """
        if out is None:
            if run.folder is None:
                raise UserError("out: expected a file to write to; this run is in memory only")
            out = run.folder.with_name(f"{run.folder.name}{SUFFIX[to]}")
        path = Path(out)
        if path.is_dir():
            raise UserError(f"{path}: is a folder; export writes a file")
        words, matrix = self.word_vectors(run, vectors)
        path.parent.mkdir(parents=True, exist_ok=True)
        if to == "gensim":
            write_gensim(path, words, matrix)
            return path
        write_vectors(path, words, matrix, to, {"system": self.name, "vectors": vectors})
        again = read_vectors(path)
        if again.words != words or not np.array_equal(again.vectors, matrix):
            raise RuntimeError(f"{path}: what was written is not what is read back")
        return path


def write_gensim(path: Path, words: list[str], vectors: np.ndarray) -> None:
    """Write gensim's own KeyedVectors, with gensim; what was written is read back and compared.

    Raises:
        UserError: gensim is not installed.
    """
    try:
        from gensim.models import KeyedVectors
    except ImportError as error:
        raise UserError(
            "--to gensim: gensim writes its own form and is not installed: pip install gensim "
            "(it reads --to word2vec too, with KeyedVectors.load_word2vec_format)"
        ) from error
    keyed = KeyedVectors(vectors.shape[1])
    keyed.add_vectors(words, vectors)
    keyed.save(str(path))
    again = KeyedVectors.load(str(path))
    if again.index_to_key != words or not np.array_equal(again.vectors, vectors):
        raise RuntimeError(f"{path}: what gensim wrote is not what it reads back")


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
