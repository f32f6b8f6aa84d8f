"""Systems that learn word vectors from sentences: what they say, measure and draw.

Shapes: V words, D features.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import PositiveInt

from fourfold.core.errors import UserError
from fourfold.core.evaluation import evaluate as evaluate_objective
from fourfold.core.run import Run
from fourfold.core.types import Explanation, Picture, Score, Source, Table
from fourfold.data.sentences import SentencesData
from fourfold.data.word_tests import Analogies, Kind, word_tests
from fourfold.look.language import zipf
from fourfold.look.word_vectors import parallelogram, thinning
from fourfold.models.word_vectors import WordVectors
from fourfold.objectives.words import WordPrediction
from fourfold.tasks.neighbours import Space
from fourfold.tasks.vector_words import (
    analogy_words,
    counted,
    frequent_map,
    norms,
    over_time,
    pair_words,
    text_table,
)
from fourfold.tasks.vectors import HasVectors, Method, Which, space_of, unit_of
from fourfold.tasks.word_tests import (
    analogy_score,
    answered,
    section_table,
    similarity_score,
)

if TYPE_CHECKING:
    import polars as pl

PLACES = (0.01, 0.02, 0.04, 0.5, 0.7, 0.9)
"""Words that a preview follows: their places in the vocabulary as shares of it, three frequent and three rare."""
SHOWN = 4
"""Neighbours of each in a preview."""
SHORT = 100
"""Words of a text below which a single sentence is said to be too little."""


class LearnsVectors(HasVectors):
    """A system that learns word vectors from sentences."""

    questions: str | None = None
    """Analogies (as questions-words.txt) or similarities to be measured in the report: a file."""

    def word_vectors(self, run: Run, which: Which = "input") -> tuple[list[str], np.ndarray]:
        """See `HasVectors.word_vectors`."""
        data, model = parts(run)
        if which != "input":
            if run.about.get("imported"):
                raise UserError(
                    f"--vectors {which}: {run.about['imported']} holds one vector a word"
                )
            if model.outputs.shape[0] != len(data.vocabulary):
                raise UserError(
                    f"--vectors {which}: hierarchical softmax predicts turns in a tree and has no output vectors of words"
                )
        return data.vocabulary.words, model.vectors(which).cpu().numpy()

    # --- while learning -----------------------------------------------------------------------------

    def accepts(self, other: Run) -> None:
        """Refuse to begin from a run whose matrices are of another shape.

        Raises:
            UserError: another width, another kind of output rows, or a tree that would grow.
        """
        before: Any = other.system
        if not isinstance(before, LearnsVectors):
            raise UserError(
                f"--from {other.folder}: is a run of {before.name}, which has no such vectors"
            )
        objective, other_one = (s.objective for s in (self, before))
        assert isinstance(objective, WordPrediction) and isinstance(other_one, WordPrediction)  # noqa: S101
        mine, theirs = getattr(self, "width", None), getattr(before, "width", None)
        if mine != theirs:
            raise UserError(
                f"--from {other.folder}: its vectors have width {theirs}, not {mine}; "
                f"give --width {theirs} or fit anew"
            )
        for what, kind in (("a tree", "hierarchical"), ("biases", "contrast")):
            if (objective.loss == kind) != (other_one.loss == kind):
                has = "has" if other_one.loss == kind else "has not"
                raise UserError(
                    f"--from {other.folder}: its output {has} {what}, so --loss {objective.loss} cannot go on "
                    f"from --loss {other_one.loss}"
                )
        if getattr(self.data, "grow", False) and objective.loss == "hierarchical":
            raise UserError(
                "--grow: the tree of --loss hierarchical is made of the first text's counts, so no words can join; "
                "fit anew, or take --loss negative"
            )

    def begin(self, run: Run) -> None:
        """Say what is unusual about the text."""
        data, _ = parts(run)
        if self.questions is not None and not word_tests(
            self.questions, "auto", data.options.field
        ):
            raise UserError(
                f"--questions {self.questions}: expected analogies or similarities, got a text"
            )
        part = data.part("train")
        longest = int(np.diff(part.ends).max(initial=0))
        if data.options.window >= longest:
            run.note(
                f"The window of {data.options.window} words is longer than any sentence (the longest has {longest}), "
                "so it may take in all the words of a sentence."
            )
        if len(part.ends) == 2 and len(part.words) < SHORT:
            run.note(f"The text is one sentence of {longest} words: its vectors will say little.")
        if sum(data.options.split[1:]) and not data.size("valid") + data.size("test"):
            many = len(part.ends) - 1
            run.note(
                f"Nothing is held out: the text has {many:,} {'sentence' if many == 1 else 'sentences'}, "
                "and --data.split cuts between sentences only."
            )
        if data.options.thin and counted(data) < 0.2:
            run.note(
                f"Sub-sampling leaves {counted(data):.1%} of the words: in a small text every word is frequent; "
                "--thin 0 keeps all."
            )

    def preview(self, run: Run) -> str:
        """The nearest words of three frequent and three rare ones, always the same."""
        words, vectors = self.word_vectors(run)
        space = Space(words, vectors)
        rows = sorted({min(int(p * len(space)), len(space) - 1) for p in PLACES})
        near, _ = space.nearest(space.unit[rows], SHOWN, [[r] for r in rows])
        return " · ".join(
            f"{space.words[r]}: {', '.join(space.words[n] for n in found)}"
            for r, found in zip(rows, near.tolist(), strict=True)
        )

    # --- verbs ----------------------------------------------------------------------------------------

    def evaluate(
        self, run: Run, source: Source = None, *, kind: Kind = "auto", method: Method = "add",
        among: PositiveInt | None = None, vectors: Which = "input",
    ) -> Score:  # fmt: skip
        """Measure the run: by analogies, by similarities, or by the loss on other text or its own held-out part.

        Args:
            source: a file of analogies (": section", then four words a line), of similarities (two words
                and a number a line), or texts; None takes the run's own held-out sentences.
            kind: what the source is; auto looks at its first lines.
            method: for analogies, see `analogy`.
            among: seek answers among so many most frequent words; None takes all.
            vectors: of words as context, as what is predicted, or both side by side.
        """
        data, _ = parts(run)
        tests = word_tests(source, kind, data.options.field) if source is not None else []
        if not tests:
            score = evaluate_objective(run, source)
            return Score(score.values, {"loss": "nats/prediction"}, score.notes)
        space, found = space_of(run, vectors), []
        for test in tests:
            if isinstance(test, Analogies):
                sections, notes = answered(
                    space, test, method, among=among, lower=data.options.lower
                )
                found.append(analogy_score(sections, notes, test.name))
            else:
                found.append(similarity_score(space, test, lower=data.options.lower))
        if len(found) == 1:
            return found[0]
        return Score(
            {
                f"{t.name}: {k}": v
                for t, s in zip(tests, found, strict=True)
                for k, v in s.values.items()
            },
            {
                f"{t.name}: {k}": v
                for t, s in zip(tests, found, strict=True)
                for k, v in s.units.items()
            },
            tuple(f"{t.name}: {n}" for t, s in zip(tests, found, strict=True) for n in s.notes),
        )

    def embed(self, run: Run, words: list[str], *, vectors: Which = "input") -> pl.DataFrame:
        """The vectors of some words, as they were learned.

        Args:
            words: of the vocabulary, or of anything where the system makes vectors from characters.
            vectors: of words as context, as what is predicted, or both side by side.
        """
        import polars as pl

        known, matrix = self.word_vectors(run, vectors)
        space, rows = space_of(run, vectors), []
        for word in words:
            made = None if word in space.numbers else self.vector_of(run, word, vectors)
            rows.append(matrix[space.number(word)] if made is None else made)
        columns = np.stack(rows).T if rows else np.empty((matrix.shape[1], 0), np.float32)
        return pl.DataFrame({"word": words, **{str(i + 1): c for i, c in enumerate(columns)}})

    def explain(
        self, run: Run, words: tuple[str, ...] = (), *, top: PositiveInt = 8, projection: Literal["pca", "tsne"] = "tsne",
        vectors: Which = "input", seed: int = 0,
    ) -> Explanation:  # fmt: skip
        """Words and their neighbourhood, drawn; four words as an analogy: king queen man woman.

        Args:
            words: four are an analogy (the first is to the second as the third to the fourth), other numbers
                a group; none draws a map of the most frequent words.
            top: neighbours of each word.
            projection: how the map of frequent words is made.
            vectors: of words as context, as what is predicted, or both side by side.
            seed: of t-SNE.
        """
        space = space_of(run, vectors)
        name = run.folder.name if run.folder else self.name
        if not words:
            return Explanation(
                name,
                (norms(*self.word_vectors(run, vectors)),),
                (),
                (frequent_map(run, space, projection, seed),),
            )
        given = np.stack([unit_of(run, w, vectors) for w in words])
        hidden = [[space.numbers[w]] if w in space.numbers else [] for w in words]
        rows, cosines = space.nearest(given, top, hidden)
        sentences = analogy_words(space, words, given) if len(words) == 4 else []
        sentences += pair_words(words, given)
        table = Table(
            "Neighbourhood", ("word", *map(str, range(1, rows.shape[1] + 1))),
            tuple(
                (w, *(f"{space.words[r]} {c:.2f}" for r, c in zip(found, near, strict=True)))
                for w, found, near in zip(words, rows.tolist(), cosines.tolist(), strict=True)
            ), "The nearest words of each, with their cosines.",
        )  # fmt: skip
        pictures: list[Picture] = []
        if len(dict.fromkeys(words)) >= 3:
            around = [
                r for r in dict.fromkeys(rows.ravel().tolist()) if space.words[r] not in words
            ]
            arrows = [(0, 1), (2, 3)] if len(words) == 4 else []
            pictures.append(
                parallelogram(
                    words, given, arrows, [space.words[r] for r in around], space.unit[around]
                )
            )
        return Explanation(name, tuple(sentences), (table,), tuple(pictures))

    # --- the report -----------------------------------------------------------------------------------

    def pictures(self, run: Run) -> Iterator[Picture]:
        """A map of frequent words, counts against ranks, and what sub-sampling removed."""
        data, _ = parts(run)
        space = Space(*self.word_vectors(run))
        if len(space) >= 3:
            # t-SNE would double the time of a short fit: `explain` draws it
            yield frequent_map(run, space, "pca", run.seed)
        counts = data.vocabulary.counts
        if counts.sum():
            yield zipf(counts, data.vocabulary.words)
        if data.options.thin and counts.sum():
            yield thinning(counts, data.keep(), data.vocabulary.words, data.options.thin)

    def tables(self, run: Run) -> Iterator[Table]:
        """The text, what a step touches, neighbours over time, and the tests that were asked for."""
        data, model = parts(run)
        yield text_table(run, data, model)
        if (table := over_time(run)) is not None:
            yield table
        if self.questions is not None:
            space = Space(*self.word_vectors(run))
            for test in word_tests(self.questions, "auto", data.options.field):
                if isinstance(test, Analogies):
                    sections, notes = answered(space, test, lower=data.options.lower)
                    yield section_table(sections, "add", " ".join(f"{n}." for n in notes))
                else:
                    score = similarity_score(space, test, lower=data.options.lower)
                    rows = tuple((k, v, score.units.get(k, "")) for k, v in score.values.items())
                    caption = " ".join(f"{n}." for n in score.notes)
                    yield Table(
                        f"Similarities: {test.name}", ("measure", "value", ""), rows, caption
                    )


def parts(run: Run) -> tuple[SentencesData, WordVectors]:
    """The run's data and model by their types."""
    data, model = run.data, run.model
    if not isinstance(data, SentencesData) or not isinstance(model, WordVectors):
        raise TypeError(f"expected SentencesData and WordVectors, got {data!r} and {model!r}")
    return data, model
