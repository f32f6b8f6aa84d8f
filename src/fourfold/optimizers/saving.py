"""Checkpoints of one search: large ones are written by a thread while its steps go on.

What is written is a copy, so that steps may change what it was made from. A checkpoint is there once its folder has its
name: whoever is killed in the middle goes on from the one before.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fourfold.core.device import available_memory
from fourfold.core.ranks import Ranks
from fourfold.core.state import bytes_of, copied, save_checkpoint
from fourfold.core.together import another_group

if TYPE_CHECKING:
    from fourfold.optimizers.shards import Shards

LARGE = 1 << 26
"""Bytes of a state from which it is written beside the steps: smaller ones are on disk within a moment."""


class Saving:
    """The checkpoints of one search.

    Args:
        folder: of all checkpoints; None: nothing is kept.
        ranks: the processes of the fit.
        parts: whether weights are spread over them; each then writes its own part.
    """

    def __init__(self, folder: Path | None, ranks: Ranks, parts: bool) -> None:
        self.folder, self.ranks, self.parts = folder, ranks, parts
        # what processes say while they write must not meet what they say of their steps
        self.group = another_group("gloo") if parts else None
        self.pool: ThreadPoolExecutor | None = None
        self.writing: Future[Any] | None = None
        self.shards: Shards | None = None

    def save(self, step: int, state: Any, beside: bool) -> None:
        """Write a checkpoint, after the one that is still being written; of several processes all call this.

        Args:
            step: its number.
            state: all that it holds.
            beside: whether steps may go on before it is written.

        Raises:
            UserError: the disk is full or may not be written; earlier checkpoints are intact.
        """
        self.end()
        if self.folder is None:
            return
        beside = beside and self._pays(state)
        if self.parts:
            from fourfold.optimizers.shards import Shards

            group = self.group if beside else None
            self.shards = Shards(self.folder, step, state, self.ranks, group)
            self.writing = self._begin(self.shards.written) if beside else None
            if not beside:
                self.end()
        elif self.ranks.main and beside:
            self.writing = self._begin(partial(save_checkpoint, self.folder, step, copied(state)))
        elif self.ranks.main:
            save_checkpoint(self.folder, step, state)

    @property
    def finished(self) -> bool:
        """Whether one that was begun beside the steps only has to be ended."""
        return self.writing is not None and self.writing.done()

    def end(self) -> None:
        """Wait for the one that is being written; of several processes with parts all call this.

        Raises:
            UserError: it could not be written.
        """
        writing, shards = self.writing, self.shards
        self.writing = self.shards = None
        if shards:
            with self.ranks.waiting("a checkpoint"):
                mine = writing.result() if writing else shards.written()
            shards.end(mine)
        elif writing:
            writing.result()

    def settle(self) -> None:
        """Wait, where the search ends with an error of its own, for the one that is being written."""
        writing, self.writing = self.writing, None
        if writing and not self.parts:
            writing.exception()

    def _begin(self, write: Any) -> Future[Any]:
        self.pool = self.pool or ThreadPoolExecutor(1, "fourfold checkpoint")
        return self.pool.submit(write)

    def _pays(self, state: Any) -> bool:
        """Whether a state is large, and there is room for a copy of it."""
        size = bytes_of(state)
        if size < LARGE:
            return False
        room = size < available_memory(torch.device("cpu")) / 2
        return bool(self.ranks.tell(room)) if self.parts else room
