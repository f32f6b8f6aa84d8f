"""Convolutional encoders learned by restoring hidden patches, and the networks that begin from them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import fourfold
from fourfold import api
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.models.image_encoders import MaskedImages, encoder
from fourfold.models.vit import patchify
from fourfold.systems.cnn import ConvolutionalNetwork
from fourfold.systems.resnet import ResidualNetwork

OPTIONS: dict[str, dict[str, Any]] = {
    "cnn": {"encoder": "cnn", "channels": 4, "stages": 2},
    "resnet": {"encoder": "resnet", "channels": 4, "depth": 8},
}


@pytest.fixture(scope="module", params=list(OPTIONS))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    chosen = {**OPTIONS[request.param], "steps": 12, "batch": 32}
    return fourfold.fit("mae", None, out=tmp_path_factory.mktemp("mae") / "run", **chosen)


def masked(kind: str, shape: tuple[int, int, int], patch: int | None = None) -> MaskedImages:
    torch.manual_seed(0)
    how: Any = {"width": 4, "stages": 2, "depth": 8, "norm": "batch"}
    return MaskedImages(encoder(kind, shape, **how), shape, patch)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["cnn", "resnet"])
@pytest.mark.parametrize("size", [(8, 8), (12, 20)])
def test_of_hidden_patches_nothing_enters(kind: str, size: tuple[int, int]) -> None:
    model = masked(kind, (3, *size), 4).eval()
    torch.nn.init.normal_(model.hidden)
    images = torch.rand(2, 3, *size) * 2 - 1
    seen = torch.tensor([[0, 3], [1, 2]])
    with torch.no_grad():
        said = model(images, seen)
        patches = model.patches(images)
        assert said.shape == patches.shape
        other = torch.rand_like(patches)
        keep = torch.zeros(patches.shape[:2]).scatter(1, seen, 1.0).bool()[..., None]
        mixed = torch.where(keep, patches, other)
        changed = unpatchified(mixed, 4, size)
        torch.testing.assert_close(model(changed, seen), said)
        visible = unpatchified(torch.where(keep, other, patches), 4, size)
        assert (model(visible, seen) - said).abs().max() > 1e-3


def unpatchified(patches: torch.Tensor, patch: int, size: tuple[int, int]) -> torch.Tensor:
    """Patches laid out one after the other."""
    images = torch.zeros(len(patches), 3, *size)
    columns = size[1] // patch
    for number in range(patches.shape[1]):
        top, left = number // columns * patch, number % columns * patch
        block = patches[:, number].reshape(-1, patch, patch, 3).permute(0, 3, 1, 2)
        images[:, :, top : top + patch, left : left + patch] = block
    return images


def test_what_is_said_of_a_patch_lies_at_its_place() -> None:
    """Maps that hold the image's pixels, passed on by the last layer as they are, give the image's patches."""
    model = masked("cnn", (3, 8, 8), 2)
    images = torch.rand(2, 3, 8, 8)
    maps = F.pixel_unshuffle(images, model.stride)
    model.pixels = torch.nn.Conv2d(maps.shape[1], maps.shape[1], 1)
    with torch.no_grad():
        model.pixels.weight.copy_(torch.eye(maps.shape[1])[..., None, None])
        model.pixels.bias.zero_()  # type: ignore[union-attr]
        model.encoder.features = lambda _: maps  # type: ignore[method-assign, assignment]
        said = model(images, torch.zeros(2, 1, dtype=torch.int64))
    torch.testing.assert_close(said, patchify(images, 2))


def test_a_network_with_labels_begins_from_it(run: Run, tmp_path: Path) -> None:
    kind = run.system.encoder  # type: ignore[attr-defined]
    system = {"cnn": ConvolutionalNetwork, "resnet": ResidualNetwork}[kind]
    other = {"cnn": ResidualNetwork, "resnet": ConvolutionalNetwork}[kind]
    begun = fourfold.fit(system, None, from_=run.folder, out=tmp_path / "run", steps=1, lr=1e-12)
    assert begun.system.width == 4  # type: ignore[attr-defined]
    theirs = run.model.state_dict()
    taken = {n: p for n, p in begun.model.named_parameters() if f"encoder.{n}" in theirs}
    assert len(taken) >= 12
    for name, value in taken.items():
        torch.testing.assert_close(value, theirs[f"encoder.{name}"])
    with pytest.raises(UserError, match=f"network of {kind}; fit {kind} --from it, or begin"):
        fourfold.fit(other, None, from_=run.folder, out=False, steps=1)


def test_features_measures_and_pictures(run: Run) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)
    model: Any = run.model
    with torch.no_grad():
        pixels = torch.from_numpy(images)[:, None].float() / 127.5 - 1
        expected = model.encoder.features(pixels).mean((2, 3))
    np.testing.assert_allclose(run.embed(images), expected.numpy(), rtol=1e-4, atol=1e-5)
    assert {"loss", "nearest_neighbour_accuracy"} <= set(run.evaluate().values)
    with torch.no_grad():
        (picture,) = run.system.pictures(run)
    assert picture.png.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("kind", "option"), [("vit", "channels"), ("cnn", "width"), ("cnn", "depth"), ("resnet", "stages")]
)  # fmt: skip
def test_options_of_another_encoder_are_refused(kind: str, option: str) -> None:
    with pytest.raises(UserError, match=f"{option} is of another encoder; {kind} has no such"):
        api.configure("mae", {"encoder": kind, option: 7})


def test_images_too_small_for_the_encoder() -> None:
    with pytest.raises(UserError, match=r"cannot be halved 4 times.*--data.size scales"):
        fourfold.fit("mae", None, out=False, encoder="cnn", stages=4, steps=1)


@pytest.mark.slow
def test_a_convolutional_encoder_learns_to_restore() -> None:
    """Half of a hidden patch's variance and more is said by what is seen of a digit."""
    run = fourfold.fit("mae", None, out=False, steps=400, encoder="cnn", **{"optimizer.lr": 3e-3})
    assert run.evaluate()["loss"] < 0.6
