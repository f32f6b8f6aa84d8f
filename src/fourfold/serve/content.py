"""Content of requests as what verbs take: strings, frames, arrays, images; or a file, where only a file will do.

No word of a request is ever taken for the name of a file: those that are written have names of ours, in
a folder of the call's own.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fourfold.core.errors import UserError
from fourfold.core.system import System
from fourfold.serve import tables
from fourfold.serve.limits import Limits, TooLarge
from fourfold.serve.schema import CONTENT, Field, Upload, VerbForm

PICTURES = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
TABLE_TYPES = {
    "text/csv": ".csv",
    "text/tab-separated-values": ".tsv",
    "application/x-ndjson": ".jsonl",
    "application/jsonl": ".jsonl",
    "application/vnd.apache.arrow.stream": ".arrow",
    "application/vnd.apache.arrow.file": ".arrow",
}
"""Media types of tables, each with the extension that means the same."""
ARROW = (".arrow", ".arrows", ".ipc", ".feather")


class Scratch:
    """A folder of one call's own, made when it is first needed and gone with it."""

    def __init__(self) -> None:
        self._made: Path | None = None

    @property
    def folder(self) -> Path:
        """The folder."""
        if self._made is None:
            self._made = Path(tempfile.mkdtemp(prefix="fourfold-"))
            # at the latest when nobody knows of it any more, as when a client left half-way
            self._gone = weakref.finalize(self, shutil.rmtree, self._made, ignore_errors=True)
        return self._made

    def without(self, sentence: str) -> str:
        """A sentence without the folder's name, which means nothing to who reads it."""
        return sentence.replace(f"{self._made}{os.sep}", "") if self._made else sentence

    def close(self) -> None:
        """Remove the folder and what is in it."""
        if self._made is not None:
            self._made = None
            self._gone()


def prepare(
    form: VerbForm, arguments: Mapping[str, Any], system: System, limits: Limits, scratch: Scratch
) -> dict[str, Any]:
    """The verb's keyword arguments: content turned into what the verb takes.

    Raises:
        UserError: content that cannot be read as what it should be, or too much of it.
    """
    made = {}
    for item in form.fields:
        if item.name not in arguments:
            continue
        value = arguments[item.name]
        if item.kind in CONTENT and value is not None:
            several = item.many and isinstance(value, (list, tuple))
            if several:
                value = [_content(item, v, system, limits, scratch) for v in value]
            else:
                value = _content(item, value, system, limits, scratch)
        made[item.parameter] = value
    return made


def _content(item: Field, value: Any, system: System, limits: Limits, scratch: Scratch) -> Any:
    if item.kind == "source":
        return _source(value, item.reads, system, limits, scratch, item.name)
    if item.kind == "document":
        return _text(value, item.name)
    if item.kind == "image":
        return _image(_bytes(value, item.name), limits, item.name)
    if item.kind == "audio":
        return _sound(_bytes(value, item.name), item.name)
    if item.kind == "array":
        return _array(value, item)
    return _file(value, scratch, item.name)


def _source(
    value: Any, reads: str, system: System, limits: Limits, scratch: Scratch, name: str
) -> Any:
    if reads == "table":
        return _table(value, limits, scratch, name)
    if reads == "text":
        many = value if isinstance(value, list) else [value]
        if not many:
            raise UserError(f"{name}: has no texts")
        return {getattr(system.data, "field", "text"): [_text(v, name) for v in many]}
    if reads in ("images", "boxes"):
        many = value if isinstance(value, list) else [value]
        if not many:
            raise UserError(f"{name}: has no images")
        return [str(_picture_file(v, limits, scratch, name, i)) for i, v in enumerate(many)]
    # what the system reads is its own affair: the content goes into files, whose names are ours
    many = value if isinstance(value, list) else [value]
    # of pairs one content is a table of both sides, two are the sides line by line
    suffix = ".tsv" if reads == "pairs" and len(many) == 1 else ".txt"
    files = [str(_file(v, scratch, f"{name}-{i}", suffix)) for i, v in enumerate(many)]
    return files[0] if len(files) == 1 else files


def _file(value: Any, scratch: Scratch, name: str, suffix: str = "") -> Path:
    """Content as a file of the request's own."""
    path = scratch.folder / f"{name}{_suffix(value) or suffix}"
    path.write_bytes(value.content if isinstance(value, Upload) else value.encode())
    return path


def _table(value: Any, limits: Limits, scratch: Scratch, name: str) -> Any:
    if isinstance(value, list) and value and isinstance(value[0], Upload):
        parts = [_table(v, limits, scratch, f"{name}-{i}") for i, v in enumerate(value)]
        return parts[0] if len(parts) == 1 else parts
    if isinstance(value, Mapping):
        return tables.of_columns(value, limits, name)
    if isinstance(value, str):
        return tables.csv_file(value.encode(), scratch.folder, name)
    if not isinstance(value, Upload):
        return tables.of_rows(value, limits, name)
    kind = TABLE_TYPES.get(value.type) or _suffix(value)
    if kind in ARROW or value.content.startswith((tables.ARROW_FILE, tables.ARROW_STREAM)):
        return tables.of_arrow(value.content, limits, name)
    if kind in (".jsonl", ".ndjson"):
        return tables.of_lines(value.content, limits, name)
    if kind in (".csv", ".tsv", ".tab", ".txt", ""):
        suffix = ".tsv" if kind in (".tsv", ".tab") else ".csv"
        return tables.csv_file(value.content, scratch.folder, name, suffix)
    raise UserError(
        f"{name}: a table is taken as CSV, TSV, JSON lines or Arrow, got a file {kind}; "
        "unpacked, and no Parquet"
    )


def _text(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    try:
        return str(value.content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not UTF-8 text at byte {error.start}") from None


def _bytes(value: Any, name: str) -> bytes:
    """An upload's bytes, or those that a string holds in base64 (RFC 4648; a data URL too)."""
    if isinstance(value, Upload):
        return value.content
    text = re.sub(r"^data:[\w/+.-]*;base64,", "", value, count=1)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{name}: not base64 ({str(error).lower()})") from None


def _image(content: bytes, limits: Limits, name: str) -> Any:
    """A Pillow image, upright as its camera says, and loaded."""
    from PIL import Image, ImageOps

    try:
        image = Image.open(io.BytesIO(content), formats=PICTURES)
        width, height = image.size
        if width * height > limits.pixels:
            raise TooLarge(f"{name}: {width} x {height} pixels, at most {limits.pixels:,} in all")
        image.load()
        return ImageOps.exif_transpose(image)
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything on broken files
        known = ", ".join(PICTURES)
        reason = "" if "identify" in str(error) else f" ({error})"
        raise UserError(f"{name}: not an image that can be read{reason}; one of {known}") from None


def _picture_file(value: Any, limits: Limits, scratch: Scratch, name: str, number: int) -> Path:
    """An image as a file of the request's own, for systems that read files; it has been read once."""
    content = _bytes(value, name)
    _image(content, limits, name)
    path = (
        scratch.folder / f"{name}-{number:06d}.png"
    )  # Pillow goes by the content, not by the name
    path.write_bytes(content)
    return path


def _sound(content: bytes, name: str) -> tuple[Any, int]:
    from fourfold.data.sound_files import Unreadable, decode

    try:
        return decode(content)
    except Unreadable as error:
        raise UserError(f"{name}: {error}") from None


def _array(value: Any, item: Field) -> Any:
    """Numbers of any depth, float64 or int64, or a .npy file; a tensor where the verb takes one."""
    import numpy as np

    if isinstance(value, Upload):
        array = _npy(value.content, item.name)
    else:
        try:
            array = np.asarray(value)
        except (ValueError, OverflowError):
            raise UserError(f"{item.name}: expected an array, got rows of unequal length") from None
    if array.dtype.kind not in "iufb":
        raise UserError(f"{item.name}: expected numbers, got {array.dtype}")
    if "Tensor" in str(item.annotation):
        import torch

        return torch.from_numpy(array)
    return array


def _npy(content: bytes, name: str) -> Any:
    """NumPy's own format, never a pickle, and never larger than what came."""
    import numpy as np

    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
            version, np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(file)
    except ValueError as error:
        raise UserError(f"{name}: not a .npy file ({error})") from None
    count = int(np.prod(shape, dtype=object)) if shape else 1
    if dtype.hasobject or count * dtype.itemsize != len(content) - file.tell():
        raise UserError(f"{name}: a .npy file of numbers whose size does not match its header")
    flat = np.frombuffer(content, dtype, count, file.tell())
    return flat.reshape(shape[::-1]).T.copy() if fortran else flat.reshape(shape).copy()


def _suffix(value: Any) -> str:
    """The extension of an upload's name, if it is a plain one."""
    if not isinstance(value, Upload):
        return ""
    found = re.search(r"\.[A-Za-z0-9]{1,12}$", value.name)
    return found[0].lower() if found else ""
