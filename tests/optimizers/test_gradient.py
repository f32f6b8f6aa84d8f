"""The one training loop, against a hand-written one and against itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, Move
from fourfold.optimizers.gradient import Gradient
from helpers import RowsOptions, RowSystem, Squares


def by_hand(steps: int, lr: float, clip: float) -> tuple[list[float], nn.Module]:
    """The loop that everybody writes, over the same order of rows."""
    data = RowsOptions().open(None)
    torch.manual_seed(0)
    model = RowSystem().build(data)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses: list[float] = []
    epoch = 0
    while len(losses) < steps:
        for batch in data.batches("train", epoch=epoch):
            loss = (model(batch["x"]).squeeze(-1) - batch["y"]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            losses.append(loss.item())
        epoch += 1
    return losses[:steps], model


def test_sgd_equals_a_loop_written_by_hand() -> None:
    losses, model = by_hand(40, lr=0.05, clip=1.0)
    run = fourfold.fit(
        RowSystem(),
        out=False,
        optimizer={"schedule": "constant", "log_every": "1", "evaluate_every": "40"},
    )
    ours = run.metrics.series("loss")[1]
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(losses), rtol=1e-5, atol=1e-6)
    for a, b in zip(run.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("algorithm", ["adamw", "sgd", "muon"])
def test_accumulation_equals_a_larger_batch(algorithm: str) -> None:
    common = {"steps": 24, "algorithm": algorithm, "log_every": "1"}
    whole = fourfold.fit(RowSystem(), out=False, data={"batch": 32}, optimizer=common)
    parts = fourfold.fit(
        RowSystem(), out=False, data={"batch": 8}, optimizer={**common, "accumulate": 4}
    )
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        torch.tensor(whole.metrics.series("loss")[1]),
        torch.tensor(parts.metrics.series("loss")[1]),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    "options",
    [
        {"algorithm": "adamw", "lr": 0.02, "decay": 0.1},
        {"algorithm": "sgd", "arguments": {"momentum": 0.9, "nesterov": True}},
        {"algorithm": "adam", "lr": 0.02, "decay": 0.1},
        {"algorithm": "rmsprop", "lr": 0.01},
        {"algorithm": "adagrad", "lr": 0.1},
        {"algorithm": "muon", "lr": 0.1},
        {"schedule": "wsd", "warmup": 5, "final": 0.02, "decay_from": 0.4},
        {"schedule": "linear", "warmup": 0.1},
        {"steps": None, "epochs": 5.5},
        {"ema": 0.9},
        {"l2": 1e-3, "l1": 1e-4},
        {"precision": "bfloat16"},
    ],
)
def test_every_variant_learns(options: dict[str, Any]) -> None:
    run = fourfold.fit(RowSystem(), out=False, optimizer={"steps": 120, **options})
    losses = run.metrics.series("valid.loss")[1]
    variance = run.data.splits["valid"]["y"].var().item()  # type: ignore[attr-defined]
    assert min(losses) < 0.5 * variance


def test_penalty_is_the_gradient_of_what_it_says() -> None:
    data = RowsOptions().open(None)
    l2, l1 = 0.03, 0.02
    run = fourfold.fit(
        RowSystem(), out=False,
        optimizer={"schedule": "constant", "steps": 10, "l2": l2, "l1": l1, "clip": None, "evaluate_every": "10"},
    )  # fmt: skip
    torch.manual_seed(0)
    model = RowSystem().build(data)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    batches = [b for e in range(2) for b in data.batches("train", epoch=e)][:10]
    for batch in batches:
        loss = (model(batch["x"]).squeeze(-1) - batch["y"]).square().mean()
        weights = [p for p in model.parameters() if p.ndim == 2]
        loss = loss + sum(l2 / 2 * w.square().sum() + l1 * w.abs().sum() for w in weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for a, b in zip(run.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_decay_leaves_biases_alone() -> None:
    class Nothing(Squares):
        def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
            yield Move("model", model(batch["x"]).sum() * 0.0, len(batch["x"]))

    class Still(RowSystem):
        objective: Nothing = Nothing()

    for algorithm in ("sgd", "adamw"):
        config = {
            "algorithm": algorithm,
            "schedule": "constant",
            "steps": 10,
            "lr": 0.1,
            "decay": 0.5,
            "evaluate_every": "10",
        }
        run = fourfold.fit(Still(), out=False, optimizer=config)
        torch.manual_seed(0)
        before = Still().build(run.data)
        for a, b in zip(run.model.parameters(), before.parameters(), strict=True):
            shrink = (1 - 0.1 * 0.5) ** 10 if a.ndim == 2 else 1.0
            torch.testing.assert_close(a, b * shrink)


def test_a_step_in_which_nothing_counts_is_refused() -> None:
    class Masked(Squares):
        def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
            yield Move("model", model(batch["x"]).sum() * 0.0, torch.tensor(0))

    class System(RowSystem):
        objective: Masked = Masked()

    with pytest.raises(UserError, match="step 1: nothing in this step counts"):
        fourfold.fit(System(), out=False)


def test_a_poisoned_batch_names_step_and_cause() -> None:
    class Poisoned(RowsOptions):
        def open(self, sources: Any, *, seed: int = 0, valid: Any = None) -> Any:
            data = super().open(sources, seed=seed)
            data.splits["train"]["x"][3, 1] = float("nan")
            return data

    class System(RowSystem):
        data: Poisoned = Poisoned()

    with pytest.raises(UserError, match=r'step \d+: the loss \(nan\).*the data: "x"'):
        fourfold.fit(System(), out=False)


def test_a_module_that_overflows_is_named() -> None:
    class Bad(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x / (x - x)

    class System(RowSystem):
        def build(self, data: Any) -> nn.Module:
            return nn.Sequential(nn.Linear(3, 4), Bad(), nn.Linear(4, 1))

    with pytest.raises(UserError, match=r"step 1: .*module 1 \(Bad\)"):
        fourfold.fit(System(), out=False)


def test_game_moves_only_its_player() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(3, 1), nn.Linear(3, 1)

    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Game(Squares):
        def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
            def loss() -> torch.Tensor:
                return (model.left(batch["x"]) * model.right(batch["x"])).square().sum()

            def weights() -> tuple[torch.Tensor, torch.Tensor]:
                return model.left.weight.detach().clone(), model.right.weight.detach().clone()

            seen.append(weights())
            yield Move("left", loss(), len(batch["x"]))
            seen.append(weights())
            yield Move("right", loss(), len(batch["x"]))
            seen.append(weights())

    class System(RowSystem):
        objective: Game = Game()

        def build(self, data: Any) -> nn.Module:
            return Pair()

    class NoValid(RowsOptions):
        def open(self, sources: Any, *, seed: int = 0, valid: Any = None) -> Any:
            data = super().open(sources, seed=seed)
            del data.splits["valid"]
            return data

    fourfold.fit(System(data=NoValid()), out=False, optimizer={"steps": 1})
    start, middle, end = seen
    assert not torch.equal(start[0], middle[0]) and torch.equal(start[1], middle[1])
    assert torch.equal(middle[0], end[0]) and not torch.equal(middle[1], end[1])


def test_early_stopping_keeps_the_best() -> None:
    run = fourfold.fit(
        RowSystem(),
        out=False,
        optimizer={
            "steps": 400,
            "lr": 1.2,
            "clip": None,
            "schedule": "constant",
            "evaluate_every": "4",
            "patience": 3,
        },
    )
    steps, values = run.metrics.series("valid.loss")
    assert steps[-1] < 400 or min(values) == values[-1]
    kept = fourfold.core.evaluation.measure(run.objective, run.model, run.data, "valid", run.device)  # type: ignore[attr-defined]
    assert kept["loss"] == pytest.approx(min(values), rel=1e-6)


def test_minutes_end_the_search_and_anneal_the_rate() -> None:
    run = fourfold.fit(
        RowSystem(), out=False, optimizer={"minutes": 0.005, "log_every": "1", "schedule": "linear"}
    )
    rates = run.metrics.series("lr")[1]
    seconds = run.metrics.series("seconds")[1]
    assert rates[0] > 0.04 and rates[-1] < 0.005
    assert 0.25 < seconds[-1] < 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1}, "--optimizer.lr: expected greater than 0, got -1"),
        ({"algorithm": "adamv"}, 'no torch optimizer is called "adamv"; did you mean adam'),
        ({"arguments": {"momentun": 0.9}}, 'SGD has no argument "momentun"; did you mean momentum?'),
        ({"lrr": 1}, "unknown option optimizer.lrr of rows; did you mean optimizer.lr?"),
        ({"evaluate_every": "often"}, 'expected steps'),
        ({"steps": 5, "epochs": 5}, "expected one budget"),
        ({"schedule": "cosin"}, "schedule: expected"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        fourfold.fit(RowSystem(), out=False, optimizer=options)
    assert message in str(error.value)


def test_budget_given_replaces_the_default_budget() -> None:
    assert Gradient(minutes=3).steps is None
    assert fourfold.api.configure(RowSystem(), {"minutes": 2}).optimizer.steps is None  # type: ignore[attr-defined]


def test_the_rest_of_an_epoch_is_a_step_too() -> None:
    """64 rows in batches of 8, three to a step: 24 + 24 + 16 rows, and every row counts once an epoch."""
    seen: list[int] = []

    class Counting(Squares):
        def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
            if model.training and torch.is_grad_enabled():
                seen.append(len(batch["x"]))
            yield from super().losses(model, batch)

    class System(RowSystem):
        objective: Counting = Counting()

    run = fourfold.fit(
        System(), out=False, optimizer={"epochs": 2, "accumulate": 3, "log_every": "1"}
    )
    assert run.metrics.lines[-1]["step"] == 6 and sum(seen) == 2 * 64


@pytest.mark.gpu
@pytest.mark.parametrize("algorithm", ["adagrad", "adam", "sgd", "muon"])
def test_algorithms_step_on_a_gpu_as_on_the_processor(algorithm: str) -> None:
    """Adagrad's fused form is for processors only, and says so in its first step only."""
    weights = []
    for device in ("cuda", "cpu"):
        run = fourfold.fit(
            RowSystem(), out=False, device=device, optimizer={"algorithm": algorithm, "steps": 20}
        )
        weights.append([p.detach().cpu() for p in run.model.parameters()])
    for a, b in zip(*weights, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
