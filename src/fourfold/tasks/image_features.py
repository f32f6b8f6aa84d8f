"""What systems that learn features of images without labels share: features, and how well neighbours by them agree.

Shapes: N images, D features.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from fourfold.core.evaluation import held_out, measure
from fourfold.core.parts import Data, Split
from fourfold.core.run import Run
from fourfold.core.types import Score, Source
from fourfold.data.augmentation import scaled
from fourfold.data.images import ImageData
from fourfold.tasks.looking import Looking

AT_ONCE = 256
"""Images that pass through the network at once."""


class FeatureLearner(Looking):
    """A system that learns from images alone what another system begins from."""

    @property
    def prepares(self) -> str:
        """The system whose network its encoder is; `fit` of that system begins from its runs."""
        raise NotImplementedError

    def encoder_options(self) -> dict[str, Any]:
        """The encoder's options by the names that the system which begins from it has."""
        return self.model_dump()

    def features(self, model: nn.Module, images: Tensor) -> Tensor:
        """What the model knows of images (B, C, H, W) in [-1, 1]: (B, D)."""
        raise NotImplementedError

    def embed(self, run: Run, source: Source = None) -> np.ndarray:
        """What the network knows of each image: (N, D) float32, in stored order.

        Args:
            source: images; none are the run's own held-out split.
        """
        data, split, _ = held_out(run, source)
        return features_of(run, image_data(data), split)

    def evaluate(self, run: Run, source: Source = None) -> Score:
        """How well it does what it learns by, and, where images have classes, how well neighbours share them."""
        data, split, sentence = held_out(run, source)
        images = image_data(data)
        values = dict(measure(run.objective, run.model, data, split, run.device, run.seed))
        notes = [f"{data.size(split):,} images {sentence}", *data.summary().get("notes", ())]
        if source is None and (accuracy := neighbours(run, images, split)) is not None:
            values["nearest_neighbour_accuracy"] = accuracy
            notes.append("accuracy of the class of the nearest training image by features (cosine)")
        return Score(values, dict(run.objective.units()), tuple(notes))


def image_data(data: Data) -> ImageData:
    """Data that is of images; anything else is a wrong call."""
    if not isinstance(data, ImageData):
        raise TypeError(f"expected ImageData, got {type(data).__name__}")
    return data


@torch.no_grad()
def features_of(run: Run, data: ImageData, split: Split) -> np.ndarray:
    """(N, D) float32 of a split's images in stored order."""
    system, model = cast(FeatureLearner, run.system), run.model.eval()
    found = []
    for start in range(0, max(1, data.size(split)), AT_ONCE):  # of no image: (0, D)
        images = scaled(data.some(split, slice(start, start + AT_ONCE))[0]).to(run.device)
        found.append(system.features(model, images).float().cpu().numpy())
    return np.concatenate(found)


def neighbours(run: Run, data: ImageData, split: Split) -> float | None:
    """Share of images whose nearest training image by features is of their class; None without classes."""
    if not data.labelled or not data.size("train") or not data.size(split):
        return None
    train, test = (torch.from_numpy(features_of(run, data, part)) for part in ("train", split))
    mean = train.mean(0)
    train, centred = (torch.nn.functional.normalize(x - mean, dim=1) for x in (train, test))
    nearest = torch.cat([(rows @ train.T).argmax(1) for rows in centred.split(1024)])
    return float((data.labels("train")[nearest] == data.labels(split)).double().mean())
