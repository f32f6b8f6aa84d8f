"""What the report of a network that recognizes images shows. Shapes: N images, C classes, H and W pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
import torch

from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out
from fourfold.core.parts import Split
from fourfold.core.run import Run
from fourfold.core.types import Picture, Table
from fourfold.data.augmentation import Augmentation
from fourfold.data.labelled_images import LabelledImageData
from fourfold.look import classification
from fourfold.look.calibration import reliability_diagram
from fourfold.look.figures import grid, short_name, stand_ins
from fourfold.tasks.recognizing import probabilities
from fourfold.tasks.scores import calibration_error, reliability, scores, units
from fourfold.tasks.seeing import evidence, feature_maps, filters
from fourfold.tasks.showing import by_class

SHOWN = 16
"""Images in a picture of them."""


def _held(run: Run) -> tuple[LabelledImageData, Split, str, np.ndarray, np.ndarray] | None:
    """Held-out images with their probabilities (N, C) and classes (N,); None where there are none."""
    try:
        examples, split, sentence = held_out(run)
    except UserError:
        return None  # the images are gone or none were held out
    data = cast(LabelledImageData, examples)
    if not data.labelled:
        return None
    return data, split, sentence, probabilities(run, data, split), data.labels(split).numpy()


def pictures(run: Run) -> Iterator[Picture]:
    """Confusions, certain and uncertain images, curves over thresholds, Grad-CAM, filters, feature maps, augmentation."""
    held = _held(run)
    if held is None:
        return
    data, split, sentence, found, true = held
    names, key = stand_ins(data.classes)
    caption = f"{len(true):,} images {sentence}. {key}".strip()
    decided = found.argmax(axis=1)
    yield classification.confusion(true, decided, names, None, caption)
    yield from _confused(data, split, found, true)
    sure = found.max(axis=1)
    order = np.argsort(sure, kind="stable")
    what = "the probability of the class that they are taken for"
    for title, rows in (
        ("Least certain images", order[:SHOWN]),
        ("Most certain images", order[::-1][:SHOWN]),
    ):
        yield _shown(
            data, split, found, true, rows, title, f"By {what}; below each: class and {what}."
        )
    for draw in (classification.roc, classification.precision_recall):
        picture = draw(found, true, names, None, caption)
        if picture is not None:
            yield picture
    curve = (reliability(found, true, None), calibration_error(found, true, None))
    yield reliability_diagram({"as predicted": curve}, "of the predicted class", caption)
    wrong = np.flatnonzero(decided != true)
    chosen = dict.fromkeys([*wrong[:2].tolist(), *order[::-1][:2].tolist()])  # some are both
    yield evidence(run, data, split, list(chosen))
    yield from filters(run)
    yield feature_maps(run, data.some(split, slice(0, 1))[0])[0]
    yield from _augmented(run)


def _confused(
    data: LabelledImageData, split: Split, found: np.ndarray, true: np.ndarray
) -> Iterator[Picture]:
    """Images that are wrong with the highest probability of the wrong class."""
    decided = found.argmax(axis=1)
    wrong = np.flatnonzero(decided != true)
    if not len(wrong):
        return
    worst = wrong[np.argsort(-found[wrong, decided[wrong]], kind="stable")][:SHOWN]
    caption = (
        f"The {len(worst)} of {len(wrong):,} wrong images that are wrong with the highest probability; below each: its "
        "class, what it is taken for, and how sure."
    )
    yield _shown(data, split, found, true, worst, "Worst-confused images", caption)


def _shown(
    data: LabelledImageData,
    split: Split,
    found: np.ndarray,
    true: np.ndarray,
    rows: np.ndarray,
    title: str,
    caption: str,
) -> Picture:
    images = data.some(split, np.ascontiguousarray(rows))[0].numpy()
    names, key = stand_ins(data.classes)
    factor = max(1, -(-112 // images.shape[3]))
    large = images.repeat(factor, axis=2).repeat(factor, axis=3)
    labels = []
    for row in rows.tolist():
        decided = int(found[row].argmax())
        name = short_name(names[true[row]], 9).replace("\\", "")
        taken = short_name(names[decided], 9).replace("\\", "")
        said = name if decided == true[row] else f"{name} > {taken}"
        labels.append(f"{said} {found[row, decided]:.0%}")
    return grid(large, title, columns=8, caption=f"{caption} {key}".strip(), labels=labels)


def _augmented(run: Run, count: int = 8, rows: int = 4) -> Iterator[Picture]:
    """What augmentation makes of the same training images, epoch by epoch."""
    try:
        data = cast(LabelledImageData, run.examples())
    except UserError:
        return
    if not isinstance(data.how.augment, Augmentation) or not data.size("train"):
        return
    index = np.arange(min(count, data.size("train")))
    stored = data.take("train", index, None)["features"]
    changed = [data.take("train", index, epoch)["features"] for epoch in range(rows)]
    changed = [
        torch.nn.functional.interpolate(c, stored.shape[2:], mode="nearest") for c in changed
    ]
    images = torch.cat([stored, *changed]).add(1).div(2)
    caption = "Above: training images as they are. Below, row by row: the same ones in four epochs."
    yield grid(images, "Augmentation", columns=len(index), caption=caption)


def tables(run: Run) -> Iterator[Table]:
    """Measures of the held-out images; each class by itself; the pairs of classes that are confused most."""
    held = _held(run)
    if held is None:
        return
    data, split, sentence, found, true = held
    values, undefined = scores(data.target, found, true)
    unit = units(data.target, values)
    rows = tuple((name, value, unit.get(name, "")) for name, value in values.items())
    caption = " ".join([f"{len(true):,} images {sentence}.", *undefined])
    yield Table("Measures of held-out images", ("measure", "value", "unit"), rows, caption)
    if len(data.classes) <= 50:
        yield by_class(data.target, found, true)
    decided = found.argmax(axis=1)
    wrong = decided != true
    pairs, counts = np.unique(np.stack([true[wrong], decided[wrong]]), axis=1, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:10]
    confused = tuple(
        (data.classes[pairs[0, i]], data.classes[pairs[1, i]], int(counts[i])) for i in order
    )
    if confused:
        yield Table("Most frequent confusions", ("class", "taken for", "images"), confused)
