"""Compression: any bytes come back, what is written is what is scored, and nothing wrong is ever expanded."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.data.spelling import Spelling
from fourfold.data.text import Text
from fourfold.data.vocabulary import Vocabulary
from fourfold.optimizers.gradient import Gradient
from fourfold.systems.gpt import GPT
from fourfold.tasks import archive
from fourfold.tasks.compression import cut, decode, encode
from fourfold.tasks.reader import Reader

LESSON = "the cat sat on the mat.\nthe dog sat on the log.\n"


class Pairs(Reader):
    """A bigram with add-one counts."""

    def __init__(self, vocabulary: Vocabulary, tokens: np.ndarray) -> None:
        self.vocabulary = vocabulary
        counts = np.full((len(vocabulary), len(vocabulary)), 0.1)
        np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
        self.table = torch.from_numpy(np.log(counts / counts.sum(1, keepdims=True)))

    def start(self, rows: int = 1) -> Tensor:
        return torch.full((rows,), self.vocabulary.end)

    def next(self, state: Tensor) -> Tensor:
        return self.table[state]

    def push(self, state: Tensor, tokens: Tensor) -> Tensor:
        return tokens


def reader(unit: Any) -> Pairs:
    data = Text(window=8, unit=unit).open({"text": [LESSON * 30]})
    return Pairs(data.vocabulary, data.tokens("train").astype(np.int64))


READERS = {unit: reader(unit) for unit in ("byte", "character", "word", "space", "bpe")}


def through(model: Reader, data: bytes, rows: int) -> tuple[bytes, int]:
    """What comes back, and the length of the body."""
    from fourfold.tasks.compressing import _sizes

    pieces = cut(data, model.vocabulary)
    assert b"".join(piece.raw for piece in pieces) == data
    body, stored = encode(model, pieces, rows, lambda *_: None)
    return decode(model, body, _sizes(pieces), stored, rows, lambda *_: None), len(body)


lines = st.lists(
    st.sampled_from(
        [
            LESSON,
            "the cat\n",
            " the  cat \n",
            "zebra ",
            "龍が\n",
            "<unk> ",
            "\r\n",
            "\u00a0",
            "\x00",
        ]
        + ["the dog sat on the " * 5, "<|end|>", "🙂", "\t"]
    ),
    max_size=12,
).map(lambda found: "".join(found).encode())
anything = st.one_of(
    st.binary(max_size=200),
    lines,
    st.lists(st.one_of(lines, st.binary(max_size=80)), max_size=4).map(b"".join),
    st.text(st.characters(codec="utf-8"), max_size=80).map(str.encode),
)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(sorted(READERS)), anything, st.integers(1, 7))
@example("space", b" the  cat \n" * 9 + b"the cat sat\n" * 9, 3)
@example("word", b"", 1)
@example("word", b"\xff", 2)
@example("bpe", b"\xed\xa0\x80" + LESSON.encode() * 2, 2)
@example("character", LESSON.encode() * 3 + b"\x80" + LESSON.encode() * 3, 5)
def test_any_bytes_come_back(unit: str, data: bytes, rows: int) -> None:
    assert through(READERS[unit], data, rows)[0] == data


def test_bytes_of_several_blocks_come_back() -> None:
    data = np.random.default_rng(0).integers(0, 4, 150_000).astype(np.uint8) * 64 + 63
    back, size = through(READERS["word"], data.tobytes(), 1)
    assert back == data.tobytes() and size < len(data) * 0.27


def test_random_bytes_do_not_grow() -> None:
    data = np.random.default_rng(0).integers(0, 256, 5000).astype(np.uint8).tobytes()
    back, size = through(READERS["word"], data, 1)
    assert back == data and size <= len(data) + 8


@pytest.mark.parametrize("rows", [1, 7])
def test_what_is_written_is_what_is_scored(rows: int) -> None:
    """Surprise of the tokens and spelling of the unknown ones, to within 1% and a word a row."""
    model = READERS["word"]
    text = (LESSON * 20 + "a zebra sat on the quay. ") * 3
    tokens, _, spelled = model.vocabulary.encode_spelled([text])
    nats = model.surprises(np.concatenate([[model.vocabulary.end], tokens.astype(np.int64)]))
    bits = nats.sum() / np.log(2) + Spelling(model.vocabulary).bits(spelled)
    assert len(spelled) >= 9
    _, size = through(model, text.encode(), rows)
    assert 8 * size == pytest.approx(bits, rel=0.01, abs=16 + 24 * (rows - 1))


def test_an_impossible_token_is_still_written() -> None:
    model = reader("word")
    model.table[:] = float("-inf")
    model.table[:, 3] = 0.0
    data = b"the cat sat on the mat."
    assert through(model, data, 1)[0] == data


def test_a_model_that_says_nonsense_is_refused() -> None:
    model = reader("word")
    model.table += 1
    with pytest.raises(ValueError, match="their sum is not 1"):
        through(model, LESSON.encode(), 1)


# --- runs and files ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    toy, _ = GPT.toy()
    update = {
        "data": Text(unit="word", window=16, batch=16),
        "optimizer": Gradient(lr=3e-3, steps=40, precision="float32"),
    }
    folder = tmp_path_factory.mktemp("compression") / "run"
    return fourfold.fit(toy.model_copy(update=update), {"text": [LESSON * 60]}, out=folder)


def test_files_and_what_is_never_written_over(run: Run, tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_bytes(LESSON.encode() * 8)
    packed = run.compress(text)
    assert packed == tmp_path / "a.txt.ff"
    with pytest.raises(UserError, match="a.txt.ff: is there already"):
        run.compress(text)
    assert run.expand(packed) == text  # the original is there, and it is the same
    text.write_bytes(b"other")
    with pytest.raises(UserError, match="a.txt: is there already"):
        run.expand(packed)
    assert text.read_bytes() == b"other"
    back = run.expand(packed, out=tmp_path / "b.txt")
    assert back.read_bytes() == LESSON.encode() * 8
    with pytest.raises(UserError, match="no such file.*a.txt.ff"):
        run.expand(tmp_path / "a.txt.f")
    with pytest.raises(UserError, match="is a folder"):
        run.compress(text, out=tmp_path)


@settings(
    deadline=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(anything)
def test_a_network_gives_back_any_bytes(run: Run, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    packed = run.compress(tmp_path / "x", out=tmp_path / "x.ff")
    back = run.expand(packed, out=tmp_path / "y")
    assert back.read_bytes() == data


def test_a_network_writes_what_it_scores(run: Run, tmp_path: Path) -> None:
    text = (LESSON * 40 + "a zebra sat on the quay.\n") * 2
    (tmp_path / "x").write_text(text)
    packed = archive.read(run.compress(tmp_path / "x").read_bytes(), "x")
    bits = run.score(text)["bits_per_byte"] * len(text)
    assert 8 * len(packed.body) == pytest.approx(bits, rel=0.01, abs=16)


def test_every_flipped_byte_and_every_cut_is_found(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("the cat sat on the log. zebra")
    whole = run.compress(tmp_path / "x").read_bytes()
    wrong = tmp_path / "wrong.ff"
    for place in range(len(whole)):
        for data in (whole[:place], whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]):
            wrong.write_bytes(data)
            with pytest.raises(UserError, match="cut short|damaged|not a file that fourfold"):
                run.expand(wrong)
    assert not (tmp_path / "wrong").exists()


def test_a_wrong_body_with_a_right_checksum_is_found(run: Run, tmp_path: Path) -> None:
    """Should the model ever say something else than it said: a sentence, and no file."""
    import dataclasses

    (tmp_path / "x").write_text(LESSON * 4 + "zebra")
    found = archive.read(run.compress(tmp_path / "x").read_bytes(), "x")
    for body in (found.body[:5], bytes(len(found.body)), b"\xff" * len(found.body), b""):
        made = dataclasses.replace(found, body=body).content()
        (tmp_path / "wrong.ff").write_bytes(made)
        with pytest.raises(UserError, match="nothing was written"):
            run.expand(tmp_path / "wrong.ff")
    assert not (tmp_path / "wrong").exists()


def test_another_run_build_or_number_of_threads_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").write_text(LESSON)
    packed = run.compress(tmp_path / "x")
    toy, source = GPT.toy()
    other = fourfold.fit(toy, source, out=False)
    with pytest.raises(UserError, match="compressed with another run"):
        other.expand(packed, out=tmp_path / "y")
    here = archive.place(run.device)
    for key, value, hint in (
        ("threads", 64, "here it is 64; set OMP_NUM_THREADS="),
        ("torch", "0.1", "torch .*here it is 0.1"),
        ("processor", "other", "processor .*here it is other"),
    ):
        monkeypatch.setattr(archive, "place", lambda _, k=key, v=value: {**here, k: v})
        with pytest.raises(UserError, match=hint):
            run.expand(packed, out=tmp_path / "y")
    assert not (tmp_path / "y").exists()


def test_a_newer_format_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").write_text(LESSON)
    monkeypatch.setattr(archive, "FORMAT", 9)
    packed = run.compress(tmp_path / "x")
    monkeypatch.undo()
    with pytest.raises(UserError, match="newer fourfold .format 9"):
        run.expand(packed, out=tmp_path / "y")


def test_pipes(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Pipe:
        def __init__(self, data: bytes = b"") -> None:
            self.buffer = io.BytesIO(data)

    out = Pipe()
    monkeypatch.setattr(sys, "stdin", Pipe(LESSON.encode()))
    monkeypatch.setattr(sys, "stdout", out)
    run.compress(Path("-"), out=Path("-"))
    back = Pipe()
    monkeypatch.setattr(sys, "stdin", Pipe(out.buffer.getvalue()))
    monkeypatch.setattr(sys, "stdout", back)
    run.expand(Path("-"), out=Path("-"))
    monkeypatch.undo()
    assert back.buffer.getvalue() == LESSON.encode()
    monkeypatch.setattr(sys, "stdin", Pipe(b"x"))
    with pytest.raises(UserError, match="--out"):
        run.compress(Path("-"))


def test_across_processes(run: Run, tmp_path: Path) -> None:
    """Compressed by one process, expanded by another, through the command line."""
    data = LESSON.encode() * 20 + b"\xff\xfe odd" + "龍と zebra\n".encode() * 9
    (tmp_path / "x.txt").write_bytes(data)
    command = [sys.executable, "-m", "fourfold"]
    for words in (
        ["compress", str(run.folder), str(tmp_path / "x.txt")],
        ["expand", str(run.folder), str(tmp_path / "x.txt.ff"), "--out", str(tmp_path / "y.txt")],
    ):
        done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "y.txt").read_bytes() == data
    for verb in ("compress", "expand"):
        words = [verb, str(run.folder), "-", "--out", "-", "--quiet"]
        done = subprocess.run([*command, *words], input=data, capture_output=True, timeout=300)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stderr
        data = done.stdout
    assert data == (tmp_path / "x.txt").read_bytes()
