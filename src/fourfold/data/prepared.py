"""Prepared rows: held in memory, in a memory-mapped file, or made chunk by chunk as they are asked for."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, Split
from fourfold.core.state import full_disk
from fourfold.data.columns import Reader, cells
from fourfold.data.rows import IN_MEMORY

if TYPE_CHECKING:
    import polars as pl

    from fourfold.data.table import TableData

NUMBER: dict[Split, int] = {"train": 0, "valid": 1, "test": 2}


class Prepared:
    """Features and targets of a table's rows."""

    def __init__(self, data: TableData) -> None:
        self.data = data
        self.held: dict[Split, tuple[Tensor, Tensor | None]] = {}
        self.missing: Counter[str] = Counter()
        self.unseen: Counter[str] = Counter()

    @property
    def large(self) -> bool:
        """Whether all prepared rows together are more than is held in memory."""
        assert self.data.rows is not None  # noqa: S101
        width = len(self.data.columns) * np.dtype(self.data.options.dtype).itemsize
        return self.data.rows.count * width > 2 * IN_MEMORY

    def take(self, split: Split, index: np.ndarray | slice) -> Batch:
        """Rows of a split by number; all rows are prepared when the first is asked for."""
        if not self.held:
            self._fill()
        features, targets = self.held[split]
        if isinstance(index, slice):
            batch = {"features": features[index]}
            return batch if targets is None else {**batch, "targets": targets[index]}
        numbers = torch.from_numpy(index)
        batch = {"features": features.index_select(0, numbers)}
        return batch if targets is None else {**batch, "targets": targets.index_select(0, numbers)}

    def stream(self, split: Split, batch: int) -> Iterator[Batch]:
        """Batches in stored order, prepared as they are asked for."""
        held: list[tuple[np.ndarray, np.ndarray | None]] = []
        for _, features, targets in self._chunks(split):
            if held:  # rows left over from the chunk before
                features = np.concatenate([held[0][0], features])
                targets = None if targets is None else np.concatenate([held[0][1], targets])  # type: ignore[list-item]
            whole = len(features) // batch * batch
            for start in range(0, whole, batch):
                yield _batch(features, targets, slice(start, start + batch))
            held = [(features[whole:].copy(), None if targets is None else targets[whole:].copy())]
        if held and len(held[0][0]):
            yield _batch(*held[0], slice(None))

    def notes(self) -> list[str]:
        """What preparing these rows met."""
        what = (
            "zeros in all its columns"
            if self.data.options.unseen == "zeros"
            else "counted as other"
        )
        filled = (
            [
                f"{name}: {count:,} missing cells filled as in training"
                for name, count in self.missing.items()
            ]
            if self.data.parts is not None and not (self.data.parts == 0).any()
            else []  # of the rows that were fitted, the fit has told
        )
        return filled + [
            f"{name}: {count:,} cells hold a category that training has not seen ({what})"
            for name, count in self.unseen.items()
        ]

    def _chunks(
        self, split: Split | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        """Part of each row, features (m, D) and targets (m,), of a split or of all that count."""
        data = self.data
        assert data.rows is not None and data.parts is not None  # noqa: S101
        encodings = [e for e in data.schema.encodings if e.columns()]
        names = [e.name for e in encodings] + ([data.target.name] if data.has_targets else [])
        missing: Counter[str] = Counter()
        unseen: Counter[str] = Counter()
        for start, frame in data.rows.chunks(names):
            parts = data.parts[start : start + frame.height]
            keep = np.flatnonzero(parts >= 0 if split is None else parts == NUMBER[split])
            if not len(keep):
                continue
            if len(keep) < frame.height:
                frame = frame[keep]
            read = Reader(data.rows.placed(start, keep), data.options.decimal)
            features = np.zeros((len(keep), len(data.columns)), data.options.dtype)
            at = 0
            for encoding in encodings:
                width = len(encoding.columns())
                gone, new = encoding.encode(
                    frame[encoding.name], features[:, at : at + width], read
                )
                missing[encoding.name] += gone
                unseen[encoding.name] += new
                at += width
            targets = self._targets(frame, read) if data.has_targets else None
            yield parts[keep], features, targets
        self.missing, self.unseen = +missing, +unseen

    def _targets(self, frame: pl.DataFrame, read: Reader) -> np.ndarray:
        import polars as pl

        target, options = self.data.target, self.data.options
        series = frame[target.name]
        if target.kind == "number":
            return ((read.numbers(series) - target.mean) / target.scale).astype(options.dtype)
        codes = cells(series).replace_strict(
            pl.Series(target.classes, dtype=pl.String), pl.Series(range(len(target.classes)), dtype=pl.Int64),
            default=-1, return_dtype=pl.Int64,
        ).to_numpy()  # fmt: skip
        if (codes < 0).any():
            row = int(np.argmax(codes < 0))
            raise UserError(
                f"{read.place(row)}, column {target.name}: class {series[row]} is not among those of the training rows"
            )
        return codes

    def _fill(self) -> None:
        data = self.data
        sizes = {split: data.size(split) for split in NUMBER}
        room = _mapped if self.large else np.empty
        width, dtype = len(data.columns), np.dtype(data.options.dtype)
        label = np.dtype(np.int64) if data.target.kind == "category" else dtype
        features = {split: room((size, width), dtype) for split, size in sizes.items()}
        targets = {split: np.empty(size, label) for split, size in sizes.items()}
        at = dict.fromkeys(NUMBER, 0)
        for parts, x, y in self._chunks(None):
            for split, number in NUMBER.items():
                rows = parts == number
                end = at[split] + int(rows.sum())
                features[split][at[split] : end] = x[rows]
                if y is not None:
                    targets[split][at[split] : end] = y[rows]
                at[split] = end
        for split in NUMBER:
            known = torch.from_numpy(targets[split]) if data.has_targets else None
            self.held[split] = torch.from_numpy(features[split]), known


def _batch(features: np.ndarray, targets: np.ndarray | None, rows: slice) -> Batch:
    batch = {"features": torch.from_numpy(features[rows])}
    return batch if targets is None else {**batch, "targets": torch.from_numpy(targets[rows])}


def _mapped(shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """An array in a file without a name, which is gone when the array is."""
    if not shape[0] * shape[1]:
        return np.empty(shape, dtype)
    size = shape[0] * shape[1] * dtype.itemsize
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
