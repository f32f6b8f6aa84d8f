"""The verbs `compress` and `expand`: from file to file, with progress, never over another file unasked."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from fourfold.core.errors import UserError, nearest
from fourfold.core.run import Run
from fourfold.core.state import atomically
from fourfold.tasks import archive
from fourfold.tasks.archive import Archive
from fourfold.tasks.compression import Piece, cut, decode, encode, rows_for
from fourfold.tasks.reader import Reader

SUFFIX = ".ff"
PATIENCE = 2.0
"""Seconds of work before progress is shown."""


def compress_file(run: Run, reader: Reader, file: Path, rows: int | None, out: Path | None) -> Path:
    """See `LanguageModel.compress`."""
    data, name = content_of(file)
    target = target_of(out, file, f"{file}{SUFFIX}")
    refuse_other(target, out)
    vocabulary = reader.vocabulary
    pieces = cut(data, vocabulary)
    count = sum(len(piece.tokens) for piece in pieces if piece.tokens is not None)
    most = max(1, min(rows or rows_for(count), count))
    body, stored = encode(reader, pieces, most, _Progress(run, f"Compressing {name}"))
    made = Archive(
        run=archive.fingerprint(run, vocabulary.digest),
        place=archive.place(run.device),
        length=len(data),
        checksum=archive.digest(data).hex(),
        rows=most,
        pieces=_sizes(pieces),
        stored=stored,
        body=body,
    ).content()
    write_out(run, target, made)
    if data:
        odd = sum(len(piece.raw) for piece in pieces if piece.tokens is None)
        said = f", {odd:,} of them not as text" if odd else ""
        run.console.say(
            f"{len(data):,} bytes{said} became {len(made):,}: "
            f"{8 * len(made) / len(data):.3f} bits per byte"
        )
    return target


def expand_file(run: Run, reader: Reader, file: Path, out: Path | None) -> Path:
    """See `LanguageModel.expand`."""
    data, name = content_of(file)
    found = archive.read(data, name)
    archive.check(found, archive.fingerprint(run, reader.vocabulary.digest), run.device, name)
    target = target_of(out, file, expanded_name(file))
    same = out is None and _is(target, found)
    if not same:
        refuse_other(target, out)
    progress = _Progress(run, f"Expanding {name}")
    try:
        made = decode(reader, found.body, found.pieces, found.stored, found.rows, progress)
    except UserError as error:
        raise UserError(f"{name}: {error}; {_WRONG}") from error
    if len(made) != found.length or archive.digest(made).hex() != found.checksum:
        raise UserError(f"{name}: what it expands to has another checksum; {_WRONG}")
    if same:
        run.console.say(f"{target}: is there already, with the same content")
    else:
        write_out(run, target, made)
    return target


_WRONG = "this run does not say here what it said when the file was written; nothing was written"


def expanded_name(file: Path, otherwise: str = ".out") -> str:
    """The name without .ff, or with something more."""
    plain = str(file)
    return plain.removesuffix(SUFFIX) if plain.endswith(SUFFIX) else f"{plain}{otherwise}"


def _sizes(pieces: list[Piece]) -> list[int]:
    """By turns tokens and bytes: see `Archive.pieces`."""
    sizes: list[int] = []
    for piece in pieces:
        if len(sizes) % 2 != (piece.tokens is None):
            sizes.append(0)
        sizes.append(len(piece.raw) if piece.tokens is None else len(piece.tokens))
    return sizes


def content_of(file: Path) -> tuple[bytes, str]:
    """A file's bytes and what to call it; - is standard input.

    Raises:
        UserError: it cannot be read.
    """
    if str(file) == "-":
        return sys.stdin.buffer.read(), "standard input"
    try:
        return file.read_bytes(), str(file)
    except FileNotFoundError:
        beside = [str(p) for p in file.parent.glob("*")] if file.parent.is_dir() else []
        raise UserError(f"{file}: no such file{nearest(str(file), beside)}") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error


def target_of(out: Path | None, file: Path, otherwise: str) -> Path:
    """Where to write."""
    if out is not None:
        return Path(out)
    if str(file) == "-":
        raise UserError("standard input has no name to derive one from: --out FILE, or --out -")
    return Path(otherwise)


def refuse_other(target: Path, out: Path | None) -> None:
    """Only a file that was named may be written over; one's own folder never."""
    if str(target) == "-":
        return
    if target.is_dir():
        raise UserError(f"{target}: is a folder; --out names a file")
    if out is None and target.exists():
        raise UserError(f"{target}: is there already; --out FILE names another place, or this one")


def _is(target: Path, found: Archive) -> bool:
    """Whether a file is what would be written."""
    if not target.is_file() or target.stat().st_size != found.length:
        return False
    return archive.digest(target.read_bytes()).hex() == found.checksum


def write_out(run: Run, target: Path, data: bytes) -> None:
    """Write a file whole, or to standard output."""
    if str(target) == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    if target.exists():
        run.console.say(f"{target}: written over")
    atomically(target, lambda path: path.write_bytes(data))


class _Progress:
    """Says how far it is once it takes long."""

    def __init__(self, run: Run, title: str) -> None:
        self.console, self.title = run.console, title
        self.began, self.shown = time.monotonic(), False

    def __call__(self, done: int, count: int) -> None:
        seconds = time.monotonic() - self.began
        if not self.shown and seconds > PATIENCE and done < count:
            self.console.start(self.title, "tokens", f"{count:,} tokens")
            self.shown = True
        if self.shown:
            self.console.step(done / count, done, {}, done / max(seconds, 1e-9))
            if done == count:
                self.console.stop()
