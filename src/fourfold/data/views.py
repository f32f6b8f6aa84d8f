"""Images as two views each, changed by lot: what contrastive learning takes (Chen et al. 2020).

A batch is {"image": (B, C, H, W) float32 in [-1, 1], one view of each image, "second": (B, C, H, W), the other, and
"label": (B,) int64 where there are labels}. Views of held-out images are drawn once and stay.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pydantic import field_validator

from fourfold.core.parts import Batch, Split
from fourfold.data.augmentation import Augmentation, Draws
from fourfold.data.images import ImageData, Images
from fourfold.data.labelled_images import numbers_of


class ViewedImages(Images):
    """Images alone, each seen in two ways."""

    augment: Augmentation = Augmentation(zoom=0.4, rotate=10.0, colour=0.4, erase=0.3)
    """How a view is made of an image."""

    loose = Images.loose | {"augment"}

    @field_validator("augment")
    @classmethod
    def _of_one_image(cls, how: Augmentation) -> Augmentation:
        if how.mixup or how.cutmix:
            raise ValueError(
                "a view is of one image: mixup and cutmix, which join two, stay 0 here"
            )
        return how

    @property
    def makes(self) -> type[ViewedImageData]:
        """See `Images.makes`."""
        return ViewedImageData


class ViewedImageData(ImageData):
    """See `ViewedImages`."""

    _draws: tuple[Split, int | None, tuple[Draws, Draws]] | None = None

    def take(self, split: Split, index: np.ndarray | slice, epoch: int | None) -> Batch:
        """See `Indexed.take`."""
        images, labels = self.some(split, index)
        first, second = self._of(split, epoch)
        numbers = numbers_of(index)
        batch = {
            "image": first.apply(images, numbers).images,
            "second": second.apply(images, numbers).images,
        }
        # convolutions are quicker where the channels of a pixel lie together
        batch = {k: v.contiguous(memory_format=torch.channels_last) for k, v in batch.items()}
        return batch if labels is None else {**batch, "label": labels}

    def _of(self, split: Split, epoch: int | None) -> tuple[Draws, Draws]:
        """What is drawn for the two views of every image of a split."""
        if self._draws is None or self._draws[:2] != (split, epoch):
            options: Any = self.options
            both = [
                Draws(options.augment, self.size(split), self.seed, 2 * (epoch or 0) + view)
                for view in (0, 1)
            ]
            self._draws = split, epoch, (both[0], both[1])
        return self._draws[2]
