"""DCGAN's networks for any size from 8 to 256 pixels, and the players' noise."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fourfold.models.dcgan import Discriminator, Generator, Players, ladder

side = st.integers(8, 70)


@settings(deadline=None, max_examples=30)
@given(side, side, st.sampled_from([1, 3]))
def test_any_size_comes_out_and_goes_in(height: int, width: int, channels: int) -> None:
    shape = (channels, height, width)
    images = Generator(shape, noise_size=5, width=2)(torch.randn(2, 5))
    assert images.shape == (2, *shape) and images.abs().max() <= 1
    assert Discriminator(shape, width=2)(images).shape == (2,)


@given(st.integers(8, 256), st.integers(8, 256))
def test_the_ladder_halves_down_to_four(height: int, width: int) -> None:
    sizes = ladder(height, width)
    assert sizes[0] == (height, width) and min(sizes[-1]) <= 4 and len(sizes) >= 3
    assert len(sizes) == 3 or min(sizes[-2]) > 4
    for large, small in zip(sizes, sizes[1:], strict=False):
        assert all(a in (2 * b, 2 * b - 1) for a, b in zip(large, small, strict=True))


def test_the_papers_shape_at_64_pixels() -> None:
    assert ladder(64, 64) == [(64, 64), (32, 32), (16, 16), (8, 8), (4, 4)]
    layers = Generator((3, 64, 64), noise_size=100, width=128).layers
    convolutions = [m for m in layers if isinstance(m, nn.ConvTranspose2d)]
    # figure 1 of the paper: 1024 channels of 4 x 4, then 512, 256, 128, 3
    assert [m.in_channels for m in convolutions] == [1024, 512, 256, 128]
    assert [m.out_channels for m in convolutions] == [512, 256, 128, 3]
    weights = torch.cat([m.weight.flatten() for m in convolutions])
    assert weights.std().item() == pytest.approx(0.02, rel=0.01)


@pytest.mark.parametrize("size", [(7, 8), (8, 257), (1, 1)])
def test_sizes_out_of_range_are_refused(size: tuple[int, int]) -> None:
    message = f"from 8 x 8 to 256 x 256 pixels, got {size[0]} x {size[1]}"
    with pytest.raises(ValueError, match=message):
        Generator((1, *size), 4, 4)
    with pytest.raises(ValueError, match=message):
        Discriminator((1, *size), 4)


def test_the_discriminator_judges_each_image_alone() -> None:
    torch.manual_seed(0)
    model, images = Discriminator((1, 8, 8), width=4).double(), torch.randn(6, 1, 8, 8).double()
    model.eval()
    alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(model(images), alone, rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match=r"expects images \(B, 1, 8, 8\), got \(6, 3, 8, 8\)"):
        model(images.expand(6, 3, 8, 8))


def test_spectral_norm_bounds_every_layer_by_one() -> None:
    torch.manual_seed(0)
    model = Discriminator((1, 8, 8), width=4)
    for _ in range(50):  # power iterations happen in training passes
        model(torch.randn(2, 1, 8, 8))
    for layer in model.layers:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            gain = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
            assert gain.item() == pytest.approx(1, abs=0.02)
    plain = Discriminator((1, 8, 8), width=4, norm="none")
    assert all("parametrizations" not in name for name, _ in plain.named_parameters())


@pytest.mark.parametrize(("noise", "variance"), [("normal", 1.0), ("uniform", 1 / 3)])
def test_noise_has_its_distribution_and_its_seed(noise: str, variance: float) -> None:
    players = Players(nn.Linear(3, 1), nn.Linear(1, 1), (3,), noise)  # type: ignore[arg-type]
    drawn = players.draw(20_000, seed=torch.Generator().manual_seed(0))
    assert drawn.shape == (20_000, 3)
    assert drawn.mean().item() == pytest.approx(0, abs=0.02)
    assert drawn.var().item() == pytest.approx(variance, rel=0.03)
    assert noise == "normal" or drawn.abs().max() <= 1
    assert torch.equal(drawn, players.draw(20_000, seed=torch.Generator().manual_seed(0)))
    torch.manual_seed(5)
    first = players.draw(2)
    torch.manual_seed(5)
    assert torch.equal(first, players.draw(2))  # without a seed: torch's global generator
    torch.testing.assert_close(players(first), players.generator(first))
