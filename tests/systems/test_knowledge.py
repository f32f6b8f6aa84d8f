"""Knowledge bases: what changes is read again, what readers see is whole, and the same whichever way it came about."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests import documents as made

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.data.documents.gathering import sole_writer
from fourfold.data.documents.store import _first
from fourfold.tasks.retrieving import parts

pytest.importorskip("lancedb")

TEXTS = {
    "cats.md": "# Cats\n\nCats sleep for most of the day. At night they hunt mice.",
    "dogs.txt": "Dogs walk two hours a day.\n\nThey bark at the postman.",
    "mao.txt": "猫在白天睡觉。它们晚上在花园里捉老鼠。",
}


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def rows(run: Run) -> list[dict[str, Any]]:
    return parts(run)[0].frame.to_dicts()


def same_index(a: Run, b: Run) -> None:
    """Two knowledge bases hold and find the same, to the last bit."""
    assert rows(a) == rows(b)
    left, right = a.model.state_dict(), b.model.state_dict()
    for name in left:
        if name != "versions":
            assert np.array_equal(left[name].numpy(), right[name].numpy()), name


def test_find_names_file_line_and_heading(docs: Path) -> None:
    kb = fourfold.index(docs, out=docs.parent / "kb")
    found = kb.find("who hunts mice at night?", top=2)
    assert found["source"][0] == "docs/cats.md:1" and found["heading"][0] == "Cats"
    assert (docs / "cats.md").read_text()[found["begin"][0] : found["end"][0]] == found["text"][0]
    assert kb.find("谁捉老鼠？", top=1)["source"][0] == "docs/mao.txt:1"
    assert kb.find("postman")["source"].to_list() == ["docs/dogs.txt:1"]
    assert len(kb.find("quantum chromodynamics")) == 0
    again = fourfold.open(docs.parent / "kb")
    assert again.find("mice").equals(kb.find("mice"))


def test_filters(docs: Path) -> None:
    (docs / "rows.jsonl").write_text(
        '{"text": "Mice eat cheese.", "year": 1990, "by": "Ann"}\n{"text": "Mice run.", "year": 2020}'
    )
    kb = fourfold.index(docs, out=docs.parent / "kb")

    def sources(*where: str) -> list[str]:
        return sorted(kb.find("mice", where=list(where))["source"])

    assert sources() == ["docs/cats.md:1", "docs/rows.jsonl:1", "docs/rows.jsonl:2"]
    assert sources("document=*.md") == ["docs/cats.md:1"]
    assert sources("year>=2000") == ["docs/rows.jsonl:2"] and sources("by=ann") == [
        "docs/rows.jsonl:1"
    ]
    assert sources("kind=row", "by!=Ann") == ["docs/rows.jsonl:2"]
    (docs / "cats.md").rename(docs / "cats [1].md")
    fourfold.index(docs.parent / "kb")
    kb = fourfold.open(docs.parent / "kb")
    assert sources("document=docs/cats [1].md") == ["docs/cats [1].md:1"]
    with pytest.raises(UserError, match="yeer: no passage has it; did you mean year?"):
        kb.find("mice", where=["yeer=1"])
    with pytest.raises(UserError, match="expected a condition as"):
        kb.find("mice", where=["nonsense"])
    with pytest.raises(UserError, match="nothing is asked"):
        kb.find("  ")


def test_only_what_changed_is_read_again(docs: Path) -> None:
    place = docs.parent / "kb"
    fourfold.index(docs, out=place)
    (docs / "dogs.txt").write_text("Dogs like bones.")
    (docs / "cats.md").unlink()
    (docs / "fish.txt").write_text("Fish swim.")
    kb = fourfold.index(place)
    assert kb.data.summary()["changes"] == "1 added, 1 changed, 1 removed, 1 as they were"
    assert len(kb.find("postman cats")) == 0 and len(kb.find("bones fish")) == 2
    same_index(kb, fourfold.index(docs, out=docs.parent / "anew"))


steps = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["", "Cats sleep.", "Dogs.\n\nBirds sing.", "Cats sleep. Fish."])),
                 min_size=1, max_size=6)  # fmt: skip


@settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=steps)
def test_an_incremental_index_equals_one_built_anew(
    tmp_path_factory: Any, steps: list[tuple[str, str]]
) -> None:
    base = tmp_path_factory.mktemp("steps")
    docs, place = base / "docs", base / "kb"
    docs.mkdir()
    (docs / "always.txt").write_text("Always here.")
    fourfold.index(docs, out=place)
    for name, text in steps:
        path = docs / f"{name}.txt"
        path.write_text(text) if text else path.unlink(missing_ok=True)
        kb = fourfold.index(place)
    same_index(kb, fourfold.index(docs, out=base / "anew"))


def test_duplicates_are_left_out_and_counted_and_come_back(docs: Path) -> None:
    (docs / "a-copy.md").write_text(TEXTS["cats.md"])
    kb = fourfold.index(docs, out=docs.parent / "kb")
    assert kb.data.summary()["duplicates"] == 1
    assert kb.find("mice")["source"].to_list() == ["docs/a-copy.md:1"]
    assert any("1 passages say what another says" in note for note in kb.notes)
    (docs / "a-copy.md").unlink()
    kb = fourfold.index(docs.parent / "kb")
    assert kb.find("mice")["source"].to_list() == ["docs/cats.md:1"]


def test_undo_goes_back_state_by_state(docs: Path) -> None:
    place = docs.parent / "kb"
    states = [rows(fourfold.index(docs, out=place))]
    for n in range(2):
        (docs / f"new{n}.txt").write_text(f"Number {n} is new.")
        states.append(rows(fourfold.index(place)))
    assert rows(fourfold.index(place, undo=True)) == states[1]
    assert rows(fourfold.index(place, undo=True)) == states[0]
    with pytest.raises(UserError, match="no state before this one"):
        fourfold.index(place, undo=True)
    assert rows(fourfold.open(place)) == states[0]
    assert rows(fourfold.index(place)) == states[2]


def test_sources_are_added_and_removed(docs: Path, tmp_path: Path) -> None:
    more = tmp_path / "more"
    more.mkdir()
    (more / "fish.txt").write_text("Fish swim.")
    place = tmp_path / "kb"
    fourfold.index(docs, out=place)
    kb = fourfold.index(more, out=place)
    assert len(kb.find("fish mice")) == 2
    fourfold.index(place, undo=True)
    assert len(fourfold.index(place).find("fish mice")) == 1  # the source is gone too
    fourfold.index(more, out=place)
    fourfold.index(place, remove=[more])
    fourfold.index(place, undo=True)
    assert len(fourfold.index(place).find("fish mice")) == 2  # and here it is back
    kb = fourfold.index(place, remove=[docs])
    assert len(kb.find("fish mice")) == 1
    with pytest.raises(UserError, match="not among its sources"):
        fourfold.index(place, remove=[docs])
    with pytest.raises(UserError, match="nothing would be left"):
        fourfold.index(place, remove=[more])


def test_names_that_two_files_share_are_said(docs: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / docs.name
    other.mkdir(parents=True)
    (other / "cats.md").write_text("Lions are cats too.")
    kb = fourfold.index([docs, other], out=tmp_path / "kb")
    (note,) = (n for n in kb.data.summary()["notes"] if "several files" in n)
    assert note.startswith("1 names stand for several files each, as docs/cats.md")


def test_a_reader_sees_the_old_state_while_a_writer_works(docs: Path) -> None:
    place = docs.parent / "kb"
    fourfold.index(docs, out=place)
    reader = fourfold.open(place)
    reader.model  # noqa: B018  # opened: it knows which passages it is of
    (docs / "cats.md").write_text("Cats now do nothing.")
    fourfold.index(place)
    assert reader.find("hunt mice")["source"].to_list() == ["docs/cats.md:1"]
    assert len(fourfold.open(place).find("hunt mice")) == 0


def test_bad_files_are_listed_and_the_rest_is_indexed(docs: Path) -> None:
    (docs / "binary.txt").write_bytes(b"\x7fELF\0\0\0")
    (docs / "scan.pdf").write_bytes(made.pdf([""]))
    (docs / "rows.jsonl").write_text("{")
    (docs / "empty.md").write_text("")
    kb = fourfold.index(docs, out=docs.parent / "kb")
    (note,) = [n for n in kb.notes if "left out" in n]
    for told in ("binary.txt (binary, not text: an ELF program)", "scan.pdf (no text on its page; scanned? recognize its text (OCR) first)",
                 "rows.jsonl (line 1: not JSON", "empty.md (empty)", "4 documents were left out"):  # fmt: skip
        assert told in note
    assert kb.data.summary()["documents"] == 3


@pytest.mark.parametrize("what", ["empty", "binary"])
def test_nothing_to_index(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    if what == "binary":
        (folder / "a.txt").write_bytes(b"\0\0")
    told = {"empty": "docs: no document there", "binary": "none of the documents holds text"}[what]
    with pytest.raises(UserError, match=told):
        fourfold.index(folder, out=tmp_path / "kb")


def test_wrong_uses_are_said(docs: Path, tmp_path: Path) -> None:
    place = tmp_path / "kb"
    with pytest.raises(UserError, match="--undo is for a knowledge base"):
        fourfold.index(docs, out=place, undo=True)
    with pytest.raises(UserError, match="expected files or folders"):
        fourfold.index(out=place)
    with pytest.raises(UserError, match="dcs: no such file.*did you mean"):
        fourfold.index(tmp_path / "dcs", out=place)
    fourfold.index(docs, out=place)
    with pytest.raises(UserError, match="was made with data.words 160, not 80"):
        fourfold.index(place, words=80)
    with pytest.raises(
        UserError, match="--data: overlap 30: expected less than words, 20|overlap 30"
    ):
        fourfold.index(docs, out=tmp_path / "other", words=20)
    ngram = fourfold.fit(
        "ngram",
        {"text": ["a b c d e f g h " * 50]},
        out=tmp_path / "ngram",
        order=2,
        **{"data.split": "1,0,0"},
    )
    with pytest.raises(UserError, match="is a run of ngram"):
        fourfold.index(docs, out=ngram.folder)


def test_another_format_version_is_refused(docs: Path, tmp_path: Path) -> None:
    place = tmp_path / "kb"
    fourfold.index(docs, out=place)
    toml = place / "system.toml"
    toml.write_text(toml.read_text().replace("format = 1", "format = 99"))
    with pytest.raises(UserError, match="written by a newer fourfold"):
        fourfold.index(place)


def test_missing_passages_are_said_and_made_again(docs: Path, tmp_path: Path) -> None:
    place = tmp_path / "kb"
    fourfold.index(docs, out=place)
    for path in (place / "data").glob("passages-*"):
        path.unlink()
    with pytest.raises(UserError, match="missing; `fourfold index"):
        fourfold.open(place).find("mice")
    assert len(fourfold.index(place).find("mice")) == 1


def test_two_writers_at_once(docs: Path, tmp_path: Path) -> None:
    place = tmp_path / "kb"
    fourfold.index(docs, out=place)
    before = rows(fourfold.open(place))
    (docs / "cats.md").unlink()
    with sole_writer(
        place / "data"
    ):  # a lock is of an open file, so that one process can stand for two
        with pytest.raises(UserError, match=rf"another process \({os.getpid()}\) is indexing it"):
            fourfold.index(place)
    assert rows(fourfold.open(place)) == before
    assert len(rows(fourfold.index(place))) == len(before) - 1


def test_a_store_of_objects(docs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a folder: read, read again, gone back, refused with a sentence where there is none."""
    server = pytest.importorskip(
        "moto.server", reason="moto, an object store for tests, is not installed"
    )
    boto3 = pytest.importorskip("boto3")
    held = server.ThreadedMotoServer(port=0, verbose=False)
    held.start()
    try:
        host, port = held.get_host_and_port()
        address = f"http://{host}:{port}"
        for name, value in {
            "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true", "AWS_ENDPOINT": address,
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        boto3.client("s3", endpoint_url=address).create_bucket(Bucket="bucket")
        kb = fourfold.index(docs, out=tmp_path / "kb", store="s3://bucket/kb")
        plain = fourfold.index(docs, out=tmp_path / "plain")
        same_index(kb, plain)
        (docs / "mao.txt").unlink()
        kb = fourfold.index(tmp_path / "kb")
        assert not kb.find("猫", top=3)["source"].to_list()
        kb = fourfold.index(tmp_path / "kb", undo=True)
        assert kb.find("猫", top=3)["source"].to_list()
        with pytest.raises(
            UserError,
            match=r"s3://none/kb: this store cannot be opened \(The specified bucket does not exist",
        ):
            fourfold.index(docs, out=tmp_path / "other", store="s3://none/kb")
    finally:
        held.stop()


def test_what_an_object_store_says_is_one_sentence() -> None:
    said = 'Invalid input, IO { uri: Some(http://127.0.0.1:5999/bucket?list=2), message: "Connection refused" })) } })'
    assert _first(ValueError(said)) == "Connection refused, http://127.0.0.1:5999"
    assert _first(ValueError("one\ntwo")) == "one" and _first(OSError()) == "OSError"


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.2, 0.6, 1.2, 2.0])
def test_killed_in_the_middle_nothing_is_lost_or_doubled(
    docs: Path, tmp_path: Path, delay: float
) -> None:
    """The old state is whole for readers, and the next index ends at what one built anew is."""
    place = tmp_path / "kb"
    fourfold.index(docs, out=place)
    before = rows(fourfold.open(place))
    for n in range(200):
        (docs / f"more{n}.txt").write_text(
            "\n\n".join(f"Sentence {n} {m} of many." for m in range(200))
        )
    (docs / "cats.md").write_text("Cats changed.")
    code = f"import fourfold\nprint('go', flush=True)\nfourfold.index({str(place)!r})"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=os.environ)
    assert child.stdout is not None
    child.stdout.readline()
    time.sleep(delay)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    seen = rows(fourfold.open(place))
    whole = fourfold.index(docs, out=tmp_path / "anew")
    assert seen in (before, rows(whole))
    same_index(fourfold.index(place), whole)


def test_an_interrupted_batch_goes_on(
    docs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole documents are written at a time; stopped between removing the old and adding the new, nothing is lost."""
    from fourfold.data.documents import gathering
    from fourfold.data.documents.store import Store

    place = tmp_path / "kb"
    fourfold.index(docs, out=place)
    before = rows(fourfold.open(place))
    for name in ("cats.md", "dogs.txt"):
        (docs / name).write_text(f"All new in {name}.")
    monkeypatch.setattr(gathering, "ROWS", 1)
    add, calls = Store.add, []

    def stopped(store: Store, *arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        add(store, *arguments)

    monkeypatch.setattr(Store, "add", stopped)
    with pytest.raises(KeyboardInterrupt):
        fourfold.index(place)
    assert rows(fourfold.open(place)) == before
    monkeypatch.setattr(Store, "add", add)
    kb = fourfold.index(place)
    assert kb.data.summary()["changes"] == "1 added, 2 as they were"
    same_index(kb, fourfold.index(docs, out=tmp_path / "anew"))


def test_text_in_memory(tmp_path: Path) -> None:
    kb = fourfold.fit(
        "knowledge", {"text": ["Cats sleep.", "Dogs walk."], "name": ["c", "d"]}, out=False
    )
    assert kb.find("dogs")["source"].to_list() == ["d:1"]
    saved = fourfold.fit("knowledge", {"text": ["Cats sleep."]}, out=tmp_path / "kb")
    assert len(saved.find("cats")) == 1
    with pytest.raises(UserError, match="was made of texts in memory"):
        fourfold.index(tmp_path / "kb")


def test_run_folders_below_are_left_out(docs: Path) -> None:
    fourfold.index(docs, out=docs / "kb")
    kb = fourfold.index(docs / "kb")
    assert kb.data.summary()["documents"] == 3
    assert any("1 run folders in it left out" in note for note in kb.notes)


def test_command_line(
    docs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fourfold.cli import main

    monkeypatch.chdir(docs.parent)
    main(["index", "docs/", "--out", "kb"])
    assert "3 documents (3 added), 3 passages in kb" in capsys.readouterr().out
    main(["find", "kb", "postman", "--json"])
    assert json.loads(capsys.readouterr().out)["source"] == "docs/dogs.txt:1"
    main(["index", "kb", "--json"])
    assert json.loads(capsys.readouterr().out)["changes"] == "3 as they were"
    with pytest.raises(SystemExit):
        main(["index", "docs", "--out", "kb", "--words", "80"])
    assert "was made with data.words" in capsys.readouterr().err
