"""Images of classes: batches, augmentation in training only, twins between splits."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fourfold.core.errors import UserError
from fourfold.data.augmentation import Augmentation, Unchanged
from fourfold.data.labelled_images import LabelledImages
from fourfold.objectives.classification import CrossEntropy


def some(count: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8), np.arange(count) % 2


def test_only_training_batches_of_an_epoch_are_changed() -> None:
    data = LabelledImages(batch=8).open(some())
    stored = torch.cat([b["features"] for b in data.batches("train")])
    assert torch.equal(stored, data.pixels("train").float().mul(2 / 255).sub(1))
    trained = torch.cat([b["features"] for b in data.batches("train", epoch=0)])
    assert trained.shape == stored.shape and not torch.equal(trained, stored)
    held = LabelledImages(batch=8).open(some())
    valid = torch.cat([b["features"] for b in held.batches("valid", epoch=0)])
    assert len(valid) == held.size("valid")
    plain = LabelledImages(batch=8, augment=Unchanged()).open(some())
    rows = {bytes(x.numpy()) for x in stored}
    assert all(
        bytes(x.numpy()) in rows for b in plain.batches("train", epoch=0) for x in b["features"]
    )


def test_a_target_counts_its_training_images() -> None:
    data = LabelledImages().open(some())
    assert data.target.kind == "category" and data.target.classes == ("0", "1")
    assert sum(data.target.counts) == data.target.rows == data.size("train")


def test_mixed_batches_say_their_shares() -> None:
    data = LabelledImages(batch=8, augment=Augmentation(mixup=0.4)).open(some())
    batch = next(iter(data.batches("train", epoch=0)))
    assert batch["share"].shape == (8,) and 0 <= batch["share"].min() <= batch["share"].max() <= 1
    assert "share" not in next(iter(data.batches("train")))


def test_an_epoch_goes_on_where_it_was_left() -> None:
    how = LabelledImages(batch=8, augment=Augmentation(mixup=0.4, rand=2))
    whole = list(how.open(some()).batches("train", epoch=1))
    data = how.open(some())
    data.load_state_dict({"epoch": 1, "batches": 2})
    for ours, theirs in zip(data.batches("train", epoch=1), whole[2:], strict=True):
        assert torch.equal(ours["features"], theirs["features"])


def test_images_grow_with_progress() -> None:
    data = LabelledImages(batch=8, grow=0.5, augment=Unchanged()).open(some())
    sizes = []
    for progress in (0.0, 0.3, 0.7, 1.0):
        data.progress = progress
        sizes.append(
            next(iter(data.batches("train", epoch=int(10 * progress))))["features"].shape[2]
        )
    assert sizes == [8, 12, 16, 16]
    assert next(iter(data.batches("train")))["features"].shape[2] == 16
    again = LabelledImages(batch=8, grow=0.5).open(some())
    again.load_state_dict(data.state_dict())
    assert again.progress == 1.0


def test_the_same_image_in_training_and_test_is_told(tmp_path: Path) -> None:
    images, labels = some()
    data = LabelledImages().open((np.concatenate([images, images[:30]]), np.resize(labels, 70)))
    told = [note for note in data.summary()["notes"] if "were trained on" in note]
    assert told and "images in memory[" in told[0]
    clean = LabelledImages().open((images, labels))
    assert not clean.summary()["notes"]
    clean.save(tmp_path)
    restored = LabelledImages().restore(tmp_path)
    later = restored.reopen((clean.pixels("train")[:3], [0, 1, 0]), whole=True)
    assert "3 of 3 images of the test split were trained on" in later.summary()["notes"][0]
    fresh = restored.reopen(some(5, seed=1), whole=True)
    assert not fresh.summary()["notes"] and fresh.size("test") == 5
    assert restored.target == LabelledImages().restore(tmp_path).target
    assert restored.target.counts == clean.target.counts


def test_what_an_earlier_run_was_trained_on_is_told(tmp_path: Path) -> None:
    """A run that begins from another splits anew: images that the first learned lie in the second's test split."""
    images, labels = some(60)
    first = LabelledImages().open((images, labels), seed=0)
    first.save(tmp_path / "first")
    second = LabelledImages().restore(tmp_path / "first").reopen((images, labels), seed=1)
    trained = first.prints("train")
    for split in ("valid", "test"):
        twins = len(second.prints(split) & trained)  # type: ignore[arg-type]
        said = f"{twins} of 6 images of the {split} split were trained on"
        assert twins and any(note.startswith(said) for note in second.summary()["notes"])
    second.save(tmp_path / "second")
    third = LabelledImages().restore(tmp_path / "second").reopen((images, labels), whole=True)
    both = len(trained | second.prints("train"))
    assert third.summary()["notes"][-1].startswith(f"{both} of 60 images of the test split")
    own = LabelledImages().restore(tmp_path / "first").reopen((images, labels), seed=0)
    assert not any("were trained on" in note for note in own.summary()["notes"])


def test_twins_are_told_of_a_run_that_begins_from_another_too(tmp_path: Path) -> None:
    images, labels = some()
    LabelledImages().open((images, labels)).save(tmp_path)
    fresh, _ = some(20, seed=1)
    twice = np.concatenate([fresh, fresh])
    data = LabelledImages().restore(tmp_path).reopen((twice, labels))
    assert any("were trained on" in note for note in data.summary()["notes"])


def test_a_class_without_training_images_is_told_and_not_balanced() -> None:
    images, _ = some(41)
    names = ["a", "b"] * 20 + ["c"]
    for seed in range(40):
        data = LabelledImages(augment=Unchanged()).open((images, names), seed=seed)
        told = [n for n in data.summary()["notes"] if "no training image is of the class c" in n]
        assert len(told) == (data.target.counts[2] == 0)
        if told:
            with pytest.raises(UserError, match="no training row is of the class c"):
                CrossEntropy(class_weights="balanced").chosen(data.target)
            return
    raise AssertionError("the class was in the training split of every seed")


def test_circled_digits_are_names_and_equal_numbers_keep_one_order() -> None:
    images, _ = some(40)
    assert LabelledImages().open((images, ["②", "①"] * 20)).classes == ("①", "②")
    assert LabelledImages().open((images, ["10", "9"] * 20)).classes == ("9", "10")
    assert LabelledImages().open((images, ["1", "01"] * 20)).classes == ("01", "1")


def test_images_without_classes_are_refused() -> None:
    with pytest.raises(UserError, match="the images have no classes; expected a folder"):
        LabelledImages().open(some()[0])
