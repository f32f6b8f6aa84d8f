"""Smoothed cross-entropy of a target's tokens against torch's, and what counts in it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fourfold.objectives.sequence import TargetToken, smoothed

size = st.integers(1, 7)


class Fixed(nn.Module):
    """States that are given, whatever is read."""

    def __init__(self, states: Tensor, entries: int, bias: bool) -> None:
        super().__init__()
        self.given = nn.Parameter(states)
        self.head = nn.Linear(states.shape[-1], entries, bias).to(states.dtype)

    def forward(self, source: Tensor, lengths: Tensor, tokens: Tensor) -> Tensor:
        return self.given


def batch(targets: Tensor) -> dict[str, Tensor]:
    nothing = torch.zeros(len(targets), 1, dtype=torch.int64)
    return {
        "source": nothing,
        "source_lengths": nothing[:, 0] + 1,
        "tokens": targets,
        "targets": targets,
    }


@settings(deadline=None, max_examples=30)
@given(size, size, st.integers(2, 9), st.floats(0, 0.9), st.booleans())
def test_smoothing_equals_torchs(
    rows: int, time: int, entries: int, smoothing: float, bias: bool
) -> None:
    torch.manual_seed(0)
    targets = torch.randint(-1, entries, (rows, time))
    targets[targets == -1] = -100
    targets[0, 0] = 1
    model = Fixed(torch.randn(rows, time, 5, dtype=torch.float64), entries, bias)
    (move,) = TargetToken(smoothing=smoothing).losses(model, batch(targets))
    logits = model.head(model.given)
    oracle = F.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), label_smoothing=smoothing, reduction="sum"
    )
    torch.testing.assert_close(move.loss, oracle, rtol=1e-10, atol=1e-10)
    assert float(move.weight) == int((targets >= 0).sum())
    ours, theirs = (
        torch.autograd.grad(x, list(model.parameters()), retain_graph=True)
        for x in (move.loss, oracle)
    )
    for mine, true in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-9, atol=1e-10)


def test_what_chooses_the_weights_is_not_smoothed() -> None:
    torch.manual_seed(0)
    targets = torch.tensor([[1, 2, -100], [3, -100, -100]])
    model = Fixed(torch.randn(2, 3, 5, dtype=torch.float64), 4, True)
    found = TargetToken(smoothing=0.2).measure(model, batch(targets))
    assert next(iter(found)) == "loss"
    plain = F.cross_entropy(
        model.head(model.given).flatten(0, 1), targets.flatten(), reduction="sum"
    )
    torch.testing.assert_close(found["loss"][0], plain, rtol=1e-10, atol=1e-10)
    assert [float(weight) for _, weight in found.values()] == [3]


def test_padding_never_reaches_the_loss() -> None:
    targets = torch.tensor([[1, 2, -100, -100]])
    states = torch.randn(1, 4, 5)
    states[:, 2:] = float("nan")
    (move,) = TargetToken().losses(Fixed(states, 4, False), batch(targets))
    assert torch.isfinite(move.loss)


def test_spread_is_how_far_targets_stand_above_the_mean() -> None:
    torch.manual_seed(0)
    hidden, weight, bias = (
        torch.randn(6, 3).double(),
        torch.randn(5, 3).double(),
        torch.randn(5).double(),
    )
    targets = torch.randint(5, (6,))
    logits = hidden @ weight.T + bias
    expected = (logits[torch.arange(6), targets] - logits.mean(1)).sum()
    torch.testing.assert_close(
        smoothed(hidden, weight, bias, targets), expected, rtol=1e-10, atol=1e-10
    )


def test_states_and_targets_of_other_lengths_are_refused() -> None:
    model: Any = Fixed(torch.randn(1, 3, 5), 4, False)
    with pytest.raises(ValueError, match="targets"):
        list(TargetToken().losses(model, batch(torch.tensor([[1, 2]]))))
