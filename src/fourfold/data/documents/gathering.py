"""A store of passages brought in line with files: what is new or changed is read, what is gone is removed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from fourfold.core.errors import UserError
from fourfold.data.documents import reading
from fourfold.data.documents.cutting import passages
from fourfold.data.documents.document import Document
from fourfold.data.documents.finding import File
from fourfold.data.documents.frames import said
from fourfold.data.documents.plain import read_text
from fourfold.data.documents.store import COLUMNS, Store, document_key

ROWS = 4096
"""Passages that are written at once, or somewhat more: a document is never divided."""
Encode = Callable[[list[str]], np.ndarray]
"""Texts to (N, D) float32 vectors of length 1."""


@dataclass(frozen=True)
class Cut:
    """How documents are read and cut."""

    size: int
    overlap: int
    field: str | None
    largest: int

    def digest(self, content: bytes) -> str:
        """Of a document's bytes, and of all that decides what is made of them."""
        told = f"{reading.VERSION} {self.size} {self.overlap} {self.field}\0".encode()
        return hashlib.sha256(told + content).hexdigest()


@dataclass
class Changes:
    """What was done."""

    added: int = 0
    changed: int = 0
    removed: int = 0
    same: int = 0
    size: int = 0
    """Bytes of what was read anew."""
    left_out: list[tuple[str, str]] = field(default_factory=list)
    """Documents that could not be read, and why."""

    def __str__(self) -> str:
        told = (
            ("added", self.added),
            ("changed", self.changed),
            ("removed", self.removed),
            ("as they were", self.same),
        )
        return ", ".join(f"{count:,} {word}" for word, count in told if count) or "nothing"


def cut_file(file: File, content: bytes, cut: Cut) -> list[dict[str, Any]]:
    """The passages of a document, as rows without a digest.

    Raises:
        UserError: it cannot be read, and why.
    """
    documents: Iterator[Document]
    if file.path is None:
        documents = iter([read_text(content, file.name)])
    else:
        documents = reading.of_bytes(content, file.path.name, file.name, cut.field)
    rows: list[dict[str, Any]] = []
    for document in documents:
        metadata = (
            json.dumps(dict(document.metadata), ensure_ascii=False) if document.metadata else ""
        )
        for passage in passages(document, size=cut.size, overlap=cut.overlap):
            rows.append({
                "root": file.root, "document": file.name, "number": len(rows), "kind": document.kind,
                "heading": passage.heading, "text": passage.text, "begin": passage.begin, "end": passage.end,
                "line": passage.line, "page": passage.page, "metadata": metadata,
            })  # fmt: skip
    return rows


def content_of(file: File, cut: Cut) -> bytes:
    """A document's bytes.

    Raises:
        UserError: they cannot be read.
    """
    if file.path is not None:
        return reading.content(file.path, cut.largest)
    return (file.text or "").encode("utf-8", "replace")


def gather(
    store: Store, files: Sequence[File], cut: Cut, encode: Encode | None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Changes:  # fmt: skip
    """Bring a store in line with files.

    Args:
        store: where passages are.
        files: all documents that it should hold.
        cut: how they are read and cut.
        encode: makes vectors, where the store has any.
        progress: told how many documents of how many are done.
    """
    there, changes = store.documents(), Changes()
    wanted: set[int] = set()
    batch = _Batch(store, encode)
    for number, file in enumerate(files):
        key = document_key(*file.key)
        try:
            content = content_of(file, cut)
            digest = cut.digest(content)
            if there.get(key) == digest:
                wanted.add(key)
                changes.same += 1
                continue
            rows = cut_file(file, content, cut)
        except UserError as error:
            changes.left_out.append((file.name, _reason(str(error), file)))
            continue
        if not rows:
            changes.left_out.append((file.name, "no text in it"))
            continue
        wanted.add(key)
        batch.put(key, digest, rows, replaces=key in there)
        changes.size += len(content)
        changes.changed += key in there
        changes.added += key not in there
        progress(number + 1, len(files))
    batch.flush()
    gone = sorted(set(there) - wanted)
    store.remove(gone)
    changes.removed = len(gone)
    return changes


def _reason(error: str, file: File) -> str:
    """A reader's sentence without the document's name before it."""
    for name in (file.name, str(file.path)):
        if error.startswith(name):
            return error.removeprefix(name).removeprefix(":").removeprefix(",").strip()
    return error


class _Batch:
    """Whole documents that are written together."""

    def __init__(self, store: Store, encode: Encode | None) -> None:
        self.store, self.encode = store, encode
        self._begin()

    def _begin(self) -> None:
        self.rows: dict[str, list[Any]] = {name: [] for name in ("key", *COLUMNS)}
        self.old: list[int] = []

    def put(self, key: int, digest: str, rows: list[dict[str, Any]], *, replaces: bool) -> None:
        if replaces:
            self.old.append(key)
        for row in rows:
            for name, value in (("key", key), ("digest", digest), *row.items()):
                self.rows[name].append(value)
        if len(self.rows["key"]) >= ROWS:
            self.flush()

    def flush(self) -> None:
        if self.rows["key"]:
            texts = [
                said(t, h) for t, h in zip(self.rows["text"], self.rows["heading"], strict=True)
            ]
            vectors = self.encode(texts) if self.encode else None
            self.store.remove(self.old)
            self.store.add(self.rows, vectors)
            self._begin()


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold the lock of a knowledge base.

    Raises:
        UserError: another process is writing.
    """
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"{folder.parent}: {_holder(file)} is indexing it; wait until that is done"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _holder(file: IO[str]) -> str:
    file.seek(0)
    number = file.read().strip()
    return f"another process ({number})" if number else "another process"
