"""The masked autoencoder end to end at toy size: features, measures, pictures, what it refuses."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.data.images import ImageData
from fourfold.systems.mae import MaskedAutoencoder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    toy, source = MaskedAutoencoder.toy()
    return fourfold.fit(toy, source, out=tmp_path_factory.mktemp("mae") / "run")


def test_embed_is_the_mean_of_all_states(run: Run) -> None:
    images = np.random.default_rng(0).integers(0, 255, (5, 8, 8)).astype(np.uint8)
    features = run.embed(images)
    assert features.shape == (5, 16) and features.dtype == np.float32
    pixels = torch.from_numpy(images)[:, None].float() / 127.5 - 1
    with torch.no_grad():
        expected = run.model.encoder(pixels).mean(1)  # type: ignore[operator, union-attr]
    np.testing.assert_allclose(features, expected.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run.embed(images[2:3])[0], features[2], rtol=1e-4, atol=1e-5)


def test_evaluate_measures_restoring_and_neighbours(run: Run) -> None:
    score = run.evaluate()
    assert 0.3 < score["loss"] < 1.5 and 0 <= score["nearest_neighbour_accuracy"] <= 1
    plain = run.evaluate(
        np.zeros((4, 8, 8), np.uint8) + np.arange(4, dtype=np.uint8)[:, None, None]
    )
    assert "nearest_neighbour_accuracy" not in plain.values


def test_the_nearest_neighbour_is_that_of_the_cosine_about_the_training_mean(run: Run) -> None:
    data = run.examples()
    assert isinstance(data, ImageData)
    train, test = (run.embed(data.pixels(part).numpy()).astype(float) for part in ("train", "test"))
    centred = [x - train.mean(0) for x in (train, test)]
    train, test = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in centred)
    labels = data.labels("train").numpy(), data.labels("test").numpy()
    right = [labels[0][np.argmax(train @ x)] == y for x, y in zip(test, labels[1], strict=True)]
    found = run.evaluate()["nearest_neighbour_accuracy"]
    assert found == pytest.approx(np.mean(right), abs=1.5 / len(right))  # equal cosines


def test_the_picture_keeps_what_is_seen(run: Run) -> None:
    """Above: seen patches as they are, the others grey. Middle: seen patches as they are. Below: the images."""
    with torch.no_grad():
        (picture,) = list(run.system.pictures(run))
    sheet = np.asarray(Image.open(io.BytesIO(picture.png)).convert("L")).astype(int)
    rows, columns = 3, 8
    scale = max(1, round(640 / (columns * (8 + 2))))
    gap, cell = 2 * scale, (8 + 2) * scale
    images = np.stack(
        [
            [
                sheet[r * cell + gap :: scale, c * cell + gap :: scale][:8, :8]
                for c in range(columns)
            ]
            for r in range(rows)
        ]
    )  # (3, 8, 8, 8)
    hidden = (images[0] == 128) | (images[0] == 127)
    share = hidden.mean()
    assert 0.7 < share < 0.85  # 12 of 16 patches
    assert (images[1] == images[2])[~hidden].all() and (images[0] == images[2])[~hidden].all()
    assert not (images[1] == images[2])[hidden].all()


def test_opened_again_it_embeds_the_same(run: Run) -> None:
    assert run.folder is not None
    again = fourfold.open(run.folder)
    np.testing.assert_array_equal(again.embed(), run.embed())


def test_refusals(tmp_path: Path) -> None:
    toy, _ = MaskedAutoencoder.toy()
    odd = np.random.default_rng(0).integers(0, 255, (40, 29, 29)).astype(np.uint8)
    with pytest.raises(UserError, match=r"no patch .* divides images of 29 x 29; --data.size"):
        fourfold.fit(toy, odd, out=False)
    with pytest.raises(UserError, match="patches of 3 pixels do not divide images of 8 x 8"):
        fourfold.fit(toy.model_copy(update={"patch": 3}), None, out=False)
    with pytest.raises(UserError, match="divisible by heads"):
        fourfold.fit(toy.model_copy(update={"heads": 3}), None, out=False)


@pytest.mark.slow
def test_features_tell_digits_apart_without_labels() -> None:
    """After 600 of 1,500 steps: more than half of a patch's variance is restored, and nearest neighbours share their
    digit more often (0.68) than by weights that were only drawn (0.54)."""
    run = fourfold.fit(MaskedAutoencoder, None, out=False, steps=600)
    score = run.evaluate()
    assert score["loss"] < 0.5 and score["nearest_neighbour_accuracy"] > 0.6
