"""Likelihoods of pixels: probabilities that sum to one, and torch's distributions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fourfold.objectives.pixels import Bernoulli, DiscretisedLogistic, Gaussian, Pixels

VALUES = torch.arange(256, dtype=torch.float64) * (2 / 255) - 1


def every_value(likelihood: Pixels, middle: float, log_scale: float) -> Tensor:
    """-log P of each of 256 values of one pixel, (256,)."""
    output = torch.full((256, 1, 1, 1), middle, dtype=torch.float64)
    scale = torch.full((1, 1, 1), log_scale, dtype=torch.float64)
    return likelihood.code_length(output, scale, VALUES.reshape(256, 1, 1, 1))


@settings(max_examples=60, deadline=None)
@given(st.floats(-3, 3), st.floats(-7, 3), st.sampled_from([DiscretisedLogistic(), Gaussian()]))
def test_the_probabilities_of_256_values_sum_to_one(middle: float, log_scale: float, likelihood: Pixels) -> None:  # fmt: skip
    nats = every_value(likelihood, middle, log_scale)
    assert float((-nats).exp().sum()) == pytest.approx(1, abs=1e-9)
    assert (
        nats.isfinite().all() or log_scale < -4
    )  # far out in a narrow normal's tail nothing is left


def test_bins_are_differences_of_the_distribution_function() -> None:
    middle, scale = 0.3, 0.2
    normal = torch.distributions.Normal(torch.tensor(middle, dtype=torch.float64), scale)
    wanted = normal.cdf(VALUES + 1 / 255) - normal.cdf(VALUES - 1 / 255)
    wanted[0], wanted[-1] = normal.cdf(VALUES[0] + 1 / 255), 1 - normal.cdf(VALUES[-1] - 1 / 255)
    torch.testing.assert_close((-every_value(Gaussian(), middle, math.log(scale))).exp(), wanted)
    cdf = torch.sigmoid((VALUES + 1 / 255 - middle) / scale)
    found = (-every_value(DiscretisedLogistic(), middle, math.log(scale))).exp().cumsum(0)
    torch.testing.assert_close(found[:-1], cdf[:-1], rtol=1e-10, atol=1e-12)


def test_densities_are_torchs() -> None:
    torch.manual_seed(0)
    output, images = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64)
    scale = torch.randn(3, 1, 1, dtype=torch.float64)
    wanted = -torch.distributions.Normal(output, scale.exp()).log_prob(images).flatten(1).sum(1)
    torch.testing.assert_close(Gaussian().nats(output, scale, images), wanted)
    fixed = -torch.distributions.Normal(output, 0.7).log_prob(images).flatten(1).sum(1)
    torch.testing.assert_close(Gaussian(scale=0.7).nats(output, None, images), fixed)
    grey = torch.rand(5, 3, 4, 4, dtype=torch.float64)
    by_torch = torch.distributions.Bernoulli(logits=output)
    white = by_torch.log_prob(torch.ones_like(grey)) * grey
    black = by_torch.log_prob(torch.zeros_like(grey)) * (1 - grey)
    torch.testing.assert_close(Bernoulli().nats(output, None, grey * 2 - 1), -(white + black).flatten(1).sum(1))  # fmt: skip


def test_a_fine_grid_of_a_density_is_the_code_length() -> None:
    """A scale much wider than a bin: -log P is -log p less the log of the bin's width."""
    output, images = torch.zeros(1, 1, 1, 1), torch.tensor([[[[11 / 255]]]])
    scale = torch.full((1, 1, 1), math.log(0.5))
    length = Gaussian().code_length(output, scale, images)
    torch.testing.assert_close(length, Gaussian().nats(output, scale, images) - math.log(2 / 255), rtol=1e-4, atol=1e-4)  # fmt: skip


def test_binary_images() -> None:
    images = torch.tensor([-1.0, -0.2, 0.4, 1.0]).reshape(1, 1, 1, 4).repeat(4000, 1, 1, 1)
    assert torch.equal(Bernoulli().observed(images), images)
    cut = Bernoulli(binarize="threshold").observed(images)
    assert cut[0].flatten().tolist() == [-1, -1, 1, 1]
    torch.manual_seed(0)
    drawn = Bernoulli(binarize="stochastic").observed(images)
    assert set(drawn.flatten().tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(drawn.mean(0), images[0], atol=0.05, rtol=0)


@pytest.mark.parametrize("likelihood", [Bernoulli(), Gaussian(), DiscretisedLogistic()])
def test_what_is_drawn_has_the_mean_that_is_shown(likelihood: Pixels) -> None:
    torch.manual_seed(0)
    output = torch.tensor([-0.3, 0.2]).reshape(1, 1, 1, 2).repeat(20000, 1, 1, 1)
    scale = torch.full((1, 1, 1), math.log(0.05))
    drawn = likelihood.draw(output, scale, torch.rand_like(output))
    torch.testing.assert_close(drawn.mean(0), likelihood.mean(output)[0], atol=0.03, rtol=0)
