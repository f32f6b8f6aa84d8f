"""`check_system` itself: a sound system passes, and each fault it is there for is found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from fourfold.core.parts import Batch, Data, Move, Split
from fourfold.testing import CHECKS, check_system
from helpers import Rows, RowsOptions, RowSystem, Squares


def find(system: type[RowSystem], check: str, folder: Path) -> str:
    """The message with which one check fails."""
    from fourfold.core.registry import register

    register(system)
    with pytest.raises(AssertionError) as error:
        CHECKS[check](system, folder)
    return str(error.value)


def test_a_sound_system_passes() -> None:
    class Sound(RowSystem):
        exempt: ClassVar[dict[str, str]] = {"documented": "a test's helper"}

    check_system(Sound)


def test_mean_instead_of_sum_is_found(tmp_path: Path) -> None:
    class Mean(Squares):
        def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
            error = model(batch["x"]).squeeze(-1) - batch["y"]
            yield Move("model", error.square().mean(), len(error))

    class Wrong(RowSystem):
        objective: Mean = Mean()

    assert "accumulation" in find(Wrong, "accumulation", tmp_path)


def test_weight_that_counts_nothing_is_found(tmp_path: Path) -> None:
    class Blind(Squares):
        def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
            for move in super().losses(model, batch):
                yield move._replace(weight=1.0)

    class Wrong(RowSystem):
        objective: Blind = Blind()

    assert "accumulation" in find(Wrong, "accumulation", tmp_path)


def test_a_parameter_without_gradient_is_found(tmp_path: Path) -> None:
    class Wrong(RowSystem):
        def build(self, data: Data) -> nn.Module:
            model = super().build(data)
            model[0].forgotten = nn.Linear(2, 2)  # type: ignore[index]
            return model

    assert "forgotten.weight" in find(Wrong, "moves", tmp_path)


def test_state_outside_the_checkpoint_is_found(tmp_path: Path) -> None:
    class Counting(Squares):
        def prepare(self, run: Any) -> Counting:
            fresh = self.model_copy()
            fresh.__dict__["count"] = 0
            return fresh

        def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
            self.__dict__["count"] += 1
            for move in super().losses(model, batch):
                yield move._replace(loss=move.loss * (1 + 0.1 * self.__dict__["count"]))

    class Wrong(RowSystem):
        objective: Counting = Counting()

    assert "resumed" in find(Wrong, "resumed", tmp_path)


def test_order_that_ignores_the_epoch_is_found(tmp_path: Path) -> None:
    class Same(Rows):
        def batches(
            self, split: Split, *, epoch: int | None = None, model: Any = None
        ) -> Iterator[Batch]:
            return super().batches(split, epoch=None, model=model)

    class SameOptions(RowsOptions):
        def open(self, sources: Any, *, seed: int = 0, valid: Any = None) -> Data:
            rows = super().open(sources, seed=seed)
            return Same(rows.splits, self.batch, seed)  # type: ignore[attr-defined]

    class Wrong(RowSystem):
        data: SameOptions = SameOptions()

    assert find(Wrong, "orders", tmp_path)


def test_noise_that_depends_on_the_process_is_found(tmp_path: Path) -> None:
    class Noisy(RowSystem):
        def build(self, data: Data) -> nn.Module:
            model = super().build(data)
            with torch.no_grad():
                model[0].weight.add_(
                    torch.from_numpy(np.random.default_rng().normal(size=(4, 3))).float()
                )
            return model

    assert "resumed" in find(Noisy, "resumed", tmp_path)


def test_no_exemption_from_what_every_system_keeps() -> None:
    class Wrong(RowSystem):
        exempt: ClassVar[dict[str, str]] = {"resumed": "too hard"}

    with pytest.raises(AssertionError, match="may not be exempt"):
        check_system(Wrong)
