"""The same questions closed book, tuned, with retrieval, and after a fact has changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests import scripted

import fourfold
from fourfold.cli import main
from fourfold.core.errors import UserError
from fourfold.selection.closed_book import closed_book

pytest.importorskip("lancedb")


def reads(messages: list[dict[str, str]]) -> str:
    """A model that repeats the first passage that it is shown, and otherwise what it learned long ago."""
    quoted = [line[2:] for line in messages[-1]["content"].splitlines() if line.startswith("| ")]
    return f"{quoted[0]} [1]" if quoted else "The mayor is Ann Old."


def test_what_happens_when_a_fact_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "town.txt").write_text("The mayor is Ann Old.")
    kb = fourfold.index(docs, out=tmp_path / "kb")
    asked = tmp_path / "questions.jsonl"
    with scripted.scripted(scripted.openai(answer=reads)) as server:
        model = f"http://{server.host}/v1#small"
        found = {}
        for mayor in ("Ann Old", "Bob New"):
            (docs / "town.txt").write_text(f"The mayor is {mayor}.")
            fourfold.index(tmp_path / "kb")
            asked.write_text(
                json.dumps({"question": "Who is the mayor?", "answer": f"The mayor is {mayor}."})
            )
            found[mayor] = closed_book(str(asked), closed=model, rag=str(kb.folder))
        main(["compare", str(asked), "--closed-book", model, "--rag", str(kb.folder), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["contenders"].keys() == {"closed book", "retrieval"}
    before, after = (
        {c.name: c.values for c in found[m].contenders} for m in ("Ann Old", "Bob New")
    )
    assert before["closed book"]["exact match"] == before["retrieval"]["exact match"] == 1
    assert after["closed book"]["exact match"] == 0 and after["retrieval"]["exact match"] == 1
    assert before["closed book"]["unsupported"] == after["retrieval"]["unsupported"] == 0
    assert "retrieval comes nearest" in str(found["Bob New"].explanation())
    assert found["Bob New"].markdown().count("\n") == 4


def test_wrong_uses(tmp_path: Path) -> None:
    asked = [{"question": "Who?", "answer": "Ann"}]
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("Ann.")
    kb = fourfold.index(tmp_path / "docs", out=tmp_path / "kb")
    with pytest.raises(UserError, match="expected two ways or more"):
        closed_book(asked, rag=str(kb.folder))
    with pytest.raises(UserError, match="does not converse"):
        closed_book(asked, closed=_ngram(tmp_path))
    with pytest.raises(UserError, match="no question with an answer"):
        closed_book([{"question": "Who?"}], rag=str(kb.folder))


def _ngram(folder: Path) -> str:
    run = fourfold.fit(
        "ngram",
        {"text": ["a b c d e f g h " * 50]},
        out=folder / "ngram",
        order=2,
        **{"data.split": "1,0,0"},
    )
    return str(run.folder)
