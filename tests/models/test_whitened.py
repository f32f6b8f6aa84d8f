"""The whitened network: what its first layer does to patches, what its convolutions begin as, the paper's count."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fourfold import api
from fourfold.core.errors import UserError
from fourfold.models.whitened import FLOOR, WhitenedNet, WhitenedStage, sampled, whitening
from fourfold.systems.cnn import ConvolutionalNetwork


def test_patches_are_whitened() -> None:
    random = np.random.default_rng(0)
    # neighbours and channels alike, as in photographs
    images = torch.from_numpy(random.normal(size=(300, 1, 9, 9))).float()
    images = F.avg_pool2d(images, 3, 1) + 0.1 * torch.randn(
        300, 3, 7, 7, generator=torch.manual_seed(0)
    )
    filters = whitening(images)
    assert filters.shape == (24, 3, 2, 2)
    torch.testing.assert_close(filters[12:], -filters[:12])
    found = F.conv2d(images.double(), filters[:12].double()).transpose(0, 1).flatten(1)
    moments = found @ found.T / found.shape[1]
    windows = np.lib.stride_tricks.sliding_window_view(images.double().numpy(), (2, 2), (2, 3))
    patches = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 12)
    variances = torch.from_numpy(np.linalg.eigvalsh(patches.T @ patches / len(patches)))
    # just below 1, by what keeps directions of little variance from being blown up
    wanted = torch.diag(variances / (variances + FLOOR))
    torch.testing.assert_close(moments, wanted, rtol=0, atol=1e-4)


def test_large_images_are_whitened_in_pieces_and_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters tell patches alike however many are laid out at once, but for the signs of the directions."""
    images = torch.rand(50, 3, 8, 8) * 2 - 1
    whole = whitening(images)
    monkeypatch.setattr("fourfold.models.whitened.TOGETHER", 7 * 64)
    pieces = whitening(images)
    torch.testing.assert_close(pieces.abs(), whole.abs(), rtol=1e-4, atol=1e-5)
    assert [sampled((3, side, side)) for side in (8, 32, 224, 4096)] == [5000, 5000, 102, 1]


def test_a_stage_begins_by_passing_what_comes_in() -> None:
    stage = WhitenedStage(4, 8)
    x = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(stage[0](x)[:, :4], x)
    y = torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(stage[4](y), y)


def test_it_is_the_papers_but_for_its_norms() -> None:
    model = WhitenedNet((3, 32, 32), 10)
    convolutions = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d))
    # Jordan 2024, table 3: 1.97 M parameters; two of each normalization's are few beside
    assert convolutions + model.head[-1].weight.numel() == 24 * 12 + 9 * (
        24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256
    ) + 2560  # fmt: skip
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(1.97e6, rel=0.005)
    first = model.stages[0][0]  # type: ignore[index]
    assert not first.weight.requires_grad and first.bias.requires_grad


@pytest.mark.parametrize("size", [(32, 32), (9, 13)])
def test_it_takes_its_size_and_others(size: tuple[int, int]) -> None:
    model = WhitenedNet((1, *size), 4, width=4, stages=2).eval()
    for side in (size, (20, 16)):
        assert model(torch.zeros(2, 1, *side)).shape == (2, 4)
    with pytest.raises(ValueError, match="expected at least 9 x 9"):
        WhitenedNet((1, 8, 32), 4, width=4, stages=3)


def test_the_fixed_layer_stays_and_a_run_is_opened_with_it(tmp_path) -> None:  # type: ignore[no-untyped-def]
    system = ConvolutionalNetwork(network_kind="whitened", width=8, dropout=0.0)
    run = api.fit(api.configure(system, {"steps": 5, "batch": 64}), None, out=tmp_path / "run")
    data = run.examples()
    pixels = data.pixels("train")[:5000].float() / 127.5 - 1  # type: ignore[attr-defined]
    weight = run.model.get_parameter("stages.0.0.weight")
    torch.testing.assert_close(weight.cpu(), whitening(pixels))
    again = api.open(tmp_path / "run")
    torch.testing.assert_close(again.model.get_parameter("stages.0.0.weight"), weight)
    image = data.pixels("test")[0].numpy()  # type: ignore[attr-defined]
    assert again.predict([image]).equals(run.predict([image]))


@pytest.mark.parametrize(("kind", "option"), [("lenet", "width"), ("whitened", "dense")])
def test_options_of_another_kind_of_network_are_refused(kind: str, option: str) -> None:
    with pytest.raises(UserError, match=f"{option} is of .*; {kind} has no such option"):
        api.configure("cnn", {"network_kind": kind, option: 7})
