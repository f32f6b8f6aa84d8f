"""Which files a user's words for documents mean, and what each is called for good."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourfold.core.errors import UserError, nearest

SKIPPED = {"node_modules", "__pycache__", "site-packages"}
"""Folders that nobody asks questions of."""


@dataclass(frozen=True)
class File:
    """A document to read: a file under a root, or a text in memory."""

    root: str
    """Absolute folder of the source that it was found by; empty for a text in memory."""
    name: str
    """Its name for the user: below the root's own name."""
    path: Path | None = None
    text: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from every other document."""
        return self.root, self.name


def find_files(sources: Any) -> tuple[list[File], list[str]]:
    """What some sources mean, sorted, each file once, and in words what is left out.

    Args:
        sources: None (the embedded text), paths of files or folders, globs, several of these; in memory a mapping
            {"text": [...]} with, where there are names, {"name": [...]}.

    Raises:
        UserError: there is no such file, or no document at all.
        TypeError: the sources are of another type.
    """
    if sources is None:
        from fourfold.data.embedded import language_reference

        return [File("", "language.txt", text="\n\n".join(language_reference()))], []
    if isinstance(sources, Mapping) or hasattr(sources, "columns"):
        return _in_memory(sources), []
    many = sources if isinstance(sources, (list, tuple)) else [sources]
    found: dict[Path, File] = {}
    notes: list[str] = []
    for source in many:
        if not isinstance(source, (str, os.PathLike)):
            raise TypeError(
                f"documents are paths or globs, got {type(source).__name__}; texts are given as {{'text': [...]}}"
            )
        for file in _named(os.fspath(source), notes):
            assert file.path is not None  # noqa: S101
            found.setdefault(file.path.resolve(), file)
    if not found:
        raise UserError(f"{', '.join(map(str, many)) or 'no source'}: no document there")
    called = Counter(file.name for file in found.values())
    if same := sorted(name for name, count in called.items() if count > 1):
        notes.append(
            f"{len(same)} names stand for several files each, as {same[0]}, so that a source does not tell which; "
            "index a folder above them."
        )
    return sorted(found.values(), key=lambda f: f.key), notes


def _in_memory(sources: Any) -> list[File]:
    columns = list(getattr(sources, "columns", sources))
    if "text" not in columns:
        raise UserError(f"no 'text' in the given data{nearest('text', map(str, columns))}")
    texts: Sequence[str] = (
        [sources["text"]] if isinstance(sources["text"], str) else list(sources["text"])
    )
    names = (
        list(sources["name"])
        if "name" in columns
        else [f"text-{n:06d}" for n in range(1, len(texts) + 1)]
    )
    if len(names) != len(texts) or len(set(names)) != len(names):
        raise UserError("name: expected another name for each text")
    return [File("", str(name), text=text) for name, text in zip(names, texts, strict=True)]


def _named(name: str, notes: list[str]) -> Iterator[File]:
    path = Path(name)
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, ValueError):
        is_folder = exists = False
    if is_folder:
        root = path.resolve()
        for file in _below(root, notes):
            yield File(str(root), f"{root.name}/{file.relative_to(root).as_posix()}", file)
    elif exists:
        root = path.resolve().parent
        yield File(str(root), path.name, path.resolve())
    elif matches := sorted(glob.glob(name, recursive=True)) if "\0" not in name else []:
        for match in matches:
            if Path(match).is_file():
                root = Path(match).resolve().parent
                yield File(str(root), Path(match).name, Path(match).resolve())
    else:
        parent = path.parent
        beside = [str(parent / p) for p in os.listdir(parent)] if parent.is_dir() else []
        what = "no file matches" if glob.has_magic(name) else f"no such file{nearest(name, beside)}"
        raise UserError(f"{name[:200]}: {what}")


def _below(folder: Path, notes: list[str]) -> Iterator[Path]:
    """Files of a folder and those below, sorted; what is hidden and run folders are left out."""
    hidden, runs = 0, 0
    for root, folders, files in os.walk(folder):
        if "system.toml" in files and Path(root) != folder:
            runs, folders[:] = runs + 1, []
            continue
        hidden += sum(n.startswith(".") for n in [*folders, *files])
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n not in SKIPPED)
        yield from (Path(root) / n for n in sorted(files) if not n.startswith("."))
    if hidden:
        notes.append(f"{folder}: {hidden} hidden files and folders left out.")
    if runs:
        notes.append(f"{folder}: {runs} run folders in it left out.")
