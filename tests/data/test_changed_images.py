"""Training images of autoencoders, changed by lot: what each becomes is its own, held-out ones stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import fourfold
from fourfold.core.errors import UserError
from fourfold.data.augmentation import Augmentation
from fourfold.data.changed_images import ChangedImageData, ChangedImages


def opened(batch: int, **how: float | bool) -> ChangedImageData:
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(50) % 3
    data = ChangedImages(batch=batch, augment=Augmentation(**how)) if how else ChangedImages(batch=batch)  # type: ignore[arg-type]  # fmt: skip
    return data.open((images, labels), seed=1)


def by_label(data: ChangedImageData, epoch: int | None) -> torch.Tensor:
    """All training images of an epoch in stored order."""
    if epoch is None:
        return torch.cat([b["image"] for b in data.batches("train")])
    order = np.random.default_rng([1, epoch]).permutation(data.size("train"))
    found = torch.cat([b["image"] for b in data.batches("train", epoch=epoch)])
    return found[torch.from_numpy(order).argsort()]


def test_each_image_becomes_the_same_however_batches_are_cut_and_another_in_each_epoch() -> None:
    a, b = opened(7, flip=True, shift=1), opened(16, flip=True, shift=1)
    first = by_label(a, 0)
    assert torch.equal(first, by_label(b, 0))
    assert not torch.equal(first, by_label(a, 1))
    plain = by_label(a, None)
    assert torch.equal(plain, by_label(opened(7), 0))
    either = torch.stack([plain, plain.flip(-1)])
    mirrored = opened(7, flip=True, shift=0)
    same = (either == by_label(mirrored, 3)).flatten(2).all(2)
    assert same.any(0).all() and same[0].any() and same[1].any()


def test_held_out_images_stay() -> None:
    a, b = opened(7, flip=True, shift=1), opened(7)
    for split in ("valid", "test"):
        for one, other in zip(a.batches(split), b.batches(split), strict=True):
            assert torch.equal(one["image"], other["image"])
            assert torch.equal(one["label"], other["label"])


@pytest.mark.parametrize("system", ["autoencoder", "vqvae"])
def test_systems_take_it_and_runs_keep_it(system: str, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    options = {"data.augment": "random", "data.augment.shift": 1, "width": 4, "steps": 2}
    run = fourfold.fit(system, images, out=tmp_path / "run", **options)
    again = fourfold.open(tmp_path / "run")
    assert again.system.data.augment == Augmentation(shift=1)  # type: ignore[attr-defined]
    assert again.encode(images[:3]).equals(run.encode(images[:3]))


def test_joining_images_is_refused() -> None:
    images = np.zeros((9, 8, 8), np.uint8)
    with pytest.raises(UserError, match="mixup and cutmix join images with their classes"):
        fourfold.fit("vae", images, out=False, **{"data.augment": "random", "data.augment.mixup": 0.2})  # fmt: skip
