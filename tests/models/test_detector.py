"""The detector's places, shapes and what it refuses."""

import pytest
import torch

from fourfold.models.detector import Detector


def test_places_lie_in_the_middle_of_their_cells() -> None:
    model = Detector((3, 64, 96), 2, width=16, features=16, convolutions=1)
    answer = model(torch.zeros(2, 3, 64, 96))
    counts = [(64 // s) * (96 // s) for s in (8, 16, 32)]
    assert answer["logits"].shape == (2, sum(counts), 2)
    assert answer["distances"].shape == (2, sum(counts), 4) and (answer["distances"] > 0).all()
    assert answer["centre"].shape == (2, sum(counts))
    assert answer["points"][0].tolist() == [4, 4] and answer["points"][1].tolist() == [12, 4]
    assert answer["points"][counts[0]].tolist() == [8, 8]
    assert answer["points"][-1].tolist() == [80, 48]


def test_a_place_sees_its_surroundings() -> None:
    """What a place says changes with the image at the place, on every level."""
    torch.manual_seed(0)
    model = Detector((1, 128, 128), 1, width=16, features=16, convolutions=1, finest=4).eval()
    image = torch.randn(1, 1, 128, 128, requires_grad=True)
    answer = model(image)
    for stride in model.strides:
        level = (answer["strides"] == stride).nonzero()[:, 0]
        place = int(level[len(level) // 2])
        (slope,) = torch.autograd.grad(answer["logits"][0, place, 0], image, retain_graph=True)
        x, y = answer["points"][place].int().tolist()
        half = stride // 2
        assert slope[0, 0, y - half : y + half, x - half : x + half].abs().max() > 0


def test_every_range_is_covered_once() -> None:
    model = Detector((1, 64, 64), 1, width=8, features=8, finest=4)
    ranges = model.get_buffer("ranges").unique(dim=0).tolist()
    assert ranges == [[0, 16], [16, 32], [32, float("inf")]]


def test_refusals() -> None:
    with pytest.raises(ValueError, match="multiples of 32, got 60 x 64"):
        Detector((1, 60, 64), 1)
    with pytest.raises(ValueError, match="finest stride of 4 or 8, got 2"):
        Detector((1, 64, 64), 1, finest=2)
    with pytest.raises(ValueError, match=r"expects images \(B, 1, 64, 64\)"):
        Detector((1, 64, 64), 1)(torch.zeros(1, 3, 64, 64))
