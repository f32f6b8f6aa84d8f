"""Files of word vectors: word2vec's binary and text form, GloVe's text without a header, safetensors.

word2vec (Mikolov et al. 2013): a line "V D", then V words each with D numbers, as text or as
little-endian float32 after a space. GloVe (Pennington et al. 2014): the same text without the first
line. Any of them may be gzipped. Shapes: V words, D numbers of a vector.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np

from fourfold.core.errors import UserError

Form = Literal["word2vec", "text", "safetensors"]
BYTES = 1 << 24
"""Read at once."""
LONGEST_WORD = 4096
"""Bytes; where no space comes within so many, the file is not what it says."""
NAME = "vectors"


@dataclass
class VectorFile:
    """What a file of word vectors held."""

    words: list[str]
    vectors: np.ndarray
    """(V, D) float32."""
    form: str
    """In words."""
    notes: list[str] = field(default_factory=list)
    """What was left out or replaced, in sentences."""


def read_vectors(path: Path) -> VectorFile:
    """Read a file of word vectors, whose form is found by its content.

    Raises:
        UserError: it is missing, of no known form, truncated, or its header is not true.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}")
    with path.open("rb") as file:
        start = file.read(9)
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise UserError(
            f"{path}: is a pickle, which is code and is not run; in gensim write it with "
            'save_word2vec_format("vectors.bin", binary=True)'
        )
    if start[8:9] == b"{":
        return _from_safetensors(path)
    try:
        with _opened(path, start) as file:
            first = file.readline(1 << 20)
            header = first.split()
            if len(header) == 2 and all(part.isdigit() for part in header):
                return _after_header(path, file, int(header[0]), int(header[1]))
            return _from_text(path, file, first, None, None)
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
            raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
        raise UserError(f"{path}: the gzip stream is truncated or damaged ({error})") from error


def looks_like_vectors(path: Path) -> bool:
    """Whether a file begins like word vectors; whether it is whole, `read_vectors` says."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
        if start[:1] == b"\x80" or start[8:9] == b"{":
            return path.suffix in (".kv", ".model", ".wordvectors") or _has_tensor(path)
        with _opened(path, start) as opened:
            parts = opened.readline(1 << 20).split()
    except (OSError, EOFError, gzip.BadGzipFile):
        return False
    header = len(parts) == 2 and all(part.isdigit() for part in parts)
    return header or (len(parts) > 3 and all(map(_is_number, parts[-3:])))


def _has_tensor(path: Path) -> bool:
    """Whether a safetensors file has the tensor that we write."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return size < 1 << 30 and f'"{NAME}"'.encode() in file.read(size)


def _opened(path: Path, start: bytes) -> IO[bytes]:
    if start[:2] == b"\x1f\x8b":
        return cast(IO[bytes], gzip.open(path, "rb"))
    return path.open("rb", buffering=BYTES)


def _after_header(path: Path, file: IO[bytes], words: int, width: int) -> VectorFile:
    """The rest of a file with a header: text if the first record is a line of numbers, else binary."""
    if not words or not width:
        raise UserError(
            f"{path}, line 1: expected numbers of words and of columns, got {words} {width}"
        )
    record = file.readline(64 * width + LONGEST_WORD)
    parts = record.split()
    # three numbers at least: the bytes of a binary vector may look like one by chance
    many = len(parts) > min(width, 3) and all(map(_is_number, parts[1:]))
    if many and (record.endswith(b"\n") or words == 1):
        return _from_text(path, file, record, words, width)
    return _from_binary(path, file, record, words, width)


def _is_number(part: bytes) -> bool:
    try:
        float(part)
    except ValueError:
        return False
    return part.isascii()


# --- binary -----------------------------------------------------------------------------------------


def _from_binary(path: Path, file: IO[bytes], start: bytes, words: int, width: int) -> VectorFile:
    names: list[bytes] = []
    rows: list[np.ndarray] = []
    blocks: list[np.ndarray] = []
    held, at, size = start, 0, 4 * width
    while len(names) < words:
        stop = held.find(b" ", at, at + LONGEST_WORD)
        if stop < 0 or stop + 1 + size > len(held):
            more = file.read(max(BYTES, size + LONGEST_WORD))
            if more:
                held, at = held[at:] + more, 0
                continue
            if stop < 0 and len(held) - at > LONGEST_WORD:
                raise _lies(
                    path,
                    words,
                    width,
                    f"word {len(names) + 1} does not end within {LONGEST_WORD:,} bytes",
                )
            what = f" ({_shown(held[at:stop])})" if stop >= 0 else ""
            raise UserError(
                f"{path}: is truncated: its header says {words:,} words of {width} numbers, "
                f"and it ends within word {len(names) + 1:,}{what}"
            )
        names.append(held[at:stop].lstrip(b"\n"))
        rows.append(np.frombuffer(held, "<f4", width, stop + 1))
        at = stop + 1 + size
        if len(rows) == 4096 or len(names) == words:
            blocks.append(np.stack(rows))  # a copy, so that what was read can go
            rows = []
    rest = (held[at:] + file.read(BYTES)).strip(b"\n")
    if rest:
        raise _lies(
            path, words, width, f"more follows after word {words:,}, {_shown(rest.split(b' ')[0])}"
        )
    vectors = np.concatenate(blocks).astype(np.float32, copy=False)
    return _checked(path, names, vectors, "word2vec's binary form")


def _lies(path: Path, words: int, width: int, why: str) -> UserError:
    return UserError(
        f"{path}, line 1: the header says {words:,} words of {width} numbers, but {why}"
    )


def _shown(word: bytes) -> str:
    return repr(word[:40].decode("utf-8", "replace").strip())


# --- text -------------------------------------------------------------------------------------------


def _from_text(
    path: Path, file: IO[bytes], record: bytes, words: int | None, width: int | None
) -> VectorFile:
    """Lines of a word and its numbers; without a header the first line says how many."""
    line = 1 if words is None else 2
    if width is None:
        width = len(record.split()) - 1
        while width and not all(map(_is_number, record.split()[-width:])):
            width -= 1
        if width < 1:
            raise UserError(
                f"{path}, line 1: expected a word and its numbers, or a header of two whole numbers, got {_shown(record)}"
            )
    names: list[bytes] = []
    rows: list[np.ndarray] = []
    unended = b""
    while record:
        if record.strip():
            parts = record.split()
            # GloVe has words with spaces in them, which no number is part of
            extra = parts[1:-width]
            if extra and (words is not None or all(map(_is_number, extra))):
                raise _malformed(path, line, record, width, words)
            try:
                found = np.array(list(map(float, parts[-width:])), np.float32)
            except ValueError:
                found = np.empty(0, np.float32)
            if len(parts) <= width or len(found) != width:
                raise _malformed(path, line, record, width, words)
            names.append(b" ".join(parts[:-width]))
            rows.append(found)
        unended = record if record[-1:] != b"\n" else b""
        record, line = file.readline(), line + 1
    if words is not None and len(names) != words:
        raise _lies(path, words, width, f"the file holds {len(names):,}")
    form = "GloVe's text form" if words is None else "word2vec's text form"
    held = _checked(path, names, np.stack(rows), form)
    if unended:
        held.notes.append(
            f"{path}: its last line has no end; digits of its last number may be missing."
        )
    return held


def _malformed(path: Path, line: int, record: bytes, width: int, words: int | None) -> UserError:
    parts = record.split()
    bad = next((p for p in parts[1:] if not _is_number(p)), None)
    got = f"{len(parts) - 1} after {_shown(parts[0])}" if parts else "an empty line"
    if len(parts) == width + 1 and bad is not None:
        got = f"{_shown(bad)} among them"
    if not record.endswith(b"\n"):
        return UserError(
            f"{path}, line {line}: is truncated: expected a word and {width} numbers, got {got} at its end"
        )
    says = f", as the {'header' if words is not None else 'first line'} says" if line > 1 else ""
    return UserError(f"{path}, line {line}: expected a word and {width} numbers{says}, got {got}")


def _checked(path: Path, names: list[bytes], vectors: np.ndarray, form: str) -> VectorFile:
    """Words as text, each once."""
    notes = []
    words = [name.decode("utf-8", "replace") for name in names]
    if broken := sum("\ufffd" in w for w in words):
        notes.append(
            f"{path}: {broken:,} words are not UTF-8; what could not be read in them is \ufffd."
        )
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(1))[0])
        raise UserError(
            f"{path}: the vector of word {row + 1:,} ({words[row]!r}) has numbers that are not finite"
        )
    first: dict[str, int] = {}
    for number, word in enumerate(words):
        first.setdefault(word, number)
    first.pop("", None)
    if len(first) < len(words):
        notes.append(
            f"{path}: {len(words) - len(first):,} words come a second time or are empty and were left out."
        )
        words, vectors = list(first), vectors[list(first.values())]
    return VectorFile(words, np.ascontiguousarray(vectors), form, notes)


# --- safetensors ------------------------------------------------------------------------------------


def _from_safetensors(path: Path) -> VectorFile:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:  # type: ignore[no-untyped-call]
            about, names = file.metadata() or {}, list(file.keys())
            if NAME not in names or "words" not in about:
                raise UserError(
                    f'{path}: expected a tensor "{NAME}" and its "words" in the metadata, got {", ".join(names) or "nothing"}'
                )
            vectors, words = file.get_tensor(NAME), json.loads(about["words"])
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path}: damaged or truncated ({error})") from error
    if vectors.ndim != 2 or len(vectors) != len(words):
        raise UserError(f"{path}: {len(words):,} words, but vectors of shape {vectors.shape}")
    names = [str(w).encode("utf-8", "replace") for w in words]
    return _checked(path, names, vectors.astype(np.float32), "safetensors")


# --- writing ----------------------------------------------------------------------------------------


def write_vectors(
    path: Path,
    words: list[str],
    vectors: np.ndarray,
    form: Form,
    about: dict[str, Any] | None = None,
) -> None:
    """Write words and their vectors; gzipped where the name ends in .gz (not safetensors).

    Args:
        path: replaced by one rename once it is whole.
        words: (V) without spaces or line ends for the first two forms.
        vectors: (V, D) float32.
        form: "word2vec" (binary), "text" or "safetensors".
        about: further words for the metadata of safetensors.

    Raises:
        UserError: a word cannot be written in this form.
    """
    part = path.with_name(f".{path.name}.part")
    vectors = np.ascontiguousarray(vectors, "<f4")
    if form == "safetensors":
        from safetensors.numpy import save_file

        described = {k: str(v) for k, v in (about or {}).items()}
        save_file(
            {NAME: vectors}, part, {**described, "words": json.dumps(words, ensure_ascii=False)}
        )
        part.replace(path)
        return
    bad = next((w for w in words if not w or any(c in " \t\n\r" for c in w)), None)
    if bad is not None:
        raise UserError(
            f"{path}: the word {bad!r} has a space or is empty, which --to {form} cannot hold; --to safetensors can"
        )
    with gzip.open(part, "wb", 6) if path.suffix == ".gz" else part.open("wb") as file:
        file.write(f"{len(words)} {vectors.shape[1]}\n".encode())
        numbers = " %.9g" * vectors.shape[1] + "\n"  # nine digits are every float32 exactly
        for word, row in zip(words, vectors, strict=True):
            name = word.encode()
            if form == "text":
                file.write(name + (numbers % tuple(row.tolist())).encode())
            else:
                file.write(name + b" " + row.tobytes() + b"\n")
    part.replace(path)
