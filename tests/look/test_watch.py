"""One batch is watched through any module: numbers equal to those computed by hand, and nothing changed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.checkpoint import checkpoint

from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, Move, Objective
from fourfold.look.seen import Call, Watched, describe, norm
from fourfold.look.watch import watch
from fourfold.models.dcgan import Discriminator, Generator, Players
from fourfold.objectives.adversarial import NonSaturating, WassersteinGP
from fourfold.objectives.regression import SquaredError


class Total(Objective):
    """The sum of the first tensor that the model gives for batch["x"], over half of the examples' number."""

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        given: Any = model(batch["x"])
        while not isinstance(given, Tensor):
            given = next(iter(given.values())) if isinstance(given, dict) else given[0]
        yield Move("model", given.double().square().sum(), len(batch["x"]) / 2)


def rows(count: int = 12, width: int = 4) -> dict[str, Tensor]:
    return {"x": torch.randn(count, width, generator=torch.Generator().manual_seed(3))}


def only(found: list[Watched]) -> Watched:
    (watched,) = found
    return watched


def test_statistics_and_gradients_are_those_computed_by_hand() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    batch = {"x": rows()["x"].double()}
    seen = only(watch(model, Total(), batch))
    assert [c.name for c in seen.calls] == ["0", "1", "2"]
    hidden = model[0](batch["x"]).detach().requires_grad_()
    out = model[2](hidden.relu())
    loss = out.square().sum() / 6
    slope, into_weight = torch.autograd.grad(loss, [hidden, model[2].weight])
    first, rectified, last = seen.calls
    assert seen.loss == pytest.approx(loss.item(), rel=1e-12) and seen.examples == 12
    assert first.gradient == pytest.approx(slope.norm().item(), rel=1e-10)
    assert seen.weights[2].name == "2.weight" and seen.weights[2].layer == "2"
    assert seen.weights[2].gradient == pytest.approx(into_weight.norm().item(), rel=1e-10)
    assert seen.weights[2].ratio == pytest.approx(
        (into_weight.norm() / model[2].weight.norm()).item(), rel=1e-10
    )
    assert first.mean == pytest.approx(hidden.mean().item(), abs=1e-10)
    assert first.deviation == pytest.approx(hidden.std(correction=0).item(), rel=1e-10)
    spread = hidden.var(0, correction=0).mean().sqrt().item()
    assert first.spread == pytest.approx(spread, rel=1e-10)
    assert first.quantiles[2] == pytest.approx(hidden.quantile(0.5).item(), abs=1e-10)
    assert rectified.zeros == (hidden <= 0).double().mean().item()
    assert rectified.dead is not None
    assert rectified.dead.tolist() == (hidden <= 0).all(0).tolist()
    assert last.shape == (12, 3) and last.reads == "1" and rectified.reads == "0"


class Keeps(Objective):
    """Counts its uses."""

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        self.__dict__["uses"] = self.__dict__.get("uses", 0) + 1
        yield Move("model", model(batch["x"]).sum(), 1.0)

    def state_dict(self) -> dict[str, Any]:
        return {"uses": self.__dict__.get("uses", 0)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.__dict__["uses"] = state["uses"]


class Counts(nn.Module):
    """Replaces its buffer instead of changing it."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.seen + len(x)
        return x * 2


def test_nothing_is_changed() -> None:
    linear = spectral_norm(nn.Linear(4, 4))  # iterates on a buffer while training
    model = nn.Sequential(linear, nn.BatchNorm1d(4), Counts(), nn.Dropout(0.5))
    objective = Keeps()
    model[1].eval()  # a part in another mode than the whole
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    counter = model[2].seen
    before = {n: t.detach().clone() for n, t in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    state = torch.get_rng_state()
    watch(model, objective, rows())
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert model[2].seen is counter
    assert all(bool((p.grad == 7).all()) for p in model.parameters() if p.grad is not None)
    assert all(p.grad is not None for p in model.parameters())
    assert objective.state_dict() == {"uses": 0}
    assert not model[0]._forward_hooks and not model[0]._forward_pre_hooks


def test_it_runs_as_training_does() -> None:
    """Batch normalization takes the batch's moments, whatever mode the model was in."""
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    normalized = only(watch(model, Total(), rows(64))).calls[1]
    assert normalized.mean == pytest.approx(0, abs=1e-5)
    assert normalized.deviation == pytest.approx(1, abs=1e-3)


def test_an_embedding_that_renormalizes_its_rows_keeps_them() -> None:
    model = nn.Sequential(nn.Embedding(5, 3, max_norm=0.1), nn.Linear(3, 1))
    before = model[0].weight.detach().clone()
    watch(model, Total(), {"x": torch.tensor([[0, 1], [2, 2]])})
    assert torch.equal(model[0].weight, before)


def test_it_works_where_gradients_are_off_and_the_seed_fixes_the_noise() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    with torch.no_grad():
        first, again, other = (only(watch(model, Total(), rows(), seed=s)) for s in (1, 1, 2))
    assert first.weights[0].gradient == again.weights[0].gradient > 0
    assert first.loss == again.loss != other.loss


def test_every_player_is_watched_on_its_own_layers() -> None:
    players = Players(Generator((1, 8, 8), 4, 4), Discriminator((1, 8, 8), 4), (4,))
    seen = watch(players, NonSaturating(critic_steps=2), {"image": torch.randn(6, 1, 8, 8)})
    assert [w.player for w in seen] == ["discriminator", "generator"]
    for watched in seen:
        names = {c.name for c in watched.calls} | {w.name for w in watched.weights}
        assert all(name.startswith(f"{watched.player}.") for name in names)
        assert all(w.gradient > 0 for w in watched.weights)
    # of the first move only, though the discriminator moves twice: the real images, then the made ones
    assert [c.name for c in seen[0].calls].count("discriminator.layers.0") == 2


def test_an_objective_that_differentiates_by_itself_is_no_backward_pass() -> None:
    players = Players(Generator((1, 8, 8), 4, 4), Discriminator((1, 8, 8), 4, "none"), (4,))
    (critic, _) = watch(players, WassersteinGP(), {"image": torch.randn(6, 1, 8, 8)})
    logits = [c for c in critic.calls if c.name == "discriminator.layers.5"]
    # D(real) - D(fake), mean over 6 examples: every gradient is 1/6; the penalty's is of the slope alone
    assert [c.gradient for c in logits[:2]] == pytest.approx([math.sqrt(6) / 6] * 2, rel=1e-5)
    assert math.isnan(logits[2].gradient) or logits[2].gradient == 0
    assert critic.weights[0].gradient > 0


class Odd(nn.Module):
    """Shared modules, tuples, dicts, functions in place of modules, a changed value, a second use."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.shared = nn.Linear(4, 4)
        self.cell = nn.GRU(4, 4, batch_first=True)
        self.unused = nn.Linear(2, 2)

    def forward(self, tokens: Tensor) -> dict[str, Any]:
        x = self.embedding(tokens)
        x = F.relu(self.shared(x))
        x = torch.tanh(self.shared(x))
        x, state = self.cell(x)
        return {"tokens": tokens, "states": (x[:, -1], state)}


class States(Objective):
    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        yield Move("model", model(batch["tokens"])["states"][0].sum(), 1.0)


def test_modules_called_twice_functions_tuples_and_integers() -> None:
    model = Odd()
    for parameter in model.cell.parameters():
        parameter.requires_grad_(False)
    seen = only(watch(model, States(), {"tokens": torch.randint(7, (5, 3))}))
    names = ["embedding", "shared", "Odd:relu", "shared", "Odd:tanh", "cell"]
    assert [c.name for c in seen.calls] == names
    assert [c.role for c in seen.calls] == ["", "", "rectifier", "", "tanh", ""]
    assert all(c.gradient > 0 for c in seen.calls)
    by_name = {w.name: w for w in seen.weights}
    assert math.isnan(by_name["unused.weight"].gradient)
    frozen = by_name["cell.weight_ih_l0"]
    assert not frozen.trained and math.isnan(frozen.gradient) and frozen.norm > 0


def test_a_module_that_is_all_of_the_model() -> None:
    seen = only(watch(nn.Linear(4, 2), Total(), rows()))
    assert [c.name for c in seen.calls] == ["Linear"]
    assert [w.layer for w in seen.weights] == ["Linear", "Linear"]


class Attends(nn.Module):
    """Weights that an outer module uses without calling the one that holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.last = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(self.attention(h, h, h)[0])


def test_parameters_stand_in_the_order_in_which_layers_ran() -> None:
    seen = only(watch(Attends(), Total(), {"x": torch.randn(3, 5, 4)}))
    layers = list(dict.fromkeys(w.layer for w in seen.weights))
    assert layers == ["first", "attention", "attention.out_proj", "last"]


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
        self.last = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(checkpoint(self.inner, x, use_reentrant=False))


def test_a_block_that_runs_again_in_the_backward_pass_is_seen_once() -> None:
    seen = only(watch(Checkpointed(), Total(), rows()))
    assert [c.name for c in seen.calls] == ["inner.0", "inner.1", "last"]
    assert all(c.gradient > 0 for c in seen.calls)


def test_half_precision_numbers_and_one_example() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)).bfloat16()
    seen = only(watch(model, Total(), {"x": rows(1)["x"].bfloat16()}))
    assert math.isnan(seen.calls[0].spread) and seen.calls[0].gradient > 0
    with pytest.raises(UserError, match="1 example and the model normalizes over the batch"):
        watch(nn.BatchNorm1d(4), Total(), rows(1))


def test_a_batch_in_which_nothing_counts_is_refused() -> None:
    batch = {"features": torch.zeros(0, 4), "targets": torch.zeros(0)}
    with pytest.raises(UserError, match="nothing in this batch counts"):
        watch(nn.Linear(4, 1), SquaredError(), batch)


def test_a_model_without_trained_parameters() -> None:
    model = nn.Linear(4, 1).requires_grad_(False)
    seen = only(watch(model, Total(), rows()))
    assert math.isnan(seen.calls[0].gradient) and not any(w.trained for w in seen.weights)


def test_large_outputs_are_described_from_a_part_of_their_values() -> None:
    call = Call("x", "Linear", False)
    units = torch.linspace(0, 1, 30_000)
    describe(call, torch.stack([units + i for i in range(64)]))
    assert call.spread == pytest.approx(math.sqrt((64**2 - 1) / 12), rel=1e-4)
    assert call.mean == pytest.approx(32.0, abs=0.01)
    assert call.quantiles[0] == pytest.approx(0.64, abs=0.02)


def test_huge_numbers_are_measured_as_long_as_they_are_finite() -> None:
    call = Call("x", "Linear", False)
    describe(call, torch.tensor([[1e30], [-1e30]]))
    assert call.spread == call.deviation == pytest.approx(1e30, rel=1e-6) and not call.broken
    assert norm(torch.tensor([3e30, 4e30])) == pytest.approx(5e30, rel=1e-6)
    describe(call, torch.tensor([[1.0], [torch.inf]]))
    assert call.broken == 1 and call.mean == 1.0


def test_units_are_channels_after_a_convolution_and_the_last_dimension_otherwise() -> None:
    convolution = nn.Sequential(nn.Conv1d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 1))
    with torch.no_grad():
        convolution[0].bias[1] = -1e3
    seen = only(watch(convolution, Total(), {"x": torch.randn(4, 2, 6)}))
    assert seen.calls[1].dead is not None
    assert seen.calls[1].dead.tolist() == [False, True, False, False, False]
    time = nn.Sequential(nn.Linear(2, 5), nn.ReLU())
    with torch.no_grad():
        time[0].bias[4] = -1e3
    seen = only(watch(time, Total(), {"x": torch.randn(4, 3, 2)}))
    assert seen.calls[1].dead is not None
    assert seen.calls[1].dead[4] and len(seen.calls[1].dead) == 5
