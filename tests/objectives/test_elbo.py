"""The bound against a model whose likelihood is known (probabilistic PCA), and its decompositions."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fourfold.models.autoencoder import Decoder, Encoder
from fourfold.models.variational import LatentDiscriminator, Variational, Watched
from fourfold.objectives.elbo import Beta, BetaTC, Bound, Control, Elbo, Factor, bound_of_images
from fourfold.objectives.pixels import DiscretisedLogistic, Gaussian
from fourfold.objectives.posterior import gaussian_kl, importance_bound
from fourfold.objectives.total_correlation import aggregate

SHAPE, LATENTS = (1, 2, 3), 2


def ppca() -> tuple[Variational, Tensor, float]:
    """A linear model at Tipping and Bishop's (1999) optimum with its exact posterior; its data; -log p of a datum."""
    random = np.random.default_rng(0)
    mixed = random.normal(size=(2000, 2)) @ random.normal(size=(2, 6)) * 0.5
    x = mixed + 0.2 * random.normal(size=(2000, 6)) + 0.1
    mean = x.mean(0)
    values, axes = np.linalg.eigh(np.cov(x.T, bias=True))
    values, axes = values[::-1], axes[:, ::-1]
    variance = values[LATENTS:].mean()
    w = axes[:, :LATENTS] * np.sqrt(values[:LATENTS] - variance)
    cov = w @ w.T + variance * np.eye(6)
    centred = x - mean
    mahalanobis = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(cov), centred)
    exact = 0.5 * (mahalanobis + np.linalg.slogdet(cov)[1] + 6 * math.log(2 * math.pi))
    m = w.T @ w + variance * np.eye(LATENTS)  # diagonal, as the columns of w are at right angles
    model = Variational(
        Encoder(SHAPE, 2 * LATENTS, network="dense", hidden=()),
        Decoder(LATENTS, SHAPE, network="dense", hidden=()),
        1,
    ).double()
    to_mean = np.linalg.solve(m, w.T)
    log_var = np.log(variance / np.diag(m))
    with torch.no_grad():
        into: Any = model.encoder.layers[1]
        into.weight[:] = torch.from_numpy(np.vstack([to_mean, np.zeros_like(to_mean)]))
        into.bias[:] = torch.from_numpy(np.concatenate([-to_mean @ mean, log_var]))
        out: Any = model.decoder.layers[0]
        out.weight[:], out.bias[:] = torch.from_numpy(w.copy()), torch.from_numpy(mean)
        assert model.log_scale is not None
        model.log_scale.fill_(0.5 * math.log(variance))
    return model, torch.from_numpy(x).reshape(-1, *SHAPE), float(exact.mean())


def bound(objective: Bound, model: Variational, images: Tensor) -> float:
    with torch.no_grad():
        loss, weight = objective.measure(model, {"image": images})["elbo"]
    return float(loss) / float(weight)


def test_with_the_exact_posterior_the_bound_is_the_marginal_likelihood() -> None:
    model, images, exact = ppca()
    objective = Elbo(likelihood=Gaussian())
    torch.manual_seed(0)
    found = np.mean([bound(objective, model, images) for _ in range(20)])
    assert found == pytest.approx(exact, abs=0.01)

    # and with weights, of any number of draws, exactly: all weights are p(x)
    def nats(latent: Tensor) -> Tensor:
        return Gaussian().nats(model.decode(latent), model.log_scale, images)

    with torch.no_grad():
        weighted = importance_bound(
            *model.posterior(images), nats, 3, torch.Generator().manual_seed(0)
        )
    assert float(weighted.mean()) == pytest.approx(exact, abs=1e-9)


def test_a_bound_that_is_trained_reaches_the_known_optimum() -> None:
    """From scratch: no linear model of two latents is better than Tipping and Bishop's."""
    _, images, exact = ppca()
    torch.manual_seed(0)
    model = Variational(
        Encoder(SHAPE, 2 * LATENTS, network="dense", hidden=()),
        Decoder(LATENTS, SHAPE, network="dense", hidden=()),
        1,
    ).double()
    objective, optimizer = (
        Elbo(likelihood=Gaussian()),
        torch.optim.Adam(model.parameters(), lr=0.02),
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1200)
    for _ in range(1200):
        optimizer.zero_grad()
        (move,) = objective.losses(model, {"image": images[torch.randint(2000, (256,))]})
        (move.loss / move.weight).backward()
        optimizer.step()
        schedule.step()
    found = np.mean([bound(objective, model, images) for _ in range(20)])
    assert exact - 0.01 < found < exact + 0.05


def test_more_draws_bound_nearer() -> None:
    torch.manual_seed(1)
    model = Variational(Encoder((1, 4, 4), 6, width=4), Decoder(3, (1, 4, 4), width=4), 1)
    last: Any = model.encoder.layers[-1]
    last.bias.data[:3] = 1.0  # posteriors that are wrong
    batch = {"image": (torch.rand(64, 1, 4, 4) * 255).round() / 127.5 - 1}
    objective = Elbo(likelihood=DiscretisedLogistic())
    with torch.no_grad():
        few, many = (float(bound_of_images(objective, model, batch, k, torch.Generator().manual_seed(0)).mean()) for k in (1, 100))  # fmt: skip
    assert many < few


def test_kl_is_torchs() -> None:
    torch.manual_seed(0)
    mean, log_var = torch.randn(2, 7, 3, dtype=torch.float64)
    wanted = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (log_var / 2).exp()),
        torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean)),
    )
    torch.testing.assert_close(gaussian_kl(mean, log_var), wanted, rtol=1e-10, atol=1e-12)


def small() -> tuple[Variational, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = Variational(Encoder((1, 4, 4), 6, width=4), Decoder(3, (1, 4, 4), width=4))
    return model, {"image": torch.rand(16, 1, 4, 4) * 2 - 1}


def loss_of(objective: Bound, model: Any, batch: dict[str, Tensor]) -> float:
    torch.manual_seed(5)
    move = next(objective.losses(model, batch))
    return float(move.loss.detach()) / float(move.weight)


def test_variants_are_the_bound_where_their_weights_are_one() -> None:
    model, batch = small()
    plain = loss_of(Elbo(), model, batch)
    assert loss_of(Beta(beta=1.0), model, batch) == pytest.approx(plain)
    assert loss_of(Control(beta=1.0), model, batch) == pytest.approx(plain)
    watched = Watched(model, LatentDiscriminator(3, width=8))
    assert loss_of(Factor(gamma=0.0), watched, batch) == pytest.approx(plain)
    torch.manual_seed(5)
    seen = Elbo().seen(model, batch)
    common, correlation, distance = BetaTC().parts(seen, 16)
    torch.manual_seed(5)
    # the three parts add up to log q(z | x) - log p(z) of each draw, whatever the estimates
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(seen.z).sum(1)
    own = torch.distributions.Normal(seen.mean, (seen.log_var / 2).exp()).log_prob(seen.z).sum(1)
    torch.testing.assert_close(common + correlation + distance, own - prior)
    assert loss_of(Beta(beta=3.0), model, batch) > plain


def test_free_bits_cost_nothing_below_and_the_kl_above() -> None:
    model, batch = small()
    seen = Elbo().seen(model, batch)
    per = seen.kl.detach().mean(0)
    level = float(per.median())
    free = float(Elbo(free_bits=level).rate(seen.kl.detach())) / 16
    assert free == pytest.approx(float(per.clamp(min=level).sum()), rel=1e-6)
    all_free = Elbo(free_bits=100.0).rate(seen.kl)
    assert float(all_free.detach()) == pytest.approx(100 * 3 * 16)
    (slope,) = torch.autograd.grad(all_free, seen.mean)
    assert not slope.any()


def test_beta_tc_weighs_each_part_by_its_own_number() -> None:
    model, batch = small()
    torch.manual_seed(5)
    seen = Elbo().seen(model, batch)
    joint, apart = aggregate(seen.z, seen.mean, seen.log_var, 16)
    normal = torch.distributions.Normal
    own = normal(seen.mean, (seen.log_var / 2).exp()).log_prob(seen.z).sum(1)
    prior = normal(0.0, 1.0).log_prob(seen.z).sum(1)
    wanted = seen.nats + 2 * (own - joint) + 3 * (joint - apart) + 5 * (apart - prior)
    found = loss_of(BetaTC(alpha=2.0, beta=3.0, gamma=5.0), model, batch)
    assert found == pytest.approx(float(wanted.mean().detach()), rel=1e-5)


def test_free_bits_of_beta_tc_are_those_of_the_bound() -> None:
    """With weights of 1 both pay the same for what free bits do to the KL; and free they are."""
    model, batch = small()
    ones: dict[str, Any] = {"alpha": 1.0, "beta": 1.0, "gamma": 1.0}
    for bits in (0.01, 0.5):
        given = loss_of(Elbo(free_bits=bits), model, batch) - loss_of(Elbo(), model, batch)
        taken = loss_of(BetaTC(free_bits=bits, **ones), model, batch) - loss_of(BetaTC(**ones), model, batch)  # fmt: skip
        assert taken == pytest.approx(given, abs=1e-5)
    assert given > 0.1


def test_factor_is_a_game_in_which_each_moves_alone() -> None:
    model, batch = small()
    watched = Watched(model, LatentDiscriminator(3, width=8))
    game = Factor(gamma=5.0).losses(watched, batch)
    first, second = list(game)
    assert (first.player, second.player) == ("autoencoder", "discriminator")
    first.loss.backward(inputs=list(watched.autoencoder.parameters()), retain_graph=True)
    assert all(p.grad is None for p in watched.discriminator.parameters())
    assert not any(p.grad is None for p in watched.autoencoder.parameters())
    before = [p.grad.clone() for p in watched.autoencoder.parameters() if p.grad is not None]
    second.loss.backward()
    assert all(p.grad is not None for p in watched.discriminator.parameters())
    assert all(torch.equal(p.grad, b) for p, b in zip(watched.autoencoder.parameters(), before, strict=True))  # type: ignore[arg-type]  # fmt: skip


def test_a_controlled_run_is_judged_by_its_distance_from_the_goal() -> None:
    model, batch = small()
    with torch.no_grad():
        found = Control(beta=7.0, goal=3.0).measure(model, batch)
    each = {name: float(total) / float(weight) for name, (total, weight) in found.items()}
    assert each["loss"] == pytest.approx(each["reconstruction"] + abs(each["kl"] - 3.0), rel=1e-5)
