"""What a user's words for texts mean: files, folders, globs, catalog names, standard input, text in memory."""

from __future__ import annotations

import glob
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from fourfold.core.errors import UserError, nearest
from fourfold.data import readers
from fourfold.data.catalog import CATALOG, find
from fourfold.data.readers import BLOCK, PLAIN, ROWS, Origin, decoded, kind_of
from fourfold.data.remote import brought, is_remote


def find_origins(
    sources: Any, field: str, *, strict: bool = False
) -> tuple[list[Origin], list[str]]:
    """What some sources mean, in a fixed order, with notes on what is left out.

    Args:
        sources: None (the embedded text), a path, glob, catalog name, an address as s3://bucket/*.txt, "-" or several of
            these;
            in memory a mapping or frame whose `field` holds one text or several: {"text": [...]}.
        field: name of that column or key.
        strict: refuse folders with files that are no text instead of leaving those out.

    Raises:
        UserError: there is no such file, or nothing to read.
        TypeError: the sources are of another type.
    """
    if sources is None:
        from fourfold.data.embedded import language_reference

        return [Origin("the embedded text", field, texts=language_reference())], []
    if isinstance(sources, Mapping) or hasattr(sources, "columns"):
        return [_in_memory(sources, field)], []
    many = sources if isinstance(sources, (list, tuple)) else [sources]
    found: list[Origin] = []
    notes: list[str] = []
    for source in many:
        if not isinstance(source, (str, os.PathLike)):
            raise TypeError(
                f"text sources are paths, globs, catalog names or '-', got {type(source).__name__}; "
                f"text itself is given as {{{field!r}: [...]}}"
            )
        found.extend(_named(os.fspath(source), field, strict, notes))
    unique = {o.place: o for o in found}
    if len(unique) < len(found):
        notes.append(f"{len(found) - len(unique)} files were named twice and are read once")
    if not unique:
        raise UserError(f"{', '.join(map(str, many)) or 'no source'}: no text to read")
    return list(unique.values()), notes


def _in_memory(sources: Any, field: str) -> Origin:
    columns = list(getattr(sources, "columns", sources))
    if field not in columns:
        raise UserError(f"no {field!r} in the given data{nearest(field, map(str, columns))}")
    texts = sources[field]
    return Origin("the given text", field, texts=[texts] if isinstance(texts, str) else list(texts))


def _named(name: str, field: str, strict: bool, notes: list[str]) -> Iterator[Origin]:
    """What one word of a user means."""
    if name == "-":
        yield Origin("standard input", field, stream=keep_stream(sys.stdin.buffer))
        return
    if is_remote(name):
        for address, copy in brought(name):
            yield Origin(address, field, path=copy)
        return
    path = Path(name)
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, ValueError):  # too long or with a NUL: somebody gave the text itself
        is_folder = exists = False
    if is_folder:
        yield from _folder(path, field, strict, notes)
    elif exists:
        yield Origin(name, field, path=path)
    elif matches := sorted(glob.glob(name, recursive=True)) if "\0" not in name else []:
        for match in matches:
            yield from _named(match, field, strict, notes)
    elif (paths := find(name)) is not None:
        for path in paths:
            yield Origin(str(path), CATALOG[name].field or field, path=path)
    else:
        raise UserError(_missing(name, field))


def _missing(name: str, field: str) -> str:
    if len(name) > 200 or "\n" in name:
        return f"no such file: {name[:40]!r}...; text itself is given as {{{field!r}: [...]}}"
    if glob.has_magic(name):
        return f"{name}: no file matches"
    parent = Path(name).parent
    beside = [str(parent / p) for p in os.listdir(parent)] if parent.is_dir() else []
    return f"{name}: no such file{nearest(name, [*beside, *CATALOG])}"


def _folder(folder: Path, field: str, strict: bool, notes: list[str]) -> Iterator[Origin]:
    """The text files in a folder and those below, sorted; what is hidden or no text is left out and counted."""
    hidden, skipped = 0, []
    for root, folders, files in os.walk(folder):
        hidden += sum(n.startswith(".") for n in [*folders, *files])
        folders[:] = sorted(n for n in folders if not n.startswith("."))
        for file in sorted(n for n in files if not n.startswith(".")):
            path = Path(root) / file
            origin = Origin(str(path), field, path=path)
            reason = None if strict else _no_text(origin)
            if reason:
                skipped.append(f"{path.relative_to(folder)} ({reason})")
            else:
                yield origin
    if skipped:
        names = ", ".join(skipped[:5]) + (", ..." if len(skipped) > 5 else "")
        notes.append(f"{folder}: {len(skipped)} files left out: {names}")
    if hidden:
        notes.append(f"{folder}: {hidden} hidden files and folders left out")


def _no_text(origin: Origin) -> str | None:
    """Why a file in a folder is no text: it is empty, or of an unknown kind and does not begin like text."""
    assert origin.path is not None  # noqa: S101
    if not origin.path.is_file():
        return "not a file"
    if origin.path.stat().st_size == 0:
        return "empty"
    if kind_of(origin.path) in PLAIN | ROWS:
        return None  # meant to be text: a fault in it is an error, not a reason to skip it
    try:
        next(decoded(origin))
    except UserError:
        return "not text"
    return None


def keep_stream(stream: BinaryIO) -> BinaryIO:
    """A copy of a stream that can be read again: in memory, or on disk where it is long."""
    kept = _Kept(max_size=readers.MEMORY)
    while block := stream.read(BLOCK):
        kept.write(block)
    return kept  # type: ignore[return-value]


class _Kept(tempfile.SpooledTemporaryFile[bytes]):
    def __del__(self) -> None:
        self.close()  # gone with the last who reads it; the base would warn instead
