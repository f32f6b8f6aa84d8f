"""States carried from batch to batch; the loss fused with the output's product."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fourfold.core.parts import Batch
from fourfold.models.output import FullOutput
from fourfold.models.recurrent import Cell, RecurrentLM
from fourfold.objectives import likelihood
from fourfold.objectives.carried import CarriedSoftmax
from fourfold.objectives.likelihood import linear_cross_entropy

NO_RUN: Any = None
CELLS: list[Cell] = ["rnn", "gru", "lstm"]


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 30),
    st.integers(1, 4),
    st.integers(1, 9),
    st.booleans(),
    st.sampled_from([1, 20, 1 << 18]),
    st.integers(0, 99),
)
def test_linear_cross_entropy_equals_torch(
    rows: int, width: int, entries: int, biased: bool, chunk: int, seed: int
) -> None:
    torch.manual_seed(seed)
    hidden = torch.randn(rows, width, dtype=torch.float64, requires_grad=True)
    weight = (2 * torch.randn(entries, width, dtype=torch.float64)).requires_grad_()
    bias = torch.randn(entries, dtype=torch.float64, requires_grad=True) if biased else None
    targets = torch.randint(entries, (rows,))
    targets[torch.rand(rows) < 0.3] = -100
    oracle = F.cross_entropy(F.linear(hidden, weight, bias), targets, reduction="sum")
    before, likelihood.LOGITS = likelihood.LOGITS, chunk
    try:
        ours = linear_cross_entropy(hidden, weight, bias, targets)
        with torch.no_grad():
            torch.testing.assert_close(
                linear_cross_entropy(hidden, weight, bias, targets), oracle, rtol=1e-10, atol=1e-12
            )
    finally:
        likelihood.LOGITS = before
    torch.testing.assert_close(ours, oracle, rtol=1e-10, atol=1e-12)
    of = [t for t in (hidden, weight, bias) if t is not None]
    mine, true = (torch.autograd.grad(0.5 * loss, of) for loss in (ours, oracle))
    for one, other in zip(mine, true, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_linear_cross_entropy_by_gradcheck() -> None:
    torch.manual_seed(0)
    shapes = ((4, 3), (5, 3), (5,))
    of = [torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in shapes]
    targets = torch.tensor([0, 4, -100, 2])
    assert torch.autograd.gradcheck(lambda *a: linear_cross_entropy(*a, targets), of)


def test_bfloat16_products_stay_near_float32() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(700, 64, requires_grad=True)
    weight = (0.3 * torch.randn(1000, 64)).requires_grad_()
    bias = torch.randn(1000, requires_grad=True)
    targets = torch.randint(1000, (700,))
    oracle = F.cross_entropy(F.linear(hidden, weight, bias), targets, reduction="sum")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = linear_cross_entropy(hidden, weight, bias, targets)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, oracle, rtol=1e-3, atol=0.0)
    of = [hidden, weight, bias]
    mine, true = (torch.autograd.grad(loss, of) for loss in (ours, oracle))
    for one, other in zip(mine, true, strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).norm() / other.norm()) < 0.01


# --- what is carried -----------------------------------------------------------------------------


def _network(words: int, cell: Cell, width: int, layers: int, vectors: int) -> RecurrentLM:
    head = FullOutput(words, width)
    torch.nn.init.normal_(head.weight)
    return RecurrentLM(cell, nn.Embedding(words, vectors), [width] * layers, head)


def _windows(tokens: Tensor, window: int, begins: bool = True) -> list[Batch]:
    """(B, N + 1) tokens as batches of windows that go on."""
    count = (tokens.shape[1] - 1) // window
    return [
        {
            "tokens": tokens[:, i * window : (i + 1) * window],
            "targets": tokens[:, i * window + 1 : (i + 1) * window + 1],
            "begins": torch.full((len(tokens),), begins and i == 0),
        }
        for i in range(count)
    ]


def _fresh() -> CarriedSoftmax:
    return CarriedSoftmax().model_copy()


def _loss(objective: CarriedSoftmax, model: RecurrentLM, batch: Batch) -> Tensor:
    (move,) = objective.losses(model, batch)
    return move.loss


@pytest.mark.parametrize("cell", CELLS)
def test_two_windows_with_carry_are_one_long_one(cell: Cell) -> None:
    torch.manual_seed(0)
    model = _network(13, cell, 8, 2, 6).double()
    tokens = torch.randint(13, (4, 71))
    (whole,) = _windows(tokens, 70)
    objective = CarriedSoftmax().prepare(NO_RUN)
    both = sum(_loss(objective, model, batch) for batch in _windows(tokens, 35))
    alone = CarriedSoftmax().prepare(NO_RUN)
    torch.testing.assert_close(both, _loss(alone, model, whole), rtol=1e-10, atol=1e-12)
    # without carrying it is another number
    apart = [b | {"begins": torch.ones(4, dtype=torch.bool)} for b in _windows(tokens, 35)]
    assert not torch.allclose(both, sum(_loss(alone, model, batch) for batch in apart))


def test_the_gradient_ends_where_a_window_begins() -> None:
    torch.manual_seed(0)
    model = _network(13, "lstm", 8, 1, 6).double()
    first, second = _windows(torch.randint(13, (2, 11)), 5)
    objective = CarriedSoftmax().prepare(NO_RUN)
    _loss(objective, model, first)
    found = torch.autograd.grad(_loss(objective, model, second), list(model.parameters()))
    with torch.no_grad():
        _, states = model(first["tokens"])
    hidden, _ = model(second["tokens"], states)
    logits = model.head(hidden).flatten(0, 1)
    expected = F.cross_entropy(logits, second["targets"].flatten(), reduction="sum")
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    for mine, true in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-10, atol=1e-12)


def test_evaluation_carries_its_own_and_does_not_disturb_training() -> None:
    torch.manual_seed(0)
    model = _network(13, "gru", 8, 1, 6).double()
    train, other = (_windows(torch.randint(13, (4, 21)), 5) for _ in range(2))
    undisturbed = CarriedSoftmax().prepare(NO_RUN)
    expected = [float(_loss(undisturbed, model, batch).detach()) for batch in train]
    objective = CarriedSoftmax().prepare(NO_RUN)
    found = []
    for batch in train:
        found.append(float(_loss(objective, model, batch).detach()))
        model.eval()
        with torch.no_grad():
            sums = [float(objective.measure(model, b)["loss"][0]) for b in other]
        model.train()
    assert found == expected
    alone = CarriedSoftmax().prepare(NO_RUN)
    with torch.no_grad():
        assert sums == [float(alone.measure(model.eval(), b)["loss"][0]) for b in other]


def test_rows_that_begin_forget_and_others_do_not() -> None:
    torch.manual_seed(0)
    model = _network(13, "lstm", 8, 1, 6).double().eval()
    first, second = _windows(torch.randint(13, (3, 11)), 5)
    objective = CarriedSoftmax().prepare(NO_RUN)
    _loss(objective, model, first)
    begins = torch.tensor([False, True, False])
    found = objective._before(False, {**second, "begins": begins})
    assert not bool(found[0][0][1].any()) and not bool(found[0][1][1].any())
    for row in (0, 2):
        assert torch.equal(found[0][1][row], objective._states[False][0][1][row])


def test_the_state_goes_through_a_checkpoint() -> None:
    torch.manual_seed(0)
    model = _network(13, "lstm", 8, 2, 6)
    first, second = _windows(torch.randint(13, (3, 11)), 5)
    objective = CarriedSoftmax().prepare(NO_RUN)
    assert objective.state_dict()["states"] is None
    _loss(objective, model, first)
    state = copy.deepcopy(objective.state_dict())
    expected = _loss(objective, model, second)
    resumed = CarriedSoftmax().prepare(NO_RUN)
    resumed.load_state_dict(state)
    assert torch.equal(_loss(resumed, model, second), expected)


def test_batches_out_of_order_are_refused() -> None:
    model = _network(13, "rnn", 8, 1, 6)
    first, second = _windows(torch.randint(13, (3, 11)), 5)
    objective = CarriedSoftmax().prepare(NO_RUN)
    with pytest.raises(ValueError, match="3 rows goes on .* none are held"):
        _loss(objective, model, second)
    _loss(objective, model, {k: v[:2] for k, v in first.items()})
    with pytest.raises(ValueError, match="of which 2 are held"):
        _loss(objective, model, second)


def test_what_is_ignored_does_not_count() -> None:
    model = _network(13, "rnn", 8, 1, 6)
    with torch.no_grad():
        model.head.weight.zero_()
    targets = torch.tensor([[1, 2, -100], [3, -100, -100]])
    (move,) = _fresh().losses(model, {"tokens": torch.zeros(2, 3).long(), "targets": targets})
    assert float(move.weight) == 3
    assert float(move.loss.detach()) == pytest.approx(3 * math.log(13))
