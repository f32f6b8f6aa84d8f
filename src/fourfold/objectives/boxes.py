"""Losses of boxes and what compares them.

IoU loss: Yu et al. 2016; GIoU: Rezatofighi et al. 2019, https://arxiv.org/abs/1902.09630; DIoU and CIoU: Zheng et al.
2020, https://arxiv.org/abs/1911.08287; focal loss: Lin et al. 2017, https://arxiv.org/abs/1708.02002; centre-ness:
Tian et al. 2019, https://arxiv.org/abs/1904.01355. Boxes are (left, top, right, bottom); N and M boxes.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Overlap = Literal["iou", "giou", "diou", "ciou"]
EPS = 1e-7


def areas(boxes: Tensor) -> Tensor:
    """Areas of boxes (..., 4): (...,); inverted ones have none."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of each of (N, 4) with each of (M, 4): (N, M); 0 for boxes without area."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    union = areas(first)[:, None] + areas(second)[None] - shared
    return shared / union.clamp(min=EPS)


def overlap_loss(boxes: Tensor, targets: Tensor, kind: Overlap = "giou") -> Tensor:
    """How far boxes are from their targets, box by box.

    Args:
        boxes: (..., 4).
        targets: (..., 4), each with an area.
        kind: "iou" is 1 - IoU; "giou" adds the share of the smallest enclosing box that neither covers; "diou" the
            squared distance of the middles in units of the enclosing box's diagonal; "ciou" a penalty for another
            aspect ratio besides, whose weight has no gradient.

    Returns:
        (...,): 0 where both are equal; "iou" and "ciou" below 1 and 2.5, the others below 2.
    """
    low = torch.maximum(boxes[..., :2], targets[..., :2])
    high = torch.minimum(boxes[..., 2:], targets[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    union = areas(boxes) + areas(targets) - shared
    iou = shared / union.clamp(min=EPS)
    if kind == "iou":
        return 1 - iou
    outer = torch.maximum(boxes[..., 2:], targets[..., 2:]) - torch.minimum(
        boxes[..., :2], targets[..., :2]
    )
    if kind == "giou":
        hull = outer.prod(-1).clamp(min=EPS)
        return 1 - iou + (hull - union) / hull
    apart = (boxes[..., :2] + boxes[..., 2:] - targets[..., :2] - targets[..., 2:]) / 2
    loss = 1 - iou + apart.square().sum(-1) / outer.square().sum(-1).clamp(min=EPS)
    if kind == "diou":
        return loss
    angles = [torch.atan2(*(b[..., 2:] - b[..., :2]).unbind(-1)) for b in (boxes, targets)]
    skew = 4 / math.pi**2 * (angles[0] - angles[1]).square()
    with torch.no_grad():
        weight = skew / (1 - iou + skew).clamp(min=EPS)
    return loss + weight * skew


def focal(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """-a (1 - p)^gamma log p, p the probability of what is true: entries that are right already count little.

    Args:
        logits: any shape.
        targets: the same shape, 0 or 1.
        alpha: weight of ones, 1 - alpha that of zeros.
        gamma: 0 is the cross-entropy.

    Returns:
        The same shape, nats.
    """
    plain = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    # 1 - p of the truth, without the loss of digits of 1 - sigmoid
    wrong = torch.sigmoid(torch.where(targets > 0.5, -logits, logits))
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return weight * wrong.pow(gamma) * plain


def centre_ness(distances: Tensor) -> Tensor:
    """sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) of distances (..., 4) to a box's left, top, right, bottom.

    1 in a box's middle, 0 on its edge.
    """
    across, down = distances[..., 0::2], distances[..., 1::2]
    share = across.amin(-1) * down.amin(-1) / (across.amax(-1) * down.amax(-1)).clamp(min=EPS)
    return share.clamp(min=0).sqrt()


def suppress(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Non-maximum suppression: the best box, then the best that overlaps no kept one by more than the threshold.

    Args:
        boxes: (N, 4).
        scores: (N,); of equal ones the first is kept first.
        threshold: IoU.

    Returns:
        Numbers of the kept, the best first, int64.
    """
    order = torch.sort(scores, descending=True, stable=True).indices
    close = (pairwise_iou(boxes[order], boxes[order]) > threshold).cpu().numpy()
    gone = np.zeros(len(order), dtype=bool)
    kept = []
    for i in range(len(order)):
        if not gone[i]:
            kept.append(i)
            gone = gone | close[i]
    return order[torch.tensor(kept, dtype=torch.int64, device=order.device)]


def suppress_by_class(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """As `suppress`, where boxes of different classes do not hide one another: moved apart, they do not touch."""
    if not len(boxes):
        return labels.new_empty(0)
    span = boxes.max() - boxes.min() + 1
    return suppress(boxes + (labels * span)[:, None], scores, threshold)
