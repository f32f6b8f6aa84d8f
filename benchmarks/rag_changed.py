"""Where answers come from, and what a changed fact does to them: weights alone, weights tuned on the documents, retrieval.

    OMP_NUM_THREADS=1 python -m benchmarks.rag_changed

Invented people, each with a document that says where and when they were born and what they did. A small chat model learns
questions and answers about other people (closed book: it knows the form and none of the facts); the same goes on to learn
those of the documents (tuned); a knowledge base holds the documents, answered by extraction and by either model. Then the
facts of a third of the people change in their documents, and these are indexed again; nothing is tuned again.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import fourfold
from benchmarks.side_by_side import keep
from fourfold.selection.closed_book import closed_book

SYLLABLES = "ba be do du fa ga ka ki la lo ma mi na no pa ra ri sa so ta ti va wo za".split()
TRADES = "glazier weaver baker pilot surgeon joiner tailor miner painter teacher".split()
PEOPLE, CHANGED = 48, 16


def word(rng: np.random.Generator, length: int) -> str:
    """An invented name."""
    return "".join(rng.choice(SYLLABLES, length)).capitalize()


def people(rng: np.random.Generator, count: int) -> dict[str, tuple[str, str, str]]:
    """Town, year and trade by name."""
    found: dict[str, tuple[str, str, str]] = {}
    while len(found) < count:
        found[f"{word(rng, 2)} {word(rng, 3)}"] = facts(rng)
    return found


def facts(rng: np.random.Generator) -> tuple[str, str, str]:
    """A town, a year, a trade."""
    return word(rng, 3), str(rng.integers(1850, 1990)), str(rng.choice(TRADES))


def document(name: str, told: tuple[str, str, str]) -> str:
    """What is written of one of them."""
    town, year, trade = told
    return f"# {name}\n\n{name} was born in {year}. The birthplace of {name} is {town}. {name} earned a living as a {trade}.\n"


def questions(known: dict[str, tuple[str, str, str]]) -> list[dict[str, str]]:
    """Three of each."""
    asked = ("What is the birthplace of {}?", "In which year was {} born?", "As what did {} earn a living?")  # fmt: skip
    return [
        {"question": form.format(name), "answer": answer}
        for name, told in known.items()
        for form, answer in zip(asked, told, strict=True)
    ]


def written(folder: Path, known: dict[str, tuple[str, str, str]]) -> Path:
    """A document for each."""
    folder.mkdir(exist_ok=True)
    for name, told in known.items():
        (folder / f"{name.replace(' ', '-')}.md").write_text(document(name, told))
    return folder


def asked(
    rows: list[dict[str, str]], folder: Path, closed: Path, tuned: Path, book: Path
) -> dict[str, dict[str, float]]:
    """Exact match and F1 of every way."""
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = closed_book(str(path), closed=str(closed), tuned=str(tuned), rag=str(book))
    values = {c.name: c.values for c in found.contenders}
    score = fourfold.open(book).evaluate(str(path)).values
    values["retrieval, extracted"] = {"exact match": score["exact_match"], "F1": score["f1"]}
    return {
        way: {n: round(float(v[n]), 4) for n in ("exact match", "F1", "unsupported", "seconds a question") if n in v}
        for way, v in values.items()
    }  # fmt: skip


def main() -> None:
    """See the module."""
    rng = np.random.default_rng(0)
    known, others = people(rng, PEOPLE), people(rng, 2 * PEOPLE)
    shape: dict[str, Any] = {"layers": 4, "width": 128, "lr": 0.01, "data.batch": 32}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = {}

        def fit(name: str, people: dict[str, tuple[str, str, str]], **options: Any) -> Path:
            rows = [{"prompt": r["question"], "completion": r["answer"]} for r in questions(people)]
            began = time.process_time()
            run = fourfold.fit("sft", rows, out=folder / name, **{"data.split": (1.0, 0.0, 0.0)}, **options)  # fmt: skip
            seconds[name] = round(time.process_time() - began, 1)
            assert run.folder is not None  # noqa: S101
            return run.folder

        closed = fit("closed", others, **shape, steps=300)
        tuned = fit("tuned", known, from_=closed, lr=0.005, steps=400, **{"data.batch": 32})
        documents = written(folder / "documents", known)
        fourfold.index(documents, out=folder / "book")
        result: dict[str, Any] = {"people": PEOPLE, "processor seconds of fits": seconds}
        result["before"] = asked(questions(known), folder, closed, tuned, folder / "book")
        print(json.dumps(result["before"], indent=1), flush=True)
        changed = {n: facts(rng) for n in list(known)[:CHANGED]}
        written(documents, changed)
        began = time.perf_counter()
        fourfold.index(documents, out=folder / "book")
        result["seconds to index what has changed"] = round(time.perf_counter() - began, 2)
        result["of changed facts"] = asked(
            questions(changed), folder, closed, tuned, folder / "book"
        )
        print(json.dumps(result["of changed facts"], indent=1), flush=True)
    keep("rag", {"a changed fact": result}, module="rag_changed")


if __name__ == "__main__":
    main()
