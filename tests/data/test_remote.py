"""Texts at addresses of other machines, which fsspec's memory stands for."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

import fourfold
from fourfold import api
from fourfold.core.errors import UserError
from fourfold.data.remote import brought, is_remote
from fourfold.data.text import Text

TEXT = "".join(f"line {n} says {7919 * n % 1000}.\n" for n in range(300))


@pytest.fixture(autouse=True)
def held(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> fsspec.AbstractFileSystem:
    monkeypatch.setenv("FOURFOLD_CACHE", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for n in range(3):
        memory.pipe_file(f"/corpus/{n}.txt", TEXT[n * 10 :].encode())
    memory.pipe_file("/corpus/more/x.jsonl", b'{"text": "one more"}\n')
    return memory


@pytest.mark.parametrize(
    ("name", "remote"),
    [("s3://a/b", True), ("memory://x", True), ("a/b.txt", False), ("C:\\x", False), ("file:///x", False), ("it: a://b c", False)],
)  # fmt: skip
def test_what_is_an_address(name: str, remote: bool) -> None:
    assert is_remote(name) == remote


def test_files_folders_and_patterns(tmp_path: Path) -> None:
    assert [a for a, _ in brought("memory://corpus/1.txt")] == ["memory:///corpus/1.txt"]
    assert len(brought("memory://corpus/*.txt")) == 3
    assert [p.name for _, p in brought("memory://corpus")] == ["0.txt", "1.txt", "2.txt", "x.jsonl"]
    local = tmp_path / "corpus"
    for address, path in brought("memory://corpus"):
        place = local / address.removeprefix("memory:///corpus/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    options = Text(unit="byte", window=16)
    here, there = (options.open(source) for source in (str(local), "memory://corpus"))
    assert here.fingerprint == there.fingerprint
    assert list(there.digests) == [a for a, _ in brought("memory://corpus")]


def test_a_file_is_brought_once_and_again_when_it_has_changed(
    held: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    plain = type(held).get_file

    def watched(self: object, name: str, *more: object, **options: object) -> object:
        asked.append(name)
        return plain(self, name, *more, **options)

    monkeypatch.setattr(type(held), "get_file", watched)
    (_, first), (_, second) = (brought("memory://corpus/0.txt")[0] for _ in range(2))
    assert first == second and len(asked) == 1
    held.pipe_file("/corpus/0.txt", b"other text")
    (_, third) = brought("memory://corpus/0.txt")[0]
    assert third != first and third.read_text() == "other text" and len(asked) == 2


def test_a_fit_goes_on_with_them_and_says_which_has_changed(
    held: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    options = {"layers": 1, "width": 16, "heads": 2, "window": 16, "steps": 2, "data.unit": "byte"}
    run = fourfold.fit("gpt", "memory://corpus/*.txt", out=tmp_path / "run", **options)
    assert run.sources == ["memory://corpus/*.txt"] or run.sources == "memory://corpus/*.txt"
    assert fourfold.open(tmp_path / "run").evaluate() is not None
    held.pipe_file("/corpus/1.txt", b"other text")
    with pytest.raises(UserError, match=r"corpus/1\.txt is not as it was"):
        api.resume(tmp_path / "run")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("memory://corpus/9.txt", "no such file there"),
        ("memory://corpus/*.csv", "no file matches"),
        ("wizard://x/y", "wizard"),
    ],
)
def test_what_is_not_there_is_said(address: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Text(unit="byte", window=16).open(address)


def test_part_of_a_file_is_none(
    held: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(self: object, name: str, place: str, **options: object) -> None:
        Path(place).write_bytes(b"half")

    monkeypatch.setattr(type(held), "get_file", cut)
    with pytest.raises(UserError, match="4 bytes came of"):
        brought("memory://corpus/0.txt")
    monkeypatch.undo()
