"""Each verdict is provoked on a real network, and a network that lacks the fault does not get it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from fourfold import api
from fourfold.core.evaluation import to_device
from fourfold.core.parts import Batch, Move, Objective
from fourfold.core.types import Explanation
from fourfold.look.affine import affine_chains, collapsed
from fourfold.look.health import inspect_batch, judge
from fourfold.look.watch import watch
from fourfold.models.dcgan import Discriminator, Generator, Players
from fourfold.models.transformer import Transformer
from fourfold.objectives.likelihood import NextToken
from fourfold.objectives.regression import SquaredError
from fourfold.systems.gan import GAN
from fourfold.systems.gpt import GPT

KINDS = {"not finite", "explode", "vanish", "dead", "saturated", "symmetric"}


def batch(count: int = 64, width: int = 16) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, width, generator=generator)
    return {"features": x, "targets": x[:, 0] * x[:, 1]}


def deep(
    depth: int, activation: Callable[[], nn.Module], initialize: Callable[[Tensor], object] | None
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(16, 16), activation()]
    model = nn.Sequential(*layers, nn.Linear(16, 1))
    for layer in model:
        if isinstance(layer, nn.Linear) and initialize is not None:
            initialize(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


def he(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


def found(model: nn.Module, objective: Objective | None = None) -> dict[str, str]:
    """Kinds of what is wrong, each with its sentence."""
    (watched,) = watch(model, objective or SquaredError(), batch())
    return {f.kind: f.sentence for f in judge(watched) if f.kind}


def test_a_fresh_network_of_four_layers_is_healthy() -> None:
    explanation = inspect_batch(deep(4, nn.ReLU, he), SquaredError(), batch(), title="A network")
    assert explanation.title == "A network"
    assert explanation.sentences[0].startswith("Verdict: healthy. One batch of 64 examples")
    assert str(explanation) == "\n".join(explanation.sentences)
    assert len([s for s in explanation.sentences if "(healthy: " in s]) == 3


@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.ReLU, nn.Tanh])
def test_signals_and_gradients_vanish(activation: type[nn.Module]) -> None:
    """torch's own initialization has a variance of 1/3 of Xavier's, and a sigmoid's slope is at most 1/4."""
    assert "vanish" in found(deep(24, activation, None))


def test_gradients_vanish_through_sigmoids_though_weights_are_xaviers() -> None:
    (watched,) = watch(deep(12, nn.Sigmoid, nn.init.xavier_normal_), SquaredError(), batch())
    sentences = [f.sentence for f in judge(watched) if f.kind == "vanish"]
    assert any("the first layers hardly learn" in s for s in sentences)


@pytest.mark.parametrize(
    ("activation", "initialize"),
    [(nn.ReLU, he), (nn.Tanh, nn.init.xavier_normal_), (nn.Tanh, nn.init.orthogonal_)],
)
def test_initializations_that_keep_the_scale_keep_it(
    activation: type[nn.Module], initialize: Callable[[Tensor], object]
) -> None:
    assert not found(deep(12, activation, initialize)).keys() & {"vanish", "explode"}


def test_signals_explode_where_weights_are_too_large() -> None:
    kinds = found(deep(12, nn.ReLU, lambda w: nn.init.normal_(w, std=2.0)))
    assert "times" in kinds["explode"] and "vanish" not in kinds


def test_gradients_explode_though_a_bounded_activation_hides_it() -> None:
    """A deep network of large weights between sines: activations stay in [-1, 1], slopes multiply."""

    class Sine(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sin(x)

    kinds = found(deep(16, Sine, lambda w: nn.init.normal_(w, std=1.0)))
    assert "no learning rate suits both" in kinds["explode"]


def test_no_gradient_at_all() -> None:
    model = deep(2, nn.ReLU, he)
    nn.init.zeros_(model[4].weight)
    kinds = found(model)
    assert "no gradient at all reaches 0, 2 (2 of 3 layers)" in kinds["vanish"]


def test_dead_rectifiers() -> None:
    model = deep(2, nn.ReLU, he)
    with torch.no_grad():
        model[2].bias[:8] = -1e3
    kinds = found(model)
    assert "8 of 16 in 3" in kinds["dead"] or "9 of 16 in 3" in kinds["dead"]
    with torch.no_grad():
        model[2].bias[:8] = 0.0
    assert "dead" not in found(model)


def test_a_unit_that_any_call_wakes_is_alive() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.act, self.last = nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            return self.last(self.act(-1e3 - h.abs()) + self.act(h))

    assert "dead" not in found(Twice())


@pytest.mark.parametrize(("activation", "gain"), [(nn.Tanh, 30.0), (nn.Sigmoid, 60.0)])
def test_saturation(activation: type[nn.Module], gain: float) -> None:
    model = deep(1, activation, he)
    assert "saturated" not in found(model)
    with torch.no_grad():
        model[0].weight *= gain
    assert " in 1;" in found(model)["saturated"]


def test_an_output_may_reach_its_bounds() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1), nn.Tanh())
    with torch.no_grad():
        model[2].weight *= 1e3
    assert "saturated" not in found(model)


def test_the_output_of_a_player_that_moves_twice_may_reach_its_bounds_too() -> None:
    players = Players(Generator((1, 8, 8), 4, 4), Discriminator((1, 8, 8), 4), (4,))
    with torch.no_grad():
        players.generator.layers[-2].weight *= 1e4

    class Twice(Objective):
        def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
            made = [players.generator(batch["noise"]) for _ in range(2)]
            yield Move("generator", sum(m.sum() for m in made), 1.0)

    (watched,) = watch(players, Twice(), {"noise": torch.randn(8, 4)})
    outputs = [c for c in watched.calls if c.name == "generator.layers.8"]
    assert len(outputs) == 2 and all(c.saturated > 0.9 for c in outputs)
    assert "saturated" not in {f.kind for f in judge(watched)}


def test_units_that_begin_equal_stay_equal() -> None:
    model = deep(2, nn.Tanh, lambda w: nn.init.constant_(w, 0.1))
    kinds = found(model)
    assert "will stay equal" in kinds["symmetric"] and "16 of the 16 units" in kinds["symmetric"]
    # and so they do: the promise is kept by a hundred steps
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        (move,) = SquaredError().losses(model, batch())
        (move.loss / move.weight).backward()
        optimizer.step()
    weight = model[0].weight.detach()
    assert float(weight.std(0).max()) < 1e-6 < float(weight.std())
    assert "symmetric" in found(model)


def test_zeros_have_nothing_that_tells_them_apart() -> None:
    kinds = found(deep(2, nn.ReLU, nn.init.zeros_))
    assert "no gradient tells them apart" in kinds["symmetric"] and "vanish" in kinds


def test_a_layer_of_zeros_that_gets_gradients_of_its_own_is_not_symmetric() -> None:
    model = deep(2, nn.Tanh, he)
    nn.init.zeros_(model[2].weight)
    assert "symmetric" not in found(model)


def test_equal_outputs_are_not_symmetric_units() -> None:
    """Classes that never occur get equal gradients and stay equal, and no output is too many for that."""
    model = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    data = {"features": torch.randn(32, 16), "targets": torch.ones(32, 3)}
    (watched,) = watch(model, SquaredError(), data)
    assert watched.weights[2].twins == (3, 3, 1, True)
    assert "symmetric" not in {f.kind for f in judge(watched)}


def test_values_that_are_not_finite_are_traced_to_their_layer() -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sqrt()

    explanation = inspect_batch(
        nn.Sequential(nn.Linear(16, 4), Root(), nn.Linear(4, 1)), SquaredError(), batch()
    )
    assert explanation.sentences[0].startswith("Verdict: not finite. ")
    assert "1 (Root) is the first layer to give NaN or infinity" in explanation.sentences[1]
    check_drawn(explanation, ["Activations by layer", "Gradients by layer"])
    model = deep(1, nn.ReLU, he)
    with torch.no_grad():
        model[2].bias.fill_(torch.inf)
    explanation = inspect_batch(model, SquaredError(), batch())
    assert explanation.sentences[0].startswith("Verdict: not finite")
    assert explanation.sentences[1] == "Not finite: 2.bias hold NaN or infinity."
    assert "2 (Linear) is the first layer" in explanation.sentences[2]


def test_a_gradient_that_is_not_finite() -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * 0).sqrt()  # 0, with an infinite slope

    (told,) = found(nn.Sequential(nn.Linear(16, 1), Root())).values()
    assert told == (
        "Not finite: the gradient, first at 0 on its way back, and so that of 0.weight, 0.bias."
    )


# --- no activation ------------------------------------------------------------------------------


def test_layers_without_activation_are_told_equal_to_one() -> None:
    model = nn.Sequential(
        nn.Linear(16, 8), nn.Dropout(0.1), nn.Linear(8, 8, bias=False), nn.Linear(8, 3)
    ).double()
    data = {"features": torch.randn(32, 16).double(), "targets": torch.randn(32, 3).double()}
    explanation = inspect_batch(model, SquaredError(), data)
    (told,) = [s for s in explanation.sentences if s.startswith("No activation")]
    assert (
        "0, 2, 3" in told and "W of (3, 16)" in told and "(227 parameters do the work of 51" in told
    )
    weight, bias = collapsed([m for m in model if isinstance(m, nn.Linear)])
    x = torch.randn(50, 16, dtype=torch.float64)
    torch.testing.assert_close(x @ weight.T + bias, model.eval()(x), rtol=1e-10, atol=1e-12)
    both = model[3].weight.detach() @ model[2].weight.detach()
    torch.testing.assert_close(weight, both @ model[0].weight.detach(), rtol=1e-12, atol=1e-14)
    inner = model[2].weight.detach() @ model[0].bias.detach()  # W2 b1 + b2
    expected = model[3].weight.detach() @ inner + model[3].bias.detach()
    torch.testing.assert_close(bias, expected, rtol=1e-12, atol=1e-14)


def test_a_bottleneck_is_told_by_its_rank() -> None:
    model = nn.Sequential(nn.Linear(16, 2), nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
    explanation = inspect_batch(model, SquaredError(), batch())
    assert any(
        "0, 1: together they are one affine map of rank 2 at most" in s
        for s in explanation.sentences
    )


def test_an_activation_of_any_kind_breaks_the_chain() -> None:
    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(16, 4), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.sin_(self.first(x)))  # in place: the very same tensor

    for model in (Inside(), deep(3, nn.ReLU, he), deep(3, nn.GELU, he)):
        (watched,) = watch(model, SquaredError(), batch())
        assert affine_chains(watched.calls) == []


# --- what is told besides, and whole systems ----------------------------------------------------


def test_frozen_and_unused_parameters_are_told() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last, self.spare = nn.Linear(16, 4), nn.Linear(4, 1), nn.Linear(2, 2)
            self.first.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).tanh())

    told = str(inspect_batch(Half(), SquaredError(), batch()))
    assert "Frozen, so without gradient: first.weight, first.bias." in told
    assert "Not used for this loss, so without gradient: spare.weight, spare.bias." in told
    frozen = Half().requires_grad_(False)
    assert "No parameter is trained" in str(inspect_batch(frozen, SquaredError(), batch()))


def check_drawn(explanation: Explanation, names: list[str]) -> None:
    assert [p.title for p in explanation.pictures] == names
    assert all(p.png.startswith(b"\x89PNG") and p.caption for p in explanation.pictures)
    for table in explanation.tables:
        assert table.rows and all(len(row) == len(table.columns) for row in table.rows)


def test_a_fitted_language_model_is_healthy() -> None:
    toy, source = GPT.toy()
    run = api.fit(toy, source, out=False)
    first = to_device(next(iter(run.examples().batches("train"))), run.device)
    with torch.no_grad():  # as verbs run
        explanation = inspect_batch(run.model, run.objective, first)
    assert explanation.sentences[0].startswith("Verdict: healthy")
    check_drawn(
        explanation,
        ["Activations by layer", "Gradients by layer", "What the normalization averages over"],
    )
    assert not run.model.training


def test_a_deep_language_model_is_healthy_at_its_start() -> None:
    tokens = torch.randint(64, (8, 17))
    data = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:]}
    explanation = inspect_batch(Transformer(64, 32, 12, 4, dropout=0.1), NextToken(), data)
    assert explanation.sentences[0].startswith("Verdict: healthy")


def test_both_players_of_a_fitted_game_are_judged() -> None:
    toy, source = GAN.toy()
    run = api.fit(toy, source, out=False)
    first = next(iter(run.examples().batches("train")))
    explanation = inspect_batch(run.model, run.objective, first)
    verdict = explanation.sentences[0]
    assert verdict.startswith("Verdict: discriminator: healthy; generator: healthy.")
    check_drawn(
        explanation,
        [
            f"{what} by layer of the {player}"
            for player in ("discriminator", "generator")
            for what in ("Activations", "Gradients")
        ]
        + ["What the normalization averages over"],
    )


class Mean(Objective):
    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        yield Move("model", model(batch["features"]).sum(), len(batch["features"]))


@pytest.mark.parametrize("depth", [1, 120])
def test_pictures_and_tables_at_any_depth(depth: int) -> None:
    explanation = inspect_batch(deep(depth, nn.Tanh, nn.init.orthogonal_), Mean(), batch())
    check_drawn(explanation, ["Activations by layer", "Gradients by layer"])
    assert len(explanation.tables[0].rows) == min(200, 2 * depth + 1)
    assert ("The first 200 of 241." in explanation.tables[0].caption) == (depth == 120)
