"""The games: right losses, right gradients to the right player, and the optimum that theory names."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.core.parts import Move
from fourfold.objectives.adversarial import Adversarial, Hinge, NonSaturating, WassersteinGP
from fourfold.objectives.two_sample import classifier_two_sample, mmd2, wilson

GAMES = [NonSaturating(), Hinge(), WassersteinGP()]
names = [game.kind for game in GAMES]


class Scalar(nn.Module):
    """Examples (B, D) to one logit each."""

    def __init__(self, size: int, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(size, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).squeeze(1)


class Pair(nn.Module):
    """Any two modules as players."""

    def __init__(self, generator: nn.Module, discriminator: nn.Module, size: int) -> None:
        super().__init__()
        self.generator, self.discriminator, self.size = generator, discriminator, size

    def draw(self, count: int) -> Tensor:
        return torch.randn(count, self.size, dtype=next(self.parameters()).dtype)


def pair(seed: int = 0) -> Pair:
    torch.manual_seed(seed)
    return Pair(nn.Linear(2, 3), Scalar(3), 2).double()


def batch(count: int = 6, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randn(count, 3, dtype=torch.float64, generator=generator),
        "noise": torch.randn(count, 2, dtype=torch.float64, generator=generator),
    }


def moves(game: Adversarial, model: nn.Module, given: dict[str, Tensor]) -> list[Move]:
    return list(game.losses(model, given))


def test_losses_equal_their_formulas() -> None:
    model, given = pair(), batch()
    real, fake = (
        model.discriminator(given["image"]),
        model.discriminator(model.generator(given["noise"])),
    )
    ones, zeros = torch.ones(6).double(), torch.zeros(6).double()

    def bce(x: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(x, y, reduction="sum")

    expected = {
        "non-saturating": (bce(real, ones) + bce(fake, zeros), bce(fake, ones)),
        "hinge": (
            (1 - real).clamp(min=0).sum() + (1 + fake).clamp(min=0).sum(),
            -fake.sum(),
        ),
        "wasserstein-gp": (fake.sum() - real.sum(), -fake.sum()),
    }
    for game in (NonSaturating(), Hinge(), WassersteinGP(penalty_weight=0, critic_steps=1)):
        discriminator, generator = moves(game, model, given)
        torch.testing.assert_close(
            discriminator.loss, expected[game.kind][0], rtol=1e-12, atol=1e-12
        )
        torch.testing.assert_close(generator.loss, expected[game.kind][1], rtol=1e-12, atol=1e-12)
        assert discriminator.weight == generator.weight == 6


@pytest.mark.parametrize("game", GAMES, ids=names)
def test_each_move_is_its_players_and_the_discriminators_leaves_no_graph_in_the_generator(
    game: Adversarial,
) -> None:
    model = pair()
    *critic, last = moves(game, model, batch())
    assert [m.player for m in critic] == [
        "discriminator"
    ] * game.critic_steps and last.player == "generator"
    assert game.critic_steps == (5 if game.kind == "wasserstein-gp" else 1)
    ours, theirs = list(model.generator.parameters()), list(model.discriminator.parameters())
    for move in critic:
        assert torch.autograd.grad(move.loss, ours, allow_unused=True, retain_graph=True) == (
            None,
            None,
        )
        grads = torch.autograd.grad(move.loss, theirs, allow_unused=True)
        assert any(g is not None and g.abs().sum() > 0 for g in grads)
        assert not any(log.requires_grad for log in move.logs.values())
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(last.loss, ours))


@pytest.mark.parametrize("game", GAMES, ids=names)
def test_moves_are_computed_only_when_asked_for(game: Adversarial) -> None:
    model, given = pair(), batch()
    game = game.model_copy(update={"critic_steps": 1})
    play = game.losses(model, given)
    next(play)
    with torch.no_grad():  # the step that Gradient takes between the moves
        for parameter in model.discriminator.parameters():
            parameter.mul_(2)
    expected = game.generator_loss(model.discriminator(model.generator(given["noise"])))
    torch.testing.assert_close(next(play).loss, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("game", GAMES, ids=names)
def test_gradcheck(game: Adversarial) -> None:
    model, given = pair(), batch(3)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    parameters = dict(model.named_parameters())

    def play(which: int, *values: Tensor) -> Tensor:
        torch.manual_seed(3)  # the same points between real and fake at each evaluation

        class Called(nn.Module):
            def forward(self) -> Tensor:
                return moves(game, model, given)[which].loss

        wrapper = Called()
        wrapper.model = model
        replaced = {f"model.{n}": v for n, v in zip(chosen, values, strict=True)}
        return torch.func.functional_call(wrapper, replaced, ())

    for which, player in ((0, "discriminator"), (-1, "generator")):
        chosen = [n for n in parameters if n.startswith(player)]
        inputs = [parameters[n].clone().requires_grad_() for n in chosen]
        assert torch.autograd.gradcheck(
            lambda *v, w=which: play(w, *v), inputs, eps=1e-6, atol=1e-7
        )


def test_the_sum_over_micro_batches_is_the_sum_over_the_batch() -> None:
    for game in (NonSaturating(), Hinge(), WassersteinGP(penalty_weight=0)):
        whole, model = batch(8), pair()
        parts = [{k: v[i : i + 2] for k, v in whole.items()} for i in range(0, 8, 2)]
        sums = [
            sum(m)
            for m in zip(*[[m.loss for m in moves(game, model, p)] for p in parts], strict=True)
        ]
        for total, move in zip(sums, moves(game, model, whole), strict=True):
            torch.testing.assert_close(total, move.loss, rtol=1e-12, atol=1e-12)


def test_the_penalty_of_a_linear_critic_is_known() -> None:
    model = pair()
    model.discriminator = nn.Sequential(nn.Linear(3, 1, bias=False), nn.Flatten(0)).double()
    slope = model.discriminator[0].weight.norm()
    move = next(WassersteinGP(critic_steps=1).losses(model, batch(5)))
    torch.testing.assert_close(
        move.logs["penalty"], (10 * (slope - 1) ** 2).detach(), rtol=1e-9, atol=1e-9
    )
    dead = pair()
    dead.discriminator = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)).double()
    nn.init.zeros_(dead.discriminator[0].weight)
    next(WassersteinGP(critic_steps=1).losses(dead, batch(5))).loss.backward()
    assert dead.discriminator[0].weight.grad.isfinite().all()  # type: ignore[union-attr]


def test_at_its_optimum_the_discriminator_is_p_over_p_plus_q() -> None:
    """Two Gaussians, N(-1, 1) and N(1, 0.7); within 0.03 wherever 99% of both lie."""
    torch.manual_seed(0)
    generator = nn.Linear(1, 1)  # maps N(0, 1) to N(1, 0.7), and is never stepped
    with torch.no_grad():
        generator.weight.fill_(0.7)
        generator.bias.fill_(1.0)
    model = Pair(generator, Scalar(1, width=32), 1)
    steps = 1500
    optimizer = torch.optim.Adam(model.discriminator.parameters(), lr=1e-2)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        move = next(NonSaturating().losses(model, {"image": torch.randn(1024, 1) - 1}))
        optimizer.zero_grad()
        (move.loss / move.weight).backward()
        optimizer.step()
        rate.step()
    x = torch.linspace(-3.3, 2.8, 200)[:, None]
    p = torch.distributions.Normal(-1.0, 1.0).log_prob(x).exp()
    q = torch.distributions.Normal(1.0, 0.7).log_prob(x).exp()
    error = (torch.sigmoid(model.discriminator(x)) - (p / (p + q))[:, 0]).abs()
    assert error.max().item() < 0.03
    # its loss is then 2 log 2 - 2 JSD(p, q) (Goodfellow et al. 2014, theorem 1), in nats
    grid = torch.linspace(-8, 8, 4001)[:, None]
    p = torch.distributions.Normal(-1.0, 1.0).log_prob(grid).exp()
    q = torch.distributions.Normal(1.0, 0.7).log_prob(grid).exp()
    best = -torch.trapezoid(p * (p / (p + q)).log() + q * (q / (p + q)).log(), grid, dim=0)
    move = next(NonSaturating().losses(model, {"image": torch.randn(100_000, 1) - 1}))
    assert move.loss.item() / 100_000 == pytest.approx(best.item(), abs=0.01)


@pytest.mark.parametrize("game", GAMES, ids=names)
def test_measure_tells_good_samples_from_bad_ones(game: Adversarial) -> None:
    torch.manual_seed(0)
    model = pair()
    with torch.no_grad():
        noise = torch.randn(400, 2, dtype=torch.float64)
        like = model.generator(torch.randn(400, 2, dtype=torch.float64))
        near = game.measure(model, {"image": like, "noise": noise})
        far = game.measure(model, {"image": like + 3, "noise": noise})
        alone = game.measure(model, {"image": like[:1], "noise": noise[:1]})
    assert next(iter(near)) == "mmd"  # it decides which weights are kept
    assert abs(near["mmd"][0] / 400) < 0.01 < far["mmd"][0] / 400
    assert alone["mmd"] == (0, 0) and alone["generator_loss"][1] == 1
    assert 0 <= near["discriminator_accuracy"][0] <= 400


def test_a_discriminator_of_another_shape_is_refused() -> None:
    model: Any = pair()
    model.discriminator = nn.Linear(3, 1).double()
    with pytest.raises(ValueError, match=r"one logit for each example, \(6,\), got \(6, 1\)"):
        next(NonSaturating().losses(model, batch()))


# --- two-sample tests ------------------------------------------------------------------------------


def test_mmd_equals_its_definition() -> None:
    x, y = torch.randn(7, 2, 3).double(), torch.randn(5, 2, 3).double() + 1

    def k(a: Tensor, b: Tensor) -> float:
        distance = float((a - b).square().mean())
        return sum((1 + distance / (2 * s)) ** -s for s in (0.2, 0.5, 1, 2, 5)) / 5

    xx = sum(k(x[i], x[j]) for i in range(7) for j in range(7) if i != j) / 42
    yy = sum(k(y[i], y[j]) for i in range(5) for j in range(5) if i != j) / 20
    xy = sum(k(a, b) for a in x for b in y) / 35
    assert mmd2(x, y).item() == pytest.approx(xx + yy - 2 * xy, rel=1e-10)
    with pytest.raises(ValueError, match="mmd2 expects"):
        mmd2(x[:1], y)


def test_mmd_is_unbiased() -> None:
    torch.manual_seed(0)
    values = torch.stack([mmd2(torch.randn(8, 2), torch.randn(8, 2)) for _ in range(500)])
    assert abs(values.mean()) < 4 * values.std() / 500**0.5


def test_classifier_two_sample_on_known_distributions() -> None:
    torch.manual_seed(0)
    same = classifier_two_sample(torch.randn(600, 2), torch.randn(600, 2))
    assert same.low < 0.5 < same.high and same.tested == 600
    far = classifier_two_sample(torch.randn(600, 2), torch.randn(700, 2) + 20)
    assert far.accuracy == 1 and far.low > 0.99
    # means 2 apart along one axis: the best possible accuracy is Phi(1) = 0.841
    shift = classifier_two_sample(torch.randn(2000, 1), torch.randn(2000, 1) + 2)
    assert shift.low - 0.01 < 0.8413 < shift.high + 0.01
    with pytest.raises(ValueError, match="at least 4 equal-sized examples"):
        classifier_two_sample(torch.randn(3, 2), torch.randn(9, 2))


def test_wilson_equals_scipy() -> None:
    from scipy.stats import binomtest

    for right, count in ((0, 5), (5, 5), (3, 10), (181, 360)):
        interval = binomtest(right, count).proportion_ci(0.95, method="wilson")
        assert wilson(right, count) == pytest.approx((interval.low, interval.high), abs=1e-6)
    with pytest.raises(ValueError, match="got 3 of 2"):
        wilson(3, 2)
