"""Translation over HTTP: texts, n-best tables, several requests as one, pairs to measure on."""

from __future__ import annotations

from pathlib import Path

import pytest

import fourfold
from fourfold.systems.seq2seq import Sequences
from serving import Client


@pytest.fixture(scope="module")
def translating(tmp_path_factory: pytest.TempPathFactory) -> Path:
    toy, source = Sequences.toy()
    folder = tmp_path_factory.mktemp("translating") / "runs"
    fourfold.fit(toy, source, out=folder / "spell")
    return folder


def test_texts_come_back_line_by_line(client: Client, translating: Path) -> None:
    http = client(translating)
    found = http.post("/runs/spell/translate", json={"text": "12\n\n3", "beam": 2})
    assert found.status_code == 200, found.text
    assert found.json()["text"].count("\n") == 2 and found.json()["text"].split("\n")[1] == ""
    together = http.post("/runs/spell/translate", json={"text": ["12", "3"], "beam": 2}).json()
    assert together["text"].split("\n")[:2] == [found.json()["text"].split("\n")[i] for i in (0, 2)]
    streamed = http.post("/runs/spell/translate", json={"text": "12", "beam": 2, "stream": True})
    assert streamed.status_code == 200 and "event: piece" in streamed.text


def test_the_best_are_rows(client: Client, translating: Path) -> None:
    body = {"text": "12", "nbest": 3}
    rows = client(translating).post("/runs/spell/translate", json=body).json()["rows"]
    assert [row["rank"] for row in rows] == [1, 2, 3]
    wrong = client(translating).post("/runs/spell/translate", json={**body, "sample": True})
    assert wrong.status_code == 422 and "goes with beams" in wrong.text


@pytest.mark.parametrize("source", ["1\tone\n2\ttwo\n", ["1\n2\n", "one\ntwo\n"]])
def test_pairs_are_measured_on(client: Client, translating: Path, source: object) -> None:
    http = client(translating)
    found = http.post("/runs/spell/evaluate", json={"source": source, "beam": 1})
    assert found.status_code == 200, found.text
    assert "chrf" in found.json()["values"] and "2 pairs" in found.json()["notes"][0]
    wrong = http.post("/runs/spell/evaluate", json={"source": ["1\n", "one\ntwo\n"]})
    assert wrong.status_code == 422 and "/tmp" not in wrong.text
    files = [("source", ("t.en", b"1\n2\n")), ("source", ("t.de", b"one\ntwo\n"))]
    assert http.post("/runs/spell/evaluate", files=files).status_code == 200
