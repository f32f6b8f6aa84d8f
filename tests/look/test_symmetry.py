"""Equal units are found and counted, unequal ones are not."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.look.symmetry import Twins, twins


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(1, 5), st.integers(0, 99))
def test_groups_are_counted(sizes: list[int], width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randn(len(sizes), width, 2, generator=generator)
    rows = kinds.repeat_interleave(torch.tensor(sizes), dim=0)
    rows = rows[torch.randperm(len(rows), generator=generator)]
    weight, gradient = rows[..., 0], rows[..., 1]
    twinned = [size for size in sizes if size > 1]
    expected = Twins(len(rows), sum(twinned), len(twinned), True) if twinned else None
    assert twins(weight, gradient) == expected
    assert twins(weight.T, gradient.T, dim=1) == expected


def test_equal_weights_with_other_gradients_are_no_twins() -> None:
    assert twins(torch.ones(4, 3), torch.randn(4, 3)) is None
    assert twins(torch.randn(4, 3), torch.ones(4, 3)) is None


def test_rounding_is_no_difference_and_a_thousandth_is() -> None:
    row = torch.randn(1, 50)
    weight = torch.cat([row, row * (1 + 1e-7), row * 1.001])
    assert twins(weight, weight) == Twins(3, 2, 1, True)


def test_units_without_gradient_count_only_if_all_are_equal() -> None:
    """Pruned units are zero, and dead; a layer of zeros has nothing that tells its units apart."""
    zeros = torch.zeros(4, 3)
    assert twins(zeros, zeros) == Twins(4, 4, 1, False)
    mixed = torch.cat([zeros, torch.randn(1, 3)])
    assert twins(mixed, mixed) is None
    assert twins(torch.zeros(1, 3), torch.zeros(1, 3)) is None
