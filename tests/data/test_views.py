"""Two views of each image: drawn apart, the same again, and of one image each."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from fourfold.core.errors import UserError
from fourfold.data.augmentation import Augmentation, scaled
from fourfold.data.views import ViewedImageData, ViewedImages

MOVED = Augmentation(shift=2, flip=False)


def opened(**options: object) -> ViewedImageData:
    images = np.random.default_rng(0).integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
    how = ViewedImages.model_validate({"batch": 16, "augment": MOVED, **options})
    return how.open((images, np.arange(60) % 3), seed=1)


def test_views_are_of_the_image_and_drawn_apart() -> None:
    """Each view is the image moved by up to 2 pixels: its middle is found somewhere in the image."""
    data = opened()
    batch = next(iter(data.batches("train", epoch=0)))
    images = [scaled(image) for image in data.pixels("train")]
    for name in ("image", "second"):
        for view in batch[name]:
            middle = view[0, 2:6, 2:6]
            places = [
                (i, y, x)
                for i, image in enumerate(images)
                for y in range(5)
                for x in range(5)
                if torch.equal(image[0, y : y + 4, x : x + 4], middle)
            ]
            assert len(places) == 1
    moved = (batch["image"] != batch["second"]).flatten(1).any(1)
    assert moved.sum() > 10  # 1 in 25 falls on the same place


def test_an_epoch_is_the_same_again_and_unlike_the_next() -> None:
    def all_of(epoch: int | None, split: str = "train") -> torch.Tensor:
        batches = opened().batches(split, epoch=epoch)  # type: ignore[arg-type]
        return torch.cat([torch.cat([b["image"], b["second"]]) for b in batches])

    torch.testing.assert_close(all_of(3), all_of(3), rtol=0, atol=0)
    assert not torch.equal(all_of(3).sort(0).values, all_of(4).sort(0).values)
    torch.testing.assert_close(all_of(None, "test"), all_of(None, "test"), rtol=0, atol=0)


def test_views_do_not_depend_on_the_batch() -> None:
    data, whole = opened(), np.arange(20)
    together = data.take("train", whole, 5)
    apart = data.take("train", whole[7:9], 5)
    torch.testing.assert_close(apart["second"], together["second"][7:9], rtol=0, atol=0)


def test_kept_and_opened_again(tmp_path: Path) -> None:
    data = opened()
    data.save(tmp_path)
    again = data.options.restore(tmp_path)
    assert isinstance(again, ViewedImageData) and again.shape == (1, 8, 8)
    other = again.reopen(np.zeros((4, 8, 8), np.uint8), whole=True)
    assert set(next(iter(other.batches("test")))) == {"image", "second"}


def test_images_joined_in_pairs_are_refused() -> None:
    with pytest.raises(ValidationError, match="a view is of one image"):
        ViewedImages(augment=Augmentation(mixup=0.2))
    with pytest.raises(UserError, match="no such file"):
        ViewedImages().open("nowhere")
