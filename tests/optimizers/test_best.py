"""The weights that are kept are those of the best evaluation, whether more is better or less."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import fourfold
from fourfold.cli.fit import _final
from fourfold.core.metrics import best_line
from fourfold.core.parts import Batch
from helpers import RowSystem, Squares

SCRIPT = [0.5, 0.7, 0.6, 0.9, 0.9, 0.2]


class Scripted(Squares):
    """Measures a score that follows a script, of which more is better, and remembers the weights."""

    higher: ClassVar[frozenset[str]] = frozenset({"score"})
    seen: ClassVar[list[dict[str, Tensor]]] = []

    def measure(self, model: nn.Module, batch: Batch) -> Mapping[str, tuple[Tensor, Any]]:
        self.seen.append({n: v.clone() for n, v in model.state_dict().items()})
        return {**super().measure(model, batch), "_rows": (batch["y"], None)}

    def conclude(
        self, means: Mapping[str, float], kept: Mapping[str, Tensor]
    ) -> Mapping[str, float]:
        assert kept["_rows"].shape == (8,)  # the whole validation split
        return {"score": SCRIPT[len(self.seen) - 1], **means}


class Falling(Scripted):
    higher: ClassVar[frozenset[str]] = frozenset()


def fitted(objective: Squares, out: Any = False, **options: Any) -> Any:
    Scripted.seen.clear()
    system = RowSystem(objective=objective)
    return fourfold.fit(system, out=out, steps=6, evaluate_every="1", log_every="1", **options)


def assert_kept(run: Any, number: int) -> None:
    weights = run.model.state_dict()
    assert all(torch.equal(weights[n], v) for n, v in Scripted.seen[number].items())
    others = [s for i, s in enumerate(Scripted.seen) if i != number]
    assert not any(all(torch.equal(weights[n], v) for n, v in s.items()) for s in others)


@pytest.mark.parametrize("objective, number", [(Scripted(), 3), (Falling(), 5)])
def test_the_best_by_the_first_measure_is_kept(objective: Squares, number: int) -> None:
    run = fitted(objective)
    assert [line["valid.score"] for line in run.metrics.lines if "valid.score" in line] == SCRIPT
    assert_kept(run, number)
    best = best_line(run.metrics.lines)
    assert best is not None and best["step"] == number + 1
    assert best["valid.score"] == SCRIPT[number] and best["kept_by"] == "score"


def test_patience_counts_from_the_best() -> None:
    run = fitted(Scripted(), patience=1)
    assert len(Scripted.seen) == 3
    assert_kept(run, 1)


def test_the_kept_weights_reach_the_folder(tmp_path: Path) -> None:
    run = fitted(Scripted(), out=tmp_path / "run")
    assert_kept(run, 3)
    lines = [line for line in run.metrics.lines if "kept_by" in line]
    assert [line["step"] for line in lines] == [1, 2, 4]
    told = _final(run)
    assert told["valid.score"] == 0.9 and told["valid.loss"] == lines[-1]["valid.loss"]


def test_a_log_without_marks_has_its_lowest_line_as_the_best() -> None:
    lines = [{"valid.loss": 3.0}, {"loss": 1.0}, {"valid.loss": 2.0}, {"valid.loss": float("nan")}]
    assert best_line(lines) == {"valid.loss": 2.0}
    assert best_line([{"loss": 1.0}]) is None
