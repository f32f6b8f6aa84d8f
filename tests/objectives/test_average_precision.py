"""Average precision: by hand, and against pycocotools."""

import contextlib
import io

import numpy as np
import pytest

from fourfold.objectives.average_precision import (
    THRESHOLDS,
    Detected,
    Truth,
    curves,
    mean_average_precision,
)


def test_a_curve_by_hand() -> None:
    # one class, two boxes to find; right, wrong, right again (double), right
    truths = [Truth(np.array([[0, 0, 4, 4], [10, 10, 14, 14.0]]), np.zeros(2), np.zeros(2, bool))]
    boxes = np.array([[0, 0, 4, 4], [20, 20, 24, 24], [0, 0, 4, 4], [10, 10, 14, 15.0]])
    found = [Detected(boxes, np.array([0.9, 0.8, 0.7, 0.6]), np.zeros(4))]
    (curve,) = curves(found, truths, 1, 0.5)
    np.testing.assert_allclose(curve.recall, [0.5, 0.5, 0.5, 1.0])
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 1 / 3, 2 / 4])
    assert curve.average("voc") == pytest.approx(0.5 * 1 + 0.5 * 0.5)
    assert curve.average("coco") == pytest.approx((51 * 1 + 50 * 0.5) / 101)
    assert curve.average("voc07") == pytest.approx((6 * 1 + 5 * 0.5) / 11)


def test_what_is_ignored_is_neither_missed_nor_wrong() -> None:
    box = np.array([[0, 0, 4, 4.0]])
    truths = [Truth(box, np.zeros(1), np.ones(1, bool)), Truth(box, np.zeros(1), np.zeros(1, bool))]
    one = Detected(box, np.array([0.9]), np.zeros(1))
    (curve,) = curves([one, one], truths, 1)
    assert curve.truths == 1 and curve.average() == pytest.approx(1)
    np.testing.assert_allclose(curve.precision, [1.0])


def test_nothing_found_and_nothing_there() -> None:
    none = Detected(np.empty((0, 4)), np.empty(0), np.empty(0))
    empty = Truth(np.empty((0, 4)), np.empty(0), np.empty(0, bool))
    full = Truth(np.array([[0, 0, 4, 4.0]]), np.zeros(1), np.zeros(1, bool))
    assert curves([none], [full], 1)[0].average() == 0
    assert np.isnan(curves([none], [empty], 1)[0].average())


def scene(seed: int, images: int = 12, classes: int = 3) -> tuple[list[Detected], list[Truth]]:
    """Boxes, some ignored, with detections near them and others."""
    draw = np.random.default_rng(seed)
    found, truths = [], []
    for _ in range(images):
        count = int(draw.integers(0, 6))
        low = draw.uniform(0, 60, (count, 2))
        boxes = np.concatenate([low, low + draw.uniform(5, 40, (count, 2))], axis=1)
        labels = draw.integers(0, classes, count)
        truths.append(Truth(boxes, labels, draw.random(count) < 0.15))
        near = np.repeat(boxes, 2, axis=0) + draw.normal(0, 3, (2 * count, 4))
        far = draw.uniform(0, 50, (3, 2))
        more = np.concatenate([far, far + draw.uniform(5, 40, (3, 2))], axis=1)
        all_boxes = np.concatenate([near, more])
        all_boxes[:, 2:] = np.maximum(all_boxes[:, 2:], all_boxes[:, :2] + 1)
        told = np.concatenate([np.repeat(labels, 2), draw.integers(0, classes, 3)])
        found.append(Detected(all_boxes, draw.random(len(all_boxes)), told))
    return found, truths


@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools(seed: int) -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    from pycocotools.cocoeval import COCOeval

    found, truths = scene(seed)
    annotations, results = [], []
    for image, (one, truth) in enumerate(zip(found, truths, strict=True), 1):
        for box, label, ignored in zip(*truth, strict=True):
            x, y, w, h = *box[:2], *(box[2:] - box[:2])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(label),
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": int(ignored),
                }
            )
        for box, score, label in zip(*one, strict=True):
            x, y, w, h = *box[:2], *(box[2:] - box[:2])
            results.append(
                {"image_id": image, "category_id": int(label), "bbox": [x, y, w, h], "score": score}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        peer = coco.COCO()
        peer.dataset = {
            "info": {},
            "images": [{"id": i + 1} for i in range(len(found))],
            "annotations": annotations,
            "categories": [{"id": i, "name": str(i)} for i in range(3)],
        }
        peer.createIndex()
        evaluation = COCOeval(peer, peer.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]  # (T, R, K): all areas, 100 detections
    ours = mean_average_precision(found, truths, 3)
    np.testing.assert_allclose(ours, precision.mean(axis=1), atol=1e-9)
    assert ours.shape == (len(THRESHOLDS), 3) and 0.05 < ours.mean() < 0.95
