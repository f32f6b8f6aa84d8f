"""Answers from a model's weights, from weights tuned on the documents, with retrieval, and both: the same questions.

Closed-book question answering: Roberts et al. 2020, arXiv 2002.08910; retrieval beside it: Lewis et al. 2020, arXiv 2005.11401.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fourfold.api import open as open_run
from fourfold.core.console import Console
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.core.system import verbs
from fourfold.core.types import Explanation, Table
from fourfold.data.questions import Question, read_questions
from fourfold.tasks.answer_scores import exact, f1
from fourfold.tasks.grounding import answer
from fourfold.tasks.quoting import is_nowhere
from fourfold.tasks.retrieving import parts, retrieve
from fourfold.tasks.supporting import supported

COLUMNS = ("exact match", "F1", "unsupported", "no answer", "seconds a question")
TOKENS = 64


@dataclass
class Contender:
    """A way of answering, and how it did."""

    name: str
    model: Run | None
    book: Run | None
    """The knowledge base, where it has one."""
    values: dict[str, float] = field(default_factory=dict)
    answers: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class BookComparison:
    """What `closed_book` found."""

    contenders: tuple[Contender, ...]
    questions: tuple[Question, ...]

    def record(self) -> dict[str, Any]:
        """As plain values."""
        rows = [{"question": q.text, "answers": list(q.answers), **{c.name: c.answers[n] for c in self.contenders}}
                for n, q in enumerate(self.questions)]  # fmt: skip
        return {"contenders": {c.name: c.values for c in self.contenders}, "answers": rows}

    def explanation(self) -> Explanation:
        """As a verdict with tables."""
        best = max(self.contenders, key=lambda c: (c.values["F1"], c.values["exact match"]))
        said = f"{best.name} comes nearest to the answers: F1 {best.values['F1']:.3f} over {len(self.questions)} questions."
        rows = tuple((c.name, *(round(c.values[n], 4) for n in COLUMNS)) for c in self.contenders)
        told = "unsupported: share of an answer's sentences that do not stand in the documents."
        shown = tuple(
            (q.text, q.answers[0], *(c.answers[n] for c in self.contenders))
            for n, q in enumerate(self.questions[:20])
        )
        names = tuple(c.name for c in self.contenders)
        return Explanation(
            "Closed book, tuned, retrieval", (said,),
            (Table("Answers", ("way", *COLUMNS), rows, told), Table("Some answers", ("question", "right", *names), shown)),
        )  # fmt: skip

    def markdown(self) -> str:
        """The first table."""
        lines = [f"| way | {' | '.join(COLUMNS)} |", "| --- " * (len(COLUMNS) + 1) + "|"]
        for c in self.contenders:
            lines.append(f"| {c.name} | {' | '.join(f'{c.values[n]:.4g}' for n in COLUMNS)} |")
        return "\n".join(lines) + "\n"


def closed_book(
    source: Any, *, closed: str | None = None, tuned: str | None = None, rag: str | None = None,
    console: Console | None = None, device: str | None = None,
) -> BookComparison:  # fmt: skip
    """Ask several ways the same questions.

    Where a fact has changed: change the document, `fourfold index` it again, and ask questions with the new answers.
    Weights stay as they were; what retrieval finds does not.

    Args:
        source: questions with answers; see `read_questions`.
        closed: a run that converses, or another's model, as it is.
        tuned: the same, tuned on the documents.
        rag: a knowledge base; answered with each of the models, or by extraction where none is given.
        console: where progress is said.
        device: where runs of our own are used.

    Raises:
        UserError: fewer than two ways, a run that does not converse, or questions without answers.
    """
    questions = [q for q in read_questions(source) if q.answers]
    if not questions:
        raise UserError(f"{source}: no question with an answer; rows have a question and an answer")
    ways = _ways(closed, tuned, rag, device)
    book = next((way.book for way in ways if way.book is not None), None)
    for way in ways:
        if console is not None:
            console.say(f"{way.name}: {len(questions)} questions")
        _answered(way, questions, book)
    return BookComparison(tuple(ways), tuple(questions))


def _ways(
    closed: str | None, tuned: str | None, rag: str | None, device: str | None
) -> list[Contender]:
    models = [
        (name, _speaking(place, option, device))
        for name, place, option in (
            ("closed book", closed, "--closed-book"),
            ("tuned", tuned, "--tuned"),
        )
        if place
    ]
    ways = [Contender(name, model, None) for name, model in models]
    if rag:
        book = open_run(rag, device=device)
        if book.system.name != "knowledge":
            raise UserError(
                f"--rag {rag}: is a run of {book.system.name}; expected a knowledge base"
            )
        named = {"closed book": "retrieval", "tuned": "tuned, retrieval"}
        ways += [Contender(named[name], model, book) for name, model in models]
        if not models:
            ways.append(Contender("retrieval, extracted", None, book))
    if len(ways) < 2:
        raise UserError(
            "compare: expected two ways or more of --closed-book MODEL, --tuned MODEL and --rag KB (which goes with each model)"
        )
    return ways


def _speaking(place: str, option: str, device: str | None) -> Run:
    run = open_run(place, device=device)
    if "chat" not in verbs(run.system):
        raise UserError(
            f"{option} {place}: a run of {run.system.name} does not converse; expected one of sft or the like"
        )
    return run


def _answered(way: Contender, questions: Sequence[Question], book: Run | None) -> None:
    """Ask every question, and measure."""
    began = time.perf_counter()
    same = near = silent = 0.0
    said = wrong = 0
    for question in questions:
        text, short = _one(way, question)
        way.answers.append(text)
        if is_nowhere(text) or not text.strip():
            silent += 1
            continue
        same += max(exact(short, a) for a in question.answers)
        near += max(f1(short, a) for a in question.answers)
        if book is not None:
            stands = _stands(book, question, text)
            said, wrong = said + len(stands), wrong + stands.count(False)
    many = len(questions)
    spent = (time.perf_counter() - began) / many
    unsupported = wrong / said if said else 0.0
    way.values = dict(
        zip(COLUMNS, (same / many, near / many, unsupported, silent / many, spent), strict=True)
    )


def _one(way: Contender, question: Question) -> tuple[str, str]:
    """An answer, and its shortest form."""
    if way.book is not None:
        found = answer(way.book, question.text, model=way.model, tokens=TOKENS)
        text = found.whole().strip()
        return text, found.span or " ".join(c.text for c in found.claims) or text
    assert way.model is not None  # noqa: S101
    pieces = way.model.chat(question.text, tokens=TOKENS, temperature=0)
    text = "".join(pieces).strip()
    return text, text


def _stands(book: Run, question: Question, text: str) -> list[bool]:
    """Whether each sentence stands in the passages found for it, cited or not: all ways are held to the same."""
    passages = retrieve(book, f"{question.text}\n{text}", 5)
    return supported(text, passages, parts(book)[1])
