"""An index of nearest neighbours for vocabularies of millions: HNSW (Malkov and Yashunin 2018), through hnswlib.

It answers one question in a fraction of a millisecond where the exact product takes 40 ms for a million words
of 100 numbers, and a small share of the neighbours may be missed. It is made once and kept in the run's folder.
Shapes: V words, D features, Q questions.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.tasks.neighbours import Space

How = Literal["auto", "exact", "hnsw"]
LARGE = 1_000_000
"""Words beyond which an index that was made is used by itself."""
LINKS, BREADTH, WIDTH = 16, 200, 128
"""Links of a word; candidates looked at while the index is made, and in answering."""


class Index:
    """Nearest rows of a matrix of unit vectors by product, nearly exactly."""

    def __init__(self, unit: np.ndarray, path: Path | None = None) -> None:
        """Make an index of (V, D) float32 `unit`, or read it from `path`; one that was made is written there."""
        self._index = _library().Index(space="ip", dim=unit.shape[1])
        if path is not None and path.exists():
            self._index.load_index(str(path), max_elements=len(unit))
        else:
            self._index.init_index(len(unit), ef_construction=BREADTH, M=LINKS, random_seed=0)
            self._index.add_items(unit, np.arange(len(unit)))
            if path is not None:
                part = path.with_name(f".{path.name}.part")
                self._index.save_index(str(part))
                part.replace(path)

    def nearest(self, questions: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
        """(Q, top) rows and their products with the questions (Q, D), in falling order."""
        self._index.set_ef(max(WIDTH, 2 * top))
        rows, distances = self._index.knn_query(np.asarray(questions, np.float32), top)
        return rows.astype(np.int64), 1 - distances


def _library() -> Any:
    try:
        import hnswlib
    except ImportError as error:
        raise UserError(
            '--index hnsw: needs the package hnswlib: pip install "fourfold[vectors]"'
        ) from error
    return hnswlib


def index_of(run: Run, space: Space, which: str, how: How) -> Index | None:
    """The index to answer by, or None to answer exactly.

    Args:
        run: whose folder keeps the index.
        space: its vectors.
        which: of them.
        how: hnsw makes an index where there is none; auto takes one that was made, beyond a million words.
    """
    if how == "exact" or (how == "auto" and len(space) <= LARGE):
        return None
    known: dict[str, Index] = vars(run).setdefault("_indices", {})
    if which in known:
        return known[which]
    sample = space.unit[:: max(1, len(space) // 1000)]
    digest = hashlib.sha256(f"{space.unit.shape}".encode() + sample.tobytes()).hexdigest()[:12]
    path = run.folder / f"neighbours-{which}-{digest}.hnsw" if run.folder is not None else None
    if how == "auto" and (path is None or not path.exists()):
        return None
    if path is None or not path.exists():
        run.console.say(f"Making an index of {len(space):,} words, once.")
    try:
        known[which] = Index(space.unit, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    return known[which]
