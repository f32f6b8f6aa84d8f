"""Frozen parameters stay to the bit, the others move, through a resume too."""

import pytest
import torch
from torch import nn

from fourfold.core.errors import UserError
from fourfold.core.parameters import matching
from fourfold.optimizers.freeze import Frozen


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))


def test_patterns() -> None:
    names = list(dict(model().named_parameters()))
    assert list(matching(model(), ["*.bias"])) == ["0.bias", "1.bias", "3.bias"]
    assert list(matching(model(), ["1", "3.weight"])) == ["1.weight", "1.bias", "3.weight"]
    assert list(matching(model(), ["*"])) == names
    assert list(matching(model(), ["[01].weight"])) == ["0.weight", "1.weight"]


def test_shared_parameters_have_both_names() -> None:
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    assert list(matching(tied, ["*.weight"])) == ["0.weight", "1.weight"]


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [("3.wieght", "did you mean 3.weight?"), ("head.*", "choose from 0, 0.bias")],
)
def test_an_unknown_pattern_is_refused(pattern: str, hint: str) -> None:
    with pytest.raises(UserError) as told:
        Frozen(model(), [pattern])
    assert f"--freeze {pattern}" in str(told.value) and hint in str(told.value)


def test_freezing_everything_is_refused() -> None:
    with pytest.raises(UserError, match="nothing to search"):
        Frozen(model(), ["*"])


def test_a_frozen_batch_normalization_keeps_its_moments() -> None:
    net = model()
    frozen = Frozen(net, ["0", "1"])
    frozen.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net(torch.randn(16, 3)).sum().backward()
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    assert net.training and net[0].weight.grad is None and net[3].weight.grad is not None


def test_without_patterns_nothing_is_frozen() -> None:
    net = model()
    Frozen(net, []).train()
    assert all(p.requires_grad for p in net.parameters()) and net[1].training
