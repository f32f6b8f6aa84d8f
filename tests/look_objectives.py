"""A plain objective for tests of what is seen of a model."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from fourfold.core.parts import Batch, Move, Objective


class Squares(Objective):
    """Sum of squares of what the model makes of x, less y where there is one."""

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        out = model(batch["x"])
        error = out - batch["y"] if "y" in batch else out
        yield Move("model", error.square().sum(), len(out))
