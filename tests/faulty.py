"""Systems that misbehave on purpose, for the tests of faults: slow data, poisoned batches, a game."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fourfold.core.parts import Batch, Data, Move, Objective, Split
from fourfold.core.registry import load_system, register
from fourfold.core.system import System, system
from fourfold.optimizers.gradient import Gradient
from helpers import Rows, RowsOptions, RowSystem, Squares


class FaultyRows(Rows):
    """Rows that come slowly, are poisoned from some epoch on, and write down which epoch was served."""

    def __init__(self, rows: Rows, options: FaultyOptions) -> None:
        super().__init__(rows.splits, rows.batch, rows.seed)
        self.options = options

    def take(self, split: Split, index: np.ndarray | slice, epoch: int | None) -> Batch:
        batch = dict(super().take(split, index, epoch))
        if epoch is None:
            return batch
        time.sleep(self.options.pause)
        if epoch >= self.options.failing_from and os.environ.get("RANK") == "1":
            if self.options.failing == "sleep":
                time.sleep(1000)
            raise RuntimeError("this rank fails on purpose")
        if "SERVED" in os.environ:
            with open(os.environ["SERVED"], "a", encoding="utf-8") as file:
                file.write(f"{epoch}\n")
        if epoch >= self.options.poisoned_from:
            batch["x"] = torch.full_like(batch["x"], float("nan" if self.options.nan else "0"))
        return batch

    def reopen(
        self, sources: Any, *, seed: int = 0, valid: Any = None, whole: bool = False
    ) -> Data:
        return self.options.open(sources, seed=seed)


class FaultyOptions(RowsOptions):
    pause: float = 0.0
    """Seconds that each training batch takes."""
    opening: float = 0.0
    """Seconds that opening takes."""
    failing_from: int = 10**9
    """Epoch from which on rank 1 fails."""
    failing: Literal["raise", "sleep"] = "raise"
    """How."""
    poisoned_from: int = 10**9
    """Epoch from which on the inputs are poison."""
    nan: bool = True
    """Whether the poison is NaN; otherwise 0."""

    def open(self, sources: Any, *, seed: int = 0, valid: Any = None) -> Data:
        if self.opening:
            print("opening", file=sys.stderr, flush=True)
            time.sleep(self.opening)
        rows = super().open(sources, seed=seed)
        assert isinstance(rows, Rows)
        return FaultyRows(rows, self)

    def restore(self, folder: Path) -> Data:
        return self.open(None)


class Length(nn.Module):
    """Euclidean length of the last axis, whose derivative at 0 is not a number."""

    def forward(self, x: Tensor) -> Tensor:
        return x.square().sum(-1, keepdim=True).sqrt()


@system("faulty", reads="tensors")
class FaultySystem(RowSystem):
    """A small network with everything on that a checkpoint must hold."""

    data: FaultyOptions = FaultyOptions()
    objective: Squares = Squares()
    optimizer: Gradient = Gradient(
        algorithm="adamw", lr=0.02, steps=60, warmup=5, clip=1.0, decay=0.01, accumulate=2, ema=0.9,
        precision="float32", checkpoint_every="3", log_every="1", evaluate_every="4", patience=1000,
    )  # fmt: skip
    dropout: float = 0.3
    width: int = 4
    """Hidden units."""
    lengths: bool = False
    """Whether the network sees only the length of a projection."""

    def build(self, data: Data) -> nn.Module:
        if self.lengths:
            return nn.Sequential(nn.Linear(3, 4, bias=False), Length(), nn.Linear(1, 1))
        return nn.Sequential(
            nn.Linear(3, self.width), nn.Tanh(), nn.Dropout(self.dropout), nn.Linear(self.width, 1)
        )


class Two(nn.Module):
    """Two players with dropout."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.left, self.right = (
            nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(dropout), nn.Linear(4, 1))
            for _ in range(2)
        )


class Duel(Objective):
    """The left player fits the targets, the right one foretells its errors and is heeded by it."""

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        players: Any = model
        x, y = batch["x"], batch["y"]
        for _ in range(2):
            error = players.left(x).squeeze(-1) - y
            wrong = error + 0.1 * players.right(x).squeeze(-1)
            yield Move("left", wrong.square().sum(), len(x))
        with torch.no_grad():
            error = players.left(x).squeeze(-1) - y
        foretold = players.right(x).squeeze(-1)
        yield Move("right", (foretold - error).square().sum(), len(x))


@system("duel", reads="tensors")
class DuelSystem(FaultySystem):
    """A game of two players."""

    objective: Duel = Duel()  # type: ignore[assignment]

    def build(self, data: Data) -> nn.Module:
        return Two(self.dropout)


class Weighed(Objective):
    """Squared error of rows that count by their targets, some of them not at all."""

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        weights = batch["y"].clamp(min=0)
        errors = (model(batch["x"]).squeeze(-1) - batch["y"]).square()
        yield Move("model", (weights * errors).sum(), weights.sum())


@system("weighed", reads="tensors")
class WeighedSystem(FaultySystem):
    """Rows of unequal weight."""

    objective: Weighed = Weighed()  # type: ignore[assignment]


def _bare(name: str) -> type[System]:
    """A system without pictures and tables, whose report is quick."""
    cls = load_system(name)
    nothing: dict[str, Any] = {n: lambda self, run: iter(()) for n in ("pictures", "tables")}
    found = type(
        f"Bare{cls.__name__}", (cls,), {"__doc__": cls.__doc__, "__module__": __name__, **nothing}
    )
    return system(f"bare-{name}", reads=cls.reads)(found)


SYSTEMS: dict[Literal["rows", "faulty", "duel", "weighed"], type[RowSystem]] = {
    "rows": RowSystem,
    "faulty": FaultySystem,
    "duel": DuelSystem,
    "weighed": WeighedSystem,
}


def register_all() -> None:
    """Make the test systems known by their names in this process."""
    for cls in SYSTEMS.values():
        register(cls)
    for name in ("gpt", "mlp", "gan"):
        register(_bare(name))
