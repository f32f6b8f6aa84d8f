"""Images of classes, as networks that recognize them take them: augmented in training, told apart by their pixels.

A batch is {"features": (B, C, H, W) float32 in [-1, 1], "targets": (B,) int64}; where images are mixed in pairs
also "share": (B,) float32, how much of each target is the image's own, the rest being the target at its place
from the end. An image that training holds too is found among held-out ones by its pixels, and said.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Le
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, Split
from fourfold.core.targets import Target
from fourfold.data.augmentation import Augmentation, Draws, Unchanged, scaled
from fourfold.data.images import ImageData, Images, open_images
from fourfold.data.twins import load_prints, prints_of, save_prints, twins_note


class LabelledImages(Images):
    """Images with a class each: a folder per class, a list of paths and labels, or arrays with labels."""

    augment: Annotated[Augmentation | Unchanged, Field(discriminator="kind")] = Augmentation()
    """How training images are changed by lot."""
    grow: Annotated[float, Ge(0.25), Le(1)] = 1.0
    """Share of the size at which training begins; images grow to all of it over two thirds of the budget, which
    saves time. 1 trains at the whole size throughout."""

    loose = Images.loose | {"augment", "grow"}

    def open(self, sources: Any, *, seed: int = 0, valid: Any = None) -> LabelledImageData:
        """See `Images.open`.

        Raises:
            UserError: as there, or the images have no labels.
        """
        data = LabelledImageData.of(
            self, _with_classes(super().open(sources, seed=seed, valid=valid)), seed
        )
        counted = zip(data.classes, data.target.counts, strict=True)
        if unseen := [name for name, count in counted if not count]:
            data.note(
                f"no training image is of the class {', '.join(unseen[:8])}: it is not learned"
            )
        data.note_twins(data.prints("train"))
        return data

    def restore(self, folder: Path) -> LabelledImageData:
        """See `DataOptions.restore`."""
        plain = super().restore(folder)
        about = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
        data = LabelledImageData.of(self, plain, seed=0)
        data.target = Target("label", "category", data.classes, counts=tuple(about["counts"]))
        data.known = load_prints(folder)
        return data


class LabelledImageData(ImageData):
    """See `LabelledImages`."""

    target: Target
    known: frozenset[int] = frozenset()
    """Prints of the training images, and of those of the run that this one begins from; after `restore` and `reopen`."""
    progress: float = 0.0
    """Share of the budget that is spent, as the system tells it: images grow with it."""

    _draws: tuple[int, Draws] | None = None

    @classmethod
    def of(cls, options: LabelledImages, data: ImageData, seed: int) -> LabelledImageData:
        """The same images with what training on their classes needs."""
        made = cls(options, data.preparation, data.examples, data.summary(), seed=seed)
        labels = made.labels("train")
        counts = torch.bincount(labels, minlength=len(made.classes)).tolist()
        made.target = Target(
            "label", "category", made.classes, counts=tuple(counts), rows=len(labels)
        )
        return made

    def take(self, split: Split, index: np.ndarray | slice, epoch: int | None) -> Batch:
        """See `Indexed.take`."""
        images, labels = self.some(split, index)
        batch: dict[str, Tensor] = {} if labels is None else {"targets": labels}
        how = self.how.augment
        if epoch is None or split != "train" or isinstance(how, Unchanged):
            batch["features"] = scaled(images)
        else:
            if self._draws is None or self._draws[0] != epoch:
                self._draws = epoch, Draws(how, self.size(split), self.seed, epoch)
            changed = self._draws[1].apply(images, numbers_of(index))
            batch["features"] = changed.images
            if changed.share is not None:
                batch["share"] = changed.share
        if epoch is not None and split == "train":
            batch["features"] = self._at_size(batch["features"])
        # convolutions are quicker where the channels of a pixel lie together
        batch["features"] = batch["features"].contiguous(memory_format=torch.channels_last)
        return batch

    @property
    def how(self) -> LabelledImages:
        """The options, as what they are."""
        assert isinstance(self.options, LabelledImages)  # noqa: S101
        return self.options

    def grown(self, progress: float) -> tuple[int, int]:
        """Height and width of training images once this share of the budget is spent."""
        share = min(1.0, self.how.grow + (1 - self.how.grow) * progress * 1.5)
        height, width = self.shape[1:]
        if share >= 1:
            return height, width
        return max(1, round(height * share / 4) * 4), max(1, round(width * share / 4) * 4)

    def _at_size(self, images: Tensor) -> Tensor:
        size = self.grown(self.progress)
        return images if size == images.shape[2:] else F.interpolate(images, size, mode="area")

    def reopen(
        self, sources: Any, *, seed: int = 0, valid: Any = None, whole: bool = False
    ) -> LabelledImageData:
        """See `ImageData.reopen`; images that were trained on are counted in a note."""
        # a training set has classes of its own: another run's preparation gives it size and colours
        known = self.preparation if whole else self.preparation._replace(classes=None)
        plain = open_images(self.how, known, sources, seed=seed, valid=valid, whole=whole)
        if not whole:
            _with_classes(plain)
        data = LabelledImageData.of(self.how, plain, seed)
        earlier = self.known or self.prints("train")
        # what a run learned is not new to one that begins from it
        data.known = earlier if whole else earlier | data.prints("train")
        data.note_twins(data.known)
        return data

    def prints(self, split: Split) -> frozenset[int]:
        """A number for each image of a split, equal for equal pixels."""
        return prints_of(self.images_of(split))

    def images_of(self, split: Split) -> np.ndarray:
        """(N, C, H, W) uint8; none where there are no examples."""
        return self.pixels(split).numpy() if self.size(split) else np.empty((0, *self.shape))

    def note_twins(self, trained: frozenset[int]) -> None:
        """Say which held-out images are, pixel by pixel, images of the training split."""
        held: tuple[Split, ...] = ("valid", "test")
        for split in held:
            if said := twins_note(split, self.images_of(split), self.names[split], trained):
                self.note(said)

    def save(self, folder: Path) -> None:
        """See `Data.save`."""
        super().save(folder)
        text = json.dumps({"counts": list(self.target.counts)})
        (folder / "classes.json").write_text(text, encoding="utf-8")
        save_prints(folder, self.known or self.prints("train"))

    def state_dict(self) -> dict[str, Any]:
        """See `Data.state_dict`."""
        return {**super().state_dict(), "progress": self.progress}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Data.load_state_dict`."""
        super().load_state_dict(state)
        self.progress = state.get("progress", 0.0)


def _with_classes(data: ImageData) -> ImageData:
    if not data.labelled:
        why = "".join(f" ({n})" for n in data.summary()["notes"] if n.startswith("no labels"))
        raise UserError(
            f"the images have no classes{why}; expected a folder for each class, a CSV of paths and labels, "
            "or arrays with labels"
        )
    return data


def numbers_of(index: np.ndarray | slice) -> Tensor:
    """The numbers that an index of examples means, (B,) int64."""
    if isinstance(index, slice):
        return torch.arange(index.start, index.stop)
    return torch.from_numpy(index)
