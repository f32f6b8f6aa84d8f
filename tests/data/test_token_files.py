"""Long texts' tokens on disk: the same by any number of processes, gone on with after a stop, damage found."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fourfold
from fourfold import api
from fourfold.core.console import Silent, heard, say
from fourfold.core.errors import UserError
from fourfold.core.registry import cache_folder
from fourfold.data import readers, token_files, token_workers, tokens
from fourfold.data.corpus import SPLITS, Part
from fourfold.data.subwords import Subwords
from fourfold.data.text import Text
from fourfold.data.token_workers import encoded_in_order
from fourfold.data.tokens import batches, encode_splits, encoded
from fourfold.data.vocabulary import Bytes, Characters, Vocabulary
from fourfold.data.words import Words

TEXT = "".join(f"line {n} says {7919 * n % 1000}, 今天 {n}.\n" for n in range(600))


def stream(count: int = 30) -> Iterator[Part]:
    for n in range(count):
        split = SPLITS[0 if n % 5 else 1 + n % 2]
        yield Part(split, TEXT[n * 50 : n * 50 + 400], "", True, True, n * 2 // count)


def vocabularies() -> dict[str, Vocabulary]:
    texts = lambda: iter([(TEXT, "")])  # noqa: E731
    return {
        "byte": Bytes(),
        "character": Characters.learn(texts, 20, 1),
        "word": Words.learn(texts, 50, 1),  # most numbers are unknown, and spelled
        "bpe": Subwords.learn(texts, 300, 1, len(TEXT)),
    }


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "BATCH", 1000)


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("unit", ["byte", "character", "word", "bpe"])
def test_in_memory_and_on_disk_are_the_same(unit: str, tmp_path: Path) -> None:
    vocabulary = vocabularies()[unit]
    held, kept = (encode_splits(stream(), vocabulary, p) for p in (None, tmp_path / "made"))
    for split in SPLITS:
        assert np.array_equal(held.tokens[split], kept.tokens[split])
    assert held.measures == kept.measures and np.array_equal(held.counts, kept.counts)
    lines = [
        json.loads(line)
        for line in (tmp_path / "made" / "index.jsonl").read_text("utf-8").splitlines()
    ]
    assert len(lines) == len(list(batches(stream()))) > 5
    assert (
        sum(line.get("train", {"tokens": 0})["tokens"] for line in lines)
        == held.measures.tokens["train"]
    )
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".partial")]


@pytest.mark.parametrize("unit", ["word", "bpe"])
@pytest.mark.parametrize("harm", ["line", "tokens", "flipped", "nothing", "all"])
def test_what_was_written_before_a_stop_is_gone_on_with(
    unit: str, harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary = vocabularies()[unit]
    encode_splits(stream(), vocabulary, tmp_path / "whole")

    def stopped() -> Iterator[Part]:
        for n, part in enumerate(stream()):
            if n == 20:
                raise KeyboardInterrupt
            yield part

    with pytest.raises(KeyboardInterrupt):
        encode_splits(stopped(), vocabulary, tmp_path / "made")
    partial = tmp_path / ".made.partial"
    index, train = partial / "index.jsonl", partial / "train.bin"
    before = len(index.read_bytes().splitlines())
    assert before > 3
    if harm == "line":  # killed in the middle of writing the index
        index.write_bytes(index.read_bytes()[:-7])
    elif harm == "tokens":  # the machine went down before the tokens were on disk
        train.write_bytes(train.read_bytes()[:-100])
    elif harm == "flipped":
        content_ = bytearray(train.read_bytes())
        content_[len(content_) // 2] ^= 1
        train.write_bytes(bytes(content_))
    elif harm == "all":
        shutil.rmtree(partial)
    encoded_again: list[int] = []
    plain = encoded

    def watched(batch: Any, vocabulary: Any) -> Any:
        encoded_again.append(1)
        return plain(batch, vocabulary)

    monkeypatch.setattr(token_workers, "encoded", watched)
    encode_splits(stream(), vocabulary, tmp_path / "made")
    assert content(tmp_path / "made") == content(tmp_path / "whole")
    total = len(list(batches(stream())))
    spared = {"nothing": before, "line": before - 1, "all": 0}
    assert len(encoded_again) == total - spared.get(harm, total - len(encoded_again))
    assert harm == "all" or len(encoded_again) < total


def test_it_says_where_it_goes_on(tmp_path: Path) -> None:
    said: list[str] = []

    class Heard(Silent):
        def say(self, sentence: str) -> None:
            said.append(sentence)

    def broken() -> Iterator[Part]:
        yield from stream(12)
        raise KeyboardInterrupt

    say("nobody hears this")
    with heard(Heard()):
        with pytest.raises(KeyboardInterrupt):
            encode_splits(broken(), Bytes(), tmp_path / "made")
        encode_splits(stream(), Bytes(), tmp_path / "made")
    assert len(said) == 1 and said[0].startswith("Going on with") and said[0].endswith("before.")


@pytest.mark.parametrize("unit", ["word", "bpe"])
def test_processes_give_what_one_gives(unit: str) -> None:
    vocabulary = vocabularies()[unit]
    alone = [pieces for _, pieces in encoded_in_order(batches(stream()), vocabulary)]
    many = list(encoded_in_order(batches(stream()), vocabulary, processes=2))
    assert [b for b, _ in many] == list(batches(stream()))
    for one, (_, other) in zip(alone, many, strict=True):
        assert one.keys() == other.keys()
        for split in one:
            assert np.array_equal(one[split].tokens, other[split].tokens)
            assert one[split][1:] == other[split][1:]


def test_processes_are_for_units_that_have_no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    plain = token_workers._Worker.__init__

    def begin(self: Any, vocabulary: Any) -> None:
        made.append(1)
        plain(self, vocabulary)

    monkeypatch.setattr(token_workers._Worker, "__init__", begin)
    monkeypatch.setattr(token_workers, "FROM", 2)
    monkeypatch.setattr(token_workers, "own_cores", lambda: 2)
    for unit, count in (("bpe", 0), ("word", 2)):
        found = list(encoded_in_order(batches(stream()), vocabularies()[unit]))
        assert len(found) == len(list(batches(stream()))) and len(made) == count


def test_a_process_that_dies_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    plain = token_workers._Worker.__init__

    def begin(self: Any, vocabulary: Any) -> None:
        plain(self, vocabulary)
        made.append(self._process)

    monkeypatch.setattr(token_workers._Worker, "__init__", begin)
    answers = encoded_in_order(batches(stream(600)), Bytes(), processes=2)
    next(answers)
    for process in made:
        process.send_signal(signal.SIGKILL)
    with pytest.raises(UserError, match="killed by signal 9, as where memory runs out"):
        list(answers)
    assert all(process.poll() is not None for process in made)


def test_what_goes_wrong_in_a_process_is_raised_here() -> None:
    class Wrong(Bytes):
        pass

    broken = [[Part("train", 7, "", True, True)]]  # type: ignore[arg-type]
    with pytest.raises((TypeError, AttributeError)):
        list(encoded_in_order(broken, Bytes(), processes=2))
    with pytest.raises(AttributeError, match="local"):  # a vocabulary that cannot be sent
        list(encoded_in_order(batches(stream()), Wrong(), processes=2))


CHILD = """
import sys
from fourfold.data import readers, tokens
readers.MEMORY, tokens.BATCH = 1000, 20_000
from fourfold.data.text import Text
Text(unit="bpe", vocabulary=300, window=16).open(sys.argv[1])
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_killed_in_the_middle_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "corpus").mkdir()
    for n in range(4):
        (tmp_path / "corpus" / f"{n}.txt").write_text(TEXT * (8 + n), encoding="utf-8")
    cache = tmp_path / "cache"
    environment = {
        **os.environ,
        "FOURFOLD_CACHE": str(cache),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path / "corpus")], env=environment
    )
    limit = time.monotonic() + 120
    while not (found := list(cache.glob("tokens/.*.partial/index.jsonl"))) or not found[
        0
    ].read_bytes().count(b"\n"):
        assert time.monotonic() < limit
        if child.poll() is not None:
            pytest.skip("it was done before it was killed")
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait()
    monkeypatch.setenv("FOURFOLD_CACHE", str(cache))
    monkeypatch.setattr(readers, "MEMORY", 1000)
    monkeypatch.setattr(tokens, "BATCH", 20_000)
    options = Text(unit="bpe", vocabulary=300, window=16)
    went_on = options.open(str(tmp_path / "corpus"))
    monkeypatch.setenv("FOURFOLD_CACHE", str(tmp_path / "other"))
    anew = options.open(str(tmp_path / "corpus"))
    for split in SPLITS:
        assert np.array_equal(went_on.tokens(split), anew.tokens(split))
    assert went_on._measures == anew._measures


def test_the_file_that_has_changed_is_named(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for n in range(3):
        (corpus / f"{n}.txt").write_text(TEXT[n * 100 :], encoding="utf-8")
    options = {"layers": 1, "width": 16, "heads": 2, "window": 16, "steps": 2, "data.unit": "byte"}
    fourfold.fit("gpt", str(corpus), out=tmp_path / "run", **options)
    assert fourfold.open(tmp_path / "run").evaluate() is not None
    (corpus / "1.txt").write_text(TEXT[5:], encoding="utf-8")
    with pytest.raises(UserError, match=r"1\.txt is not as it was\)"):
        api.resume(tmp_path / "run")
    with pytest.raises(UserError, match=r"has changed since the fit \(.*1\.txt is not as it was\)"):
        fourfold.open(tmp_path / "run").evaluate()
    (corpus / "1.txt").write_text(TEXT[100:], encoding="utf-8")
    (corpus / "3.txt").write_text("more", encoding="utf-8")
    with pytest.raises(UserError, match=r"3\.txt is new\)"):
        api.resume(tmp_path / "run")
    (corpus / "3.txt").unlink()
    (corpus / "0.txt").unlink()
    with pytest.raises(UserError, match=r"0\.txt is gone\)"):
        api.resume(tmp_path / "run")


def test_one_writes_and_the_others_find_it(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    made: list[int] = []

    def counted() -> Iterator[Part]:
        made.append(1)
        yield from stream()

    with ThreadPoolExecutor(3) as pool:
        futures = [
            pool.submit(encode_splits, counted(), Bytes(), tmp_path / "made") for _ in range(3)
        ]
        found = [future.result() for future in futures]
    assert len(made) == 1
    assert all(np.array_equal(f.tokens["train"], found[0].tokens["train"]) for f in found)


def test_a_folder_of_another_make_is_damaged(tmp_path: Path) -> None:
    encode_splits(stream(), Bytes(), tmp_path / "made")
    (tmp_path / "made" / "train.bin").write_bytes(b"123")
    with pytest.raises(UserError, match="made: damaged .*; delete it and it is made again"):
        token_files.read(tmp_path / "made", np.dtype(np.uint16))
    assert cache_folder()
