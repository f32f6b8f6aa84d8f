"""Patches and back; the Vision Transformer against its equations written out; what the masked autoencoder sees."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fourfold.models.vit import (
    MAE,
    Encoder,
    ViT,
    patchify,
    plane_positions,
    suited_patch,
    unpatchify,
)

side = st.integers(1, 4)


@given(side, side, side, st.sampled_from([1, 3]))
def test_patches_and_back(rows: int, columns: int, patch: int, channels: int) -> None:
    images = torch.randn(2, channels, rows * patch, columns * patch)
    patches = patchify(images, patch)
    assert patches.shape == (2, rows * columns, channels * patch * patch)
    assert torch.equal(unpatchify(patches, patch, tuple(images.shape[1:])), images)  # type: ignore[arg-type]
    for number in range(rows * columns):  # by slices
        y, x = number // columns * patch, number % columns * patch
        cut = images[:, :, y : y + patch, x : x + patch].permute(0, 2, 3, 1).flatten(1)
        assert torch.equal(patches[:, number], cut)


def written_out(model: ViT, image: np.ndarray, patch: int, heads: int) -> np.ndarray:
    """Logits of one image (C, H, W) by the paper's equations 1 to 4, in NumPy, patch by patch and head by head."""
    weights = {name: value.detach().double().numpy() for name, value in model.state_dict().items()}

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    rows = []
    for y in range(0, image.shape[1], patch):
        for x in range(0, image.shape[2], patch):
            cut = image[:, y : y + patch, x : x + patch]
            rows.append(cut.transpose(1, 2, 0).reshape(-1))
    z = linear(np.stack(rows), "encoder.project")
    z = z + model.encoder.get_buffer("places").double().numpy()
    width = z.shape[1]
    for layer in range(len(model.encoder.layers.blocks)):
        name = f"encoder.layers.blocks.{layer}"
        q, k, v = np.split(
            linear(norm(z, f"{name}.around_attention.norm"), f"{name}.attention.query_key_value"),
            3,
            axis=1,
        )
        mixed = np.zeros_like(z)
        for head in range(heads):
            part = slice(head * width // heads, (head + 1) * width // heads)
            scores = q[:, part] @ k[:, part].T / math.sqrt(width // heads)
            share = np.exp(scores - scores.max(1, keepdims=True))
            mixed[:, part] = share / share.sum(1, keepdims=True) @ v[:, part]
        z = z + linear(mixed, f"{name}.attention.out")
        inner = linear(norm(z, f"{name}.around_feedforward.norm"), f"{name}.feedforward.up")
        gelu = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        z = z + linear(gelu, f"{name}.feedforward.down")
    return linear(norm(z, "encoder.layers.norm").mean(0), "head")


def test_vit_is_its_equations() -> None:
    torch.manual_seed(0)
    model = ViT(Encoder((3, 8, 12), patch=4, width=16, layers=2, heads=4), outputs=5).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    images = torch.randn(3, 3, 8, 12, dtype=torch.float64)
    expected = [written_out(model, image.numpy(), 4, 4) for image in images]
    torch.testing.assert_close(
        model(images), torch.tensor(np.stack(expected)), rtol=1e-8, atol=1e-8
    )


def test_positions_tell_every_place_apart_and_are_sinusoids() -> None:
    table = plane_positions(3, 4, 8)
    assert table.shape == (12, 8) and len(table.unique(dim=0)) == 12
    row, column = 2, 3
    rates = [1.0, 10_000.0**-0.5]
    expected = [f(p * r) for p in (row, column) for f in (math.sin, math.cos) for r in rates]
    torch.testing.assert_close(table[row * 4 + column], torch.tensor(expected))


def autoencoder() -> MAE:
    torch.manual_seed(0)
    return MAE(Encoder((1, 8, 8), 2, 16, 2, 4), 8, 1, 2).eval()


def test_nothing_of_a_masked_patch_enters() -> None:
    model, images = autoencoder(), torch.randn(2, 1, 8, 8)
    seen = torch.tensor([[0, 3, 7, 12], [1, 2, 5, 15]])
    patches = model.patches(images).clone()
    hidden = torch.ones(2, 16, dtype=torch.bool).scatter(1, seen, False)
    patches[hidden] = torch.randn(int(hidden.sum()), 4)
    changed = unpatchify(patches, 2, (1, 8, 8))
    with torch.no_grad():
        torch.testing.assert_close(model(images, seen), model(changed, seen))
        patches[0, 3] += 1
        other = model(unpatchify(patches, 2, (1, 8, 8)), seen)
    assert not torch.allclose(other[0], model(images, seen)[0])


def test_a_patchs_state_does_not_depend_on_the_order_of_the_seen() -> None:
    model, images = autoencoder(), torch.randn(1, 1, 8, 8)
    seen = torch.tensor([[9, 2, 14, 5]])
    with torch.no_grad():
        one, other = model(images, seen), model(images, seen.sort(dim=1).values)
    torch.testing.assert_close(one, other)


def test_the_decoder_gets_every_state_at_its_own_place() -> None:
    model, images = autoencoder(), torch.randn(2, 1, 8, 8)
    seen = torch.tensor([[0, 3, 7, 12], [1, 2, 5, 15]])
    given: list[Tensor] = []
    model.decoder.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    with torch.no_grad():
        model(images, seen)
        states = model.between(model.encoder(images, seen))
    places = model.get_buffer("places")
    for image in range(2):
        for place in range(16):
            where = (seen[image] == place).nonzero()
            expected = states[image, int(where[0, 0])] if len(where) else model.hidden
            torch.testing.assert_close(given[0][image, place], expected + places[place])


def test_patches_that_suit() -> None:
    sizes = [
        (8, 8, 2),
        (28, 28, 4),
        (32, 32, 4),
        (64, 64, 8),
        (224, 224, 16),
        (48, 32, 4),
        (29, 29, None),
    ]
    assert [suited_patch(h, w) for h, w, _ in sizes] == [p for *_, p in sizes]


def test_refusals() -> None:
    with pytest.raises(ValueError, match="patches of 3 pixels do not divide images of 8 x 8"):
        Encoder((1, 8, 8), 3, 16, 1, 2)
    with pytest.raises(ValueError, match="width divisible by heads"):
        Encoder((1, 8, 8), 2, 16, 1, 3)
    with pytest.raises(ValueError, match="multiple of 4, got 10"):
        Encoder((1, 8, 8), 2, 10, 1, 2)
    with pytest.raises(ValueError, match=r"expects images \(B, 1, 8, 8\)"):
        Encoder((1, 8, 8), 2, 16, 1, 2)(torch.zeros(1, 3, 8, 8))
