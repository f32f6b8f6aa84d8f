"""What a normalization is said to average over is what torch's own layers do average over."""

import pytest
import torch
from torch import nn

from fourfold.look.normalization import (
    Normalization,
    normalization_of,
    normalization_picture,
    normalization_pictures,
    shared,
)
from fourfold.models.transformer import RMSNorm

SHAPE = (3, 4, 5)  # N, C, L
LAYERS = [
    (nn.BatchNorm1d(4), False),
    (nn.InstanceNorm1d(4), False),
    (nn.GroupNorm(2, 4), False),
    (nn.GroupNorm(1, 4), False),
    (nn.LayerNorm((4, 5)), False),
    (nn.LayerNorm(4), True),  # features last, as in a Transformer
    (nn.RMSNorm(4), True),
    (RMSNorm(4, 1e-6), True),
]


@pytest.mark.parametrize(("layer", "last"), LAYERS, ids=lambda value: str(value))
@pytest.mark.parametrize("cell", [(0, 0, 0), (2, 3, 4), (1, 2, 3)])
def test_the_cells_that_share_moments(
    layer: nn.Module, last: bool, cell: tuple[int, int, int]
) -> None:
    how = normalization_of(layer)
    assert how is not None
    x = torch.randn(SHAPE, dtype=torch.float64, requires_grad=True)
    y = layer.double()(x.transpose(1, 2)).transpose(1, 2) if last else layer.double()(x)
    (slope,) = torch.autograd.grad(y[cell], x)  # not 0 exactly where the moments are shared
    assert ((slope != 0).numpy() == shared(how, cell, SHAPE)).all()


def test_words() -> None:
    words = {how.kind: how.words() for layer, _ in LAYERS[:3] if (how := normalization_of(layer))}
    assert words == {
        "batch": "the examples and positions of one channel",
        "instance": "the positions of one example and one channel",
        "group": "the positions and channels (in 2 groups) of one example",
    }


def test_pictures_only_where_there_is_such_a_layer() -> None:
    assert normalization_pictures(nn.Sequential(nn.Linear(2, 2), nn.ReLU())) == ()
    model = nn.Sequential(*(nn.BatchNorm1d(2) for _ in range(5)), nn.Linear(2, 2), nn.LayerNorm(2))
    (picture,) = normalization_pictures(model)
    assert "batch: 0, 1, 2 and 2 more; layer: 6." in picture.caption
    assert "Batch normalization over the examples and positions of one channel" in picture.caption
    other = normalization_picture([Normalization("batch", True, False, True)])
    assert other.png.startswith(b"\x89PNG") and other.png != picture.png


def test_a_mean_square_is_told_from_a_mean() -> None:
    (picture,) = normalization_pictures(nn.RMSNorm(3))
    assert "no mean" in picture.caption
    assert "no mean" not in normalization_pictures(nn.LayerNorm(3))[0].caption
