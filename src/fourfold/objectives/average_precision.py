"""Average precision of detections. VOC: Everingham et al. 2010; COCO: Lin et al. 2014, as in pycocotools.

Detections of a class are taken by falling score; each is right if it overlaps a box of the truth that is not taken
yet. Shapes: D detections and M boxes of one image, T thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
"""COCO's, 0.5 to 0.95: mAP is a mean over them."""
RECALLS = np.linspace(0, 1, 101)
Interpolation = Literal["coco", "voc", "voc07"]


class Detected(NamedTuple):
    """What was found in one image."""

    boxes: np.ndarray
    """(D, 4)."""
    scores: np.ndarray
    labels: np.ndarray


class Truth(NamedTuple):
    """What is in one image."""

    boxes: np.ndarray
    """(M, 4)."""
    labels: np.ndarray
    ignored: np.ndarray
    """Boxes that need not be found, and may be: crowds, difficult ones."""


@dataclass(frozen=True)
class Curve:
    """One class at one threshold, detections by falling score."""

    recall: np.ndarray
    precision: np.ndarray
    scores: np.ndarray
    truths: int
    """Boxes that should be found."""

    def average(self, kind: Interpolation = "coco") -> float:
        """Average precision; NaN where there is nothing to find.

        Args:
            kind: "coco" takes the best precision at 101 recalls or beyond, "voc07" at 11, "voc" the area below
                the best precision at each recall or beyond.
        """
        if self.truths == 0:
            return float("nan")
        best = np.maximum.accumulate(self.precision[::-1])[::-1]
        if kind == "voc":
            steps = np.diff(self.recall, prepend=0.0)
            return float((steps * best).sum())
        recalls = RECALLS if kind == "coco" else np.linspace(0, 1, 11)
        at = np.searchsorted(self.recall, recalls, side="left")
        return float(np.append(best, 0.0)[at].mean())


def curves(
    found: Sequence[Detected],
    truths: Sequence[Truth],
    classes: int,
    threshold: float = 0.5,
    most: int = 100,
) -> list[Curve]:
    """Precision against recall of each class.

    Args:
        found: of each image.
        truths: of each image, in the same order.
        classes: how many there are.
        threshold: the least IoU of a right detection.
        most: detections of an image and class that count, the best first.

    Raises:
        ValueError: not as many images in both.
    """
    if len(found) != len(truths):
        raise ValueError(
            f"curves expects as many images in both, got {len(found)} and {len(truths)}"
        )
    return [_curve(found, truths, label, threshold, most) for label in range(classes)]


def _curve(
    found: Sequence[Detected], truths: Sequence[Truth], label: int, threshold: float, most: int
) -> Curve:
    scores, right, counted, wanted = [], [], [], 0
    for detected, truth in zip(found, truths, strict=True):
        mine = np.flatnonzero(detected.labels == label)
        mine = mine[np.argsort(-detected.scores[mine], kind="stable")][:most]
        real = truth.labels == label
        wanted += int((real & ~truth.ignored).sum())
        hit, void = _match(detected.boxes[mine], truth.boxes[real], truth.ignored[real], threshold)
        scores.append(detected.scores[mine])
        right.append(hit)
        counted.append(~void)
    joined, hits, counts = (
        np.concatenate(values) if values else np.empty(0) for values in (scores, right, counted)
    )
    order = np.argsort(-joined, kind="stable")
    order = order[counts[order].astype(bool)]
    true = np.cumsum(hits[order])
    return Curve(true / max(1, wanted), true / np.arange(1, len(order) + 1), joined[order], wanted)


def _match(
    boxes: np.ndarray, truths: np.ndarray, ignored: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Which detections, best first, are right, and which count for nothing as they lie on what is ignored."""
    right, void = np.zeros(len(boxes), bool), np.zeros(len(boxes), bool)
    overlaps = _overlaps(boxes, truths, ignored)
    taken = np.zeros(len(truths), bool)
    for i, row in enumerate(overlaps):
        free = np.where(taken | ignored, -1.0, row)
        if len(free) and free.max() >= min(threshold, 1 - 1e-10):
            # of equal overlaps the last, as pycocotools takes it
            best = len(free) - 1 - int(np.argmax(free[::-1]))
            right[i] = taken[best] = True
        elif (row[ignored] >= threshold).any():
            void[i] = True
    return right, void


def _overlaps(boxes: np.ndarray, truths: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """(D, M): IoU; over what is ignored the share of the detection that lies in it, as COCO has it for crowds."""
    low = np.maximum(boxes[:, None, :2], truths[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], truths[None, :, 2:])
    shared = (high - low).clip(min=0).prod(-1)
    own = (boxes[:, 2:] - boxes[:, :2]).prod(-1)[:, None]
    other = (truths[:, 2:] - truths[:, :2]).prod(-1)[None]
    whole = np.where(ignored[None], own, own + other - shared)
    return shared / np.maximum(whole, 1e-12)


def mean_average_precision(
    found: Sequence[Detected],
    truths: Sequence[Truth],
    classes: int,
    thresholds: Sequence[float] = THRESHOLDS,
    kind: Interpolation = "coco",
) -> np.ndarray:
    """Average precision of each threshold and class, (T, classes); NaN for classes without a box to find."""
    return np.array(
        [[c.average(kind) for c in curves(found, truths, classes, t)] for t in thresholds]
    )
