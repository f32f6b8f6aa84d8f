"""Questions to measure a knowledge base with: what is asked, what is to be found, what is to be answered."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourfold.core.errors import UserError, nearest
from fourfold.data.readers import Origin, decoded

KEYS = ("question", "answer", "answers", "passage", "context", "document", "source")


@dataclass(frozen=True)
class Question:
    """A question with what is known of its answer."""

    text: str
    answers: tuple[str, ...] = ()
    passage: str = ""
    """Text that answers, or that holds the answer."""
    document: str = ""
    """Name of the document that answers, or the end of its name."""

    @property
    def known(self) -> bool:
        """Whether it can be said that a passage answers it."""
        return bool(self.answers or self.passage or self.document)


def read_questions(source: Any) -> list[Question]:
    """Questions of a file of JSON lines, of SQuAD's JSON, or of rows in memory.

    Raises:
        UserError: there is no such file, a row asks nothing, or has a field of the wrong type.
    """
    if (
        isinstance(source, (list, tuple))
        and len(source) == 1
        and isinstance(source[0], (str, Path))
    ):
        source = source[0]
    if isinstance(source, (str, Path)):
        found = list(_of_file(Path(source)))
        name = str(source)
    elif isinstance(source, Sequence):
        name = "the given questions"
        found = [_of_row(row, f"{name}, row {n}") for n, row in enumerate(source, 1)]
    else:
        raise TypeError(f"questions are a file or rows, got {type(source).__name__}")
    if not found:
        raise UserError(f"{name}: no question in it")
    return found


def _of_file(path: Path) -> Iterator[Question]:
    if not path.is_file():
        beside = [str(p) for p in path.parent.glob("*")] if path.parent.is_dir() else []
        raise UserError(f"{path}: no such file{nearest(str(path), beside)}")
    text = "".join(decoded(Origin(str(path), "question", path=path)))
    if text.lstrip().startswith("{") and '"paragraphs"' in text:
        yield from _squad(_parsed(text, str(path)))
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield _of_row(_parsed(line, where), where)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error})") from None


def _squad(tree: Any) -> Iterator[Question]:
    """The answerable questions of SQuAD's form (Rajpurkar et al. 2016)."""
    for part in (p for article in tree["data"] for p in article["paragraphs"]):
        for asked in part["qas"]:
            if not asked.get("is_impossible"):
                answers = tuple(dict.fromkeys(a["text"] for a in asked["answers"]))
                yield Question(asked["question"].strip(), answers, part["context"])


def _of_row(row: Any, where: str) -> Question:
    if isinstance(row, Question):
        return row
    if not isinstance(row, dict):
        raise UserError(
            f'{where}: expected an object as {{"question": "...", "answer": "..."}}, got {row!r:.40}'
        )
    if not isinstance(row.get("question"), str) or not row["question"].strip():
        raise UserError(f"{where}: no field 'question'{nearest('question', map(str, row))}")
    answers = row.get("answers", row.get("answer", ()))
    if isinstance(answers, dict):  # Hugging Face's form of SQuAD
        answers = answers.get("text", ())
    many = [answers] if isinstance(answers, str) else answers
    if not isinstance(many, (list, tuple)) or not all(isinstance(a, str) for a in many):
        raise UserError(
            f"{where}, field answers: expected text or a list of texts, got {answers!r:.40}"
        )
    texts = {}
    for name, keys in (("passage", ("passage", "context")), ("document", ("document", "source"))):
        value = next((row[k] for k in keys if row.get(k) is not None), "")
        if not isinstance(value, str):
            raise UserError(f"{where}, field {name}: expected text, got {type(value).__name__}")
        texts[name] = value.strip()
    return Question(row["question"].strip(), tuple(a for a in many if a.strip()), **texts)
