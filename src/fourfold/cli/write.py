"""What a verb returns, written: the type and the extension choose the writer."""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fourfold.core.errors import UserError, nearest
from fourfold.core.types import Picture, Score


def write(value: Any, out: Path | None, *, as_json: bool, verb: str) -> None:
    """Write a verb's answer to stdout or to a file.

    Raises:
        UserError: the extension has no writer for this answer, or the file cannot be written.
    """
    if value is None:
        return
    try:
        _write(value, out, as_json, verb)
    except (PermissionError, IsADirectoryError, FileNotFoundError) as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from error


def _write(value: Any, out: Path | None, as_json: bool, verb: str) -> None:
    module = type(value).__module__.split(".")[0]
    if isinstance(value, str):
        _text(iter([value]), out, as_json)
    elif inspect.isgenerator(value):
        _text((str(piece) for piece in value), out, as_json)
    elif isinstance(value, Path):
        print(json.dumps({"path": str(value)}) if as_json else value)
    elif isinstance(value, Score):
        _score(value, out, as_json)
    elif isinstance(value, Picture):
        _picture(value, out, verb)
    elif module == "polars":
        _frame(value, out, as_json)
    elif module == "PIL":
        path = out or Path(f"{verb}.png")
        value.save(path)
        _written(path)
    elif module == "numpy":
        _array(value, out)
    else:
        text = json.dumps(_plain(value), ensure_ascii=False, indent=None if as_json else 2)
        _text(iter([text]), out, False)


def _written(path: Path) -> None:
    print(f"Written to {path}", file=sys.stderr)


def _text(pieces: Iterator[str], out: Path | None, as_json: bool) -> None:
    if as_json:
        pieces = iter([json.dumps({"text": "".join(pieces)}, ensure_ascii=False)])
    if out is not None:
        with out.open("w", encoding="utf-8") as file:
            for piece in pieces:
                file.write(piece)
        _written(out)
        return
    for piece in pieces:
        try:
            sys.stdout.write(piece)
        except UnicodeEncodeError:
            encoding = sys.stdout.encoding or "ascii"
            sys.stdout.write(piece.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()


def _score(score: Score, out: Path | None, as_json: bool) -> None:
    body = {"values": score.values, "units": score.units, "notes": list(score.notes)}
    if out is not None:
        suffix = out.suffix.lower()
        if suffix not in (".json", ".txt", ""):
            raise UserError(f"{out}: numbers are written as .json or .txt")
        out.write_text(
            json.dumps(body, ensure_ascii=False, indent=2) if suffix == ".json" else f"{score}\n",
            encoding="utf-8",
        )
        _written(out)
    else:
        print(json.dumps(body, ensure_ascii=False) if as_json else score)


def _picture(picture: Picture, out: Path | None, verb: str) -> None:
    if out is None and not sys.stdout.isatty():
        sys.stdout.buffer.write(picture.png)
        return
    path = out or Path(f"{verb}.png")
    known = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tiff", ".pdf"}
    if path.suffix.lower() not in known:
        raise UserError(f"{path}: a picture is written as {', '.join(sorted(known))}")
    picture.save(path)
    _written(path)


def _frame(frame: Any, out: Path | None, as_json: bool) -> None:
    if out is None:
        if as_json:
            sys.stdout.write(frame.write_ndjson())
        else:
            sys.stdout.write(str(frame) + "\n" if sys.stdout.isatty() else frame.write_csv())
        return
    writers = {
        ".csv": lambda: frame.write_csv(out),
        ".tsv": lambda: frame.write_csv(out, separator="\t"),
        ".parquet": lambda: frame.write_parquet(out),
        ".arrow": lambda: frame.write_ipc(out),
        ".feather": lambda: frame.write_ipc(out),
        ".jsonl": lambda: frame.write_ndjson(out),
        ".ndjson": lambda: frame.write_ndjson(out),
        ".json": lambda: frame.write_json(out),
    }
    writer = writers.get(out.suffix.lower())
    if writer is None:
        raise UserError(
            f"{out}: no writer for a table as {out.suffix or 'a file without extension'}{nearest(out.suffix, writers)}"
        )
    writer()
    _written(out)


def _array(array: Any, out: Path | None) -> None:
    import numpy as np

    if out is None:
        np.savetxt(sys.stdout, np.atleast_2d(array), fmt="%.8g", delimiter=",")
    elif out.suffix == ".npy":
        np.save(out, array)
        _written(out)
    elif out.suffix in (".csv", ".tsv"):
        np.savetxt(
            out, np.atleast_2d(array), fmt="%.8g", delimiter="," if out.suffix == ".csv" else "\t"
        )
        _written(out)
    else:
        raise UserError(f"{out}: an array is written as .npy, .csv or .tsv")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    return value
