"""Reading texts: every kind, every way to name them, every way in which they are wrong."""

import gzip
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.core.errors import UserError
from fourfold.data import readers
from fourfold.data.readers import documents, pieces
from fourfold.data.text_sources import find_origins

POEM = "春眠不覺曉，\n處處聞啼鳥。\nSpring sleep, “no dawn” — naïve.\n"


def read(sources: Any, field: str = "text", **options: Any) -> list[str]:
    found, open_ = [], False
    for origin in find_origins(sources, field, **options)[0]:
        for piece, last in documents(origin):
            if open_:
                found[-1] += piece
            else:
                found.append(piece)
            open_ = not last
    return found


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.py", "a.rst", "a.unknown", "plain"])
@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_plain_files(tmp_path: Path, name: str, packing: str) -> None:
    content = POEM.encode()
    packed = {"": content, ".gz": gzip.compress(content), ".zst": zstandard.compress(content)}
    path = tmp_path / (name + packing)
    path.write_bytes(packed[packing])
    assert read(path) == [POEM]
    assert read(str(path)) == [POEM]


TEXTS = [POEM, 'a "quoted", cell\nof two lines', "", "z" * 200_000]


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_files_of_rows(tmp_path: Path, kind: str, packing: str) -> None:
    frame = pl.DataFrame({"id": range(4), "text": TEXTS})
    path = tmp_path / f"rows.{kind}"
    if kind == "jsonl":
        frame.write_ndjson(path)
    elif kind == "json":
        path.write_text(json.dumps(frame.to_dicts()), encoding="utf-8")
    elif kind == "parquet":
        frame.write_parquet(path)
    else:
        frame.write_csv(path, separator="\t" if kind == "tsv" else ",")
    if packing:
        packed = Path(f"{path}{packing}")
        compress = gzip.compress if packing == ".gz" else zstandard.compress
        packed.write_bytes(compress(path.read_bytes()))
        path = packed
    assert read(path) == TEXTS
    with pytest.raises(UserError, match="'txt'.*did you mean text"):
        read(path, "txt")


def test_lines_of_verses(tmp_path: Path) -> None:
    rows = [{"paragraphs": ["一", "二"]}, {"paragraphs": None}]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    assert read(tmp_path / "a.jsonl", "paragraphs") == ["一\n二", ""]


def test_in_memory() -> None:
    assert read({"text": "one"}) == ["one"]
    assert read({"text": ["one", "two"]}) == ["one", "two"]
    assert read(pl.DataFrame({"body": ["one", "two"]}), "body") == ["one", "two"]
    with pytest.raises(UserError, match="no 'text' in the given data; did you mean texts"):
        read({"texts": ["one"]})
    with pytest.raises(UserError, match="document 1, field text: expected text, got int"):
        read({"text": ["one", 2]})
    with pytest.raises(UserError, match="half a surrogate pair at character 1"):
        read({"text": ["a\ud800"]})
    with pytest.raises(TypeError, match="text itself is given as"):
        read([3])


def test_embedded_text() -> None:
    texts = read(None)
    assert len(texts) > 100 and sum(map(len, texts)) > 1_000_000
    assert texts == read(None)


def test_folders_and_globs(tmp_path: Path) -> None:
    for name, content in (
        ("b.txt", b"b"),
        ("a.md", b"a"),
        ("sub/c.txt", b"c"),
        (".git/d.txt", b"d"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00")
    (tmp_path / "empty.txt").touch()
    assert read(tmp_path) == ["a", "b", "c"]
    _, notes = find_origins(tmp_path, "text")
    assert "2 files left out: empty.txt (empty), picture.png (not text)" in notes[0]
    assert "1 hidden files and folders left out" in notes[1]
    (tmp_path / "empty.txt").unlink()
    with pytest.raises(UserError, match="a PNG picture"):
        read(tmp_path, strict=True)
    assert read(str(tmp_path / "*.txt")) == ["b"]
    assert read(str(tmp_path / "**/*.txt")) == ["b", "c"]
    twice = [tmp_path / "b.txt", str(tmp_path / "*.txt")]
    assert read(twice) == ["b"] and "named twice" in find_origins(twice, "text")[1][0]
    with pytest.raises(UserError, match=r"\*\.rst: no file matches"):
        read(str(tmp_path / "*.rst"))


def test_a_folder_without_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no text to read"):
        read(tmp_path)


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(POEM.encode())))
    [origin] = find_origins("-", "text")[0]
    for _ in range(2):  # it can be read again
        assert "".join(piece for piece, _ in documents(origin)) == POEM
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    with pytest.raises(UserError, match="standard input: empty"):
        read("-")


def test_no_such_file(tmp_path: Path) -> None:
    (tmp_path / "chapter.txt").write_text("x")
    with pytest.raises(UserError, match=r"did you mean .*chapter\.txt\?"):
        read(str(tmp_path / "chaptr.txt"))
    with pytest.raises(UserError, match=r"chaptr\.txt: no such file; did you mean chapter\.txt\?"):
        os.chdir(tmp_path)
        read("chaptr.txt")
    with pytest.raises(UserError, match="did you mean tinyshakespeare"):
        read("tinyshakespear")
    for text in ("It was the best of times\nit was" * 500, "a\0b"):
        with pytest.raises(UserError, match="no such file"):
            read(text)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", r"a\.txt: empty"),
        ("a.jsonl", b"", r"a\.jsonl: empty"),
        ("a.parquet", b"", r"a\.parquet: empty"),
        ("a.txt.gz", gzip.compress(b"", mtime=0), r"a\.txt\.gz: empty"),
        ("a.txt", b"abc\0def", "NUL at byte offset 3"),
        ("a.zip", b"PK\x03\x04....", r"a\.zip: binary, not text: a ZIP archive"),
        ("program", b"\x7fELF\x02\x01\x01\x00", "an ELF program"),
        ("a.txt", gzip.compress(b"x", mtime=0), "gzip; name it .gz"),
        ("a.txt", "text".encode("utf-16"), "UTF-16"),
        ("a.txt", "na\u00efve".encode("latin-1"), "byte 0xef at byte offset 2"),
        (
            "a.txt",
            b"x" * ((1 << 20) - 1) + "\u00e9".encode() + b"\xff",
            "0xff at byte offset 1048577",
        ),
        ("a.txt", "abc道".encode()[:-1], "byte 0xe9 at byte offset 3"),
        ("a.txt.gz", gzip.compress(b"x" * 9999, mtime=0)[:-9], "damaged, it cannot be unpacked"),
        (
            "a.txt.zst",
            zstandard.compress(os.urandom(999).hex().encode())[:-9],
            "damaged, it cannot be unpacked",
        ),
        ("a.txt.zst", b"no zstandard", "damaged, it cannot be unpacked"),
        ("a.txt.gz", b"no gzip at all", "damaged, it cannot be unpacked"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": }\n', "line 3: not JSON"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"texts": "b"}\n',
            "line 2: no field 'text'; did you mean texts",
        ),
        ("a.jsonl", b'{"text": 5}\n', "line 1, field text: expected text, got int"),
        ("a.jsonl", b"17\n", "line 1: expected an object with 'text', got 17"),
        ("a.json", b"[1, ", "not JSON"),
        ("a.json", b'[{"text": "a"}, {}]', "item 2: no field 'text'"),
        ("a.csv", b"id,txt\n1,a\n", "no column 'text'; did you mean txt"),
        ("a.csv", b"id,text\n1,a\n2,b,c\n", "line 3: 3 cells, expected 2"),
        ("a.csv", b"id,text\n1\n", "line 2: 1 cells, expected 2"),
        ("a.csv", b"id,text\n1,\xff\n", "byte 0xff at byte offset 10"),
        ("a.parquet", b"no parquet", "not a Parquet file"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        read(tmp_path / name)
    assert name in str(raised.value)


def test_no_permission(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()  # reading a folder as a file fails for root too
    from fourfold.data.readers import Origin

    with pytest.raises(UserError, match=r"a\.txt: cannot be read"):
        list(documents(Origin("a.txt", "text", path=tmp_path / "a.txt")))


def test_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt.zst").write_bytes(zstandard.compress(b"x"))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(UserError, match=r"pip install 'fourfold\[zstd\]'"):
        read(tmp_path / "a.txt.zst")


def test_byte_order_mark_and_line_ends(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa\r\nb\r")
    assert read(tmp_path / "a.txt") == ["a\r\nb\r"]


def test_several_frames(tmp_path: Path) -> None:
    (tmp_path / "a.txt.zst").write_bytes(zstandard.compress(b"one ") + zstandard.compress(b"two"))
    assert read(tmp_path / "a.txt.zst") == ["one two"]


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("ab \n.中"), max_size=300), st.integers(1, 40), st.integers(4, 40))
def test_where_a_text_is_cut_depends_on_the_text_only(text: str, block: int, piece: int) -> None:
    before, readers.PIECE = readers.PIECE, piece
    try:
        whole = list(pieces([text]))
        blocks = [text[i : i + block] for i in range(0, len(text), block)]
        assert list(pieces(blocks)) == whole
    finally:
        readers.PIECE = before
    assert "".join(p for p, _ in whole) == text
    assert [last for _, last in whole] == [False] * (len(whole) - 1) + [True]
    assert all(len(p) <= piece + 1 for p, _ in whole)
