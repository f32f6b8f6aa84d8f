"""The graph of a model on a batch: shapes, counts and gradients of models that are known."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, Move, Objective
from fourfold.look.modules import Step, own_parameters, parameters_within
from fourfold.look.modules_draw import draw, modules_table
from fourfold.look.modules_trace import trace
from fourfold.look.modules_views import View, views
from fourfold.models.dcgan import Discriminator, Generator, Players
from fourfold.models.transformer import Transformer
from fourfold.objectives.adversarial import NonSaturating, WassersteinGP
from fourfold.objectives.likelihood import NextToken
from look_objectives import Squares


def traced(model: nn.Module, **batch: Tensor) -> Step:
    (step,) = trace(model, Squares(), batch)
    return step


def edges(view: View) -> dict[tuple[str, str], list[str]]:
    return {(a.title, b.title): shapes for a, b, shapes in view.edges}


def small() -> Transformer:
    torch.manual_seed(0)
    return Transformer(11, 8, layers=2, heads=2, kv_heads=1, hidden=12, window=6, tied=True)


def tokens() -> dict[str, Tensor]:
    every = torch.randint(11, (3, 6), generator=torch.Generator().manual_seed(1))
    return {"tokens": every[:, :-1], "targets": every[:, 1:]}


# --- what is known of small models ----------------------------------------------------------------------


def test_a_chain() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    step = traced(model, x=torch.randn(5, 3), y=torch.randn(5, 2))
    found = edges(views(step))
    assert found[("x", "0")] == ["5×3"]
    assert found[("0", "1")] == found[("1", "2")] == ["5×4"]
    operations = next(b for a, b in found if a == "2")
    assert operations.startswith("3 operations: sub, pow, sum")
    assert found[("2", operations)] == found[("y", operations)] == ["5×2"]
    assert found[(operations, "loss")] == ["1"]
    assert len(found) == 6


def test_a_transformer() -> None:
    (step,) = trace(small(), NextToken(), tokens())
    root = views(step)
    found = edges(root)
    assert found[("tokens", "embedding")] == ["3×5"]
    assert found[("embedding", "blocks.0")] == found[("blocks.0", "blocks.1")] == ["3×5×8"]
    assert found[("blocks.1", "norm")] == found[("norm", "head")] == ["3×5×8"]
    assert found[("head", "cross entropy")] == ["3×5×11"] or found[("head", "cross entropy")] == [
        "3×5×11 → 15×11"
    ]
    assert ("cross entropy", "loss") in found and found[("targets", "loss")] == ["3×5"]
    inside = {v.path: edges(v) for v in root.all()}
    attention = inside["blocks.1.attention"]
    assert attention[("from attention_norm", "query")] == ["3×5×8"]
    assert attention[("from attention_norm", "key")] == ["3×5×8"]
    assert ("out", "to add") in attention
    gate = inside["blocks.0.feedforward"]
    assert gate[("gate", "silu")] == gate[("up", "mul")] == gate[("mul", "down")] == ["3×5×12"]
    # the residual goes past attention
    assert ("from embedding", "add") in inside["blocks.0"] and ("attention", "add") in inside[
        "blocks.0"
    ]


def test_a_module_that_is_called_twice_and_one_that_only_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(self.inner(x)) + x

    step = traced(Twice(), x=torch.randn(2, 3))
    root = views(step)
    assert {("x", "inner"), ("inner", "inner (call 2)")} <= set(edges(root))
    box = next(i for i in root.items if i.title == "inner (call 2)")
    assert box.view is not None and {i.title for i in box.view.items} >= {
        "0 (call 2)",
        "1 (call 2)",
    }


def test_parameters_that_a_module_reads_itself() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) * self.scale

    root = views(traced(Scaled(), x=torch.randn(2, 3)))
    every = [item for view in root.all() for item in view.items]
    assert [item.uses for item in every if item.title == "mul"] == [["scale 3"]]


def test_what_runs_without_gradients_is_followed_from_call_to_call() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
            self.head = nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                found = self.features(x)
            return self.head(found)

    root = views(traced(Frozen(), x=torch.randn(2, 3)))
    found = edges(root)
    assert found[("features", "head")] == ["2×4"]
    box = next(i for i in root.items if i.title == "features")
    assert box.view is not None and edges(box.view)[("0", "1")] == ["2×4"]


def test_frozen_parameters_are_seen_and_stay_frozen() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)).requires_grad_(False)
    assert ("0", "1") in edges(views(traced(model, x=torch.randn(2, 3))))
    assert not any(p.requires_grad for p in model.parameters())
    assert all(
        c.weight_gradient != c.weight_gradient for c in traced(model, x=torch.randn(2, 3)).calls
    )


def test_an_own_autograd_function_is_an_operation() -> None:
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return (x.sin() + x).detach() * 2

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
            return gradient * 2

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(Double.apply(self.layer(x)))

    found = edges(views(traced(Model(), x=torch.randn(2, 3))))
    assert found[("layer", "double")] == found[("double", "layer (call 2)")] == ["2×3"]


def test_changes_in_place() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            x += 1  # of the batch itself
            return self.relu(self.layer(x)).mul_(2)

    x = torch.zeros(2, 3)
    found = edges(views(traced(InPlace(), x=x)))
    assert not x.any()
    assert {("x", "add"), ("add", "layer"), ("layer", "relu")} <= set(found)


def test_inputs_that_may_not_have_gradients() -> None:
    class Sorted(Objective):
        def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
            order = torch.from_numpy(batch["x"].numpy()[:, 0].argsort().copy())
            yield Move("model", model(batch["x"])[order].sum(), len(order))

    (step,) = trace(nn.Linear(3, 1), Sorted(), {"x": torch.randn(4, 3)})
    assert "numpy" in step.notes[0] and ("x", "Linear") in edges(views(step))


def test_a_checkpointed_block_counts_once() -> None:
    from torch.utils.checkpoint import checkpoint

    class Saving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Sequential(nn.Linear(3, 3), nn.Tanh())

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.block, x, use_reentrant=False)

    step = traced(Saving(), x=torch.randn(2, 3))
    assert [c.name for c in step.calls] == ["Saving", "block", "block.0", "block.1"]
    assert step.calls[2].weight_gradient > 0


# --- games ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", [NonSaturating(), WassersteinGP(critic_steps=2)])
def test_every_move_of_a_game(objective: Objective) -> None:
    torch.manual_seed(0)
    shape = (1, 8, 8)
    model = Players(Generator(shape, 4, 2), Discriminator(shape, 2, "none"), (4,))
    batch = {"image": torch.randn(3, *shape), "label": torch.zeros(3, dtype=torch.int64)}
    steps = trace(model, objective, batch)
    assert [s.player for s in steps][-2:] == ["discriminator", "generator"]
    critic, maker = edges(views(steps[-2])), edges(views(steps[-1]))
    assert (
        critic[("image", "discriminator")]
        == critic[("generator", "discriminator (call 2)")]
        == ["3×1×8×8"]
    )
    assert maker[("generator", "discriminator")] == ["3×1×8×8"]
    # the label is read by nobody, the image by the generator's move for its length only
    assert not any("label" in pair for pair in (*critic, *maker))
    assert not any("image" in pair for pair in maker)
    generator = next(c for c in steps[-2].calls if c.name == "generator")
    assert generator.gradient != generator.gradient  # no gradient reaches it in the critic's move
    assert next(c for c in steps[-1].calls if c.name == "generator").weight_gradient > 0


# --- numbers ----------------------------------------------------------------------------------------------


def test_parameters_sum_to_the_models() -> None:
    model = small()
    total = sum(p.numel() for p in model.parameters())
    assert sum(own_parameters(model).values()) == total == parameters_within(model)["Transformer"]
    assert own_parameters(model)["head"] == 0  # tied: counted at the embedding
    (step,) = trace(model, NextToken(), tokens())
    table = modules_table(step, model)
    own = table.columns.index("own")
    by_name = {row[0]: row for row in table.rows}
    assert sum(row[own] for row in by_name.values()) == total
    assert by_name["blocks.0"][2] == sum(p.numel() for p in model.blocks[0].parameters())


def test_statistics_and_gradients_are_torchs_own() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    step = traced(model, x=x, y=y)
    hidden = model[0](x)
    hidden.retain_grad()
    out = model[2](model[1](hidden))
    loss = (out - y).square().sum() / 5
    loss.backward()
    calls = {c.name: c for c in step.calls}
    assert step.loss == pytest.approx(loss.item()) and step.weight == 5
    assert calls["0"].mean == pytest.approx(hidden.mean().item())
    assert calls["0"].deviation == pytest.approx(hidden.std(correction=0).item())
    assert hidden.grad is not None
    assert calls["0"].gradient == pytest.approx(float(hidden.grad.square().mean().sqrt()), rel=1e-6)
    parts = [p.grad.square().sum() for p in model[0].parameters() if p.grad is not None]
    assert calls["0"].weight_gradient == pytest.approx(float(torch.stack(parts).sum().sqrt()))
    whole = [p.grad.square().sum() for p in model.parameters() if p.grad is not None]
    assert calls["Sequential"].weight_gradient == pytest.approx(
        float(torch.stack(whole).sum().sqrt())
    )
    assert calls["0"].shapes == [(5, 4)]
    # a linear map keeps its input for its weight's gradient, tanh its result
    assert (calls["0"].kept, calls["1"].kept, calls["2"].kept) == (5 * 3 * 8, 5 * 4 * 8, 0)
    assert calls["Sequential"].kept == 5 * 7 * 8
    assert calls["Sequential"].seconds >= sum(calls[n].seconds for n in "012") > 0


def test_a_gradient_penalty_does_not_pass_for_the_losss_gradient() -> None:
    class Penalized(Objective):
        def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
            x = batch["x"].detach().requires_grad_()
            out = model(x).sum()
            (slope,) = torch.autograd.grad(1000 * out, x, create_graph=True)
            yield Move("model", out + 0 * slope.sum(), 1)

    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    (step,) = trace(model, Penalized(), {"x": torch.randn(3, 2)})
    assert next(c for c in step.calls if c.name == "1").gradient == pytest.approx(1.0)


def test_nothing_is_left_changed() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    model[1].eval()
    model[0].weight.grad = torch.ones(4, 3)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    state = torch.get_rng_state()
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    kept = x.clone()
    traced(model, x=x)
    assert (
        torch.equal(state, torch.get_rng_state()) and torch.equal(x, kept) and not x.requires_grad
    )
    assert [m.training for m in model] == [True, False, True] and model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert torch.equal(model[0].weight.grad, torch.ones(4, 3)) and model[0].bias.grad is None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_batch_in_which_nothing_counts() -> None:
    with pytest.raises(UserError, match="its weight is 0"):
        trace(small(), NextToken(), {**tokens(), "targets": torch.full((3, 5), -100)})


# --- the drawing ------------------------------------------------------------------------------------------


def test_the_drawing_opens_every_module() -> None:
    model = small()
    (step,) = trace(model, NextToken(), tokens())
    (picture,) = draw(step, model)
    root = views(step)
    groups = list(ET.fromstring(picture.svg).iter("{http://www.w3.org/2000/svg}g"))
    shown = [int(g.get("data-view", -1)) for g in groups if g.get("data-view")]
    assert shown == list(range(len(root.all())))
    opened = {int(g.get("data-opens", -1)) for g in groups if g.get("data-opens")}
    assert opened == set(shown[1:])
    for text in ("blocks.0", "Block · ", "3×5×8", "targets"):
        assert text in picture.svg
    assert picture.png.startswith(b"\x89PNG")
    _, inside = draw(step, model, "blocks.0.attention")
    assert inside.title == "Inside blocks.0.attention" and "query" in inside.svg
    with pytest.raises(KeyError) as caught:
        draw(step, model, "norm")
    assert "blocks.1.feedforward" in caught.value.args[0]


def test_a_loss_without_gradient_still_shows_its_modules() -> None:
    class Hard(Objective):
        def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
            with torch.no_grad():
                yield Move("model", F.one_hot(model(batch["x"]).argmax(-1)).sum().float(), 1)

    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    (step,) = trace(model, Hard(), {"x": torch.randn(2, 3)})
    found = edges(views(step))
    assert found[("x", "0")] == ["2×3"] and found[("0", "1")] == ["2×4"]
    assert step.notes and draw(step, model)
