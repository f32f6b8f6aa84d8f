"""Bodies of autoencoders: any size comes back as it was, and what does not fit is said."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.models.autoencoder import Autoencoder, Decoder, Encoder, FromMaps, Maps, stages_of
from fourfold.models.halving import halved, kernel, sizes_down

side = st.integers(1, 37)


@settings(max_examples=25, deadline=None)
@given(side, side, st.sampled_from([1, 3]), st.sampled_from(["dense", "convolutional"]))
def test_any_size_comes_back(height: int, width: int, channels: int, network: str) -> None:
    shape = (channels, height, width)
    encoder = Encoder(shape, 5, network=network, width=4, hidden=(6,))  # type: ignore[arg-type]
    decoder = Decoder(5, shape, network=network, width=4, hidden=(6,))  # type: ignore[arg-type]
    model = Autoencoder(encoder, decoder)
    images = torch.randn(2, *shape)
    assert model.encode(images).shape == (2, 5)
    assert model(images).shape == images.shape


@settings(max_examples=20, deadline=None)
@given(st.integers(4, 37), st.integers(4, 37), st.integers(0, 2))
def test_maps_of_any_size_come_back(height: int, width: int, stages: int) -> None:
    maps = Maps((3, height, width), 7, width=4, stages=stages)
    back = FromMaps(7, (3, height, width), width=4, stages=stages)
    found = maps(torch.randn(2, 3, height, width))
    assert found.shape == (2, 7, *sizes_down((height, width), stages)[-1])
    assert back(found).shape == (2, 3, height, width)


@given(side)
def test_the_kernel_leads_to_half_and_back(large: int) -> None:
    small, size = halved((large, large))[0], kernel((large, large))[0]
    assert (large + 2 - size) // 2 + 1 == small
    assert (small - 1) * 2 - 2 + size == large


def test_without_hidden_layers_a_dense_one_is_linear() -> None:
    torch.manual_seed(0)
    model = Autoencoder(
        Encoder((1, 3, 5), 2, network="dense", hidden=()),
        Decoder(2, (1, 3, 5), network="dense", hidden=()),
    )
    a, b = torch.randn(2, 1, 1, 3, 5)
    zero = model(torch.zeros_like(a))
    torch.testing.assert_close(model(a + b) - zero, model(a) + model(b) - 2 * zero)


def test_an_image_is_encoded_alone() -> None:
    torch.manual_seed(0)
    encoder, images = Encoder((1, 9, 9), 3, width=4), torch.randn(4, 1, 9, 9)
    torch.testing.assert_close(encoder(images)[:1], encoder(images[:1]))


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ValueError, match="3 x 9 pixels are smaller than the stride of 8"):
        stages_of((1, 3, 9), 3)
    assert stages_of((1, 8, 9), 3) == 3 and stages_of((1, 28, 28), None) == 3
    with pytest.raises(ValueError, match=r"Decoder expects \(B, 5\), got \(2, 6\)"):
        Decoder(5, (1, 8, 8))(torch.zeros(2, 6))
    with pytest.raises(ValueError, match=r"Encoder expects \(B, 1, 8, 8\)"):
        Encoder((1, 8, 8), 5)(torch.zeros(2, 1, 8, 9))
