"""Images alone that training may see changed by lot, batch by batch, as autoencoders take them.

Batches are those of `images`; held-out images, and those that are encoded, stay as they are.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import Field, field_validator

from fourfold.core.parts import Batch, Split
from fourfold.data.augmentation import Augmentation, Draws, Unchanged
from fourfold.data.images import ImageData, Images
from fourfold.data.labelled_images import numbers_of


class ChangedImages(Images):
    """Images of one size, as they are or changed by lot."""

    augment: Annotated[Augmentation | Unchanged, Field(discriminator="kind")] = Unchanged()
    """How training images are changed by lot: none, or random."""

    loose = Images.loose | {"augment"}

    @field_validator("augment")
    @classmethod
    def _of_one_image(cls, how: Augmentation | Unchanged) -> Augmentation | Unchanged:
        if isinstance(how, Augmentation) and (how.mixup or how.cutmix):
            raise ValueError("mixup and cutmix join images with their classes, which are not learned here: they stay 0")  # fmt: skip
        return how

    @property
    def makes(self) -> type[ChangedImageData]:
        """See `Images.makes`."""
        return ChangedImageData


class ChangedImageData(ImageData):
    """See `ChangedImages`."""

    _draws: tuple[int, Draws] | None = None

    def take(self, split: Split, index: np.ndarray | slice, epoch: int | None) -> Batch:
        """See `Indexed.take`."""
        options: Any = self.options
        how: Augmentation | Unchanged = options.augment
        if epoch is None or split != "train" or isinstance(how, Unchanged):
            return super().take(split, index, epoch)
        if self._draws is None or self._draws[0] != epoch:
            self._draws = epoch, Draws(how, self.size(split), self.seed, epoch)
        images, labels = self.some(split, index)
        batch = {"image": self._draws[1].apply(images, numbers_of(index)).images}
        return batch if labels is None else {**batch, "label": labels}
