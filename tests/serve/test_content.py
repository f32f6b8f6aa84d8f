"""Content of requests as what verbs take; a word of a request never opens a file."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from fourfold.core.errors import UserError
from fourfold.core.system import System
from fourfold.serve.content import Scratch, prepare
from fourfold.serve.decode import from_values
from fourfold.serve.limits import Limits, TooLarge
from fourfold.serve.schema import Upload, describe
from fourfold.systems.gan import GAN
from fourfold.systems.gpt import GPT
from fourfold.systems.linear import LinearRegression
from parrot import Parrot, dot


def prepared(system: System, verb: str, values: dict[str, Any], scratch: Scratch | None = None, limits: Limits | None = None) -> dict[str, Any]:  # fmt: skip
    form = describe(system, verb)
    return prepare(
        form, from_values(form, values), system, limits or Limits(), scratch or Scratch()
    )


@pytest.mark.parametrize(
    "word", ["secret.txt", "@secret.txt", "-", "@-", "/etc/passwd", "tinyshakespeare", "*"]
)
def test_words_are_never_names_of_files(word: str) -> None:
    Path("secret.txt").write_text("secret")
    scratch = Scratch()
    assert prepared(Parrot(), "say", {"text": word}) == {"text": word, "times": 1}
    assert prepared(GPT.toy()[0], "evaluate", {"source": word}) == {"source": {"text": [word]}}
    assert prepared(GPT.toy()[0], "evaluate", {"source": [word, "b"]})["source"] == {
        "text": [word, "b"]
    }
    table = prepared(LinearRegression(), "predict", {"source": word}, scratch)["source"]
    assert table.read_text() == word and table.parent == scratch.folder
    other = Path(prepared(Parrot(), "read", {"source": word}, scratch)["source"])
    assert other.read_text() == word and other.parent == scratch.folder
    file = prepared(Parrot(), "file", {"path": word}, scratch)["path"]
    assert file.read_text() == word and file.parent == scratch.folder
    with pytest.raises(UserError, match="source: not base64|source: not an image"):
        prepared(GAN(), "evaluate", {"source": word})


@pytest.mark.parametrize("name", ["../../x.csv", "/etc/x.csv", "a\0.csv", "x" * 5000 + ".csv", "..", ".csv", "CON.CSV", ""])  # fmt: skip
def test_names_of_uploads_lead_nowhere(name: str) -> None:
    scratch = Scratch()
    upload = Upload(name, b"a\n1\n")
    for system, verb, field in ((LinearRegression(), "predict", "source"), (Parrot(), "read", "source"), (Parrot(), "file", "path")):  # fmt: skip
        path = Path(
            next(
                v for k, v in prepared(system, verb, {field: upload}, scratch).items() if k == field
            )
        )
        assert path.parent == scratch.folder and path.read_bytes() == b"a\n1\n"


def test_a_scratch_folder_goes_with_its_call() -> None:
    scratch = Scratch()
    folder = scratch.folder
    (folder / "x").write_text("x")
    assert os.stat(folder).st_mode & 0o77 == 0  # others on the machine cannot read it
    assert scratch.without(f"{folder}/x: bad") == "x: bad"
    scratch.close()
    scratch.close()
    assert not folder.exists()
    other = Scratch()
    folder = other.folder
    del other
    assert not folder.exists()


def test_tables_by_type_and_extension() -> None:
    frame = pl.DataFrame({"a": [1, 2]})
    arrow = io.BytesIO()
    frame.write_ipc_stream(arrow)
    for upload in (
        Upload("x", arrow.getvalue(), "application/vnd.apache.arrow.stream"),
        Upload("x.arrow", arrow.getvalue()),
        Upload("x", arrow.getvalue()),
        Upload("x.jsonl", frame.write_ndjson().encode()),
        Upload("", frame.write_ndjson().encode(), "application/x-ndjson"),
    ):
        assert prepared(LinearRegression(), "predict", {"source": upload})["source"].equals(frame)
    scratch = Scratch()
    two = [Upload("a.csv", b"a\n1\n"), Upload("b.tsv", b"a\tb\n1\t2\n")]
    found = prepared(LinearRegression(), "predict", {"source": two}, scratch)["source"]
    assert [p.name for p in found] == ["source-0.csv", "source-1.tsv"]
    with pytest.raises(
        UserError,
        match="source: a table is taken as CSV, TSV, JSON lines or Arrow, got a file .parquet",
    ):
        prepared(LinearRegression(), "predict", {"source": Upload("x.parquet", b"PAR1")})
    with pytest.raises(UserError, match="got a file .gz"):
        prepared(LinearRegression(), "predict", {"source": Upload("x.csv.gz", b"\x1f\x8b")})


def test_texts() -> None:
    assert prepared(Parrot(), "say", {"text": Upload("a.txt", "\ufeffé".encode())})["text"] == "é"
    with pytest.raises(UserError, match="text: not UTF-8 text at byte 1"):
        prepared(Parrot(), "say", {"text": Upload("a.txt", b"a\xff")})
    with pytest.raises(UserError, match="source: has no texts"):
        prepared(GPT.toy()[0], "evaluate", {"source": []})


def test_images() -> None:
    content = dot((1, 2, 3), (4, 5))
    encoded = base64.b64encode(content).decode()
    for value in (encoded, f"data:image/png;base64,{encoded}", Upload("x.bin", content)):
        image = prepared(Parrot(), "look", {"image": value})["image"]
        assert image.size == (4, 5) and image.getpixel((0, 0)) == (1, 2, 3)
    assert prepared(Parrot(), "look", {"image": encoded, "other": None})["other"] is None
    scratch = Scratch()
    files = prepared(GAN(), "evaluate", {"source": [encoded, encoded]}, scratch)["source"]
    assert [Path(f).read_bytes() for f in files] == [content, content]
    with pytest.raises(TooLarge, match="image: 4 x 5 pixels, at most 10 in all"):
        prepared(Parrot(), "look", {"image": encoded}, limits=Limits(pixels=10))
    for broken in (content[:40], b"", b"GIF89a" + b"\0" * 20, b"\x89PNG"):
        with pytest.raises(UserError, match="image: not an image that can be read"):
            prepared(Parrot(), "look", {"image": Upload("x.png", broken)})
    with pytest.raises(UserError, match="image: not base64"):
        prepared(Parrot(), "look", {"image": "é"})


def test_sound() -> None:
    sound = base64.b64encode(b"RIFF").decode()
    try:
        import soundfile
    except ImportError:
        with pytest.raises(UserError, match=r'sound needs pip install "fourfold\[audio\]"'):
            prepared(Parrot(), "hear", {"sound": sound})
        return
    file = io.BytesIO()
    soundfile.write(file, np.zeros((100, 2), "float32"), 8000, format="WAV")
    samples, rate = prepared(Parrot(), "hear", {"sound": Upload("x.wav", file.getvalue())})["sound"]
    assert samples.shape == (100, 2) and rate == 8000
    with pytest.raises(UserError, match="sound: not sound that can be read"):
        prepared(Parrot(), "hear", {"sound": sound})


def test_arrays() -> None:
    assert np.array_equal(
        prepared(Parrot(), "norm", {"values": [[1, 2], [3, 4.5]]})["values"], [[1, 2], [3, 4.5]]
    )
    assert torch.equal(
        prepared(Parrot(), "total", {"values": [1, 2]})["values"], torch.tensor([1, 2])
    )
    for array in (
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.float32(2),
    ):
        file = io.BytesIO()
        np.save(file, array)
        found = prepared(Parrot(), "norm", {"values": Upload("x.npy", file.getvalue())})["values"]
        assert np.array_equal(found, array) and found.shape == array.shape
    file = io.BytesIO()
    np.save(file, np.zeros(1000))
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    huge = file.getvalue().replace(b"(1000,)", b"(10**9,)").replace(b"(1000,)", b"(9000,)")
    for content in (file.getvalue()[:-8], huge, pickled.getvalue(), b"no", b""):
        with pytest.raises(UserError, match=r"values: (not )?a .npy file"):
            prepared(Parrot(), "norm", {"values": Upload("x.npy", content)})
    for values, sentence in (([[1], [1, 2]], "rows of unequal length"), (["a"], "expected numbers"), ([10**30], "expected numbers")):  # fmt: skip
        with pytest.raises(UserError, match=sentence):
            prepared(Parrot(), "norm", {"values": values})
