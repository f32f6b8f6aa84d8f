"""Memory is estimated before it is taken."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.parts import Data
from fourfold.optimizers import memory
from fourfold.optimizers.gradient import Gradient
from fourfold.optimizers.memory import activations, estimate, in_words, refuse_what_cannot_fit
from helpers import Rows, RowsOptions, RowSystem, Squares

CPU = torch.device("cpu")


class Many(RowsOptions):
    batch: int = 64

    def open(self, sources: Any, *, seed: int = 0, valid: Any = None) -> Data:
        torch.manual_seed(0)
        splits = {s: {"x": torch.randn(256, 3), "y": torch.randn(256)} for s in ("train", "valid")}
        return Rows(splits, self.batch, seed)


class Big(RowSystem):
    """Weights enough to be worth an estimate."""

    data: Many = Many()
    kind: str = "wide"

    def build(self, data: Data) -> nn.Module:
        if self.kind == "norm":
            return nn.Sequential(
                nn.Linear(3, 600), nn.BatchNorm1d(600), nn.GELU(), nn.Dropout(0.1),
                nn.Linear(600, 600), nn.LayerNorm(600), nn.SiLU(), nn.Linear(600, 1),
            )  # fmt: skip
        return nn.Sequential(
            nn.Linear(3, 900), nn.Tanh(), nn.Linear(900, 900), nn.ReLU(), nn.Linear(900, 1)
        )


def kept_bytes(model: nn.Module, batch: Any) -> int:
    """What autograd really keeps for the whole batch, each storage once, weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = next(Squares().losses(model, batch)).loss
    total = sum(s.nbytes() for s in storages.values())
    del loss
    return total


@pytest.mark.parametrize("kind", ["wide", "norm"])
@pytest.mark.parametrize("batch", [16, 64, 250])
def test_activations_are_told_within_a_quarter(kind: str, batch: int) -> None:
    system = Big(kind=kind, data=Many(batch=batch))
    data = system.data.open(None)
    model = system.build(data)
    first = next(iter(data.batches("train")))
    found = activations(Gradient(precision="float32"), Squares(), model, first, CPU)
    assert found == pytest.approx(kept_bytes(model, first), rel=0.25)


def test_an_estimate_changes_nothing() -> None:
    system = Big(kind="norm")
    data = system.data.open(None)
    model = system.build(data).eval()
    before = {n: v.clone() for n, v in model.state_dict().items()}
    state, position = torch.get_rng_state(), data.state_dict()
    estimate(Gradient(), Squares(), model, data, CPU)
    assert torch.equal(torch.get_rng_state(), state) and data.state_dict() == position
    assert not model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "moments", "averages"),
    [
        ({"algorithm": "adamw"}, 2, 0),
        ({"algorithm": "sgd"}, 0, 0),
        ({"algorithm": "sgd", "arguments": {"momentum": 0.9}}, 1, 0),
        ({"algorithm": "adagrad", "ema": 0.9}, 1, 1),
    ],
)
def test_what_the_optimizer_keeps_is_counted(
    options: dict[str, Any], moments: int, averages: int
) -> None:
    run = fourfold.fit(Big(), out=False, steps=1, clip=None, optimizer={"arguments": {}, **options})
    found = estimate(run.system.optimizer, run.objective, run.model, run.data, CPU)  # type: ignore[arg-type]
    weights = sum(4 * p.numel() for p in run.model.parameters())
    assert found["weights"] == found["gradients"] == weights
    assert found["optimizer"] == moments * weights
    assert found.get("average", 0) == averages * weights


def test_what_cannot_fit_is_refused_with_what_would(monkeypatch: pytest.MonkeyPatch) -> None:
    system = Big(data=Many(batch=250))
    data = system.data.open(None)
    model = system.build(data)
    needed = estimate(system.optimizer, system.objective, model, data, CPU)
    fixed = needed["gradients"] + needed["optimizer"]
    free = fixed + needed["activations"] // 3
    monkeypatch.setattr(memory, "available_memory", lambda device: free)
    with pytest.raises(UserError) as error:
        fourfold.fit(system, out=False)
    said = str(error.value)
    assert "this fit needs about" in said and f"{in_words(free)} is free" in said
    fits = int(said.partition("--data.batch ")[2].split()[0])
    many = int(said.partition("--optimizer.accumulate ")[2].split()[0])
    assert 250 / 3.5 < fits <= 250 / 2.9 and fits * many >= 250
    fourfold.fit(system, out=False, steps=1, batch=fits, accumulate=many)

    monkeypatch.setattr(memory, "available_memory", lambda device: fixed // 2)
    with pytest.raises(UserError, match="a smaller model would fit"):
        refuse_what_cannot_fit(system.optimizer, system.objective, model, data, CPU)


def test_a_model_that_needs_more_examples_is_left_to_try() -> None:
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) < 8:
                raise ValueError("needs 8")
            return self.inner(x)

    batch = next(iter(Many().open(None).batches("train")))
    assert activations(Gradient(), Squares(), Picky(), batch, CPU) is None


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0.0 KiB"), (1536, "1.5 KiB"), (3 << 20, "3.0 MiB"), (3 << 29, "1.50 GiB")],
)
def test_bytes_in_words(number: int, words: str) -> None:
    assert in_words(number) == words


def test_a_batch_of_tokens_is_advised_in_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    from fourfold import api
    from fourfold.data.pairs import Pairs

    source = {"source": ["abc de"] * 600, "target": ["fghi"] * 600}
    system = api.configure("seq2seq", {"width": 64, "embedding": 64, "data": {"unit": "character"}})
    data = system.data.open(source)
    assert isinstance(system.data, Pairs)
    model = system.build(data)
    needed = estimate(system.optimizer, system.objective, model, data, CPU)
    fixed = sum(needed.values()) - needed["weights"] - needed["activations"]
    free = fixed + needed["activations"] // 2
    monkeypatch.setattr("fourfold.optimizers.memory.available_memory", lambda device: free)
    with pytest.raises(UserError) as error:
        refuse_what_cannot_fit(system.optimizer, system.objective, model, data, CPU)
    fits = int(str(error.value).partition("--data.batch ")[2].split()[0])
    assert abs(fits - system.data.batch // 2) <= 1
