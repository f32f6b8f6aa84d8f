"""Chunks of rows as features, targets and weights, under a fitted schema.

Shapes: m rows of a chunk, D prepared columns, K labels.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from fourfold.core.errors import UserError
from fourfold.data.cells import Reader, numbered
from fourfold.data.forms import BOOLEAN

if TYPE_CHECKING:
    import polars as pl

    from fourfold.data.table import TableData

Arrays = dict[str, np.ndarray]


class Encoder:
    """Cells of a chunk as features, targets and weights."""

    def __init__(self, data: TableData, *, reuse: bool = False) -> None:
        """For rows of a table.

        Args:
            data: whose schema holds.
            reuse: write each chunk over the one before, which spares the time that new memory takes.
        """
        self.data = data
        self._buffer = np.empty(0, data.options.dtype) if reuse else None
        self.encodings = [(e, len(e.columns())) for e in data.schema.encodings if e.columns()]
        self.names = [encoding.name for encoding, _ in self.encodings]
        self.names += data.target.columns if data.has_targets else ()
        self.names += [data.weights] if data.weights is not None else []

    def encode(
        self, frame: pl.DataFrame, read: Reader, missing: Counter[str], unseen: Counter[str]
    ) -> Arrays:
        """Features (m, D), targets (m,) or (m, K) and weight (m,) of rows; missing and unseen cells are counted."""
        data = self.data
        dtype = np.dtype(data.options.dtype)
        features = self._room(frame.height)
        at = 0
        for encoding, width in self.encodings:
            out = features[:, at : at + width]
            gone, new = encoding.encode(frame[encoding.name], out, read)
            missing[encoding.name] += gone
            unseen[encoding.name] += new
            at += width
        arrays = {"features": features}
        if data.has_targets:
            arrays["targets"] = self._targets(frame, read)
        if data.weights is not None:
            form = data.schema.form(data.weights)
            arrays["weight"] = read.importance(frame[data.weights], form).astype(dtype)
        return arrays

    def _room(self, rows: int) -> np.ndarray:
        """(m, D) numbers to be overwritten; columns are contiguous, as they are written."""
        width = len(self.data.columns)
        if self._buffer is None:
            return np.empty((width, rows), self.data.options.dtype).T
        if len(self._buffer) < width * rows:
            self._buffer = np.empty(width * rows, self.data.options.dtype)
        return self._buffer[: width * rows].reshape(width, rows).T

    def _targets(self, frame: pl.DataFrame, read: Reader) -> np.ndarray:
        target, options = self.data.target, self.data.options
        if target.kind == "labels":
            return np.stack([read.truths(frame[n]) for n in target.columns], 1).astype(
                options.dtype
            )
        series, form = frame[target.name], self.data.schema.form(target.name)
        if target.kind == "number":
            return ((read.numbers(series, form) - target.mean) / target.scale).astype(options.dtype)
        if target.classes == BOOLEAN.words:
            form = BOOLEAN
        codes = numbered(read.texts(series, form), target.classes)
        if (codes < 0).any():
            row = int(np.argmax(codes < 0))
            raise UserError(
                f"{read.place(row)}, column {target.name}: class {series[row]} is not among those of the training rows"
            )
        return codes
