"""A tiny system over tensors in memory, for tests of the loop that need no real system."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, Data, DataOptions, Move, Objective, Split
from fourfold.core.run import Run
from fourfold.core.system import System, system
from fourfold.data.loading import Indexed
from fourfold.optimizers.gradient import Gradient


class Rows(Indexed):
    """Rows of tensors, split as they are given."""

    unit = "rows"

    def __init__(self, splits: dict[str, dict[str, Tensor]], batch: int, seed: int) -> None:
        super().__init__(batch=batch, seed=seed)
        self.splits = splits
        self.fingerprint = "rows"

    def size(self, split: Split) -> int:
        return len(next(iter(self.splits[split].values()))) if split in self.splits else 0

    def take(self, split: Split, index: np.ndarray | slice, epoch: int | None) -> Batch:
        return {name: tensor[index] for name, tensor in self.splits[split].items()}

    def reopen(
        self, sources: Any, *, seed: int = 0, valid: Any = None, whole: bool = False
    ) -> Data:
        return Rows(self.splits, self.batch, seed)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "rows").write_text("")


class RowsOptions(DataOptions):
    batch: int = 8
    """Rows in a batch."""

    def open(self, sources: Any, *, seed: int = 0, valid: Any = None) -> Data:
        if sources is not None:
            raise UserError(f"{sources}: no such file (these rows are made here)")
        generator = torch.Generator().manual_seed(5)
        x = torch.randn(80, 3, generator=generator)
        y = x @ torch.tensor([1.0, -2.0, 0.5]) + 0.3
        splits = {
            "train": {"x": x[:64], "y": y[:64]},
            "valid": {"x": x[64:72], "y": y[64:72]},
            "test": {"x": x[72:], "y": y[72:]},
        }
        return Rows(splits, self.batch, seed)

    def restore(self, folder: Path) -> Data:
        return self.open(None)


class Squares(Objective):
    """Sum of squared errors; `halves` splits it into two moves of two players."""

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        error = model(batch["x"]).squeeze(-1) - batch["y"]
        yield Move("model", error.square().sum(), len(error))


@system("rows", reads="tensors")
class RowSystem(System):
    """A small network on rows of tensors."""

    data: RowsOptions = RowsOptions()
    objective: Squares = Squares()
    optimizer: Gradient = Gradient(
        algorithm="sgd", lr=0.05, steps=40, clip=1.0, precision="float32"
    )
    dropout: float = 0.0
    """Share of hidden activations dropped."""

    def build(self, data: Data) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(self.dropout), nn.Linear(4, 1))

    def double(self, run: Run, number: int, *, times: int = 2) -> int:
        """Multiply."""
        return number * times

    @classmethod
    def toy(cls) -> tuple[RowSystem, Any]:
        return cls(), None
