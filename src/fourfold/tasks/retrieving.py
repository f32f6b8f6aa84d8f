"""Passages for a question: by words, by vectors, by both, in the order in which they should be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.data.documents.frames import Passages
from fourfold.data.documents.options import DocumentsData
from fourfold.kernels import bm25
from fourfold.models.passages import PassageIndex
from fourfold.tasks.filters import allowed

How = Literal["auto", "bm25"]


@dataclass(frozen=True)
class Found:
    """A passage that answers to a question."""

    row: int
    """Its number in the index."""
    score: float
    document: str
    text: str
    begin: int
    end: int
    heading: str = ""
    line: int | None = None
    page: int | None = None
    metadata: str = ""
    near: float | None = None
    """Cosine of its vector and the question's, where there are vectors."""

    @property
    def source(self) -> str:
        """Where it stands, as "docs/faults.md:12" or "paper.pdf, page 3"."""
        if self.page is not None:
            return f"{self.document}, page {self.page}"
        return self.document if self.line is None else f"{self.document}:{self.line}"


def parts(run: Run) -> tuple[Passages, PassageIndex]:
    """A knowledge base's passages and the index of them.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(run.data, DocumentsData) or not isinstance(run.model, PassageIndex):
        raise TypeError(f"expected a knowledge base, got a run of {run.system.name}")
    return run.data.of_digest(run.model.made_of), run.model


def retrieve(
    run: Run, question: str, top: int, *, how: How = "auto", where: Sequence[str] = ()
) -> list[Found]:
    """The passages that answer best to a question.

    Args:
        run: a knowledge base.
        question: in words.
        top: how many.
        how: see `Knowledge.find`.
        where: see `filters.allowed`.

    Raises:
        UserError: the question is empty, or a condition cannot be read.
    """
    if not question.strip():
        raise UserError("question: nothing is asked")
    passages, index = parts(run)
    kept = allowed(passages.frame, where)
    scores = index.score_text(question)
    if kept is not None:
        scores = np.where(kept, scores, 0).astype(np.float32)
    rows = bm25.largest(scores, top)
    return found_at(passages, rows.tolist(), scores[rows].tolist())


def found_at(passages: Passages, rows: Sequence[int], scores: Sequence[float]) -> list[Found]:
    """Passages by their numbers, with what they scored."""
    names = ("document", "text", "begin", "end", "heading", "line", "page", "metadata")
    told = passages.frame[list(rows)].select(names).to_dicts() if len(rows) else []
    return [
        Found(row, float(score), **some)
        for row, score, some in zip(rows, scores, told, strict=True)
    ]
