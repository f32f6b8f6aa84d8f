"""Layouts of conversations, and what is no conversation."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fourfold.core.errors import UserError
from fourfold.data.readers import Origin
from fourfold.data.records import in_memory, records
from fourfold.data.turns import Turn, conversation

ASKED = (Turn("user", "2 + 2?"), Turn("assistant", "4"))
BRIEF = (Turn("system", "be brief"), *ASKED)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}, ASKED),
        ([{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}], ASKED),
        ({"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]}, ASKED),
        (
            {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}], "system": "be brief"},
            BRIEF,
        ),
        ({"instruction": "2 + 2?", "input": "", "output": "4"}, ASKED),
        ({"instruction": "2 +", "input": "2?", "output": "4"}, (Turn("user", "2 +\n\n2?"), Turn("assistant", "4"))),
        ({"instruction": "2 + 2?", "output": "4", "system": "be brief", "history": []}, BRIEF),
        (
            {"instruction": "and 2 + 3?", "output": "5", "history": [["2 + 2?", "4"]]},
            (*ASKED, Turn("user", "and 2 + 3?"), Turn("assistant", "5")),
        ),
        ({"prompt": "2 + 2?", "completion": "4"}, ASKED),
        (
            {
                "prompt": [{"role": "user", "content": "2 + 2?"}],
                "completion": [{"role": "assistant", "content": "4"}],
            },
            ASKED,
        ),
        ({"question": "2 + 2?", "answer": "4"}, ASKED),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "2 + 2?"}]}, ASKED[1]]}, ASKED),
    ],
)  # fmt: skip
def test_layouts(row: Any, expected: tuple[Turn, ...]) -> None:
    assert conversation(row, "row 1") == expected


def says(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("hello", "row 7: expected an object with messages"),
        ({"text": "hello"}, "row 7: fields text; expected messages, conversations, instruction/output"),
        ({"prompt": "hello"}, "row 7: no field 'completion' or 'response' beside 'prompt'"),
        ({"answer": "4"}, "row 7: no field 'question' beside 'answer'"),
        ({"prompt": 3, "completion": "x"}, "row 7, field prompt: expected text, got int"),
        ({"messages": "hello"}, "row 7, field messages: expected a list of turns, got 'hello'"),
        ({"messages": []}, "row 7: no turns"),
        ({"messages": ["hello"]}, "field messages, turn 1: expected an object with role and content"),
        ({"messages": [{"role": "user"}]}, "field messages, turn 1: no field 'content'"),
        ({"messages": [{"who": "user"}]}, "turn 1: fields who; expected role and content, or from and value"),
        (says(("usr", "hi")), "turn 1: unknown role 'usr'; expected system, user, assistant; did you mean user"),
        (says(("tool", "hi")), "turn 1: unknown role 'tool'"),
        (says(("user", " \n")), r"row 7, turn 1 \(user\): is empty"),
        (says(("user", "a"), ("assistant", None)), r"row 7, turn 2 \(assistant\): is empty"),
        (says(("user", "a"), ("assistant", "b"), ("assistant", "c")), r"turn 3 \(assistant\): two assistant turns in a row"),
        (says(("user", "a"), ("user", "b")), r"turn 2 \(user\): two user turns in a row"),
        (says(("user", "a"), ("system", "b")), r"turn 2 \(system\): a system turn can only be the first"),
        (says(("system", "b"), ("user", "a")), "row 7: no turn of the assistant among its 2"),
        (says(("user", "\ud800"), ("assistant", "b")), "turn 1: half a surrogate pair at character 0"),
        ({"instruction": "a", "output": "b", "history": ["x"]}, "row 7, history 1: expected a pair of texts"),
    ],
)  # fmt: skip
def test_what_is_no_conversation_is_said(row: Any, fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        conversation(row, "row 7")


ROWS = [{"question": "a,\n“b”", "answer": "c"}, {"question": "你好", "answer": "d"}]


def written(folder: Path, name: str) -> Path:
    path = folder / name
    lines = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    if name.endswith(".csv"):
        pl.DataFrame(ROWS).write_csv(path)
    elif name.endswith(".tsv"):
        pl.DataFrame(ROWS).write_csv(path, separator="\t")
    elif name.endswith(".parquet"):
        pl.DataFrame(ROWS).write_parquet(path)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        listed = name.endswith(".json") and not name.startswith("lines")
        path.write_text(json.dumps(ROWS) if listed else lines, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "name",
    ["a.jsonl", "a.json", "lines.json", "lines.txt", "a.jsonl.gz", "a.csv", "a.tsv", "a.parquet"],
)
def test_files_of_rows(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name)
    found = list(records(Origin(str(path), "", path=path)))
    assert [row for _, row in found] == ROWS
    place = {
        "jsonl": "line 3",
        "json": "item 2",
        "gz": "line 3",
        "csv": "line 4",
        "tsv": "line 4",
        "parquet": "row 2",
    }
    if not name.startswith("lines"):
        assert found[1][0] == f"{path}, {place[name.split('.')[-1]]}"


def test_rows_in_memory() -> None:
    columns = {name: [row[name] for row in ROWS] for name in ("question", "answer")}
    for given in (ROWS, columns, pl.DataFrame(ROWS), pl.DataFrame(ROWS).to_pandas(), iter(ROWS)):
        assert [row for _, row in in_memory(given)] == ROWS
    with pytest.raises(UserError, match="columns of different lengths"):
        list(in_memory({"a": [1, 2], "b": [1]}))


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("a.jsonl", '{"a": 1}\n{oh', "a.jsonl, line 2: not JSON"),
        ("a.json", "{oh", "a.json: not JSON"),
        ("a.txt", "hello", "expected a file of rows .*got '.txt'"),
        ("a.csv", "a,b\n1\n", "a.csv, line 2: 1 cells, expected 2"),
        ("a.parquet", "hello", "a.parquet: not a Parquet file"),
        ("a.jsonl", "", "a.jsonl: empty"),
    ],
)
def test_damaged_files_are_said(tmp_path: Path, name: str, text: str, fault: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError, match=fault):
        list(records(Origin(str(path), "", path=path)))
