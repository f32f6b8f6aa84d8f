"""The Vision Transformer end to end at toy size, and what it takes over from a masked autoencoder."""

from pathlib import Path

import numpy as np
import pytest
import torch

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.systems.mae import MaskedAutoencoder
from fourfold.systems.vit import VisionTransformer


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    toy, source = MaskedAutoencoder.toy()
    return fourfold.fit(toy, source, out=tmp_path_factory.mktemp("mae") / "run")


def test_it_begins_from_a_masked_autoencoder(pretrained: Run, tmp_path: Path) -> None:
    """Its shape and its encoder are taken over; the head is new."""
    assert pretrained.folder is not None
    run = fourfold.fit(
        VisionTransformer, None, from_=pretrained.folder, out=tmp_path / "run", steps=1, lr=1e-12
    )
    system = run.system.model_dump()
    assert (system["width"], system["layers"], system["heads"]) == (16, 1, 2)
    theirs = pretrained.model.state_dict()
    for name, value in run.model.state_dict().items():
        if name.startswith("encoder."):
            torch.testing.assert_close(value, theirs[name])
    assert any("a run of mae" in note for note in run.notes)


def test_another_shape_is_said_or_refused(pretrained: Run) -> None:
    with pytest.raises(UserError, match="none of its weights has the name and shape"):
        fourfold.fit(
            VisionTransformer, None, from_=pretrained.folder, out=False, width=32, patch=4, steps=1
        )


def test_predict_and_evaluate(tmp_path: Path) -> None:
    toy, source = VisionTransformer.toy()
    run = fourfold.fit(toy, source, out=False)
    score = run.evaluate()
    assert 0 <= score["accuracy"] <= 1
    images = np.random.default_rng(0).integers(0, 255, (3, 8, 8)).astype(np.uint8)
    table = run.predict(images, top=2)
    assert len(table) == 3 and {"prediction", "p", "prediction_2", "p_2"} <= set(table.columns)


def test_images_that_no_patch_divides() -> None:
    toy, _ = VisionTransformer.toy()
    odd = np.random.default_rng(0).integers(0, 255, (60, 29, 29)).astype(np.uint8)
    with pytest.raises(UserError, match=r"no patch .* divides images of 29 x 29; --data.size"):
        fourfold.fit(toy, (odd, np.arange(60) % 2), out=False)
