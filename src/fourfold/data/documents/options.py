"""Documents as data: files that are read, cut into passages, and kept where they can be searched."""

from __future__ import annotations

import json
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt, model_validator

from fourfold.core.console import Console
from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, DataOptions, Split
from fourfold.core.state import write_text
from fourfold.data.documents import frames
from fourfold.data.documents.cutting import sentences, weight
from fourfold.data.documents.finding import File, find_files
from fourfold.data.documents.frames import Passages
from fourfold.data.documents.gathering import (
    Changes,
    Cut,
    Encode,
    content_of,
    cut_file,
    gather,
    sole_writer,
)
from fourfold.data.documents.store import Store
from fourfold.data.loading import Indexed
from fourfold.kernels import terms

PAUSE = 5.0
"""Seconds between two sentences on how far it is."""
SOURCES = 20
"""States of which the sources are kept: those that can be gone back to, and those just gone back from."""
ASKED = 12
"""Words that a sentence must have to stand for a question, where a passage has such a one."""


class Documents(DataOptions):
    """Files of any kind, cut into passages."""

    words: PositiveInt = 160
    """Words of a passage at most; a Chinese character is one."""
    overlap: NonNegativeInt = 30
    """Words at most that neighbouring passages share, in whole sentences."""
    field: str | None = None
    """Of JSON lines: where a row's text is; None takes text, content, body or the like."""
    largest: PositiveInt = 1 << 28
    """Bytes that a file may have."""
    store: str | None = None
    """Where the table of passages is: an object store's address, as s3://bucket/kb. None: in the run's folder."""
    batch: PositiveInt = 64
    """Passages that are looked for at once when the index is measured."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.overlap >= self.words:
            raise ValueError(f"overlap {self.overlap}: expected less than words, {self.words}")
        return self

    @property
    def cut(self) -> Cut:
        """How documents are read and cut."""
        return Cut(self.words, self.overlap, self.field, self.largest)

    def open(self, sources: Any, *, seed: int = 0, valid: Any = None) -> DocumentsData:
        """See `DataOptions.open`: files are found, and read when they are needed."""
        if valid is not None:
            raise UserError("--valid: documents have no validation split; evaluate takes questions")
        files, notes = find_files(sources)
        return DocumentsData(self, files, notes, seed=seed)

    def restore(self, folder: Path) -> DocumentsData:
        """See `DataOptions.restore`."""
        path = folder / "documents.json"
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            data = DocumentsData(self, [], [], seed=0)
            data.place, data.about = folder, dict(about)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path}: damaged ({error})") from error
        return data


class DocumentsData(Indexed):
    """Documents, and the passages that they are cut into.

    In a run's folder the passages are in a store, which `gather` brings in line with the documents; otherwise they
    are in memory. A batch is {"row": (B,) int64 passages, "terms": (B, Q) int64, the hashed terms of one sentence of
    each, 0 where there are fewer}: what is looked for, to see how well an index finds it.
    """

    unit = "passages"

    def __init__(
        self, options: Documents, files: list[File], notes: list[str], *, seed: int
    ) -> None:
        super().__init__(batch=options.batch, seed=seed)
        self.options, self.files, self.notes = options, files, notes
        self.place: Path | None = None
        """The run's data folder; None in memory."""
        self.about: dict[str, Any] = {}
        self.passages_: Passages | None = None

    # --- the passages -------------------------------------------------------------------------

    @property
    def passages(self) -> Passages:
        """In memory: read and cut now, if that was not done yet.

        Raises:
            UserError: none of the documents can be read.
        """
        if self.passages_ is None:
            self.passages_ = self._read()
        return self.passages_

    def _read(self) -> Passages:
        changes, rows = Changes(), list[dict[str, Any]]()
        for file in self.files:
            try:
                content = content_of(file, self.options.cut)
                rows += cut_file(file, content, self.options.cut)
            except UserError as error:
                changes.left_out.append((file.name, str(error)))
                continue
            changes.added, changes.size = changes.added + 1, changes.size + len(content)
        found = frames.of_rows(rows)
        self._tell(found, changes)
        return found

    def of_digest(self, digest: str) -> Passages:
        """The passages that an index was made of.

        Raises:
            UserError: they are gone.
        """
        if self.passages_ is None or self.passages_.digest != digest:
            if self.place is None:
                return self.passages
            self.passages_ = frames.read(self.place, digest)
        return self.passages_

    def store(self, width: int = 0) -> Store:
        """The table, opened for writing."""
        assert self.place is not None  # noqa: S101
        return Store(self.options.store or self.place / "store", width)

    def gather(self, store: Store, encode: Encode | None, console: Console) -> Passages:
        """Bring the store in line with the documents, and write what verbs read; nothing is seen of it yet.

        Raises:
            UserError: none of the documents can be read, or the disk is full.
        """
        assert self.place is not None  # noqa: S101
        changes = gather(store, self.files, self.options.cut, encode, _progress(console))
        found = frames.write(store, self.place)
        self._tell(found, changes)
        self.passages_ = found
        return found

    def gathered(self, store: Store) -> Passages:
        """What a store holds, written for verbs, as `gather` does."""
        assert self.place is not None  # noqa: S101
        found = frames.write(store, self.place)
        self._tell(found, None)
        self.passages_ = found
        return found

    def sources(self) -> dict[str, Any]:
        """What each of the last states of the store was made of, by its version."""
        assert self.place is not None  # noqa: S101
        path = self.place / "sources.json"
        try:
            known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            return dict(known)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path}: damaged ({error}); remove it") from error

    def keep_sources(self, version: int, sources: Any) -> None:
        """Keep what a state was made of; of older states for as long as they can be gone back to."""
        assert self.place is not None  # noqa: S101
        known = {**self.sources(), str(version): sources}
        newest = sorted(known, key=int)[-SOURCES:]
        write_text(
            self.place / "sources.json",
            json.dumps({v: known[v] for v in newest}, ensure_ascii=False),
        )

    def alone(self, folder: Path) -> AbstractContextManager[None]:
        """Be the only one who writes in a run's folder; see `sole_writer`."""
        return sole_writer(folder / "data")

    def forget(self, digest: str) -> None:
        """Remove files that no index needs any more, once one of these passages is in place."""
        if self.place is not None:
            frames.forget(self.place, digest)

    def _tell(self, found: Passages, changes: Changes | None) -> None:
        self.about = {
            "passages": len(found), "documents": int(found.frame["document"].n_unique()),
            "duplicates": found.duplicates, "fingerprint": found.digest,
        }  # fmt: skip
        if changes is not None:
            self.about |= {
                "changes": str(changes), "bytes": changes.size,
                "left_out": [list(some) for some in changes.left_out],
            }  # fmt: skip

    # --- the contract of data -----------------------------------------------------------------

    @property
    def fingerprint(self) -> str:  # type: ignore[override]
        """SHA-256 of the passages; of an opened run those that were indexed."""
        if self.about or self.place is not None:
            return str(self.about.get("fingerprint", ""))
        return self.passages.digest

    def size(self, split: Split) -> int:
        """See `Data.size`: all passages are the training split."""
        return len(self.passages) if split == "train" and (self.files or self.passages_) else 0

    def take(self, split: Split, index: np.ndarray | slice, epoch: int | None) -> Batch:
        """See `Indexed.take`."""
        rows = np.arange(len(self.passages))[index]
        hashed, edges = terms.hashes(
            [_question(t) for t in self.passages.frame["text"][rows].to_list()]
        )
        width = max(1, int(np.diff(edges).max(initial=1)))
        asked = np.zeros((len(rows), width), np.int64)
        for n in range(len(rows)):
            asked[n, : edges[n + 1] - edges[n]] = hashed[edges[n] : edges[n + 1]].view(np.int64)
        return {"row": torch.from_numpy(rows), "terms": torch.from_numpy(asked)}

    def reopen(
        self, sources: Any, *, seed: int = 0, valid: Any = None, whole: bool = False
    ) -> DocumentsData:
        """See `Data.reopen`."""
        return self.options.open(sources, seed=seed, valid=valid)

    def save(self, folder: Path) -> None:
        """See `Data.save`: what is known of the passages; those themselves are in the store."""
        self.place = folder
        write_text(folder / "documents.json", json.dumps(self.about, ensure_ascii=False))

    def summary(self) -> dict[str, Any]:
        """See `Data.summary`."""
        about = {k: v for k, v in self.about.items() if k != "left_out"}
        return {**about, "notes": [*self.notes, *told(self.about)]}


def told(about: dict[str, Any]) -> list[str]:
    """What a user should know of what was indexed, in sentences."""
    notes = []
    if about.get("duplicates"):
        notes.append(
            f"{about['duplicates']:,} passages say what another says already and are left out."
        )
    left_out = about.get("left_out", [])
    if left_out:
        some = "; ".join(f"{name} ({why})" for name, why in left_out[:20])
        more = f"; and {len(left_out) - 20} more" if len(left_out) > 20 else ""
        one = "document was" if len(left_out) == 1 else "documents were"
        notes.append(f"{len(left_out)} {one} left out: {some}{more}")
    return notes


def _question(text: str) -> str:
    """The sentence of a passage that it is looked for by: the first of some length, or the longest."""
    found = [text[a:b] for a, b in sentences(text)] or [text]
    long = [s for s in found if weight(s) >= ASKED]
    return long[len(long) // 2] if long else max(found, key=weight)


def _progress(console: Console) -> Any:
    """Says how far it is, every few seconds."""
    last = [time.monotonic()]

    def told(done: int, of: int) -> None:
        if time.monotonic() - last[0] > PAUSE:
            last[0] = time.monotonic()
            console.say(f"{done:,} of {of:,} documents")

    return told
