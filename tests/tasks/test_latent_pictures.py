"""Pictures of latents: rows that stand below one another however few images there are, classes by their names."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

import fourfold
from fourfold.look.figures import grid
from fourfold.tasks import latent_pictures
from fourfold.tasks.latent_pictures import latent_map


@pytest.mark.parametrize("count", [1, 3, 8])
def test_reconstructions_stand_below_their_images(count: int) -> None:
    both = torch.cat([torch.zeros(count, 1, 4, 4), torch.full((count, 1, 4, 4), 0.5)])
    sheet = np.asarray(Image.open(io.BytesIO(grid(both, "", rows=2).png)).convert("L"))
    half = len(sheet) // 2
    assert set(np.unique(sheet[:half])) == {0, 255} and set(np.unique(sheet[half:])) == {128, 255}


def test_a_run_with_few_held_out_images_shows_them_in_rows() -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)
    run = fourfold.fit("denoising", images, out=False, steps=1, width=4)
    assert run.examples().size("test") == 3
    sheet = np.asarray(Image.open(io.BytesIO(run.system.preview(run).png)))  # type: ignore[union-attr]
    assert sheet.shape[0] == sheet.shape[1]  # three rows of three


@pytest.mark.parametrize("count", [2, 10, 13, 40])
def test_classes_are_named_in_the_middle_of_their_colour(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(latent_pictures, "picture", lambda fig, *_: seen.append(fig))
    labels = [i % count for i in range(60)]
    classes = [f"class {i}" + " with a long name" * (i == 0) for i in range(count)]
    codes = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    latent_map(codes, labels, classes, "pca")
    points, bar = seen[0].axes[0].collections[0], seen[0].axes[1]
    named = [tick.get_text() for tick in bar.get_yticklabels()]
    assert len(named) <= latent_pictures.NAMED and named[0] == "class 0 with a …"
    assert named[1:] == [classes[int(at)] for at in bar.get_yticks()[1:]]
    assert len({tuple(points.to_rgba(i)) for i in range(count)}) == count
