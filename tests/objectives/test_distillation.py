"""Soft targets against their formula, and what a teacher must not change."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fourfold.objectives import distillation
from fourfold.objectives.distillation import Bridge, Distil, _Opened, soft_targets
from fourfold.objectives.likelihood import NextToken


class Said(nn.Module):
    """Says the same logits whatever it is given, with states that a head maps to them."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.logits


def prepared(objective: Distil, teacher: nn.Module) -> Distil:
    objective._opened = _Opened(teacher.requires_grad_(False), None)
    return objective


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 20), st.integers(2, 9), st.sampled_from([1, 11, 1 << 22]),
    st.sampled_from([0.5, 1.0, 4.0]), st.integers(0, 99),
)  # fmt: skip
def test_soft_targets_equal_torch(
    rows: int, entries: int, chunk: int, temperature: float, seed: int
) -> None:
    torch.manual_seed(seed)
    logits = (3 * torch.randn(rows, entries, dtype=torch.float64)).requires_grad_()
    teacher = 3 * torch.randn(rows, entries, dtype=torch.float64)
    counts = torch.rand(rows) < 0.7
    before, distillation.LOGITS = distillation.LOGITS, chunk
    try:
        ours = soft_targets(logits, lambda some: teacher[some], counts, temperature)
    finally:
        distillation.LOGITS = before
    each = F.kl_div(
        (logits / temperature).log_softmax(-1),
        (teacher / temperature).log_softmax(-1),
        log_target=True,
        reduction="none",
    )
    oracle = temperature**2 * each.sum(-1)[counts].sum()
    torch.testing.assert_close(ours, oracle, rtol=1e-10, atol=1e-12)
    mine, true = (torch.autograd.grad(loss * 0.5, logits)[0] for loss in (ours, oracle))
    torch.testing.assert_close(mine, true, rtol=1e-10, atol=1e-12)


def test_an_entry_that_the_teacher_excludes_is_no_infinity() -> None:
    logits = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[0.0, 1.0, float("-inf")]], dtype=torch.float64)
    total = soft_targets(logits, lambda rows: teacher[rows], torch.tensor([True]), 2.0)
    assert torch.isfinite(total)
    (grad,) = torch.autograd.grad(total, logits)
    assert torch.isfinite(grad).all() and grad[0, 2] > 0  # away from what is never said


def test_the_mixture_and_its_gradient() -> None:
    torch.manual_seed(0)
    student = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    teacher = Said(torch.randn(2, 3, 5, dtype=torch.float64))
    batch = {"tokens": torch.zeros(2, 3).long(), "targets": torch.tensor([[0, 4, -100], [1, 1, 2]])}
    objective = prepared(Distil(temperature=3, weight=0.3), teacher)

    def loss(logits: Tensor) -> Tensor:
        return next(objective.losses(lambda tokens: logits, batch)).loss  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(loss, (student,))
    counts = batch["targets"].flatten() != -100
    own, theirs = student.flatten(0, 1)[counts], teacher.logits.flatten(0, 1)[counts]
    hard = F.cross_entropy(own, batch["targets"].flatten()[counts], reduction="sum")
    shares = (theirs / 3).softmax(-1)
    # KL with the teacher's entropy taken off by hand
    soft = -(shares * (own / 3).log_softmax(-1)).sum() + (shares * shares.log()).sum()
    torch.testing.assert_close(loss(student), 0.7 * hard + 0.3 * 9 * soft, rtol=1e-10, atol=1e-12)
    said = Said(student.detach())
    (move,) = objective.losses(said, batch)
    hard, soft = hard.detach(), soft.detach()
    assert float(move.weight) == 5
    assert float(move.logs["soft"]) == pytest.approx(9 * float(soft) / 5)
    with torch.no_grad():
        measured = objective.measure(said, batch)
    assert list(measured) == ["loss", "divergence"]
    assert float(measured["loss"][0]) == pytest.approx(float(hard))
    plain = F.kl_div(own.detach().log_softmax(-1), theirs.softmax(-1), reduction="sum")
    assert float(measured["divergence"][0]) == pytest.approx(float(plain))


def test_weight_0_is_plain_training_and_asks_nobody() -> None:
    torch.manual_seed(0)
    model = Said(torch.randn(2, 3, 5))
    batch = {"tokens": torch.zeros(2, 3).long(), "targets": torch.tensor([[0, 4, -100], [1, 1, 2]])}
    (ours,) = Distil(temperature=1, weight=0).losses(model, batch)  # no teacher is open
    (plain,) = NextToken().losses(model, batch)
    assert torch.equal(ours.loss, plain.loss) and ours.weight == plain.weight
    assert list(Distil(how="sequence").measure(model, batch)) == ["loss"]


def test_segments_reach_both() -> None:
    """A batch with segments gives both models the same ones."""
    heard: list[Tensor] = []

    class Hears(Said):
        def forward(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
            assert segments is not None
            heard.append(segments)
            return self.logits

    batch = {
        "tokens": torch.zeros(1, 3).long(),
        "targets": torch.tensor([[0, 1, 2]]),
        "segments": torch.tensor([[0, 0, 1]]),
    }
    objective = prepared(Distil(), Hears(torch.randn(1, 3, 4)))
    next(objective.losses(Hears(torch.randn(1, 3, 4)), batch))
    assert len(heard) == 2 and all(torch.equal(s, batch["segments"]) for s in heard)


def test_a_bridge_is_no_part_of_the_weights() -> None:
    model = nn.Sequential(nn.Linear(2, 3))
    before = set(model.state_dict())
    model.add_module("bridge", Bridge(3, 4, 2))
    assert set(model.state_dict()) == before
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})
    assert sum(p.numel() for p in model.parameters()) == 9 + 2 * 12
    assert Bridge(4, 4, 2).weights() == {}


class Layered(nn.Module):
    """Rows of linear layers, whose outputs are the states."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.width = width
        self.embedding = nn.Embedding(5, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.head = nn.Linear(width, 5)

    def states(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.states(tokens))


def test_hidden_states_by_hand() -> None:
    torch.manual_seed(0)
    student, teacher = Layered(3, 2).double(), Layered(4, 5).double()
    objective = Distil(how="hidden", weight=0, hidden_weight=0.5)
    opened = objective._opened = _Opened(teacher.requires_grad_(False), student)
    assert opened.pairs == [(0, 2), (1, 4)]  # half of 5 layers is reached in the third
    batch = {"tokens": torch.tensor([[0, 1, 2]]), "targets": torch.tensor([[1, 2, -100]])}
    (move,) = objective.losses(student, batch)
    x, y = student.embedding(batch["tokens"]), teacher.embedding(batch["tokens"])
    ours, theirs = [], []
    for block in student.blocks:
        ours.append(x := block(x))
    for block in teacher.blocks:
        theirs.append(y := block(y))
    apart: Tensor | float = 0.0
    assert opened.bridge is not None
    maps = list(opened.bridge.parameters())
    for map_, a, b in zip(maps, ours, (theirs[2], theirs[4]), strict=True):
        a, b = (s[0, :2] / s[0, :2].square().mean(-1, keepdim=True).sqrt() for s in (a, b))
        apart = apart + (a @ map_.T - b).square().mean(-1).sum() / 2
    hard = F.cross_entropy(student.head(x)[0, :2], batch["targets"][0, :2], reduction="sum")
    torch.testing.assert_close(move.loss, hard + 0.5 * apart, rtol=1e-8, atol=1e-10)
    move.loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in opened.bridge.parameters())
    assert all(p.grad is None for p in teacher.parameters())
