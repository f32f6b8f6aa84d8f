"""NextToken against torch's cross-entropy."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fourfold.models.transformer import Transformer
from fourfold.objectives import likelihood
from fourfold.objectives.likelihood import NextToken, cross_entropy


class Fixed(nn.Module):
    """Says the same logits whatever it is given."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.logits


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 30), st.integers(1, 9), st.sampled_from([1, 7, 1 << 18]), st.integers(0, 99))
def test_cross_entropy_equals_torch(rows: int, entries: int, chunk: int, seed: int) -> None:
    torch.manual_seed(seed)
    logits = (5 * torch.randn(rows, entries, dtype=torch.float64)).requires_grad_()
    targets = torch.randint(entries, (rows,))
    targets[torch.rand(rows) < 0.3] = -100
    oracle = F.cross_entropy(logits, targets, reduction="sum")
    before, likelihood.CHUNK = likelihood.CHUNK, chunk
    try:
        ours = cross_entropy(logits, targets)
    finally:
        likelihood.CHUNK = before
    torch.testing.assert_close(ours, oracle, rtol=1e-10, atol=1e-12)
    mine, true = (torch.autograd.grad(loss * 0.5, logits)[0] for loss in (ours, oracle))
    torch.testing.assert_close(mine, true, rtol=1e-10, atol=1e-12)


def test_cross_entropy_in_bfloat16_sums_in_float32() -> None:
    torch.manual_seed(0)
    logits = torch.randn(5000, 17).bfloat16().requires_grad_()
    targets = torch.randint(17, (5000,))
    ours = cross_entropy(logits, targets)
    wide = logits.detach().float().requires_grad_()
    oracle = F.cross_entropy(wide, targets, reduction="sum")
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, oracle)
    (mine,), (true,) = torch.autograd.grad(ours, logits), torch.autograd.grad(oracle, wide)
    torch.testing.assert_close(mine.float(), true, rtol=0.01, atol=1e-3)


@pytest.mark.parametrize("through", [False, True])
def test_differentiated_more_than_once(through: bool) -> None:
    """The gradient is scaled where it lies: what was handed out before must not change, nor the next be wrong."""
    torch.manual_seed(0)
    given, targets = torch.randn(6, 4, dtype=torch.float64).requires_grad_(), torch.tensor([0, 3, 1, -100, 2, 2])  # fmt: skip
    oracle = torch.autograd.grad(F.cross_entropy(given, targets, reduction="sum"), given)[0]
    logits = given * 1.0 if through else given
    loss, seed = cross_entropy(logits, targets), torch.tensor(0.5, dtype=torch.float64)
    found = []
    for scale in (0.5, 3.0, -2.0):  # one seed for all, as the training loop has it
        found.append(torch.autograd.grad(loss, given, seed.fill_(scale), retain_graph=True)[0])
    for gradient, scale in zip(found, (0.5, 3.0, -2.0), strict=True):
        torch.testing.assert_close(gradient, scale * oracle, rtol=1e-12, atol=1e-12)
    for scale in (0.25, 4.0):
        cross_entropy(logits, targets).backward(seed.fill_(scale), retain_graph=True)
    torch.testing.assert_close(given.grad, 4.25 * oracle, rtol=1e-12, atol=1e-12)


def test_gradcheck() -> None:
    torch.manual_seed(0)
    model = Fixed(torch.randn(2, 3, 5, dtype=torch.float64))
    batch = {"tokens": torch.zeros(2, 3).long(), "targets": torch.tensor([[0, 4, -100], [1, 1, 2]])}

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return next(NextToken().losses(lambda tokens: logits, batch)).loss  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(loss, (model.logits,))


def test_what_is_ignored_does_not_count() -> None:
    logits = torch.zeros(1, 4, 8)
    batch = {"tokens": torch.zeros(1, 4).long(), "targets": torch.tensor([[3, -100, 5, -100]])}
    (move,) = NextToken().losses(Fixed(logits), batch)
    assert (move.player, float(move.weight)) == ("model", 2)
    assert float(move.loss.detach()) == pytest.approx(2 * math.log(8))
    measured = NextToken().measure(Fixed(logits), batch)
    assert list(measured) == ["loss"] and float(measured["loss"][1]) == 2


def test_another_number_to_ignore() -> None:
    batch = {"tokens": torch.zeros(1, 2).long(), "targets": torch.tensor([[0, 1]])}
    (move,) = NextToken(ignore=0).losses(Fixed(torch.zeros(1, 2, 8)), batch)
    assert float(move.weight) == 1 and float(move.loss.detach()) == pytest.approx(math.log(8))


def test_nothing_counts() -> None:
    batch = {"tokens": torch.zeros(1, 2).long(), "targets": torch.full((1, 2), -100)}
    model = Fixed(torch.randn(1, 2, 8))
    (move,) = NextToken().losses(model, batch)
    move.loss.backward()
    assert float(move.weight) == 0 and float(move.loss.detach()) == 0
    assert model.logits.grad is not None and not model.logits.grad.any()


def test_shapes_that_differ() -> None:
    batch = {"tokens": torch.zeros(1, 3).long(), "targets": torch.zeros(1, 2).long()}
    with pytest.raises(ValueError, match=r"targets \(B, T\)"):
        next(NextToken().losses(Fixed(torch.zeros(1, 3, 8)), batch))


@pytest.mark.parametrize("autocast", [False, True])
def test_logits_are_computed_where_targets_count_alone(autocast: bool) -> None:
    torch.manual_seed(0)
    model = Transformer(37, 16, 2, 2, window=12, tied=False)
    seen: list[int] = []
    model.head.register_forward_hook(lambda *told: seen.append(told[2].shape[:-1].numel()))
    tokens, segments = torch.randint(37, (3, 12)), torch.arange(12).div(5, rounding_mode="floor")
    targets = torch.where(torch.rand(3, 12) < 0.4, tokens.roll(-1, 1), -100)
    batch = {"tokens": tokens, "targets": targets, "segments": segments.expand(3, 12)}

    def differentiated(chooses: bool) -> tuple[float, float, list[torch.Tensor]]:
        model.chooses = chooses
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            (move,) = NextToken().losses(model, batch)
        move.loss.backward()
        grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        return float(move.loss.detach()), float(move.weight), grads

    some, all_ = differentiated(True), differentiated(False)
    assert seen == [int((targets >= 0).sum()), 36]
    assert some[1] == all_[1] == float((targets >= 0).sum())
    assert some[0] == pytest.approx(all_[0], rel=1e-3 if autocast else 1e-6)
    for one, other in zip(some[2], all_[2], strict=True):
        scale = float(other.abs().max())
        assert float((one - other).abs().max()) <= (0.02 if autocast else 1e-5) * scale
    whole = {**batch, "targets": tokens.roll(-1, 1)}
    seen.clear()
    model.chooses = True
    next(NextToken().losses(model, whole))
    assert seen == [36]


def test_a_choosing_model_in_which_nothing_counts() -> None:
    model = Transformer(37, 16, 1, 2, window=12)
    tokens = torch.randint(37, (2, 12))
    (move,) = NextToken().losses(
        model, {"tokens": tokens, "targets": torch.full_like(tokens, -100)}
    )
    move.loss.backward()
    assert float(move.weight) == 0 and float(move.loss.detach()) == 0
