"""Frozen parameters stay to the bit, the others move, through a resume too."""

from pathlib import Path

import pytest
import torch
from torch import nn

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.parameters import matching
from fourfold.core.state import load_state
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


def test_what_no_step_changes_is_named_once_for_each_name() -> None:
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.BatchNorm1d(2))
    tied[1].weight = tied[0].weight
    assert Frozen(tied, []).still() == set()
    assert Frozen(tied, ["0", "2"]).still() == {
        "0.weight",
        "1.weight",
        "0.bias",
        "2.weight",
        "2.bias",
    }


def test_a_checkpoint_holds_what_moves_and_goes_on_from_it(tmp_path: Path) -> None:
    x = torch.randn(64, 3)
    table = {"a": x[:, 0], "b": x[:, 1], "y": x[:, 2]}
    options = {
        "target": "y", "freeze": "blocks.0", "ema": 0.9, "layers": 2, "width": 8, "schedule": "constant",
        "evaluate_every": "1",
    }  # fmt: skip
    fourfold.fit("mlp", table, out=tmp_path / "whole", steps=6, **options)
    fourfold.fit("mlp", table, out=tmp_path / "part", steps=3, **options)
    (file,) = (tmp_path / "part" / "checkpoints").glob("*/state.safetensors")
    held = load_state(file)["model"]
    still = {"blocks.0.linear.weight", "blocks.0.linear.bias"}
    whole = fourfold.open(tmp_path / "whole").model.state_dict()
    assert still <= set(whole) and not still & set(held)
    assert any(name.startswith("blocks.1") for name in held)
    fourfold.api.resume(tmp_path / "part", source=table, steps=6)
    for name, value in fourfold.open(tmp_path / "part").model.state_dict().items():
        assert torch.equal(value, whole[name]), name
