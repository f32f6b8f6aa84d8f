"""The rendered sprites and their factors; dSprites' file where there is one."""

from pathlib import Path

import numpy as np
import pytest

from fourfold.core.errors import UserError
from fourfold.data.images import Images
from fourfold.data.sprites import DSPRITES, FACTORS, SHAPES, factors_of, rendered


def test_every_combination_is_rendered_once() -> None:
    images, factors = rendered(), factors_of("shapes")
    count = np.prod([len(v) for v in FACTORS.values()])
    assert images.shape == (count, 3, 32, 32) and images.dtype == np.uint8
    table = np.stack(list(factors.values()), axis=1)
    assert len(np.unique(table, axis=0)) == count
    assert len(np.unique(images.reshape(count, -1), axis=0)) == count  # no two look alike


def test_factors_are_what_is_seen() -> None:
    images, factors = rendered().astype(float), factors_of("shapes")
    grey = images.max(1)
    weight = grey / grey.sum((1, 2), keepdims=True)
    middle = (weight.sum(1) * np.arange(32)).sum(1)
    across = FACTORS["x"][factors["x"]]
    straight = factors["shape"] != SHAPES.index(
        "triangle"
    )  # whose middle is not where it turns about
    assert np.abs(middle - across)[straight].max() < 0.1
    area = (grey / 255).sum((1, 2))
    for scale in range(3):
        assert area[factors["scale"] == scale].mean() < area[factors["scale"] == scale + 1].mean()
    assert images[factors["color"] == 0].mean((0, 2, 3)).argmax() == 0
    assert images[factors["color"] == 2].mean((0, 2, 3)).argmax() == 2
    assert (grey[:, [0, -1]].max() == 0) and (grey[:, :, [0, -1]].max() == 0)  # nothing is cut off


def test_shapes_are_opened_by_name() -> None:
    data = Images(split=(0.8, 0.1, 0.1)).open("shapes")
    assert (
        data.shape == (3, 32, 32) and sum(data.size(s) for s in ("train", "valid", "test")) == 10368
    )  # type: ignore[arg-type]
    places = np.concatenate([data.numbers(s).numpy() for s in ("train", "valid", "test")])  # type: ignore[arg-type]
    assert np.array_equal(np.sort(places), np.arange(10368))
    assert np.array_equal(data.pixels("test").numpy(), rendered()[data.numbers("test").numpy()])


def test_a_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes").mkdir()
    with pytest.raises(UserError, match="shapes: no images in this folder"):
        Images().open("shapes")


def test_dsprites_by_name_where_its_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOURFOLD_DATA", str(tmp_path))
    monkeypatch.setenv("FOURFOLD_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=f"dsprites: expected its file {DSPRITES} in .*github"):
        Images().open("dsprites")
    (tmp_path / "dsprites").mkdir()
    images = np.zeros((6, 64, 64), np.uint8)
    images[:, 10:20, 10:20] = 1
    classes = np.stack([np.zeros(6), *(np.arange(6) % 3 for _ in range(5))], axis=1).astype(
        np.int64
    )
    np.savez(tmp_path / "dsprites" / DSPRITES, imgs=images, latents_classes=classes)
    data = Images(split=(0.5, 0.25, 0.25)).open("dsprites")
    assert data.shape == (1, 64, 64) and data.pixels("train").max() == 255
    assert list(factors_of("dsprites")) == ["shape", "scale", "rotation", "x", "y"]
    by_path = Images(split=(0.5, 0.25, 0.25)).open(str(tmp_path / "dsprites" / DSPRITES))
    assert by_path.pixels("train").max() == 255
    (tmp_path / "dsprites" / DSPRITES).write_bytes(b"no file of NumPy's")
    with pytest.raises(UserError, match="not a NumPy file of numbers"):
        Images().open("dsprites")
    with pytest.raises(UserError, match="mpi3d: expected a set with known factors"):
        factors_of("mpi3d")
