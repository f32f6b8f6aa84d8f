"""Contrastive views end to end at toy size: its loss by loops, what begins from it, what it refuses."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.systems.cnn import ConvolutionalNetwork
from fourfold.systems.mae import MaskedAutoencoder
from fourfold.systems.resnet import ResidualNetwork
from fourfold.systems.simclr import ContrastiveViews
from fourfold.systems.vit import VisionTransformer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    toy, source = ContrastiveViews.toy()
    return fourfold.fit(toy, source, out=tmp_path_factory.mktemp("simclr") / "run")


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> Run:
    toy, source = ContrastiveViews.toy()
    deep = toy.model_copy(update={"encoder": "resnet", "depth": 8})
    return fourfold.fit(deep, source, out=tmp_path_factory.mktemp("simclr") / "residual")


def by_loops(run: Run, alike: bool) -> tuple[float, int]:
    """The loss of a batch from the formula, one view after the other."""
    batch = next(iter(run.examples().batches("valid")))
    with torch.no_grad():
        z = run.model.eval()(torch.cat([batch["image"], batch["second"]])).double().numpy()
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    count, temperature = len(z), run.objective.temperature  # type: ignore[attr-defined]
    labels = np.tile(batch["label"].numpy(), 2)
    total = 0.0
    for i in range(count):
        wanted = (
            [j for j in range(count) if j != i and labels[j] == labels[i]]
            if alike
            else [(i + count // 2) % count]
        )
        below = sum(math.exp(z[i] @ z[k] / temperature) for k in range(count) if k != i)
        total -= sum(math.log(math.exp(z[i] @ z[j] / temperature) / below) for j in wanted) / len(
            wanted
        )
    return total, count


@pytest.mark.parametrize("kind", ["nt-xent", "supervised"])
def test_the_loss_is_the_formula_of_the_systems_own_views(kind: str) -> None:
    toy, source = ContrastiveViews.toy()
    run = fourfold.fit(toy, source, out=False, objective=kind, steps=2)
    batch = next(iter(run.examples().batches("valid")))
    expected, count = by_loops(run, alike=kind == "supervised")
    with torch.no_grad():
        (move,) = run.objective.losses(run.model.eval(), batch)
    assert float(move.weight) == count == 2 * len(batch["image"])
    assert float(move.loss) == pytest.approx(expected, rel=1e-4)


def test_one_image_alone_teaches_nothing() -> None:
    toy, _ = ContrastiveViews.toy()
    images = np.random.default_rng(0).integers(0, 256, (33, 8, 8), dtype=np.uint8)
    # the last batch is one image
    fitted = fourfold.fit(
        toy, images, out=False, split=(1.0, 0.0, 0.0), batch=32, steps=2, evaluate_every="1"
    )
    assert all(bool(p.isfinite().all()) for p in fitted.model.parameters())
    one = {name: torch.zeros(1, 1, 8, 8) for name in ("image", "second")}
    (move,) = fitted.objective.losses(fitted.model.train(), one)
    move.loss.backward()
    assert float(move.loss.detach()) == 0 and float(move.weight) == 2
    assert all(p.grad is None or not p.grad.any() for p in fitted.model.parameters())
    with torch.no_grad():
        found = fitted.objective.measure(fitted.model, one)
    assert {name: float(weight) for name, (_, weight) in found.items()} == {"loss": 0, "told": 0}  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["cnn", "resnet"])
def test_a_network_with_labels_begins_from_it(
    run: Run, residual: Run, kind: str, tmp_path: Path
) -> None:
    """The encoder's shape and weights are taken, the classifier is new."""
    system, other = {"cnn": (ConvolutionalNetwork, run), "resnet": (ResidualNetwork, residual)}[
        kind
    ]
    begun = fourfold.fit(system, None, from_=other.folder, out=tmp_path / "run", steps=1, lr=1e-12)
    theirs = other.model.state_dict()
    taken = {n: v for n, v in begun.model.state_dict().items() if f"encoder.{n}" in theirs}
    weights = {n: v for n, v in taken.items() if "running" not in n and "num_batches" not in n}
    assert len(weights) >= 5
    for name, value in weights.items():
        torch.testing.assert_close(value, theirs[f"encoder.{name}"])
    assert any("by name" in note and "a run of simclr" in note for note in begun.notes)


def test_a_network_of_another_kind_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"network of cnn; fit cnn --from it, or begin resnet from"):
        fourfold.fit(ResidualNetwork, None, from_=run.folder, out=False, steps=1)
    toy, source = MaskedAutoencoder.toy()
    masked = fourfold.fit(toy, source, out=tmp_path / "mae", steps=1)
    for system in (ConvolutionalNetwork, ResidualNetwork):
        with pytest.raises(UserError, match=r"a run of mae, whose encoder is the network of vit"):
            fourfold.fit(system, None, from_=masked.folder, out=False, steps=1)
    with pytest.raises(UserError, match="network of cnn; .* begin vit from a run of mae"):
        fourfold.fit(VisionTransformer, None, from_=run.folder, out=False, steps=1)


def test_features_measures_and_pictures(run: Run) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)
    features = run.embed(images)
    assert features.shape == (5, 8) and features.dtype == np.float32
    with torch.no_grad():
        expected = run.model.encoder.features(  # type: ignore[operator, union-attr]
            torch.from_numpy(images)[:, None].float() / 127.5 - 1
        ).mean((2, 3))
    np.testing.assert_allclose(features, expected.numpy(), rtol=1e-4, atol=1e-5)
    score = run.evaluate()
    assert {"loss", "told", "nearest_neighbour_accuracy"} <= set(score.values)
    with torch.no_grad():
        (picture,) = run.system.pictures(run)
    assert picture.png.startswith(b"\x89PNG")


def test_what_it_refuses() -> None:
    toy, _ = ContrastiveViews.toy()
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    with pytest.raises(UserError, match="needs a class of each image, and these have none"):
        fourfold.fit(toy, images, out=False, objective="supervised")
    with pytest.raises(UserError, match=r"8 x 8 pixels cannot be halved 4 times.*--data.size"):
        fourfold.fit(toy, images, out=False, stages=4)
    with pytest.raises(UserError, match="validation split holds 1 image, .* none or at least 2"):
        fourfold.fit(toy, images[:25], out=False, split=(0.9, 0.05, 0.05))
    with pytest.raises(UserError, match="batch 1: views are told from those of other images"):
        fourfold.fit(toy, images, out=False, batch=1)
    with pytest.raises(UserError, match="a view is of one image"):
        fourfold.fit(toy, images, out=False, mixup=0.4)


def test_who_begins_from_it_inherits_the_encoders_shape_and_the_images(run: Run) -> None:
    taken = ConvolutionalNetwork.inherits(run)
    assert taken["data"] == {"size": 8, "channels": "grey"}
    assert (taken["width"], taken["stages"]) == (4, 2)
    assert ResidualNetwork.inherits(run) == {}
