"""Which patches are masked, and that they alone are paid for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fourfold.objectives.masked_patches import MaskedPatches, normalized, split_patches


@given(st.integers(1, 4), st.integers(2, 20), st.floats(0.01, 0.99))
def test_every_patch_is_seen_or_masked(count: int, patches: int, ratio: float) -> None:
    seen, masked = split_patches(count, patches, ratio)
    assert torch.equal(
        torch.cat([seen, masked], dim=1).sort(dim=1).values,
        torch.arange(patches).expand(count, -1),
    )
    assert masked.shape[1] == min(max(1, round(ratio * patches)), patches - 1)


def test_every_patch_is_masked_as_often() -> None:
    _, masked = split_patches(4000, 8, 0.75, seed=torch.Generator().manual_seed(0))
    share = torch.bincount(masked.flatten(), minlength=8) / 4000
    assert (share - 0.75).abs().max() < 0.03  # 4 standard deviations


class Known(nn.Module):
    """Says the truth, but for what it is told to add at patches that it sees or does not see."""

    count = 6

    def __init__(self, at_seen: float, at_masked: float, unit: bool) -> None:
        super().__init__()
        self.errors, self.unit = (at_seen, at_masked), unit

    def patches(self, images: Tensor) -> Tensor:
        return images.reshape(len(images), 6, -1)

    def forward(self, images: Tensor, seen: Tensor) -> Tensor:
        truth = self.patches(images)
        truth = normalized(truth) if self.unit else truth
        wrong = torch.full(truth.shape[:2], self.errors[1]).scatter(1, seen, self.errors[0])
        return truth + wrong[..., None]


@pytest.mark.parametrize("unit", [False, True])
def test_masked_patches_alone_are_paid_for(unit: bool) -> None:
    objective, batch = MaskedPatches(ratio=0.5, normalize=unit), {"image": torch.randn(4, 1, 6, 5)}
    (free,) = objective.losses(Known(9.0, 0.0, unit), batch)
    assert float(free.loss) == pytest.approx(0, abs=1e-9) and free.weight == 12
    (paid,) = objective.losses(Known(0.0, 2.0, unit), batch)
    assert float(paid.loss) / float(paid.weight) == pytest.approx(4)


def test_a_normalized_patch_has_mean_0_and_deviation_1() -> None:
    patches = normalized(torch.randn(3, 5, 16, dtype=torch.float64) * 7 + 3)
    torch.testing.assert_close(patches.mean(-1), torch.zeros(3, 5, dtype=torch.float64))
    assert (patches.std(-1) - 1).abs().max() < 1e-6
    assert torch.equal(normalized(torch.ones(1, 1, 4)), torch.zeros(1, 1, 4))
