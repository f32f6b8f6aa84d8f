"""The verbs of a knowledge base."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Le
from pydantic import NonNegativeFloat, PositiveInt

from fourfold.core.errors import UserError
from fourfold.core.evaluation import measure
from fourfold.core.run import Run
from fourfold.core.system import System
from fourfold.core.types import RunName, Score, Source, Table
from fourfold.data.questions import read_questions
from fourfold.tasks.grounding import answer, shown, speaking
from fourfold.tasks.question_scores import answer_scores, retrieval_scores, scored
from fourfold.tasks.retrieving import Found, How, IndexKind, Ways, parts, retrieve

if TYPE_CHECKING:
    import polars as pl

Share = Annotated[float, Ge(0), Le(1)]


class Knows(System):
    """A system whose runs find passages of documents, and answer from them."""

    def find(
        self,
        run: Run,
        question: str,
        *,
        top: PositiveInt = 5,
        how: How = "auto",
        where: list[str] | None = None,
        rerank: RunName | None = None,
        diverse: Share = 0.0,
        index: IndexKind = "auto",
    ) -> pl.DataFrame:
        """Passages that answer to a question, the best first, each with its file and line.

        Args:
            question: in words.
            top: how many.
            how: bm25 goes by words, dense by vectors, hybrid by both scores, rrf by the places in both; auto is hybrid where there
                are vectors of an embedder that knows the passages' language.
            where: conditions, as document=docs/*.md, kind=code or year>=2020; several separated by commas.
            rerank: a run that reads the best passages again and orders them: of reranker, or a language model's, by the
                likelihood of the question after each.
            diverse: from 0 to 1, how much each passage should differ from those before it.
            index: of vectors: exact takes all products; hnsw an index that misses a few, made once; auto takes that beyond
                200,000 passages.
        """
        ways = Ways(how, where or (), rerank, diverse, index)
        return as_table(retrieve(run, question, top, ways))

    def ask(
        self,
        run: Run,
        question: str,
        *,
        model: RunName | None = None,
        top: PositiveInt = 5,
        how: How = "auto",
        where: list[str] | None = None,
        rerank: RunName | None = None,
        diverse: Share = 0.0,
        tokens: PositiveInt = 256,
        temperature: NonNegativeFloat = 0,
        seed: int | None = None,
    ) -> Iterator[str]:
        """Answer a question from the documents, with numbered sources; "Not in the documents." where they have no answer.

        What a model says is held to what it cites: sentences that do not stand there are listed below the answer. Without
        a model that converses the answer is the sentence of the documents that is nearest to the question.

        Args:
            question: in words.
            model: a run that converses, ollama:NAME, a server's address, a GGUF file; None takes FOURFOLD_MODEL.
            top: passages that the answer may rest on; fewer where the model has no room for them.
            how: how passages are found, as in find.
            where: conditions on passages, as in find.
            rerank: as in find.
            diverse: as in find.
            tokens: most tokens of the answer.
            temperature: 0 always takes the most likely token.
            seed: of what the model draws.
        """
        found = answer(
            run, question, model=model, top=top, ways=Ways(how, where or (), rerank, diverse), tokens=tokens, temperature=temperature, seed=seed
        )  # fmt: skip
        yield from shown(found)

    def chat(
        self,
        run: Run,
        text: str = "",
        *,
        messages: list[dict[str, str]] | None = None,
        model: RunName | None = None,
        top: PositiveInt = 5,
        how: How = "auto",
        where: list[str] | None = None,
        rerank: RunName | None = None,
        diverse: Share = 0.0,
        tokens: PositiveInt = 256,
        temperature: NonNegativeFloat = 0,
        seed: int | None = None,
    ) -> Iterator[str]:
        """Answer as `ask` does, in a conversation. On the command line, without a text, a whole one.

        A question that leans on the one before it is searched together with that one.

        Args:
            text: what the user says.
            messages: what was said before, {"role": "user", "content": "..."} each.
            model: as in ask.
            top: passages that an answer may rest on.
            how: how passages are found, as in find.
            where: conditions on passages, as in find.
            rerank: as in find.
            diverse: as in find.
            tokens: most tokens of the answer.
            temperature: 0 always takes the most likely token.
            seed: of what the model draws.
        """
        turns = list(messages or ())
        if not text.strip() and turns and turns[-1].get("role") == "user":
            text = turns.pop().get("content", "")
        if not all(
            t.get("role") in ("user", "assistant") and isinstance(t.get("content"), str)
            for t in turns
        ):
            raise UserError(
                'messages: expected {"role": "user" or "assistant", "content": "..."} each'
            )
        history = [
            {**t, "content": t["content"].split("\n\n[1] ")[0]} for t in turns
        ]  # without its sources
        found = answer(
            run, text, model=model, history=history, top=top, ways=Ways(how, where or (), rerank, diverse), tokens=tokens,
            temperature=temperature, seed=seed,
        )  # fmt: skip
        yield from shown(found)

    chat.converses = True  # type: ignore[attr-defined]

    def evaluate(
        self,
        run: Run,
        source: Source = None,
        *,
        model: RunName | None = None,
        how: How = "auto",
        rerank: RunName | None = None,
        answers: bool = True,
    ) -> Score:
        """Measure how well questions are answered; without any, how well passages are found by one of their sentences.

        Args:
            source: JSON lines with a question, and an answer (or answers), a passage or a document that is to be found;
                or SQuAD's JSON.
            model: as in ask; exact match and F1 are then of its answers, otherwise of extracted ones.
            how: how passages are found, as in find.
            rerank: as in find.
            answers: answer the questions too, where answers are given.
        """
        if source is None:
            parts(run)
            values = measure(run.objective, run.model, run.data, "train", run.device, run.seed)
            return Score(
                values,
                {},
                (
                    "each passage is looked for by one of its sentences; give questions to measure those",
                ),
            )
        questions, ways = read_questions(source), Ways(how, (), rerank)
        values = retrieval_scores(questions, lambda text, top: retrieve(run, text, top, ways))
        if answers:
            speaker = speaking(run, model)
            values |= answer_scores(
                questions, lambda text: answer(run, text, model=speaker, ways=ways)
            )
        return scored(values, questions)

    def tables(self, run: Run) -> Iterator[Table]:
        """The documents with most passages, and those that were left out."""
        passages, _ = parts(run)
        counted = passages.frame.group_by("document").len()
        counted = counted.sort("len", "document", descending=[True, False])
        said = f"{len(counted):,} documents, {len(passages):,} passages."
        yield Table(
            "Documents", ("document", "passages"), tuple(counted.head(20).iter_rows()), said
        )
        left_out: list[Any] = getattr(run.data, "about", {}).get("left_out", [])
        if left_out:
            yield Table("Left out", ("document", "why"), tuple(map(tuple, left_out[:200])))


def as_table(found: list[Found]) -> pl.DataFrame:
    """Passages as a table."""
    import polars as pl

    rows = [
        {"rank": n, "score": round(f.score, 4), "source": f.source, "heading": f.heading, "text": f.text,
         "begin": f.begin, "end": f.end, "metadata": f.metadata}
        for n, f in enumerate(found, 1)
    ]  # fmt: skip
    kinds: dict[str, Any] = {
        "rank": pl.Int64, "score": pl.Float64, "source": pl.Utf8, "heading": pl.Utf8, "text": pl.Utf8,
        "begin": pl.Int64, "end": pl.Int64, "metadata": pl.Utf8,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=kinds)
