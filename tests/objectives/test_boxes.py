"""Overlaps, their losses, suppression and centre-ness against brute force; focal loss against its formula."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fourfold.objectives.boxes import (
    centre_ness,
    focal,
    overlap_loss,
    pairwise_iou,
    suppress,
    suppress_by_class,
)


def drawn(count: int, seed: int, most: int = 12) -> Tensor:
    """Boxes with whole corners, so that their pixels can be counted."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.randint(0, most, (count, 2), generator=generator)
    side = torch.randint(1, most, (count, 2), generator=generator)
    return torch.cat([low, low + side], dim=1).double()


def pixels(box: Tensor, side: int = 24) -> np.ndarray:
    image = np.zeros((side, side), bool)
    left, top, right, bottom = (int(v) for v in box)
    image[top:bottom, left:right] = True
    return image


def iou_of_pixels(a: Tensor, b: Tensor) -> float:
    first, second = pixels(a), pixels(b)
    return float((first & second).sum() / (first | second).sum())


@given(st.integers(0, 1000))
def test_iou_is_that_of_counted_pixels(seed: int) -> None:
    a, b = drawn(4, seed), drawn(5, seed + 1)
    counted = [[iou_of_pixels(x, y) for y in b] for x in a]
    np.testing.assert_allclose(pairwise_iou(a, b).numpy(), counted, atol=1e-12)


@given(st.integers(0, 1000))
def test_giou_and_diou_from_counted_pixels(seed: int) -> None:
    a, b = drawn(1, seed)[0], drawn(1, seed + 1)[0]
    iou = iou_of_pixels(a, b)
    hull = torch.cat([torch.minimum(a[:2], b[:2]), torch.maximum(a[2:], b[2:])])
    outer, union = pixels(hull).sum(), (pixels(a) | pixels(b)).sum()
    assert float(overlap_loss(a, b, "iou")) == pytest.approx(1 - iou)
    assert float(overlap_loss(a, b, "giou")) == pytest.approx(1 - iou + (outer - union) / outer)
    middles = [((x[0] + x[2]) / 2, (x[1] + x[3]) / 2) for x in (a, b)]
    apart = math.dist(*[tuple(map(float, m)) for m in middles]) ** 2
    diagonal = float((hull[2] - hull[0]) ** 2 + (hull[3] - hull[1]) ** 2)
    assert float(overlap_loss(a, b, "diou")) == pytest.approx(1 - iou + apart / diagonal)
    skew = math.atan2(a[2] - a[0], a[3] - a[1]) - math.atan2(b[2] - b[0], b[3] - b[1])
    v = 4 / math.pi**2 * skew**2
    weight = v / max(1 - iou + v, 1e-7)
    expected = 1 - iou + apart / diagonal + weight * v
    assert float(overlap_loss(a, b, "ciou")) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "ciou"])
def test_equal_boxes_lose_nothing_and_gradients_lead_there(kind: str) -> None:
    target = torch.tensor([[2.0, 3.0, 9.0, 8.0]], dtype=torch.float64)
    assert float(overlap_loss(target, target, kind)) == pytest.approx(0, abs=1e-9)  # type: ignore[arg-type]
    box = torch.tensor([[1.0, 1.0, 6.0, 7.0]], dtype=torch.float64, requires_grad=True)
    if kind != "ciou":  # whose weight is held fixed
        assert torch.autograd.gradcheck(lambda b: overlap_loss(b, target, kind), (box,))  # type: ignore[arg-type]
    for _ in range(400):
        (slope,) = torch.autograd.grad(overlap_loss(box, target, kind).sum(), box)  # type: ignore[arg-type]
        box = (box - 2 * slope).detach().requires_grad_()
    assert float(pairwise_iou(box.detach(), target)) > 0.8


def test_only_iou_says_nothing_of_boxes_that_do_not_touch() -> None:
    target = torch.tensor([0.0, 0.0, 2.0, 2.0])
    for kind, least in (("iou", 0.0), ("giou", 1e-4), ("diou", 1e-4), ("ciou", 1e-4)):
        box = torch.tensor([5.0, 5.0, 7.0, 7.0], requires_grad=True)
        (slope,) = torch.autograd.grad(overlap_loss(box, target, kind), box)  # type: ignore[arg-type]
        assert (float(slope.abs().max()) > least) == (kind != "iou")


def suppressed(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    """By definition: each kept box is the best of what no better kept one hides."""
    left = list(range(len(boxes)))
    kept: list[int] = []
    while left:
        best = max(left, key=lambda i: (float(scores[i]), -i))
        kept.append(best)
        left = [i for i in left if i != best and iou_of_pixels(boxes[best], boxes[i]) <= threshold]
    return kept


@given(st.integers(0, 12), st.integers(0, 300), st.sampled_from([0.0, 0.3, 0.5, 0.9]))
def test_suppression_equals_brute_force(count: int, seed: int, threshold: float) -> None:
    boxes = drawn(count, seed).reshape(-1, 4)
    scores = torch.randint(0, 5, (count,), generator=torch.Generator().manual_seed(seed)) / 4
    assert suppress(boxes, scores, threshold).tolist() == suppressed(boxes, scores, threshold)


@given(st.integers(0, 12), st.integers(0, 300))
def test_classes_do_not_hide_one_another(count: int, seed: int) -> None:
    boxes = drawn(count, seed).reshape(-1, 4)
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(count, generator=generator)
    labels = torch.randint(0, 3, (count,), generator=generator)
    expected = []
    for label in range(3):
        rows = (labels == label).nonzero()[:, 0]
        expected += [int(rows[i]) for i in suppressed(boxes[rows], scores[rows], 0.5)]
    assert sorted(suppress_by_class(boxes, scores, labels, 0.5).tolist()) == sorted(expected)


def test_focal_loss_is_its_formula_and_cross_entropy_without_gamma() -> None:
    torch.manual_seed(0)
    logits = torch.randn(50, dtype=torch.float64) * 4
    targets = (torch.rand(50, dtype=torch.float64) < 0.4).double()
    p = 1 / (1 + np.exp(-logits.numpy()))
    truth = np.where(targets.numpy() == 1, p, 1 - p)
    alpha = np.where(targets.numpy() == 1, 0.25, 0.75)
    expected = -alpha * (1 - truth) ** 2 * np.log(truth)
    np.testing.assert_allclose(focal(logits, targets).numpy(), expected, rtol=1e-10)
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    torch.testing.assert_close(focal(logits, targets, 0.5, 0.0), plain / 2)


def test_centre_ness() -> None:
    sides = torch.tensor([[2.0, 3, 2, 3], [1, 1, 4, 1], [0, 1, 4, 1], [1, 2, 3, 6]])
    torch.testing.assert_close(
        centre_ness(sides), torch.tensor([1.0, 0.5, 0.0, (1 / 3 * 2 / 6) ** 0.5])
    )
