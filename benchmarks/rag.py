"""Retrieval on questions with known paragraphs: SQuAD 2.0 (half of its development set), XQuAD in English, Chinese, German.

    python -m benchmarks.rag quality

Each paragraph is a passage of its own, each answerable question is asked once. recall@k is the share of questions whose
paragraph is among the first k.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fourfold
from benchmarks.side_by_side import data_file, keep
from fourfold.core.run import Run
from fourfold.tasks.retrieving import retrieve

SETS = {
    "squad": "squad2-dev-half/dev-v2.0.json.gz", "xquad en": "xquad/xquad.en.json.gz",
    "xquad zh": "xquad/xquad.zh.json.gz", "xquad de": "xquad/xquad.de.json.gz",
}  # fmt: skip
AT = (1, 5, 20)


class Question(NamedTuple):
    """A question, the paragraph that answers it, and the answers that people gave."""

    text: str
    paragraph: int
    answers: tuple[str, ...]


def read(name: str) -> tuple[list[str], list[Question]]:
    """Different paragraphs of a set, and its answerable questions."""
    tree = json.loads(gzip.decompress(data_file(SETS[name]).read_bytes()))
    numbers: dict[str, int] = {}
    questions = []
    for part in (p for article in tree["data"] for p in article["paragraphs"]):
        number = numbers.setdefault(part["context"].strip(), len(numbers))
        for asked in part["qas"]:
            if not asked.get("is_impossible"):
                answers = tuple(dict.fromkeys(a["text"] for a in asked["answers"]))
                questions.append(Question(asked["question"].strip(), number, answers))
    return list(numbers), questions


def knowledge(folder: Path, paragraphs: Sequence[str], **options: Any) -> Run:
    """A knowledge base with a passage for each paragraph, numbered by its line."""
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": p}) + "\n" for p in paragraphs), encoding="utf-8")
    options = {"words": 100_000, "overlap": 0, **options}
    return fourfold.index(rows, out=folder / "kb", **options)


def ranks(run: Run, questions: Sequence[Question], **options: Any) -> np.ndarray:
    """At which place each question's paragraph is found; infinite where it is not among the first."""
    found = np.full(len(questions), np.inf)
    for n, question in enumerate(questions):
        for place, some in enumerate(retrieve(run, question.text, max(AT), **options), 1):
            if some.line == question.paragraph + 1:
                found[n] = place
                break
    return found


def measured(places: np.ndarray) -> dict[str, float]:
    """recall@k and the mean reciprocal place."""
    recalls = {f"recall@{k}": round(float((places <= k).mean()), 4) for k in AT}
    return {**recalls, "mrr": round(float((1 / places).mean()), 4)}


def quality(sets: Sequence[str]) -> None:
    """How often each way of retrieval finds the paragraph that answers."""
    for name in sets:
        paragraphs, questions = read(name)
        with tempfile.TemporaryDirectory() as folder:
            run = knowledge(Path(folder), paragraphs)
            result: dict[str, Any] = {"paragraphs": len(paragraphs), "questions": len(questions)}
            result["bm25"] = measured(ranks(run, questions, how="bm25"))
        print(name, json.dumps(result), flush=True)
        keep("rag", {f"quality, {name}": result})


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["quality"])
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS))
    given = parser.parse_args()
    quality(given.sets)


if __name__ == "__main__":
    main()
