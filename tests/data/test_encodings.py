"""Tables that are not UTF-8: read as they were written, or refused with the encoding that would read them."""

from __future__ import annotations

import gzip
import io
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fourfold.core.errors import UserError
from fourfold.data import delimited, encodings, table_files
from fourfold.data.encodings import guess
from fourfold.data.table import TableData, Tabular

ROWS = 60
CHINESE = {"城市": ["北京", "上海", "广州"], "类别": ["是", "否"], "数值": None}
TRADITIONAL = {"城市": ["臺北", "上海", "廣州"], "類別": ["是", "否"], "數值": None}
JAPANESE = {
    "まち": ["とうきょう", "おおさか", "なごや"],
    "かな": ["はい", "いいえ"],
    "ねだん": None,
}
FRENCH = {"été": ["Genève", "Zürich", "Bâle"], "prévu": ["oui", "été"], "coût": None}


def table(words: dict[str, Any]) -> pl.DataFrame:
    columns = {
        name: [i * 7 % 31 for i in range(ROWS)] if cells is None else (cells * ROWS)[:ROWS]
        for name, cells in words.items()
    }
    return pl.DataFrame(columns)


def stored(path: Path, frame: pl.DataFrame, encoding: str) -> Path:
    path.write_bytes(frame.write_csv().encode(encoding))
    return path


def opened(source: Any, target: str, encoding: str | None = None) -> TableData:
    return Tabular(target=target, encoding=encoding, split=(1, 0, 0)).open(source)


def same(data: TableData, frame: pl.DataFrame, folder: Path) -> None:
    """The data has the frame's rows, names and words, and the fingerprint that it has as UTF-8."""
    assert data.rows is not None
    assert pl.concat([chunk for _, chunk in data.rows.chunks()]).equals(frame)
    plain = stored(folder / "plain.csv", frame, "utf-8")
    assert data.fingerprint == opened(plain, frame.columns[-1]).fingerprint


@pytest.mark.parametrize(
    ("words", "encoding"),
    [
        (CHINESE, "gb18030"),
        (CHINESE, "gbk"),
        (TRADITIONAL, "big5"),
        (JAPANESE, "shift_jis"),
        (FRENCH, "cp1252"),
    ],
)
def test_the_error_names_the_encoding_that_reads_it(
    tmp_path: Path, words: dict[str, Any], encoding: str
) -> None:
    frame = table(words)
    target = frame.columns[-1]
    path = stored(tmp_path / "t.csv", frame, encoding)
    wanted = "gb18030" if encoding == "gbk" else encoding
    with pytest.raises(UserError) as error:
        opened(path, target)
    first = frame.write_csv().encode(encoding)
    at = next(i for i, byte in enumerate(first) if byte > 127)
    assert str(error.value) == (
        f"t.csv: not UTF-8 at byte {at} ({first[at]:#04x}); --data.encoding {wanted} may read it, "
        "or save it as UTF-8"
    )
    same(opened(path, target, wanted), frame, tmp_path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_a_byte_order_mark_is_enough(tmp_path: Path, encoding: str) -> None:
    frame = table(CHINESE)
    data = opened(stored(tmp_path / "t.csv", frame, encoding), "数值")
    assert data.rows is not None
    assert data.rows.columns == frame.columns
    assert data.schema.encodings[0].categories == tuple(sorted(["北京", "上海", "广州"]))


def test_what_is_utf8_stays_so_whatever_is_said(tmp_path: Path) -> None:
    """A run that learned from GB18030 predicts rows of UTF-8."""
    frame = table(CHINESE)
    data = opened(stored(tmp_path / "t.csv", frame, "gb18030"), "数值", "gb18030")
    again = data.reopen(stored(tmp_path / "new.csv", frame, "utf-8"), whole=True)
    assert not [n for n in again.summary()["notes"] if "unseen" in n or "not seen" in n]
    assert next(again.batches("test"))["features"].equal(
        next(data.reopen(tmp_path / "t.csv", whole=True).batches("test"))["features"]
    )


def test_tabs_packing_and_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = table(CHINESE)
    tabs = tmp_path / "t.tsv.gz"
    tabs.write_bytes(gzip.compress(frame.write_csv(separator="\t").encode("gb18030")))
    assert opened(tabs, "数值", "gb18030").rows.columns == frame.columns  # type: ignore[union-attr]

    class Stdin:
        buffer = io.BytesIO(frame.write_csv().encode("utf-16"))

    monkeypatch.setattr(sys, "stdin", Stdin)
    assert opened("-", "数值").rows.columns == frame.columns  # type: ignore[union-attr]


def test_a_large_file_is_recoded_in_blocks_and_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (delimited, table_files):
        monkeypatch.setattr(module, "IN_MEMORY", 100)
    monkeypatch.setattr(encodings, "BLOCK", 7)  # cuts characters
    frame = table(CHINESE)
    data = opened(stored(tmp_path / "t.csv", frame, "gb18030"), "数值", "gb18030")
    assert data.rows is not None and data.rows.streamed
    assert pl.concat([chunk for _, chunk in data.rows.chunks()]).equals(frame)


def test_wrong_encodings(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,y\n1,\xff\xff\n")
    with pytest.raises(UserError, match=r"^t.csv: neither UTF-8 nor gb18030, at byte 6 \(0xff\)$"):
        opened(path, "y", "gb18030")
    with pytest.raises(ValueError, match="encoding: 'klingon' is none that Python knows"):
        Tabular(encoding="klingon")
    with pytest.raises(ValueError, match="encoding: 'base64' is none"):
        Tabular(encoding="base64")
    plain = stored(tmp_path / "u.csv", table(CHINESE), "utf-16-le")  # without a mark
    with pytest.raises(UserError, match="binary"):
        opened(plain, "数值")
    assert opened(plain, "数值", "utf-16-le").target.name == "数值"


def test_a_guess_from_a_piece_that_ends_within_a_character() -> None:
    assert guess("北京上海广州是否人民".encode("gb18030")[:-1]) == "gb18030"
    assert guess("déjà vu à Genève".encode("cp1252")) == "cp1252"
