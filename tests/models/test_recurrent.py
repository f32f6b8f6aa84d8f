"""Recurrent layers against torch's, in float64; and what a language model on them must keep."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fourfold.models.output import FullOutput
from fourfold.models.recurrent import CELLS, LSTM, Cell, Recurrent, RecurrentLM

size = st.integers(1, 5)


def _network(
    words: int,
    cell: Cell,
    width: int,
    layers: int,
    vectors: int,
    *,
    tied: bool = False,
    **options: float,
) -> RecurrentLM:
    embedding = nn.Embedding(words, vectors)
    widths = [width] * (layers - 1) + [vectors if tied else width]
    head = FullOutput(words, widths[-1], rows=embedding if tied else None)
    return RecurrentLM(cell, embedding, widths, head, **options)


cells = st.sampled_from(sorted(CELLS))
ORACLES = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


def _oracle(cell: Cell, ours: Recurrent) -> nn.RNNBase:
    found = ORACLES[cell](ours.input_size, ours.hidden_size, batch_first=True).double()
    for side, layer in (("ih", ours.from_input), ("hh", ours.from_hidden)):
        getattr(found, f"weight_{side}_l0").data = layer.weight.data
        getattr(found, f"bias_{side}_l0").data = layer.bias.data
    return found


def _gradients(found: Tensor, of: list[Tensor]) -> list[Tensor]:
    weights = torch.linspace(0.5, 1.5, found.numel(), dtype=found.dtype).view(found.shape)
    return list(torch.autograd.grad((found * weights).sum(), of))


@settings(deadline=None, max_examples=30)
@given(cells, size, size, size, size, st.booleans())
def test_layers_equal_torch(
    cell: Cell, batch: int, time: int, inputs: int, hidden: int, begun: bool
) -> None:
    torch.manual_seed(0)
    ours = CELLS[cell](inputs, hidden).double()
    oracle = _oracle(cell, ours)
    x = torch.randn(batch, time, inputs, dtype=torch.float64, requires_grad=True)
    state = tuple(torch.randn(batch, hidden, dtype=torch.float64) for _ in range(ours.states))
    given_state = [s[None] for s in state]
    args = (x, given_state[0] if cell != "lstm" else tuple(given_state)) if begun else (x,)
    expected, after = oracle(*args)
    after = after if cell == "lstm" else (after,)
    wanted = _gradients(expected, [x, *oracle.parameters()])
    for path in (ours.plain, ours):
        found, last = path(x, state if begun else None)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        for mine, true in zip(last, after, strict=True):
            torch.testing.assert_close(mine, true[0], rtol=1e-10, atol=1e-12)
        mine = [x, ours.from_input.weight, ours.from_hidden.weight]
        mine += [ours.from_input.bias, ours.from_hidden.bias]
        for one, other in zip(_gradients(found, mine), wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@settings(deadline=None, max_examples=15)
@given(cells, size, size, size)
def test_a_step_equals_torchs_cell(cell: Cell, batch: int, inputs: int, hidden: int) -> None:
    torch.manual_seed(1)
    ours = CELLS[cell](inputs, hidden).double()
    kinds = {"rnn": nn.RNNCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell}
    oracle = kinds[cell](inputs, hidden).double()
    for side, layer in (("ih", ours.from_input), ("hh", ours.from_hidden)):
        getattr(oracle, f"weight_{side}").data = layer.weight.data
        getattr(oracle, f"bias_{side}").data = layer.bias.data
    x = torch.randn(batch, inputs, dtype=torch.float64)
    state = tuple(torch.randn(batch, hidden, dtype=torch.float64) for _ in range(ours.states))
    found = ours.cell(ours.from_input(x), ours.from_hidden(state[0]), state)
    expected = oracle(x, state if cell == "lstm" else state[0])
    for mine, true in zip(found, expected if cell == "lstm" else (expected,), strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("cell", sorted(CELLS))
@pytest.mark.parametrize("training", [True, False])
def test_float32_gradients_of_both_paths_agree(cell: Cell, training: bool) -> None:
    """float32 takes other kernels than float64 does; also where gradients are looked at in evaluation mode."""
    torch.manual_seed(0)
    layer, x = CELLS[cell](24, 32).train(training), torch.randn(4, 20, 24, requires_grad=True)
    state = tuple(0.5 * torch.randn(4, 32) for _ in range(layer.states))
    of = [x, *layer.parameters()]
    fast, plain = (_gradients(path(x, state)[0], of) for path in (layer, layer.plain))
    for mine, true in zip(fast, plain, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_bfloat16_products_stay_near_the_plain_ones(cell: Cell) -> None:
    torch.manual_seed(0)
    layer, x = CELLS[cell](48, 64), torch.randn(4, 20, 48)
    expected, _ = layer.plain(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = layer(x)
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.03)


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_the_future_is_not_read(cell: Cell) -> None:
    model = _network(11, cell, 8, 2, 6).eval()
    tokens = torch.randint(11, (2, 9))
    changed = tokens.clone()
    changed[:, 5:] = torch.randint(11, (2, 4))
    torch.testing.assert_close(model(changed)[0][:, :5], model(tokens)[0][:, :5])


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_carried_states_equal_one_long_sequence(cell: Cell) -> None:
    torch.manual_seed(0)
    model = _network(11, cell, 8, 2, 6).double().eval()
    tokens = torch.randint(11, (3, 70))
    whole, last = model(tokens)
    first, states = model(tokens[:, :35])
    second, after = model(tokens[:, 35:], states)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-10, atol=1e-12)
    for mine, true in zip(after, last, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-10, atol=1e-12)


def test_dropout_has_one_mask_through_time_and_keeps_the_expectation() -> None:
    torch.manual_seed(0)
    model = _network(7, "lstm", 8, 1, 400, dropout=0.25)
    x = torch.ones(50, 12, 400)
    masked = model._masked(x)
    assert torch.equal(masked, masked[:, :1].expand_as(masked))  # the same at every step
    assert not torch.equal(masked[0], masked[1])  # each row its own
    assert masked.unique().tolist() == pytest.approx([0.0, 1 / 0.75], rel=1e-4)
    assert float(masked.mean()) == pytest.approx(1.0, abs=0.02)
    again = model._masked(x)
    assert not torch.equal(again, masked)
    assert torch.equal(model.eval()._masked(x), x)


def test_weight_dropout_is_on_hidden_to_hidden_only() -> None:
    """Linear without a hidden part: with hidden weights gone only these can change what comes out."""
    torch.manual_seed(0)
    layer, x = LSTM(5, 6, weight_dropout=0.5), torch.randn(3, 1, 5)
    assert torch.equal(layer(x)[0], layer(x)[0])  # from zeros the hidden weights do not count
    state = layer(x)[1]
    outputs = [layer(x, state)[0] for _ in range(8)]
    assert any(not torch.equal(outputs[0], other) for other in outputs[1:])
    with torch.no_grad():
        layer.from_hidden.weight.zero_()
    assert torch.equal(layer(x, state)[0], layer(x, state)[0])
    layer.eval()
    assert torch.equal(layer(x, state)[0], layer(x, state)[0])


def test_weight_dropout_leaves_the_share_out_and_scales_the_rest() -> None:
    torch.manual_seed(0)
    layer = LSTM(4, 64, weight_dropout=0.5)
    weight = layer.from_hidden.weight
    dropped = layer.weight_dropout(weight)
    assert float((dropped == 0).float().mean()) == pytest.approx(0.5, abs=0.02)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], 2 * weight[kept])


def test_both_paths_drop_the_same_weights() -> None:
    torch.manual_seed(0)
    layer, x = LSTM(5, 6, weight_dropout=0.5).double(), torch.randn(3, 7, 5, dtype=torch.float64)
    torch.manual_seed(3)
    fast = layer(x)[0]
    torch.manual_seed(3)
    torch.testing.assert_close(fast, layer.plain(x)[0], rtol=1e-10, atol=1e-12)


def test_tied_weights_are_one_tensor() -> None:
    model = _network(11, "gru", 8, 2, 6, tied=True)
    assert model.head.weight is model.embedding.weight
    assert [layer.hidden_size for layer in model.layers] == [8, 6]
    names = [name for name, _ in model.named_parameters()]
    assert "head.weight" not in names and "embedding.weight" in names
    hidden, _ = model(torch.randint(11, (2, 5)))
    model.head(hidden).sum().backward()
    assert model.embedding.weight.grad is not None
    untied = _network(11, "gru", 8, 2, 6)
    assert untied.head.weight.shape == (11, 8)


def test_the_forget_gate_begins_open() -> None:
    layer = LSTM(3, 4)
    both = (layer.from_input.bias + layer.from_hidden.bias).detach()
    assert both[4:8].tolist() == [1.0] * 4 and not bool((both[:4] == 1).any())


def test_wrong_shapes_are_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"GRU expects x of shape \(B, T, 3\) .* got \(2, 3\)"):
        CELLS["gru"](3, 4)(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="T >= 1"):
        CELLS["rnn"](3, 4)(torch.zeros(2, 0, 3))
