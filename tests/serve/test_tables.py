"""Tables in requests: the same frame by any way, and bounds that hold before anything is unpacked."""

from __future__ import annotations

import io
import random
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.feather
import pytest

from fourfold.core.errors import UserError
from fourfold.serve.limits import Limits, TooLarge
from fourfold.serve.tables import arrow_size, csv_file, of_arrow, of_columns, of_lines, of_rows

FRAME = pl.DataFrame(
    {"a": [1, 2, None], "b": ["x", None, "é"], "c": [0.5, 1.5, -2.0], "d": [True, False, None]}
)
LIMITS = Limits()


def arrow(frame: pl.DataFrame, *, stream: bool, compression: str = "uncompressed") -> bytes:
    file = io.BytesIO()
    write = frame.write_ipc_stream if stream else frame.write_ipc
    write(file, compression=compression)  # type: ignore[arg-type]
    return file.getvalue()


def test_json_rows_columns_and_lines_give_one_frame() -> None:
    rows = FRAME.to_dicts()
    assert of_rows(rows, LIMITS, "t").equals(FRAME)
    assert of_columns(FRAME.to_dict(as_series=False), LIMITS, "t").equals(FRAME)
    assert of_lines(FRAME.write_ndjson().encode(), LIMITS, "t").equals(FRAME)
    missing = [{k: v for k, v in row.items() if v is not None} for row in rows]
    assert of_rows(missing, LIMITS, "t").equals(FRAME)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("compression", ["uncompressed", "lz4", "zstd"])
def test_arrow_of_polars(stream: bool, compression: str) -> None:
    content = arrow(FRAME, stream=stream, compression=compression)
    assert of_arrow(content, LIMITS, "t").equals(FRAME)


def test_arrow_of_another_writer() -> None:
    table = FRAME.to_arrow()
    file = io.BytesIO()
    with pa.ipc.new_stream(
        file, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")
    ) as writer:
        for batch in table.to_batches(max_chunksize=2):
            writer.write_batch(batch)
    assert arrow_size(file.getvalue())[0] == 3
    assert of_arrow(file.getvalue(), LIMITS, "t").equals(FRAME)
    feather = io.BytesIO()
    pyarrow.feather.write_feather(table, feather)
    assert of_arrow(feather.getvalue(), LIMITS, "t").equals(FRAME)


@pytest.mark.parametrize("stream", [True, False])
def test_what_unpacks_to_much_is_refused_before_it_is_unpacked(stream: bool) -> None:
    frame = pl.DataFrame({"a": pl.zeros(500_000, eager=True)})
    content = arrow(frame, stream=stream, compression="zstd")
    assert len(content) < 10_000 and arrow_size(content)[1] >= 8 * 500_000 * 0.99
    with pytest.raises(TooLarge, match="bytes once unpacked"):
        of_arrow(content, Limits(body=10_000), "t")
    with pytest.raises(TooLarge, match="500,000 rows, expected 1,000 at most"):
        of_arrow(content, Limits(rows=1000), "t")


def test_bounds_on_rows_and_cells() -> None:
    with pytest.raises(TooLarge, match="t: 3 rows, expected 2 at most"):
        of_rows(FRAME.to_dicts(), Limits(rows=2), "t")
    with pytest.raises(TooLarge, match="t: 12 cells, expected 10 at most"):
        of_columns(FRAME.to_dict(as_series=False), Limits(cells=10), "t")


@pytest.mark.parametrize("content", [arrow(FRAME, stream=s, compression=c) for s in (True, False) for c in ("uncompressed", "zstd")])  # fmt: skip
def test_broken_arrow_is_wrong_input(content: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    generator = random.Random(0)
    refused = 0
    for number in range(150):
        broken = bytearray(content)
        for _ in range(generator.randint(1, 4)):
            broken[generator.randrange(len(broken))] = generator.randrange(256)
        if number % 3 == 0:
            broken = broken[: generator.randrange(8, len(broken))]
        try:
            of_arrow(bytes(broken), LIMITS, "t")
        except UserError as error:
            assert str(error).startswith("t: ") and "\n" not in str(error)
            refused += 1
    assert refused > 50
    capfd.readouterr()  # polars says its panics on stderr


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"PAR1xxxx", "t: is Parquet, expected CSV"),
        (b"\x1f\x8bxx", "t: is gzip, expected CSV"),
        (arrow(FRAME, stream=False), "t: is Arrow, expected CSV"),
        (b" \n", "t: is empty"),
    ],
)
def test_what_is_no_csv(content: bytes, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        csv_file(content, tmp_path, "t")


def test_empty_and_uneven_tables() -> None:
    for call in (lambda: of_rows([], LIMITS, "t"), lambda: of_columns({"a": []}, LIMITS, "t"), lambda: of_columns({}, LIMITS, "t")):  # fmt: skip
        with pytest.raises(UserError, match="t: has no rows"):
            call()
    with pytest.raises(UserError, match="equally many rows"):
        of_columns({"a": [1], "b": [1, 2]}, LIMITS, "t")
    with pytest.raises(UserError, match="t, line 2: expected one flat JSON object"):
        of_lines(b'{"a": 1}\n[1]\n', LIMITS, "t")
    with pytest.raises(UserError, match="t, line 1: not valid JSON"):
        of_lines(b"{\n", LIMITS, "t")
