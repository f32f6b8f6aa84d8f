"""How word vectors do on analogies and on people's judgements of similarity.

Analogies by 3CosAdd (Mikolov et al. 2013) or 3CosMul (Levy and Goldberg 2014), the three given words never
being answers. Similarities by Spearman's rank correlation with an interval from 1,000 bootstrap samples of
the pairs (Efron 1979). Words that are unknown are counted and said.
Shapes: V words, D features, Q questions, U different words of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fourfold.core.errors import UserError
from fourfold.core.types import Score, Table
from fourfold.data.word_tests import Analogies, Pairs
from fourfold.tasks.neighbours import BLOCK, Space
from fourfold.tasks.vectors import Method, multiplied

SAMPLES = 1000
NAMED = 5
"""Unknown words or malformed lines that are named."""


@dataclass(frozen=True)
class Section:
    """How the questions of a section came out."""

    name: str
    right: int
    asked: int
    unknown: int
    """Questions that have a word that is not in the vocabulary."""


class Words:
    """How words of a test are looked up: as written, else in lower case; both are counted."""

    def __init__(self, space: Space, *, lower: bool = False) -> None:
        self.space, self.lower = space, lower
        self.lowered: set[str] = set()
        self.unknown: dict[str, None] = {}

    def __call__(self, word: str) -> int | None:
        """The row of a word, or None."""
        for spelt in (word.lower(),) if self.lower else (word, word.lower()):
            if spelt in self.space.numbers:
                if spelt != word:
                    self.lowered.add(word)
                return self.space.numbers[spelt]
        self.unknown[word] = None
        return None

    def notes(self, asked: int, whole: int, what: str, malformed: Sequence[str]) -> tuple[str, ...]:
        """What was left out, in sentences."""
        said = []
        if self.unknown:
            many = len(self.unknown)
            first = ", ".join(list(self.unknown)[:NAMED]) + (", ..." if many > NAMED else "")
            verb = "has" if whole - asked == 1 else "have"
            said.append(
                f"{whole - asked:,} of {whole:,} {what} {verb} words that are not in the vocabulary and do not count: "
                f"{many:,} words ({first})"
            )
        if self.lowered:
            said.append(f"{len(self.lowered):,} words were looked up in lower case")
        if malformed:
            more = f", and {len(malformed) - NAMED:,} more" if len(malformed) > NAMED else ""
            said.append(f"malformed lines are left out: {'; '.join(malformed[:NAMED])}{more}")
        return tuple(said)


def answered(
    space: Space,
    tests: Analogies,
    method: Method = "add",
    *,
    among: int | None = None,
    lower: bool = False,
) -> tuple[list[Section], tuple[str, ...]]:
    """Ask every question whose words are known.

    Args:
        space: of the run.
        tests: the questions.
        method: 3CosAdd or 3CosMul.
        among: answers are sought among so many most frequent words; None takes all.
        lower: whether the vocabulary is in lower case throughout.
    """
    look = Words(space, lower=lower)
    rows, sections = [], []
    for section, words in tests.questions:
        known = [look(w) for w in words]
        rows.append([-1] * 4 if None in known else known)
        sections.append(section)
    questions, where = np.array(rows, np.int64).reshape(-1, 4), np.array(sections)
    known_ones = np.flatnonzero((questions >= 0).all(1))
    right = np.zeros(len(questions), bool)
    if len(known_ones):
        right[known_ones] = (
            _answers(space, questions[known_ones], method, among) == questions[known_ones, 3]
        )
    asked = np.isin(np.arange(len(questions)), known_ones)
    found = [
        Section(
            name,
            int(right[where == s].sum()),
            int(asked[where == s].sum()),
            int((~asked)[where == s].sum()),
        )
        for s, name in enumerate(tests.sections)
        if (where == s).any()
    ]
    return found, look.notes(len(known_ones), len(questions), "questions", tests.malformed)


def _answers(space: Space, questions: np.ndarray, method: Method, among: int | None) -> np.ndarray:
    """(Q,) the best word for each (a, b, c, d): every product of a word of the questions with a word is made once."""
    used, places = np.unique(questions[:, :3], return_inverse=True)
    places = places.reshape(-1, 3)
    count = min(among or len(space), len(space))
    best, answer = np.full(len(questions), -np.inf), np.zeros(len(questions), np.int64)
    size = max(1, BLOCK // max(len(used), 256))
    group = max(1, BLOCK // size)
    for start in range(0, count, size):
        stop = min(start + size, count)
        cosines = space.unit[used] @ space.unit[start:stop].T  # (U, block)
        if method == "multiply":
            cosines = (cosines + 1) / 2
        for first in range(0, len(questions), group):
            some = slice(first, first + group)
            a, b, c = (cosines[places[some, i]] for i in range(3))
            score = b - a + c if method == "add" else multiplied(b, a, c)
            for i in range(3):
                given = questions[some, i] - start
                inside = np.flatnonzero((given >= 0) & (given < stop - start))
                score[inside, given[inside]] = -np.inf
            top = score.argmax(1)
            value = score[np.arange(len(top)), top]
            better = value > best[some]
            best[some] = np.where(better, value, best[some])
            answer[some] = np.where(better, top + start, answer[some])
    return answer


def analogy_score(sections: list[Section], notes: tuple[str, ...], name: str) -> Score:
    """The share of right answers, of all questions and of each section.

    Raises:
        UserError: no question has known words only.
    """
    asked, right = sum(s.asked for s in sections), sum(s.right for s in sections)
    whole = asked + sum(s.unknown for s in sections)
    if not asked:
        raise UserError(f"{name}: none of its {whole:,} questions has known words only; {notes[0]}")
    values = {"accuracy": right / asked, "questions": float(asked)}
    values |= {s.name: s.right / s.asked for s in sections if s.asked}
    units = {"accuracy": f"of {asked:,} questions", "questions": f"of {whole:,}"}
    units |= {s.name: f"of {s.asked:,}" for s in sections if s.asked}
    empty = [s.name for s in sections if not s.asked]
    if empty:
        notes = (*notes, f"sections without any known question: {', '.join(empty)}")
    return Score(values, units, notes)


def section_table(sections: list[Section], method: Method, caption: str) -> Table:
    """For the report."""
    rows = tuple(
        (s.name, s.right / s.asked if s.asked else None, s.asked, s.unknown) for s in sections
    )
    name = "3CosAdd" if method == "add" else "3CosMul"
    return Table(f"Analogies by {name}", ("section", "right", "asked", "left out"), rows, caption)


def similarity_score(space: Space, tests: Pairs, *, lower: bool = False) -> Score:
    """Spearman's correlation of cosines with people's scores, with a 95% interval.

    Raises:
        UserError: fewer than three pairs have known words.
    """
    look = Words(space, lower=lower)
    rows = [(look(a), look(b), score) for a, b, score in tests.pairs]
    kept = [(a, b, s) for a, b, s in rows if a is not None and b is not None]
    notes = look.notes(len(kept), len(rows), "pairs", tests.malformed)
    if len(kept) < 3:
        raise UserError(
            f"{tests.name}: {len(kept)} of its {len(rows):,} pairs have known words; a correlation needs three"
        )
    left, right = np.array([k[0] for k in kept]), np.array([k[1] for k in kept])
    cosines = np.einsum("pd,pd->p", space.unit[left], space.unit[right]).astype(np.float64)
    people = np.array([k[2] for k in kept])
    value = spearman(cosines, people)
    low, high = interval(cosines, people)
    values = {"spearman": value, "low": low, "high": high, "pairs": float(len(kept))}
    units = {
        "low": "95% interval, bootstrap over pairs", "high": "95% interval, bootstrap over pairs",
        "pairs": f"of {len(rows):,}",
    }  # fmt: skip
    return Score(values, units, notes)


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of ranks, ties at their mean rank; 0 where one side is constant."""
    from scipy.stats import rankdata

    x, y = rankdata(a), rankdata(b)
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale else 0.0


def interval(a: np.ndarray, b: np.ndarray, share: float = 0.95) -> tuple[float, float]:
    """The percentile interval of Spearman's correlation under 1,000 resamplings of the pairs, always the same ones."""
    random = np.random.default_rng(0)
    found = [spearman(a[rows], b[rows]) for rows in random.integers(0, len(a), (SAMPLES, len(a)))]
    low, high = np.quantile(found, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)
