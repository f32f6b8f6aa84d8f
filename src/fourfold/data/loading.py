"""The one loader: examples reached by number, in an order fixed by (seed, epoch), sliced as whole tensors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import nn

from fourfold.core.parts import Batch, Data, Split
from fourfold.core.shares import SharedBatch


class Indexed(Data):
    """Data whose examples have numbers 0..size-1 in each split.

    A subclass says how many there are (`size`) and gathers some of them (`take`); order, position
    and resume live here.
    """

    apart: bool = False
    """Whether some examples are gathered as they are among others, so that a process gathers its share only."""
    window: int = 0
    """Examples that are gathered at once where their order is random; 0 gathers each batch by itself."""

    def __init__(self, *, batch: int, seed: int) -> None:
        self.batch, self.seed = batch, seed
        self._epoch, self._consumed = 0, 0

    @abstractmethod
    def take(self, split: Split, index: np.ndarray | slice, epoch: int | None) -> Batch:
        """Gather examples.

        Args:
            split: which part.
            index: (B,) int64 numbers below `count(split, epoch)`, or a slice of them in stored order.
            epoch: the epoch, for data whose examples differ by epoch; None in stored order.
        """

    def count(self, split: Split, epoch: int | None) -> int:
        """Examples in this epoch, where that differs from `size`."""
        return self.size(split)

    def length(self, split: Split, epoch: int | None = None) -> int:
        """See `Data.length`."""
        return -(-self.count(split, epoch) // self.batch)

    def batches(
        self, split: Split, *, epoch: int | None = None, model: nn.Module | None = None
    ) -> Iterator[Batch]:
        """See `Data.batches`."""
        count = self.count(split, epoch)
        if epoch is None:
            for start in range(0, count, self.batch):
                yield self.take(split, slice(start, min(start + self.batch, count)), None)
            return
        order = np.random.default_rng([self.seed, epoch]).permutation(count)
        left = self.unconsumed(-(-count // self.batch), epoch)
        begun = self._consumed * self.batch if self._epoch == epoch else 0
        for _, batch in zip(left, self._gathered(split, order[begun:], epoch), strict=True):
            yield batch

    def unconsumed(self, batches: int, epoch: int) -> Iterator[int]:
        """Numbers of an epoch's batches from the first that is not consumed on, each counted as it is handed over."""
        if self._epoch != epoch:
            self._epoch, self._consumed = epoch, 0
        for number in range(self._consumed, batches):
            # before the hand-over: a checkpoint is taken after the step on this batch
            self._consumed += 1
            yield number

    def _gathered(self, split: Split, order: np.ndarray, epoch: int) -> Iterator[Batch]:
        """Batches in an order; gathered `window` examples at a time they are slices of what was gathered."""
        if self.apart and self.mine is not None:
            yield from self._shared(split, order, epoch)
            return
        rows = max(self.batch, self.window // self.batch * self.batch)
        for start in range(0, len(order), rows):
            some = self.take(split, order[start : start + rows], epoch)
            if rows == self.batch:
                yield some
                continue
            names, parts = some.keys(), (values.split(self.batch) for values in some.values())
            for batch in zip(*parts, strict=True):
                yield dict(zip(names, batch, strict=True))

    def _shared(self, split: Split, order: np.ndarray, epoch: int) -> Iterator[Batch]:
        """Of each batch this process's rows."""
        assert self.mine is not None  # noqa: S101
        for start in range(0, len(order), self.batch):
            whole = order[start : start + self.batch]
            share = self.mine(len(whole))
            some = whole[share.first : share.first + share.rows] if share.rows else whole[:1]
            yield SharedBatch(self.take(split, some, epoch), share)

    def state_dict(self) -> dict[str, Any]:
        """See `Data.state_dict`."""
        return {"epoch": self._epoch, "batches": self._consumed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Data.load_state_dict`."""
        self._epoch, self._consumed = state["epoch"], state["batches"]
