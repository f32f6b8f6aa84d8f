"""How well questions are answered: recall, reciprocal places and nDCG of passages; exact match, F1 and support of answers.

nDCG: Jaervelin and Kekaelaeinen 2002, with one relevant passage or several, each worth 1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from fourfold.core.errors import UserError
from fourfold.core.types import Score
from fourfold.data.questions import Question
from fourfold.tasks.answer_scores import exact, f1, normal
from fourfold.tasks.grounding import Answer
from fourfold.tasks.quoting import is_nowhere
from fourfold.tasks.retrieving import Found

DEEP = 10
"""Places that nDCG looks at."""


def answers_it(passage: Found, question: Question) -> bool:
    """Whether a passage is what a question asks for: of the named document, overlapping the given text, with an answer.

    What the question does not say is not asked of it. Where text is given and answers too, the answer decides within it:
    a long paragraph may be several passages.
    """
    if question.document and not passage.document.endswith(question.document.removeprefix("./")):
        return False
    said = " ".join(passage.text.split())
    if question.passage:
        whole = " ".join(question.passage.split())
        if said not in whole and whole not in said:
            return False
    if question.answers:
        inner = normal(said)
        return any(normal(a) in inner for a in question.answers)
    return bool(question.document or question.passage)


def gains(found: Sequence[Found], question: Question) -> list[bool]:
    """Whether each passage found answers."""
    return [answers_it(passage, question) for passage in found]


def ndcg(hits: Sequence[bool]) -> float:
    """Of one question, among the first `DEEP` places; the ideal order has those that were found in front."""
    first = hits[:DEEP]
    ideal = sum(1 / math.log2(n + 2) for n in range(min(sum(hits), DEEP)))
    return sum(hit / math.log2(n + 2) for n, hit in enumerate(first)) / ideal if ideal else 0.0


def retrieval_scores(
    questions: Sequence[Question],
    find: Callable[[str, int], list[Found]],
    at: Sequence[int] = (1, 5, 20),
) -> dict[str, float]:
    """recall@k, mean reciprocal place and nDCG@10 over questions whose passages are known, and milliseconds a question.

    Raises:
        UserError: of no question it is known which passage answers.
    """
    asked = [q for q in questions if q.known]
    if not asked:
        raise UserError(
            "questions: none says what is to be found; rows have an answer, a passage or a document beside the question"
        )
    began = time.perf_counter()
    places, order = [], 0.0
    for question in asked:
        hits = gains(find(question.text, max(at)), question)
        places.append(hits.index(True) + 1 if True in hits else math.inf)
        order += ndcg(hits)
    spent = 1000 * (time.perf_counter() - began) / len(asked)
    values = {f"recall@{k}": sum(p <= k for p in places) / len(asked) for k in at}
    values["mrr"] = sum(1 / p for p in places) / len(asked)
    return {**values, "ndcg@10": order / len(asked), "milliseconds": spent}


def answer_scores(questions: Sequence[Question], ask: Callable[[str], Answer]) -> dict[str, float]:
    """Exact match and F1 (of the best reference), how often nothing was found, and the share of unsupported sentences."""
    asked = [q for q in questions if q.answers]
    if not asked:
        return {}
    same = near = silent = 0.0
    said = unsupported = 0
    for question in asked:
        found = ask(question.text)
        text = found.whole()
        if found.how == "nowhere" or is_nowhere(text):
            silent += 1
            continue
        given = found.span or " ".join(c.text for c in found.claims) or text
        same += max(exact(given, a) for a in question.answers)
        near += max(f1(given, a) for a in question.answers)
        said += len(found.claims)
        unsupported += sum(not c.supported for c in found.claims)
    many = len(asked)
    values = {"exact_match": same / many, "f1": near / many, "nowhere": silent / many}
    if said:
        values["unsupported"] = unsupported / said
    return values


def scored(values: dict[str, float], questions: Sequence[Question]) -> Score:
    """As a score with its units and what should be known of it."""
    known = sum(q.known for q in questions)
    notes = [
        f"{len(questions):,} questions"
        + (f", of {known:,} it is known what answers" if known < len(questions) else "")
    ]
    return Score(values, {"milliseconds": "a question"}, tuple(notes))
