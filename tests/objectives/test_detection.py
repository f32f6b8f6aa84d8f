"""Which place answers for which box, the loss, and what is decoded; by loops, and by answers that are known."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fourfold.core.parts import Batch
from fourfold.models.detector import Detector
from fourfold.objectives.boxes import centre_ness, focal, overlap_loss
from fourfold.objectives.detection import Detection, assign, corners, decode


def places() -> dict[str, Tensor]:
    model = Detector((1, 64, 64), 3, width=8, features=8, convolutions=0, finest=4)
    return {
        "points": model.get_buffer("points"),
        "strides": model.get_buffer("place_strides"),
        "ranges": model.get_buffer("ranges"),
    }


def drawn(seed: int, images: int = 2, most: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(images, most, 2, generator=generator) * 44
    side = 2 + torch.rand(images, most, 2, generator=generator) * 40
    boxes = torch.cat([low, (low + side).clamp(max=64)], dim=-1)
    labels = torch.randint(-1, 3, (images, most), generator=generator)
    ignored = (torch.rand(images, most, generator=generator) < 0.2) & (labels >= 0)
    image = torch.randn(images, 1, 64, 64, generator=generator)
    return {"image": image, "boxes": boxes, "label": labels, "ignored": ignored}


def by_loops(
    batch: Batch, where: dict[str, Tensor], image: int, place: int
) -> tuple[int, list[float]]:
    """Class and distances of one place, as the paper words them."""
    x, y = where["points"][place].tolist()
    stride, (low, high) = float(where["strides"][place]), where["ranges"][place].tolist()
    best, size, void = (-1, [0.0] * 4), math.inf, False
    for box, label, ignored in zip(
        batch["boxes"][image].tolist(),
        batch["label"][image].tolist(),
        batch["ignored"][image].tolist(),
        strict=True,
    ):
        sides = [x - box[0], y - box[1], box[2] - x, box[3] - y]
        if label < 0 or min(sides) <= 0:
            continue
        if ignored:
            void = True
            continue
        middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        if max(abs(x - middle[0]), abs(y - middle[1])) > 1.5 * stride:
            continue
        area = (box[2] - box[0]) * (box[3] - box[1])
        if low < max(sides) <= high and area < size:
            best, size = (label, sides), area
    return (-2 if void and best[0] < 0 else best[0]), best[1]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_places_answer_for_boxes_as_the_paper_says(seed: int) -> None:
    batch, where = drawn(seed), places()
    classes, distances = assign(where, batch["boxes"], batch["label"], batch["ignored"], 1.5)
    for image in range(2):
        for place in range(0, len(where["points"]), 3):
            label, sides = by_loops(batch, where, image, place)
            assert int(classes[image, place]) == label
            if label >= 0:
                assert distances[image, place].tolist() == pytest.approx(sides, abs=1e-4)


class Answers(nn.Module):
    """A model that says what it is told."""

    def __init__(self, answer: dict[str, Tensor]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.answer


def answers(seed: int, images: int = 2) -> dict[str, Tensor]:
    where = places()
    count = len(where["points"])
    generator = torch.Generator().manual_seed(seed)
    return {
        "logits": torch.randn(images, count, 3, generator=generator),
        "distances": 1 + 9 * torch.rand(images, count, 4, generator=generator),
        "centre": torch.randn(images, count, generator=generator),
        **where,
    }


def test_the_loss_is_its_three_parts() -> None:
    batch, answer = drawn(4), answers(5)
    (move,) = Detection(box_weight=2.0).losses(Answers(answer), batch)
    expected, positives = 0.0, 0
    for image in range(2):
        for place in range(len(answer["points"])):
            label, sides = by_loops(batch, answer, image, place)
            logits = answer["logits"][image, place]
            if label > -2:
                wanted = torch.tensor([float(k == label) for k in range(3)])
                expected += float(focal(logits, wanted).sum())
            if label >= 0:
                positives += 1
                target = torch.tensor(sides)
                point = answer["points"][place]
                box = corners(point, answer["distances"][image, place])
                expected += 2 * float(overlap_loss(box, corners(point, target)))
                ness = centre_ness(target)
                expected += float(
                    nn.functional.binary_cross_entropy_with_logits(
                        answer["centre"][image, place], ness
                    )
                )
    assert positives > 5
    assert float(move.loss) == pytest.approx(expected, rel=1e-4)
    assert int(move.weight) == positives + 2


def perfect(batch: Batch) -> dict[str, Tensor]:
    """The answer that says exactly what is there."""
    answer = answers(0)
    classes, distances = assign(answer, batch["boxes"], batch["label"], batch["ignored"], 1.5)
    logits = torch.full_like(answer["logits"], -12.0)
    for image, place in (classes >= 0).nonzero().tolist():
        logits[image, place, classes[image, place]] = 12.0
    centre = torch.logit(centre_ness(distances).clamp(1e-4, 1 - 1e-4))
    return {**answer, "logits": logits, "distances": distances.clamp(min=0), "centre": centre}


def test_a_perfect_answer_finds_every_box_once_and_measures_one() -> None:
    boxes = torch.tensor([[[4.0, 4, 20, 20], [30, 8, 60, 40]], [[10, 30, 24, 44], [0, 0, 0, 0]]])
    labels = torch.tensor([[0, 2], [1, -1]])
    batch = {
        "image": torch.zeros(2, 1, 64, 64),
        "boxes": boxes,
        "label": labels,
        "ignored": torch.zeros(2, 2, dtype=torch.bool),
    }
    answer = perfect(batch)
    found = decode(answer, threshold=0.2, overlap=0.6, most=10, size=(64, 64))
    for (around, scores, label), truth, names in zip(found, boxes, labels, strict=True):
        real = names >= 0
        order = label.argsort()
        assert label[order].tolist() == sorted(names[real].tolist())
        torch.testing.assert_close(around[order], truth[real][names[real].argsort()])
        assert (scores > 0.7).all()
    objective = Detection()
    with torch.no_grad():
        told = objective.measure(Answers(answer), batch)
    kept = {name: rows for name, (rows, weight) in told.items() if weight is None}
    values = objective.conclude({"loss": 0.5}, kept)
    assert values["map50"] == pytest.approx(1) and values["map"] == pytest.approx(1)
    assert list(values)[0] == "map50"


def test_what_is_ignored_is_not_missed_where_a_split_is_measured() -> None:
    boxes = torch.tensor([[[4.0, 4, 20, 20], [30, 8, 60, 40]], [[10, 30, 24, 44], [0, 0, 0, 0]]])
    batch = {
        "image": torch.zeros(2, 1, 64, 64),
        "boxes": boxes,
        "label": torch.tensor([[0, 0], [0, -1]]),
        "ignored": torch.tensor([[False, True], [False, False]]),  # no place answers for it
    }
    with torch.no_grad():
        told = Detection().measure(Answers(perfect(batch)), batch)
    kept = {name: rows for name, (rows, weight) in told.items() if weight is None}
    assert Detection().conclude({}, kept)["map50"] == pytest.approx(1)


def test_a_batch_without_boxes_teaches_that_nothing_is_there() -> None:
    batch = {
        **drawn(1),
        "label": torch.full((2, 5), -1),
        "ignored": torch.zeros(2, 5, dtype=torch.bool),
    }
    answer = answers(2)
    answer["logits"].requires_grad_()
    (move,) = Detection().losses(Answers(answer), batch)
    assert int(move.weight) == 2
    move.loss.backward()
    assert (answer["logits"].grad > 0).all()  # type: ignore[operator]
