"""Grids of codes: any size, a context model that looks at nothing it may not, a prior that sums to one."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from fourfold.models.code_context import CodeContext, code_nats, halves
from fourfold.models.grids import GridDecoder, GridEncoder, padded
from fourfold.models.vqvae import VQVAE, CodePrior, GridCodec


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 1), (33, 12)])
@pytest.mark.parametrize("stages", [1, 3])
def test_images_of_any_size_keep_it(size: tuple[int, int], stages: int) -> None:
    encoder, decoder = GridEncoder(3, 4, 5, stages), GridDecoder(3, 4, 5, stages)
    grid = encoder(torch.randn(2, 3, *size))
    assert grid.shape == (2, *(-(-n // 2**stages) for n in size), 5)
    assert decoder(grid, size).shape == (2, 3, *size)


def test_padding_repeats_the_edge() -> None:
    image = torch.arange(6.0).view(1, 1, 2, 3)
    assert padded(image, 4)[0, 0].tolist() == [[0, 1, 2, 2], *[[3, 4, 5, 5]] * 3]
    assert padded(image, 1) is image


def context(levels: int = 2) -> tuple[CodeContext, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    made = CodeContext(features=3, size=4, levels=levels, width=6)
    codes = torch.randint(4, (1, 4, 5, levels))
    book = torch.randn(levels, 4, 3)
    parts = torch.stack([book[n][codes[..., n]] for n in range(levels)], -2)
    return made, codes, parts


def test_what_a_code_costs_depends_on_known_codes_alone() -> None:
    """Black squares: not on their own level at all; white ones: not on other white ones; no level on a later one."""
    made, codes, parts = context()
    black, white = halves(4, 5)
    for level in range(2):
        before = code_nats(made, parts, codes, level)
        changed = parts.clone()
        changed[..., level, :] += torch.where(
            white[..., None], 1.0, 0.0
        )  # the codes' vectors, not the targets
        changed[..., level + 1 :, :] += 1.0
        assert torch.equal(code_nats(made, changed, codes, level), before)
        changed[..., level, :] += torch.where(black[..., None], 1.0, 0.0)
        after = code_nats(made, changed, codes, level)
        assert torch.equal(after[0][black], before[0][black])
        assert not torch.equal(after[0][white], before[0][white])
    earlier = parts.clone()
    earlier[..., 0, :] += 1.0
    assert not torch.equal(code_nats(made, earlier, codes, 1), code_nats(made, parts, codes, 1))


def test_a_level_s_codes_have_probabilities_that_sum_to_one() -> None:
    made, codes, parts = context(levels=1)
    total = torch.zeros(1, 4, 5)
    for code in range(4):  # the same surroundings, another code asked for
        total += (-code_nats(made, parts, torch.full_like(codes, code), 0)).exp()
    torch.testing.assert_close(total, torch.ones_like(total))


def test_the_prior_is_a_distribution_over_whole_grids() -> None:
    torch.manual_seed(0)
    prior = CodePrior(2, 2, 2, width=8, layers=1, heads=2).eval()
    grids = torch.tensor(list(itertools.product(range(2), repeat=4))).view(16, 1, 2, 2)
    with torch.no_grad():
        nats = prior(grids)
    assert math.isclose(float((-nats).exp().sum()), 1.0, rel_tol=1e-5)


def test_the_prior_draws_what_it_says() -> None:
    """Frequencies of all 16 grids against their probabilities, within four deviations."""
    torch.manual_seed(3)
    prior = CodePrior(2, 2, 2, width=8, layers=1, heads=2).eval()
    with torch.no_grad():
        prior.transformer.head.weight.mul_(40)  # far from uniform
        grids = torch.tensor(list(itertools.product(range(2), repeat=4))).view(16, 1, 2, 2)
        said = (-prior(grids)).exp()
    drawn = prior.draw(2000, torch.Generator().manual_seed(0)).flatten(1)
    index = (drawn * torch.tensor([8, 4, 2, 1])).sum(1)
    found = torch.bincount(index, minlength=16) / 2000
    assert said.max() - said.min() > 0.05
    deviation = (said * (1 - said) / 2000).sqrt()
    assert ((found - said).abs() < 4 * deviation + 1e-3).all()


def test_wrong_calls_are_refused() -> None:
    with pytest.raises(ValueError, match="stages >= 1, got 0"):
        GridEncoder(1, 4, 4, 0)
    with pytest.raises(ValueError, match=r"images \(B, C, H, W\), got \(8, 8\)"):
        GridEncoder(1, 4, 4, 1)(torch.zeros(8, 8))
    with pytest.raises(ValueError, match="CodePrior expects 4 places of 2 levels"):
        CodePrior(4, 2, 4, width=8, layers=1, heads=2)(torch.zeros(1, 3, 3, 2, dtype=torch.int64))


def test_encoding_moves_no_code() -> None:
    torch.manual_seed(0)
    codec = GridCodec(1, 4, 3, 1, size=8, levels=2)
    model = VQVAE(codec, CodeContext(3, 8, 2, 4), None).train()
    images = torch.randn(2, 1, 8, 8)
    codec(images)
    before = codec.quantizer.codebook.clone()
    codes = codec.encode(images)
    assert torch.equal(before, codec.quantizer.codebook) and codes.shape == (2, 4, 4, 2)
    parts = model.parts(codes)
    torch.testing.assert_close(parts.sum(-2), codec.quantizer.values(codes))
    assert codec.decode(codes[..., :1], (8, 8)).shape == images.shape
