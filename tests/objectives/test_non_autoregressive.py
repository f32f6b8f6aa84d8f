"""CTC against enumeration and torch's; the labels' log-probabilities; what is told while learning, and what counts."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fourfold.models.non_autoregressive import NonAutoregressive
from fourfold.objectives.alignment import best_path, ctc, needed
from fourfold.objectives.non_autoregressive import (
    AllAtOnce,
    _glance,
    _masked,
    label_log_probabilities,
    prepared,
)

END = 0


def merged(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(key for key, _ in itertools.groupby(path) if key != END)


def case(slots: int, entries: int, target: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of all entries, (1, N, V), the target and its emissions."""
    torch.manual_seed(slots * 31 + len(target))
    logits = torch.randn(1, slots, entries, dtype=torch.float64).log_softmax(-1)
    tokens = torch.tensor([target], dtype=torch.int64).view(1, -1)
    columns = F.pad(tokens, (1, 0), value=END)
    return logits, tokens, logits.gather(2, columns[:, None].expand(-1, slots, -1))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.lists(st.integers(1, 2), max_size=4))
def test_ctc_is_the_sum_over_all_paths(slots: int, target: list[int]) -> None:
    logits, tokens, emissions = case(slots, 3, target)
    lengths, count = torch.tensor([len(target)]), torch.tensor([slots])
    paths = [p for p in itertools.product(range(3), repeat=slots) if merged(p) == tuple(target)]
    scores = {p: sum(float(logits[0, n, t]) for n, t in enumerate(p)) for p in paths}
    found = float(ctc(emissions, tokens, count, lengths))
    assert bool(needed(tokens, lengths) <= slots) == bool(paths)
    if not paths:
        assert found > 1e29
        return
    assert found == pytest.approx(-math.log(sum(math.exp(s) for s in scores.values())), rel=1e-10)
    place = best_path(emissions, tokens, count, lengths)[0]
    best = tuple(F.pad(tokens, (1, 0), value=END)[0][place].tolist())
    assert merged(best) == tuple(target)
    assert scores[best] == pytest.approx(max(scores.values()), rel=1e-10)


def test_ctc_and_its_gradient_equal_torchs_with_padding() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 9, 6, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[1, 2, 2, 5], [3, 0, 0, 0], [4, 4, 1, 0], [0, 0, 0, 0]])
    lengths, slots = torch.tensor([4, 1, 3, 0]), torch.tensor([9, 3, 7, 2])
    logs = logits.log_softmax(-1)
    columns = F.pad(targets, (1, 0), value=END)
    ours = ctc(logs.gather(2, columns[:, None].expand(-1, 9, -1)), targets, slots, lengths)
    theirs = F.ctc_loss(logs.transpose(0, 1), targets, slots, lengths, blank=END, reduction="none")
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    mine, oracle = (
        torch.autograd.grad(x.sum(), logits, retain_graph=True)[0] for x in (ours, theirs)
    )
    torch.testing.assert_close(mine, oracle, rtol=1e-8, atol=1e-10)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 9), st.integers(1, 6))
def test_label_log_probabilities_equal_the_plain_ones(rows: int, labels: int) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(rows, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    chosen = torch.randint(5, (rows, labels))  # a label may come twice
    plain = (hidden @ weight.T).log_softmax(-1).gather(1, chosen)
    ours = label_log_probabilities(hidden, weight, chosen)
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-12)
    into = torch.randn_like(plain)
    for mine, true in zip(
        torch.autograd.grad(ours, [hidden, weight], into),
        torch.autograd.grad(plain, [hidden, weight], into),
        strict=True,
    ):
        torch.testing.assert_close(mine, true, rtol=1e-9, atol=1e-11)


def model(length: Any, **more: Any) -> NonAutoregressive:
    torch.manual_seed(0)
    return NonAutoregressive(
        9, 9, 8, (1, 1), 2, 12, window=40, shared=True, length=length, begin=END, end=END, **more
    ).double()


def batch() -> dict[str, Tensor]:
    source = torch.tensor([[3, 4, 5, 0], [6, 0, 0, 0], [1, 2, 0, 0]])
    targets = torch.tensor([[5, 4, 3, 0], [7, 7, 0, -100], [2, 0, -100, -100]])
    return {
        "source": source, "source_lengths": torch.tensor([4, 2, 3]), "targets": targets,
        "tokens": targets.clamp(min=0),
    }  # fmt: skip


@pytest.mark.parametrize("length", ["predicted", "ctc", "overlong"])
def test_what_counts_are_the_targets_tokens(length: Any) -> None:
    found = AllAtOnce().measure(model(length).eval(), batch())
    assert float(found["loss"][1]) == 6 + 3 * (length == "overlong")
    assert ("length" in found) == (length == "predicted")
    told = prepared(model(length), batch())
    assert told.lengths.tolist() == [3, 2, 1]
    assert told.slots.tolist() == {"predicted": [3, 2, 1]}.get(length, [12, 8, 10])


def test_a_predicted_length_and_its_words_are_cross_entropies() -> None:
    network, given = model("predicted").eval().requires_grad_(False), batch()
    found = AllAtOnce().measure(network, given)
    memory, keep = network.encode(given["source"], given["source_lengths"])
    longer, sizes = [-1, 0, -2], [3, 2, 1]  # than the sources; the end token is no part of a target
    nats = 0.0
    for row, (size, difference) in enumerate(zip([4, 2, 3], longer, strict=True)):
        logits = network.difference(memory[row, :size].mean(0)).log_softmax(-1)
        nats -= float(logits[len(logits) // 2 + difference])
    assert float(found["length"][0].sum()) == pytest.approx(nats, rel=1e-9)
    assert float(found["length"][1]) == 3
    hidden = network(given["source"], given["source_lengths"], memory, keep, torch.tensor(sizes))
    logs = network.head(hidden).log_softmax(-1)
    words = [-logs[row, n, given["targets"][row, n]] for row in range(3) for n in range(sizes[row])]
    assert float(found["loss"][0]) == pytest.approx(float(sum(words)), rel=1e-9)
    (move,) = AllAtOnce(smoothing=0.0, length_weight=0.25).losses(network, given)
    assert float(move.loss.detach()) == pytest.approx(float(sum(words)) + 0.25 * nats, rel=1e-9)
    assert float(move.logs["length"]) == pytest.approx(nats / 3, rel=1e-9)


@pytest.mark.parametrize("length", ["predicted", "ctc", "overlong"])
@pytest.mark.parametrize("reveal", ["none", "glancing", "masks"])
def test_each_row_is_learned_as_if_alone(length: Any, reveal: Any) -> None:
    if (length, reveal) == ("ctc", "masks"):
        with pytest.raises(ValueError, match="CTC"):
            list(AllAtOnce(reveal=reveal).losses(model(length), batch()))
        return
    network = model(length)
    (move,) = AllAtOnce(reveal=reveal, glance=0.0 if reveal == "glancing" else 0.5).losses(
        network, batch()
    )
    assert torch.isfinite(move.loss) and float(move.weight) > 0
    move.loss.backward()
    assert all(p.grad is not None for p in network.parameters())
    if reveal == "masks":
        return  # what is told is drawn for the whole batch
    alone = 0.0
    for row in range(3):
        one = {k: v[row : row + 1] for k, v in batch().items()}
        size = int(one["source_lengths"])
        kept = int((one["targets"] != -100).sum())
        one = {**one, "source": one["source"][:, :size], "targets": one["targets"][:, :kept]}
        (each,) = AllAtOnce(reveal=reveal, glance=0.0 if reveal == "glancing" else 0.5).losses(
            network, one
        )
        alone += float(each.loss.detach())
    assert float(move.loss.detach()) == pytest.approx(alone, rel=1e-9)


def test_a_target_for_which_there_is_no_room_does_not_count_and_is_said() -> None:
    long = batch()
    long["targets"] = torch.randint(1, 9, (3, 50))
    network = model("ctc", upsample=1.0)
    assert prepared(network, {**long, "targets": long["targets"][:, :20]}).slots.min() >= 20
    (move,) = AllAtOnce().losses(network, long)
    assert float(move.weight) == 0 and float(move.loss.detach()) == 0
    assert float(move.logs["left_out"]) == 1.0
    mixed = batch()
    mixed["targets"] = torch.full((3, 50), -100)
    mixed["targets"][:, :4] = batch()["targets"]
    mixed["targets"][1] = 5
    (move,) = AllAtOnce().losses(network, mixed)
    assert float(move.weight) == 4 and torch.isfinite(move.loss)
    assert float(move.logs["left_out"]) == pytest.approx(1 / 3)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=5), st.integers(0, 9))
def test_so_many_tokens_are_told(sizes: list[int], many: int) -> None:
    lengths = torch.tensor(sizes)
    counts = torch.arange(8) < lengths[:, None]
    wanted = torch.randint(1, 9, counts.shape)
    known = _glance(wanted, counts, torch.full((len(sizes),), many))
    assert ((known >= 0).sum(1) == lengths.clamp(max=many)).all()
    assert (known[known >= 0] == wanted[known >= 0]).all() and not (known >= 0)[~counts].any()
    left = (_masked(wanted, counts) < 0) & counts
    assert (left.sum(1) >= lengths.clamp(max=1)).all()


def test_what_is_told_is_not_learned() -> None:
    network, learn = model("predicted"), AllAtOnce(reveal="masks")
    counted = [float(next(learn.losses(network, batch())).weight) for _ in range(50)]
    assert min(counted) >= 3 and max(counted) <= 6 and len(set(counted)) > 1
