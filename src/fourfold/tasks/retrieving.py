"""Passages for a question: by words, by vectors, by both, in the order in which they should be read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from fourfold.core.errors import UserError
from fourfold.core.opening import opened
from fourfold.core.run import Run
from fourfold.data.documents.frames import Passages
from fourfold.data.documents.options import DocumentsData
from fourfold.kernels import bm25, terms
from fourfold.kernels.nearest import Codes, coded, nearest
from fourfold.models.passages import PassageIndex
from fourfold.tasks.encoding import Encoder, encoder_of, unknown_share
from fourfold.tasks.filters import allowed
from fourfold.tasks.index import Index
from fourfold.tasks.reranking import diverse, fused, likelihoods, pair_scores

How = Literal["auto", "bm25", "dense", "hybrid", "rrf"]
IndexKind = Literal["auto", "exact", "hnsw"]
LARGE = 200_000
"""Passages up to which all products are taken."""
MANY = 4_000
"""Passages from which 8 bits of each feature are read before all of them."""
DEEP = 100
"""Passages of each way that are fused."""
WORDS = 0.6
"""Weight of words, where words and vectors are joined."""
STRANGE = 0.02
"""Share of the passages' tokens that an embedder may not know: with more it does not know their language."""
SAMPLED = 200
"""Passages of which that is told."""
REREAD = 30
"""Passages that are put into a new order by a model that reads them."""


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


class Ways(NamedTuple):
    """How passages are found, and put into order."""

    how: How = "auto"
    """By words, by vectors, or both, by shares of the best scores or by places; auto takes both where there
    are vectors of an embedder that knows the passages' language."""
    where: Sequence[str] = ()
    """Conditions; see `filters.allowed`."""
    rerank: str | None = None
    """A run that reads the best ones again: `reranker`, or a language model, which says how likely each makes the question."""
    diverse: float = 0.0
    """From 0 to 1: how much the next passage should differ from those before it."""
    kind: IndexKind = "auto"
    """Of the index of vectors: exact takes all products; hnsw an index that misses a few; auto takes that beyond `LARGE` passages."""


USUAL = Ways()


def parts(run: Run) -> tuple[Passages, PassageIndex]:
    """A knowledge base's passages and the index of them.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(run.data, DocumentsData) or not isinstance(run.model, PassageIndex):
        raise TypeError(f"expected a knowledge base, got a run of {run.system.name}")
    return run.data.of_digest(run.model.made_of), run.model


def retrieve(run: Run, question: str, top: int, ways: Ways = USUAL) -> list[Found]:
    """The passages that answer best to a question.

    Args:
        run: a knowledge base.
        question: in words.
        top: how many.
        ways: how.

    Raises:
        UserError: the question is empty, a condition cannot be read, there are no vectors, or a run does not rank.
    """
    if not question.strip():
        raise UserError("question: nothing is asked")
    passages, index = parts(run)
    kept = allowed(passages.frame, ways.where)
    how = ways.how
    if how == "auto":
        how = "hybrid" if reads_them(run, passages) else "bm25"
    more = max(top, REREAD) if ways.rerank else 4 * top if ways.diverse else top
    asked = None if how == "bm25" else _vector(run, passages, question)
    if how == "bm25" or asked is None:
        rows, scores = _by_words(index, question, more, kept)
    elif how == "dense":
        rows, scores = _by_vectors(run, passages, asked, more, kept, ways.kind)
    else:
        deep = max(DEEP, more)
        words = _by_words(index, question, deep, kept)
        near = _by_vectors(run, passages, asked, deep, kept, ways.kind)
        if how == "rrf":
            both = fused([words[0].tolist(), near[0].tolist()])[:more]
        else:
            both = _both(index, passages, question, asked, words[0], near[0])[:more]
        rows, scores = np.array([r for r, _ in both], np.int64), np.array([v for _, v in both])
    found = found_at(passages, rows.tolist(), scores.tolist())
    if asked is not None and passages.vectors is not None and len(rows):
        cosines = passages.vectors[rows] @ asked
        found = [dataclasses.replace(f, near=float(c)) for f, c in zip(found, cosines, strict=True)]
    if ways.rerank:
        found = _reread(run, question, found, ways.rerank)
    if ways.diverse:
        found = _unlike(passages, index, found, top, ways.diverse)
    return found[:top]


def strange_share(run: Run, passages: Passages) -> float:
    """The share of the passages' tokens that the knowledge base's embedder does not know, of a sample."""
    known: dict[str, float] = vars(run).setdefault("_strange", {})
    if passages.digest not in known:
        rows = np.linspace(0, len(passages) - 1, min(SAMPLED, len(passages))).astype(int)
        texts = passages.frame["text"][rows.tolist()].to_list()
        known[passages.digest] = unknown_share(embedder(run), texts)
    return known[passages.digest]


def reads_them(run: Run, passages: Passages) -> bool:
    """Whether there are vectors, of an embedder that knows the passages' language."""
    if passages.vectors is None or not len(passages):
        return False
    return strange_share(run, passages) <= STRANGE


def _by_words(
    index: PassageIndex, question: str, top: int, kept: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and scores by BM25, falling."""
    scores = index.score_text(question)
    if kept is not None:
        scores = np.where(kept, scores, 0).astype(np.float32)
    rows = bm25.largest(scores, top)
    return rows, scores[rows]


def _by_vectors(
    run: Run,
    passages: Passages,
    asked: np.ndarray,
    top: int,
    kept: np.ndarray | None,
    kind: IndexKind,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and cosines, falling: by all products, or by an index where no condition holds."""
    assert passages.vectors is not None  # noqa: S101
    if kept is None and (kind == "hnsw" or (kind == "auto" and len(passages) > LARGE)):
        rows, near = _nearest(run, passages).nearest(asked[None], min(top, len(passages)))
        return rows[0], near[0]
    if (codes := _codes(run, passages)) is not None:
        return nearest(codes, passages.vectors, asked, top, kept)
    products = passages.vectors @ asked
    shifted = products + np.float32(2)  # `largest` takes positive scores, and cosines go down to -1
    if kept is not None:
        shifted[~kept] = 0
    rows = bm25.largest(shifted, top)
    return rows, products[rows]


def _codes(run: Run, passages: Passages) -> Codes | None:
    """The vectors in 8 bits, which later questions read first; a first one is answered sooner without."""
    assert passages.vectors is not None  # noqa: S101
    if len(passages) < MANY:
        return None
    known: dict[str, Codes | None] = vars(run).setdefault("_codes", {})
    if passages.digest not in known:
        known.clear()
        known[passages.digest] = None
    elif known[passages.digest] is None:
        known[passages.digest] = coded(passages.vectors)
    return known[passages.digest]


def _both(
    index: PassageIndex,
    passages: Passages,
    question: str,
    asked: np.ndarray,
    words: np.ndarray,
    near: np.ndarray,
) -> list[tuple[int, float]]:
    """Passages of either list by `WORDS` of their score and the rest of their cosine, each as a share of the best one's.

    Bruch, Gai and Ingber 2023, arXiv 2210.11934. A list that is sure of its first counts more than one that is not,
    which places alone do not show.
    """
    assert passages.vectors is not None  # noqa: S101
    rows = np.union1d(words, near)
    if not len(rows):
        return []
    scores = index.score_text(question)[rows]
    cosines = np.maximum(passages.vectors[rows] @ asked, 0)
    sums = sum(
        weight * values / max(float(values.max()), 1e-9)
        for weight, values in ((WORDS, scores), (1 - WORDS, cosines))
    )
    order = np.argsort(-sums, kind="stable")
    return [(int(rows[n]), float(sums[n])) for n in order.tolist()]


def _nearest(run: Run, passages: Passages) -> Index:
    """The index of a knowledge base's vectors, made once and kept beside them."""
    known: dict[str, Index] = vars(run).setdefault("_nearest", {})
    if passages.digest not in known:
        assert run.folder is not None and passages.vectors is not None  # noqa: S101
        path = run.folder / "data" / f"passages-{passages.digest[:16]}.hnsw"
        if not path.exists():
            run.console.say(f"Making an index of {len(passages):,} vectors, once.")
        known[passages.digest] = Index(passages.vectors, path)
    return known[passages.digest]


def _vector(run: Run, passages: Passages, question: str) -> np.ndarray:
    """The question as a vector.

    Raises:
        UserError: the knowledge base has none.
    """
    if passages.vectors is None:
        raise UserError(
            f"--how: {run.place} has no vectors; index its documents with --embedder into another --out"
        )
    return embedding(run)([question])[0]


def embedding(run: Run) -> Encoder:
    """What makes a knowledge base's vectors, opened once."""
    known: dict[str, Encoder] = vars(run).setdefault("_encoders", {})
    if "" not in known:
        known[""] = encoder_of(embedder(run))
    return known[""]


def embedder(run: Run) -> Run:
    """The run that makes a knowledge base's vectors, opened once."""
    known: dict[str, Run] = vars(run).setdefault("_embedders", {})
    if "" not in known:
        known[""] = run.system.embedding(run)  # type: ignore[attr-defined]
    return known[""]


def _reread(run: Run, question: str, found: list[Found], name: str) -> list[Found]:
    """The first passages in the order of a model that reads them; the others behind them."""
    known: dict[str, Run] = vars(run).setdefault("_models", {})
    if name not in known:
        known[name] = opened(name)
    judge, first = known[name], found[:REREAD]
    ranks = pair_scores if judge.system.name == "reranker" else likelihoods
    scores = ranks(judge, question, [f"{f.heading}\n{f.text}".strip() for f in first])
    order = np.argsort(-scores, kind="stable")
    return [
        *(dataclasses.replace(first[n], score=float(scores[n])) for n in order.tolist()), *found[REREAD:]
    ]  # fmt: skip


def _unlike(
    passages: Passages, index: PassageIndex, found: list[Found], top: int, share: float
) -> list[Found]:
    """Passages that differ: by their vectors, or by the words that they share where there are none."""
    if len(found) < 2:
        return found
    scores = np.array([f.score for f in found])
    span = scores.max() - scores.min()
    relevance = (scores - scores.min()) / span if span > 0 else np.ones(len(found))
    if passages.vectors is not None:
        some = passages.vectors[[f.row for f in found]]
        alike = np.clip(some @ some.T, 0, 1)
    else:
        sets = [set(terms.hashes([f.text], stem=index.stem)[0].tolist()) for f in found]
        alike = np.array([[len(a & b) / max(1, len(a | b)) for b in sets] for a in sets])
    return [found[n] for n in diverse(relevance, alike, top, share)]


def found_at(passages: Passages, rows: Sequence[int], scores: Sequence[float]) -> list[Found]:
    """Passages by their numbers, with what they scored."""
    names = ("document", "text", "begin", "end", "heading", "line", "page", "metadata")
    told = passages.frame[list(rows)].select(names).to_dicts() if len(rows) else []
    return [
        Found(row, float(score), **some)
        for row, score, some in zip(rows, scores, told, strict=True)
    ]
