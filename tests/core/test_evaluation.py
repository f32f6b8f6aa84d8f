"""Measuring: sums over batches divided once, generators and training mode left alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fourfold
from faulty import FaultySystem
from fourfold.core.errors import UserError
from fourfold.core.evaluation import evaluate, held_out, measure, to_device
from fourfold.core.parts import Batch
from helpers import Rows, RowsOptions, RowSystem, Squares

CPU = torch.device("cpu")


def rows(batch: int) -> Rows:
    made = RowsOptions(batch=batch).open(None)
    assert isinstance(made, Rows)
    return made


@pytest.mark.parametrize("batch", [1, 3, 5, 8, 64, 100])
def test_unequal_batches_give_the_value_of_the_whole_split(batch: int) -> None:
    model = RowSystem().build(rows(8)).double()
    data = rows(batch)
    for split in data.splits.values():
        for name in split:
            split[name] = split[name].double()
    whole = data.splits["train"]
    expected = (model(whole["x"]).squeeze(-1) - whole["y"]).square().mean().item()
    found = measure(Squares(), model, data, "train", CPU)
    assert found["loss"] == pytest.approx(expected, rel=1e-12)


def test_weights_that_differ_by_measure() -> None:
    class Two(Squares):
        def measure(self, model: nn.Module, batch: Batch) -> Mapping[str, tuple[Tensor, Any]]:
            positive = batch["y"] > 0
            return {
                "mean": (batch["y"].double().sum(), len(batch["y"])),
                "positive": (batch["y"][positive].double().sum(), positive.sum()),
            }

    y = rows(8).splits["train"]["y"]
    found = measure(Two(), nn.Linear(1, 1), rows(7), "train", CPU)
    assert list(found) == ["mean", "positive"]
    assert found["mean"] == pytest.approx(y.double().mean().item(), rel=1e-10)
    assert found["positive"] == pytest.approx(y[y > 0].double().mean().item(), rel=1e-10)


@pytest.mark.parametrize("training", [True, False])
def test_generators_and_mode_are_left_alone(training: bool) -> None:
    class Noisy(Squares):
        def measure(self, model: nn.Module, batch: Batch) -> Mapping[str, tuple[Tensor, Any]]:
            assert not model.training and not torch.is_grad_enabled()
            return {"noise": (torch.rand(len(batch["x"])).sum(), len(batch["x"]))}

    model = RowSystem(dropout=0.5).build(rows(8)).train(training)
    state = torch.get_rng_state()
    first = measure(Noisy(), model, rows(5), "test", CPU, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training is training
    torch.rand(7)
    assert measure(Noisy(), model, rows(5), "test", CPU, seed=3) == first
    assert measure(Noisy(), model, rows(5), "test", CPU, seed=4) != first


def test_mode_comes_back_after_an_error() -> None:
    class Failing(Squares):
        def measure(self, model: nn.Module, batch: Batch) -> Any:
            raise RuntimeError("no")

    model = RowSystem().build(rows(8)).train()
    with pytest.raises(RuntimeError):
        measure(Failing(), model, rows(8), "test", CPU)
    assert model.training


def test_a_split_in_which_nothing_counts() -> None:
    class Masked(Squares):
        def measure(self, model: nn.Module, batch: Batch) -> Any:
            return {"loss": (torch.zeros(()), torch.tensor(0))}

    with pytest.raises(UserError, match="the test split has nothing that counts for loss"):
        measure(Masked(), nn.Linear(1, 1), rows(8), "test", CPU)


def test_a_game_is_measured_by_player() -> None:
    from faulty import DuelSystem

    system = DuelSystem()
    found = measure(system.objective, system.build(rows(8)), rows(8), "valid", CPU)
    assert set(found) == {"left_loss", "right_loss"}


def test_how_often_it_is_measured_does_not_change_the_training() -> None:
    often = fourfold.fit(FaultySystem(), out=False, steps=12, evaluate_every="1", ema=None)
    seldom = fourfold.fit(FaultySystem(), out=False, steps=12, evaluate_every="12", ema=None)
    assert often.metrics.series("loss") == seldom.metrics.series("loss")
    assert often.metrics.series("valid.loss")[1][-1] == seldom.metrics.series("valid.loss")[1][-1]


def test_evaluate_takes_the_test_split_then_the_validation_split() -> None:
    run = fourfold.fit(RowSystem(), out=False, steps=4)
    score = evaluate(run)
    assert score.notes[0] == "8 examples on its own test split"
    assert score.values == measure(run.objective, run.model, run.data, "test", CPU, run.seed)
    data: Any = run.data
    del data.splits["test"]
    assert held_out(run)[1:] == ("valid", "on its own valid split")
    del data.splits["valid"]
    with pytest.raises(UserError, match="holds nothing out to be measured on"):
        run.evaluate()


def test_batches_keep_what_is_no_tensor() -> None:
    batch = {"x": torch.ones(2), "names": ["a", "b"]}
    assert to_device(batch, CPU) is batch
    moved = to_device(batch, torch.device("meta"))
    assert moved["x"].device.type == "meta" and moved["names"] == ["a", "b"]
