"""Prepared rows: held in memory, in a memory-mapped file, or made chunk by chunk as they are asked for."""

from __future__ import annotations

import math
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, Split
from fourfold.core.state import full_disk
from fourfold.data.cells import Reader
from fourfold.data.encoder import Arrays, Encoder
from fourfold.data.rows import IN_MEMORY
from fourfold.data.splits import TEST, TRAIN, VALID
from fourfold.data.statistics import SAMPLE

if TYPE_CHECKING:
    from fourfold.data.table import TableData

FEW = 6
"""Categories that are named where a cell is none of them."""
BLOCK = 8192
"""Rows of a block of rows in memory at most."""
NUMBERS = 1 << 20
"""Numbers of such a block at most."""
NUMBER: dict[Split, int] = {"train": TRAIN, "valid": VALID, "test": TEST}


class Prepared:
    """Features and targets of a table's rows."""

    def __init__(self, data: TableData) -> None:
        self.data = data
        self.held: dict[Split, dict[str, Tensor]] = {}
        """Splits that are in memory, or in a memory-mapped file."""
        self.missing: dict[Split, Counter[str]] = {}
        self.unseen: dict[Split, Counter[str]] = {}

    @property
    def large(self) -> bool:
        """Whether all prepared rows together are more than is held in memory."""
        assert self.data.rows is not None  # noqa: S101
        return self._size(self.data.rows.count) > 2 * IN_MEMORY

    def streams(self, split: Split) -> bool:
        """Whether a split in stored order is prepared as it is asked for."""
        return self.large and split not in self.held

    def take(self, split: Split, index: np.ndarray | slice) -> Batch:
        """Rows of a split by number; all rows are prepared when the first is asked for."""
        if split not in self.held:
            self._fill()
        if isinstance(index, slice):
            return {name: values[index] for name, values in self.held[split].items()}
        numbers = torch.from_numpy(index)
        return {n: values.index_select(0, numbers) for n, values in self.held[split].items()}

    def stream(self, split: Split, batch: int) -> Iterator[Batch]:
        """Batches in stored order, prepared as they are asked for."""
        left: Arrays = {}
        for _, arrays in self._chunks([split]):
            if left:  # rows left over from the chunk before
                arrays = {n: np.concatenate([left[n], values]) for n, values in arrays.items()}
            whole = len(arrays["features"]) // batch * batch
            for start in range(0, whole, batch):
                yield _batch(arrays, slice(start, start + batch))
            left = {name: values[whole:].copy() for name, values in arrays.items()}
        if left and len(left["features"]):
            yield _batch(left, slice(None))

    def blocks(self, split: Split) -> Iterator[Batch]:
        """A split in stored order, in large pieces; the validation rows are kept on the way where they fit."""
        if not self.streams(split):
            count = self.data.size(split)
            rows = max(self.data.batch, min(BLOCK, NUMBERS // max(1, len(self.data.columns))))
            for start in range(0, count, rows):
                yield self.take(split, slice(start, min(start + rows, count)))
            return
        fits = self._size(self.data.size("valid")) <= 2 * IN_MEMORY
        aside: list[Split] = (
            ["valid"] if split == "train" and fits and self.streams("valid") else []
        )
        kept = {other: _Room(self.data, other, np.empty) for other in aside}
        for part, arrays in self._chunks([split, *aside], reuse=True):
            if part in kept:
                kept[part].put(arrays)
            else:
                yield _batch(arrays, slice(None))
        self.held.update({other: room.tensors() for other, room in kept.items()})

    def sample(self, split: Split) -> np.ndarray:
        """(n, D) features of up to SAMPLE rows of a split, evenly spread over it."""
        count = self.data.size(split)
        some = np.linspace(0, max(0, count - 1), min(SAMPLE, count)).astype(np.int64)
        if not self.streams(split):
            return np.asarray(self.take(split, some)["features"].numpy())
        found, start = [np.empty((0, len(self.data.columns)))], 0
        for _, arrays in self._chunks([split]):
            features = arrays["features"]
            here = some[(some >= start) & (some < start + len(features))] - start
            found.append(features[here])
            start += len(features)
        return np.concatenate(found)

    def notes(self) -> list[str]:
        """What preparing these rows met."""
        data, notes = self.data, []
        unseen: Counter[str] = sum(self.unseen.values(), Counter())
        missing: Counter[str] = sum(self.missing.values(), Counter())
        if data.parts is not None and not (data.parts == TRAIN).any():
            notes += [
                f"{name}: {count:,} missing cells filled as in training"
                for name, count in missing.items()
            ]  # of rows that were fitted, the fit has told
        zeros = data.options.unseen == "zeros"
        what = "zeros in all its columns" if zeros else "counted as other"
        known = {
            e.name: f"; it knows {', '.join(e.categories)}"
            for e in data.schema.encodings
            if 0 < len(e.categories) <= FEW
        }
        embedded = {e.name for e in data.schema.encodings if e.embedded}
        return notes + [
            f"{name}: {count:,} cells hold a category that training has not seen "
            f"({'the code of unknown ones' if name in embedded else what})" + known.get(name, "")
            for name, count in unseen.items()
        ]

    def _size(self, rows: int) -> int:
        """Bytes of so many prepared rows."""
        return rows * len(self.data.columns) * np.dtype(self.data.options.dtype).itemsize

    def _fill(self) -> None:
        """Prepare all splits that are not held yet."""
        room = _mapped if self.large else np.empty
        rooms = {s: _Room(self.data, s, room) for s in NUMBER if s not in self.held}
        for split, arrays in self._chunks(list(rooms), reuse=True):
            rooms[split].put(arrays)
        self.held.update({split: filled.tensors() for split, filled in rooms.items()})

    def _chunks(
        self, splits: Sequence[Split], *, reuse: bool = False
    ) -> Iterator[tuple[Split, Arrays]]:
        """Rows of some splits in stored order: features (m, D), targets (m,) or (m, K) and weight (m,)."""
        import polars as pl

        data = self.data
        assert data.rows is not None and data.parts is not None  # noqa: S101
        encoder = Encoder(data, reuse=reuse)
        missing = {split: Counter[str]() for split in splits}
        unseen = {split: Counter[str]() for split in splits}
        for start, frame in data.rows.chunks(encoder.names):
            parts = data.parts[start : start + frame.height]
            for split in splits:
                wanted = parts == NUMBER[split]
                keep = np.flatnonzero(wanted)
                if not len(keep):
                    continue
                some = frame if len(keep) == len(wanted) else frame.filter(pl.Series(wanted))
                read = Reader(data.rows.placed(start, keep), fitted=True)
                yield split, encoder.encode(some, read, missing[split], unseen[split])
        self.missing.update({split: +counts for split, counts in missing.items()})
        self.unseen.update({split: +counts for split, counts in unseen.items()})


class _Room:
    """Arrays that a split's prepared rows are put into."""

    def __init__(self, data: TableData, split: Split, make: Callable[..., np.ndarray]) -> None:
        size, dtype = data.size(split), np.dtype(data.options.dtype)
        self.arrays: Arrays = {"features": make((size, len(data.columns)), dtype)}
        if data.has_targets:
            several = (len(data.target.classes),) if data.target.kind == "labels" else ()
            label = np.dtype(np.int64) if data.target.kind == "category" else dtype
            self.arrays["targets"] = make((size, *several), label)
        if data.weights is not None:
            self.arrays["weight"] = make((size,), dtype)
        self.at = 0

    def put(self, arrays: Arrays) -> None:
        """Add rows."""
        end = self.at + len(arrays["features"])
        for name, values in arrays.items():
            self.arrays[name][self.at : end] = values
        self.at = end

    def tensors(self) -> dict[str, Tensor]:
        """All of them."""
        return {name: torch.from_numpy(values) for name, values in self.arrays.items()}


def _batch(arrays: Arrays, rows: slice) -> Batch:
    return {name: torch.from_numpy(values[rows]) for name, values in arrays.items()}


def _mapped(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array in a file without a name, which is gone when the array is."""
    size = math.prod(shape) * dtype.itemsize
    if not size:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile() as file:  # the mapping keeps it open
        try:
            file.truncate(size)
            if hasattr(os, "posix_fallocate"):  # a full disk says so here, not by a signal
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if not full_disk(error):
                raise
            raise UserError(
                f"{tempfile.gettempdir()}: no room for {size:,} bytes of prepared rows; set TMPDIR to a larger disk"
            ) from error
        return np.memmap(file, dtype, "r+", shape=shape)
