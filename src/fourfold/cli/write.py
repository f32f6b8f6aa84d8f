"""What a verb returns, written: the type and the extension choose the writer."""

from __future__ import annotations

import dataclasses
import inspect
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fourfold.core.errors import UserError, nearest
from fourfold.core.types import Drawn, Explanation, Picture, Score

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tiff", ".pdf"}
"""Extensions of pictures made of pixels."""


def write(value: Any, out: Path | None, *, as_json: bool, verb: str, quiet: bool = False) -> None:
    """Write a verb's answer to stdout or to a file.

    Raises:
        UserError: the extension has no writer for this answer, or the file cannot be written.
    """
    if value is None:
        return
    try:
        path = _write(value, out, as_json, verb)
    except OSError as error:
        if out is None or isinstance(error, BrokenPipeError):
            raise
        raise UserError(f"{out}: cannot be written ({error.strerror or error})") from error
    if path is not None and not quiet:
        print(f"Written to {path}", file=sys.stderr)


def _write(value: Any, out: Path | None, as_json: bool, verb: str) -> Path | str | None:
    """Write; the file that was made, if there is one to tell of."""
    module = type(value).__module__.split(".")[0]
    if isinstance(value, str):
        return _text(iter([value]), out, as_json)
    if inspect.isgenerator(value):
        return _text((str(piece) for piece in value), out, as_json)
    if isinstance(value, Path):
        if str(value) == "-":
            return None  # the verb has written to stdout itself
        print(json.dumps({"path": str(value)}) if as_json else value)
        return None
    if isinstance(value, Score):
        return _score(value, out, as_json)
    if isinstance(value, Explanation):
        return _explanation(value, out, as_json, verb)
    if module == "PIL":
        file = io.BytesIO()
        value.save(file, "PNG")
        value = Picture(verb, file.getvalue())
    if isinstance(value, Drawn):
        if out is None or out.suffix.lower() not in PICTURES:
            return _frame(value.table, out, as_json)
        value = value.draw()
    if isinstance(value, Picture):
        return _picture(value, out, verb)
    if module == "polars":
        return _frame(value, out, as_json)
    if module == "numpy" and not as_json:
        return _array(value, out)
    text = json.dumps(value, ensure_ascii=False, indent=None if as_json else 2, default=_plain)
    return _text(iter([text]), out, False)


def _text(pieces: Iterator[str], out: Path | None, as_json: bool) -> Path | None:
    if as_json:
        pieces = iter([json.dumps({"text": "".join(pieces)}, ensure_ascii=False)])
    if out is not None:
        with out.open("w", encoding="utf-8") as file:
            for piece in pieces:
                file.write(piece)
        return out
    piece = ""
    for piece in pieces:
        try:
            sys.stdout.write(piece)
        except UnicodeEncodeError:
            encoding = sys.stdout.encoding or "ascii"
            sys.stdout.write(piece.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
    if not piece.endswith("\n"):  # a text that ends its last line itself is as it should be
        sys.stdout.write("\n")
    sys.stdout.flush()
    return None


def _score(score: Score, out: Path | None, as_json: bool) -> Path | None:
    body = {"values": score.values, "units": score.units, "notes": list(score.notes)}
    if out is not None:
        suffix = out.suffix.lower()
        if suffix not in (".json", ".txt", ""):
            raise UserError(f"{out}: numbers are written as .json or .txt")
        out.write_text(
            json.dumps(body, ensure_ascii=False, indent=2) if suffix == ".json" else f"{score}\n",
            encoding="utf-8",
        )
    else:
        print(json.dumps(body, ensure_ascii=False) if as_json else score)
    return out


def _picture(picture: Picture, out: Path | None, verb: str) -> Path | None:
    if out is None and not sys.stdout.isatty():
        sys.stdout.buffer.write(picture.png)
        return None
    path = out or Path(f"{verb}.png")
    _check_picture(picture, path)
    picture.save(path)
    return path


def _check_picture(picture: Picture, path: Path) -> None:
    """Refuse an extension that this picture cannot be written as."""
    known = PICTURES | ({".svg"} if picture.svg else set())
    if path.suffix.lower() not in known:
        raise UserError(f"{path}: a picture is written as {', '.join(sorted(known))}")


def _explanation(
    explanation: Explanation, out: Path | None, as_json: bool, verb: str
) -> str | None:
    """Sentences and tables to stdout; everything to a page, the pictures to a picture file or a folder."""
    from fourfold.look.page import as_text, render

    suffix = "" if out is None else out.suffix.lower()
    body = {
        "title": explanation.title,
        "sentences": explanation.sentences,
        "tables": explanation.tables,
        "pictures": [{"title": p.title, "caption": p.caption} for p in explanation.pictures],
    }
    as_lines = "\n".join(as_text(explanation))
    written = json.dumps(body, ensure_ascii=False, default=_plain)
    made = [str(out)]
    if out is not None and suffix in (".html", ".htm"):
        out.write_text(render(explanation), encoding="utf-8")
    elif out is not None and suffix in (".json", ".txt"):
        out.write_text((written if suffix == ".json" else as_lines) + "\n", encoding="utf-8")
    elif out is not None and not suffix:
        out.mkdir(parents=True, exist_ok=True)
        (out / "index.html").write_text(render(explanation), encoding="utf-8")
        if explanation.pictures:
            _save_pictures(explanation, out / verb, ".svg")
    elif out is not None:
        made = _save_pictures(explanation, out.with_suffix(""), suffix)
    _text(iter([written if as_json else as_lines]), None, False)
    return None if out is None else ", ".join(made)


def _save_pictures(explanation: Explanation, stem: Path, suffix: str) -> list[str]:
    """Under the name given, with numbers where there are several; as PNG what cannot be drawn as SVG."""
    if suffix not in PICTURES | {".svg"}:
        known = ", ".join(sorted(PICTURES | {".html", ".json", ".svg", ".txt"}))
        raise UserError(f"{stem}{suffix}: an explanation is written as {known} or into a folder")
    pictures = explanation.pictures
    if not pictures:
        raise UserError(
            f"{stem}{suffix}: this explanation has no picture; write it as .html or .txt"
        )
    made = []
    for number, picture in enumerate(pictures, 1):
        extension = ".png" if suffix == ".svg" and not picture.svg else suffix
        path = stem.with_name(stem.name + (f"-{number}" if len(pictures) > 1 else "") + extension)
        picture.save(path)
        made.append(str(path))
    return made


def _frame(frame: Any, out: Path | None, as_json: bool) -> Path | None:
    if out is None:
        if as_json:
            sys.stdout.write(frame.write_ndjson())
        else:
            _show_frame(frame)
        return None
    writers = {
        ".csv": lambda: frame.write_csv(out),
        ".tsv": lambda: frame.write_csv(out, separator="\t"),
        ".parquet": lambda: frame.write_parquet(out),
        ".arrow": lambda: frame.write_ipc(out),
        ".feather": lambda: frame.write_ipc(out),
        ".jsonl": lambda: frame.write_ndjson(out),
        ".ndjson": lambda: frame.write_ndjson(out),
        ".json": lambda: frame.write_json(out),
        ".npy": lambda: _array(_numbers(frame, out), out),
    }
    writer = writers.get(out.suffix.lower())
    if writer is None:
        raise UserError(
            f"{out}: no writer for a table as {out.suffix or 'a file without extension'}{nearest(out.suffix, writers)}"
        )
    writer()
    return out


def _show_frame(frame: Any) -> None:
    """To a terminal as a table, or, where rows hold long texts, row by row; otherwise as CSV."""
    if not sys.stdout.isatty():
        sys.stdout.write(frame.write_csv())
    elif {"rank", "source", "text"} <= set(frame.columns):
        for row in frame.iter_rows(named=True):
            told = " - ".join(str(row[n]) for n in ("source", "heading") if row.get(n))
            sys.stdout.write(f"[{row['rank']}] {told}  ({row['score']:.3g})\n{row['text']}\n\n")
    else:
        sys.stdout.write(f"{frame}\n")


def _numbers(frame: Any, out: Path) -> Any:
    """A table's columns of numbers as a matrix, one row for each of its own."""
    import polars.selectors as cs

    numbers = frame.select(cs.numeric())
    if not numbers.width:
        raise UserError(
            f"{out}: none of the table's columns are numbers; .csv and .parquet hold text too"
        )
    return numbers.to_numpy()


def _array(array: Any, out: Path | None) -> Path | None:
    import numpy as np

    if out is None:
        np.savetxt(sys.stdout, np.atleast_2d(array), fmt="%.8g", delimiter=",")
    elif out.suffix == ".npy":
        np.save(out, array)
    elif out.suffix in (".csv", ".tsv"):
        np.savetxt(
            out, np.atleast_2d(array), fmt="%.8g", delimiter="," if out.suffix == ".csv" else "\t"
        )
    else:
        raise UserError(f"{out}: an array is written as .npy, .csv or .tsv")
    return out


def _plain(value: Any) -> Any:
    """What JSON has no word for, as something it has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "tolist"):  # arrays, tensors and their numbers
        return value.tolist()
    return str(value)
