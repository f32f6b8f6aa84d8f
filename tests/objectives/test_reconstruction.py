"""Errors of what comes back, and penalties on codes that are not sparse, against torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fourfold.objectives.corruption import GaussianNoise
from fourfold.objectives.reconstruction import Denoising, Reconstruction, density


class Plain(nn.Module):
    """Codes are the pixels times a half, and what comes back a third of them."""

    def encode(self, images: Tensor) -> Tensor:
        return images.flatten(1) / 2

    def decode(self, code: Tensor) -> Tensor:
        return code.view(-1, 1, 2, 3) * 2 / 3


def test_the_kl_of_codes_is_torchs_from_the_rate_that_is_wanted() -> None:
    torch.manual_seed(0)
    code = torch.randn(50, 4, dtype=torch.float32)
    rates = torch.distributions.Bernoulli(torch.sigmoid(code).mean(0))
    wanted = torch.distributions.kl_divergence(torch.distributions.Bernoulli(0.1), rates).sum()
    torch.testing.assert_close(density(code, "kl", 0.1), wanted)
    torch.testing.assert_close(density(code, "l1", 0.1), code.abs().sum(1).mean())


@pytest.mark.parametrize("error", ["squared", "absolute"])
def test_the_loss_is_a_sum_over_images(error: Any) -> None:
    torch.manual_seed(0)
    images = torch.rand(5, 1, 2, 3) * 2 - 1
    objective = Reconstruction(error=error, sparsity=0.3, penalty="l1")
    (move,) = objective.losses(Plain(), {"image": images})
    away = images * 2 / 3
    each = away.square() if error == "squared" else away.abs()
    wanted = each.mean() + 0.3 * (images / 2).abs().flatten(1).sum(1).mean()
    torch.testing.assert_close(move.loss / move.weight, wanted)
    found = objective.measure(Plain(), {"image": images})
    torch.testing.assert_close(found["loss"][0] / found["loss"][1], wanted)
    torch.testing.assert_close(found["squared_error"][0] / 5, away.square().mean() / 4)


def test_denoising_is_measured_against_the_image_before() -> None:
    images = torch.rand(400, 1, 2, 3) * 2 - 1
    torch.manual_seed(1)
    (move,) = Denoising(noise=GaussianNoise(deviation=0.6)).losses(Plain(), {"image": images})
    torch.manual_seed(1)
    noise = 0.6 * torch.randn(400, 1, 2, 3)
    wanted = ((images + noise) / 3 - images).square().mean()
    torch.testing.assert_close(move.loss / move.weight, wanted)


@pytest.mark.parametrize(
    ("options", "compares"),
    [({}, False), ({"sparsity": 0.1}, True), ({"sparsity": 0.1, "penalty": "l1"}, False)],
)
def test_a_batch_whose_mean_is_judged_is_not_cut(options: dict[str, Any], compares: bool) -> None:
    assert Reconstruction(**options).prepare(None).compares is compares  # type: ignore[arg-type]
