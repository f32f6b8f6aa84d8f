"""Detection without anchors: every place of a feature map says what is there and how far its edges are. FCOS:
Tian et al. 2019, https://arxiv.org/abs/1904.01355.

The model maps images to a dict of "logits" (B, P, K), "distances" (B, P, 4) to left, top, right and bottom in pixels,
"centre" (B, P), logits of the centre-ness, and of the places "points" (P, 2), "strides" (P,), "ranges" (P, 2): the
least and largest distance that the place's level answers for, in pixels. P places, K classes, M boxes at most.
A class's loss is focal, a box's its overlap's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Gt, Lt
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from fourfold.core.parts import Batch, Move, Objective
from fourfold.objectives.average_precision import Detected, Truth, mean_average_precision
from fourfold.objectives.boxes import (
    Overlap,
    centre_ness,
    focal,
    overlap_loss,
    suppress_by_class,
)

BEFORE = 400  # places of an image that go into the suppression at most
LEAST = 0.01  # scores below are no detections even for a curve


def assign(
    places: Mapping[str, Tensor], boxes: Tensor, labels: Tensor, ignored: Tensor, radius: float
) -> tuple[Tensor, Tensor]:
    """What each place should say.

    A place answers for a box if it lies in it and within `radius` strides of its middle, and if the farthest edge is
    in its level's range; of several boxes for the smallest.

    Args:
        places: "points", "strides" and "ranges" of the model's answer.
        boxes: (B, M, 4).
        labels: (B, M), -1 where there is no box.
        ignored: (B, M) bool.
        radius: strides.

    Returns:
        Classes (B, P), -1 for nothing and -2 where neither is said, and distances (B, P, 4).
    """
    points, strides, ranges = (places[name] for name in ("points", "strides", "ranges"))
    offset = points[:, None] - boxes[:, None, :, :2]  # (B, P, M, 2)
    distances = torch.cat([offset, boxes[:, None, :, 2:] - points[:, None]], dim=-1)
    inside = (distances.amin(-1) > 0) & (labels >= 0)[:, None]
    middle = (boxes[..., :2] + boxes[..., 2:])[:, None] / 2
    near = (points[:, None] - middle).abs().amax(-1) <= radius * strides[:, None]
    farthest = distances.amax(-1)
    level = (farthest > ranges[:, :1]) & (farthest <= ranges[:, 1:])
    mine = inside & near & level & ~ignored[:, None]
    size = (boxes[..., 2:] - boxes[..., :2]).prod(-1)[:, None].expand_as(farthest)
    least, which = size.masked_fill(~mine, torch.inf).min(dim=-1)  # (B, P)
    found = least < torch.inf
    told = labels.gather(1, which)
    classes = torch.where(found, told, torch.full_like(told, -1))
    unsaid = (inside & ignored[:, None]).any(-1) & ~found
    chosen = distances.gather(2, which[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)
    return classes.masked_fill(unsaid, -2), chosen


def corners(points: Tensor, distances: Tensor) -> Tensor:
    """Boxes (..., 4) from points (..., 2) and distances (..., 4)."""
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)


def decode(
    answer: Mapping[str, Tensor],
    *,
    threshold: float,
    overlap: float,
    most: int,
    size: tuple[int, int],
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Detections of each image: boxes (D, 4) cut at the canvas, scores (D,) and labels (D,), the best first.

    Args:
        answer: the model's.
        threshold: the least score, the root of class probability times centre-ness.
        overlap: IoU above which the better of two boxes of one class hides the other.
        most: detections of an image at most.
        size: (H, W) of the canvas, pixels.
    """
    scores = (
        answer["logits"].float().sigmoid() * answer["centre"].float().sigmoid()[..., None]
    ).sqrt()
    boxes = corners(answer["points"], answer["distances"].float())
    edge = boxes.new_tensor([size[1], size[0], size[1], size[0]])
    boxes = boxes.clamp(min=0).minimum(edge)
    found = []
    for image, around in zip(scores, boxes, strict=True):
        flat = image.flatten()
        best = flat.topk(min(BEFORE, len(flat)))
        keep = best.values >= threshold
        values, index = best.values[keep], best.indices[keep]
        label, chosen = index % image.shape[1], around[index // image.shape[1]]
        kept = suppress_by_class(chosen, values, label, overlap)[:most]
        found.append((chosen[kept], values[kept], label[kept]))
    return found


class Detection(Objective):
    """Focal loss of the classes, overlap loss of the boxes, cross-entropy of the centre-ness; weight: places that answer for a box, and one an image."""

    kind: Literal["detection"] = "detection"
    higher = frozenset({"map50", "map"})

    overlap: Overlap = "giou"
    """How boxes are compared: iou, giou, diou or ciou."""
    alpha: Annotated[float, Gt(0), Lt(1)] = 0.25
    """Weight of a class that is there, against 1 - alpha of those that are not."""
    gamma: NonNegativeFloat = 2.0
    """How little counts what is right already; 0 is the cross-entropy."""
    box_weight: PositiveFloat = 1.0
    """Weight of the boxes' overlap beside the classes."""
    radius: PositiveFloat = 1.5
    """Places within so many strides of a box's middle answer for it."""
    suppression: Annotated[float, Gt(0), Lt(1)] = 0.6
    """Overlap above which the better of two detections hides the other, where precision is measured."""
    most: PositiveInt = 100
    """Detections of an image that are measured."""

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """See `Objective.losses`."""
        answer = model(batch["image"])
        classes, distances = assign(
            answer, batch["boxes"], batch["label"], batch["ignored"], self.radius
        )
        logits = answer["logits"].float()
        said = classes > -2
        wanted = F.one_hot(classes.clamp(min=0), logits.shape[-1]) * (classes >= 0)[..., None]
        named = (
            focal(logits, wanted.to(logits.dtype), self.alpha, self.gamma) * said[..., None]
        ).sum()
        here = classes >= 0
        points = answer["points"].expand(len(here), -1, -1)[here]
        target = distances[here]
        boxes = corners(points, answer["distances"].float()[here])
        placed = overlap_loss(boxes, corners(points, target), self.overlap).sum()
        centred = F.binary_cross_entropy_with_logits(
            answer["centre"].float()[here], centre_ness(target), reduction="sum"
        )
        positives = here.sum()
        share = positives.clamp(min=1)
        logs = {
            "class_loss": named.detach() / share,
            "box_loss": placed.detach() / share,
            "centre_loss": centred.detach() / share,
        }
        # one for each image: images without boxes teach too, and a batch of such is no step of weight 0
        weight = positives + len(here)
        yield Move("model", named + self.box_weight * placed + centred, weight, logs)

    def measure(
        self, model: nn.Module, batch: Batch
    ) -> Mapping[str, tuple[Tensor, Tensor | float | None]]:
        """The loss, and every image's detections and boxes for the precision of the whole split."""
        kept: dict[str, Mapping[str, Tensor]] = {}

        def answered(images: Tensor) -> Mapping[str, Tensor]:
            kept["answer"] = model(images)
            return kept["answer"]

        (move,) = self.losses(_As(answered), batch)
        size = batch["image"].shape[-2:]
        found = decode(
            kept["answer"],
            threshold=LEAST,
            overlap=self.suppression,
            most=self.most,
            size=(size[0], size[1]),
        )
        rows = batch["image"].new_zeros(len(found), self.most, 6)
        rows[..., 5] = -1
        for i, (boxes, scores, labels) in enumerate(found):
            told = torch.cat([boxes, scores[:, None], labels[:, None].float()], dim=1)
            rows[i, : len(boxes)] = told
        extra = torch.stack([batch["ignored"].float(), batch["label"].float()], dim=-1)
        truths = torch.cat([batch["boxes"], extra], dim=-1)
        classes = torch.full((len(rows),), float(kept["answer"]["logits"].shape[-1]))
        return {
            "loss": (move.loss, move.weight),
            "detections": (rows, None),
            "truths": (truths, None),
            "classes": (classes, None),
        }

    def conclude(
        self, means: Mapping[str, float], kept: Mapping[str, Tensor]
    ) -> Mapping[str, float]:
        """mAP at an overlap of 0.5 and over 0.5 to 0.95, both COCO's, then the loss."""
        found, truths = unpacked(kept["detections"], kept["truths"])
        with np.errstate(all="ignore"):
            table = mean_average_precision(found, truths, int(kept["classes"][0]))
        known = ~np.isnan(table).all(axis=0)
        if not known.any():
            return dict(means)
        return {
            "map50": float(table[0, known].mean()),
            "map": float(table[:, known].mean()),
            **means,
        }


class _As(nn.Module):
    """A function as a module."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Any:
        """What the function says."""
        return self.function(images)


def unpacked(detections: Tensor, truths: Tensor) -> tuple[list[Detected], list[Truth]]:
    """Rows of a split, (N, D, 6) of box, score, label and (N, M, 6) of box, ignored, label, as images."""
    found = [
        Detected(row[row[:, 5] >= 0][:, :4], row[row[:, 5] >= 0][:, 4], row[row[:, 5] >= 0][:, 5])
        for row in detections.double().numpy()
    ]
    real = [
        Truth(row[row[:, 5] >= 0][:, :4], row[row[:, 5] >= 0][:, 5], row[row[:, 5] >= 0][:, 4] > 0)
        for row in truths.double().numpy()
    ]
    return found, real
