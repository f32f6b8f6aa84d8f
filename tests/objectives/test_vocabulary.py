"""Objectives and output layers over large vocabularies, against plain formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fourfold.core.errors import UserError
from fourfold.models.output import AdaptiveOutput, FullOutput, TreeOutput, cheapest_cutoffs
from fourfold.objectives.vocabulary import (
    Adaptive,
    Contrast,
    Hierarchical,
    NextWord,
    Sampled,
    Softmax,
    contrast_total,
    sampled_total,
)
from fourfold.objectives.words import huffman
from fourfold.tasks.vocabulary import output_layer

CLOSE = {"rtol": 1e-10, "atol": 1e-12}
KINDS: list[NextWord] = [Softmax(), Sampled(samples=6), Adaptive(), Hierarchical(), Contrast()]


class Body(nn.Module):
    """States that are parameters, under an output layer."""

    def __init__(self, head: nn.Module, states: Tensor) -> None:
        super().__init__()
        self.head, self.hidden = head, nn.Parameter(states)

    def states(self, tokens: Tensor) -> Tensor:
        return self.hidden


def made(objective: NextWord, words: int, width: int, seed: int) -> tuple[nn.Module, np.ndarray]:
    """A layer in float64 with random weights, and counts."""
    torch.manual_seed(seed)
    counts = np.random.default_rng(seed).integers(0, 50, words)
    layer = output_layer(objective, counts, width).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer, counts


def knowing(objective: NextWord, counts: np.ndarray) -> NextWord:
    fresh = objective.model_copy()
    if isinstance(fresh, Sampled | Contrast):
        fresh.know(counts)
    return fresh


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(KINDS), st.integers(1, 40), st.integers(1, 9), st.integers(0, 999))
def test_probabilities_sum_to_one_and_agree(
    objective: NextWord, words: int, width: int, seed: int
) -> None:
    layer, _ = made(objective, words, width, seed)
    hidden = torch.randn(7, width, dtype=torch.float64)
    every = layer.log_probabilities(hidden)
    assert every.shape == (7, words)
    torch.testing.assert_close(every.exp().sum(-1), torch.ones(7, dtype=torch.float64), **CLOSE)
    targets = torch.randint(words, (7,))
    each = layer.negative_log(hidden, targets)
    torch.testing.assert_close(each, -every.gather(1, targets[:, None])[:, 0], **CLOSE)


@pytest.mark.parametrize("objective", KINDS, ids=lambda o: o.kind)
def test_begins_at_the_words_frequencies(objective: NextWord) -> None:
    counts = np.array([0, 7, 90, 3, 1, 1, 25])
    layer = output_layer(objective, counts, 4)
    found = layer.log_probabilities(torch.randn(2, 4)).exp()
    shares = torch.tensor((counts + 1) / (counts + 1).sum()).float().expand(2, -1)
    torch.testing.assert_close(found, shares, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("objective", KINDS, ids=lambda o: o.kind)
def test_measures_exactly_and_skips_what_does_not_count(objective: NextWord) -> None:
    layer, counts = made(objective, 12, 5, 3)
    body = Body(layer, torch.randn(3, 4, 5, dtype=torch.float64))
    targets = torch.randint(12, (3, 4))
    targets[1, 2:] = -100
    batch = {"tokens": torch.zeros(3, 4, dtype=torch.int64), "targets": targets}
    total, weight = knowing(objective, counts).measure(body, batch)["loss"]
    every = layer.log_probabilities(body.hidden.flatten(0, 1))
    oracle = F.nll_loss(every, targets.flatten(), ignore_index=-100, reduction="sum")
    assert weight == 10
    torch.testing.assert_close(total, oracle, **CLOSE)
    move = next(knowing(objective, counts).losses(body, batch))
    assert float(move.weight) == 10
    move.loss.backward()
    assert float(body.hidden.grad[1, 2:].abs().sum()) == 0 < float(body.hidden.grad[0].abs().sum())


@pytest.mark.parametrize("objective", KINDS, ids=lambda o: o.kind)
def test_nothing_counts(objective: NextWord) -> None:
    layer, counts = made(objective, 12, 5, 3)
    body = Body(layer, torch.randn(1, 4, 5, dtype=torch.float64))
    batch = {"tokens": torch.zeros(1, 4, dtype=torch.int64), "targets": torch.full((1, 4), -100)}
    move = next(knowing(objective, counts).losses(body, batch))
    assert float(move.weight) == 0 and move.loss.item() == 0
    move.loss.backward()


def gradients(total: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    found = torch.autograd.grad(total, inputs, allow_unused=True)
    return tuple(g if g is not None else torch.zeros_like(i) for g, i in zip(found, inputs, strict=True))  # fmt: skip


def same(ours: Tensor, plain: Tensor, *inputs: Tensor) -> None:
    """Equal values and gradients."""
    torch.testing.assert_close(ours, plain, **CLOSE)
    for mine, true in zip(gradients(ours, *inputs), gradients(plain, *inputs), strict=True):
        torch.testing.assert_close(mine, true, **CLOSE)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 12), st.integers(1, 5), st.integers(1, 9), st.integers(0, 999))
def test_noise_contrastive_estimation(words: int, width: int, k: int, seed: int) -> None:
    """J = sum log h(w) + sum_j log(1 - h(w_j)), h(w) = p(w) / (p(w) + k q(w)): Gutmann and Hyvarinen 2010."""
    layer, counts = made(Contrast(), words, width, seed)
    hidden = torch.randn(4, width, dtype=torch.float64, requires_grad=True)
    targets, drawn = torch.randint(words, (4,)), torch.randint(words, (k,))
    noise = torch.softmax(torch.randn(words, dtype=torch.float64), 0)
    ours = contrast_total(layer, hidden, targets, drawn, noise)
    plain = torch.zeros((), dtype=torch.float64)
    for n in range(4):
        for word, label in [(int(targets[n]), 1), *((int(w), 0) for w in drawn)]:
            p = torch.exp(layer.weight[word] @ hidden[n] + layer.bias[word])
            rest = (
                k * noise[word]
            )  # 1 - h = rest / (p + rest), written so that it does not cancel where h is near 1
            plain = plain - torch.log((p if label else rest) / (p + rest))
    same(ours, plain, hidden, layer.weight, layer.bias)


def test_contrast_tends_to_the_likelihood() -> None:
    """The expected gradient, over data and draws, tends to that of the likelihood as k grows: at k = 10^6 within 1%."""
    words, width = 6, 3
    layer, counts = made(Contrast(), words, width, 5)
    with torch.no_grad():
        layer.weight.mul_(0.3)
        layer.bias.sub_(2)
    hidden = torch.randn(1, width, dtype=torch.float64)
    truth = torch.softmax(torch.randn(words, dtype=torch.float64), 0)
    noise = torch.full((words,), 1 / words, dtype=torch.float64)
    # scores whose normalizing constant is one, as the estimate supposes
    with torch.no_grad():
        layer.bias -= torch.logsumexp(layer(hidden), -1)
    exact = -(truth * layer.log_probabilities(hidden)[0]).sum()
    wanted = gradients(exact, layer.weight)[0]
    apart = []
    for k in (10, 1000, 1_000_000):
        # every word as often as it is drawn on average: the mean over draws, without noise of its own
        drawn = torch.arange(words).repeat_interleave(max(1, k // words))
        total = torch.zeros((), dtype=torch.float64)
        for word in range(words):
            one = contrast_total(layer, hidden, torch.tensor([word]), drawn, noise)
            total = total + truth[word] * one
        found = gradients(total, layer.weight)[0]
        apart.append(float((found - wanted).norm() / wanted.norm()))
    assert apart[0] > apart[1] > apart[2] and apart[2] < 0.01


def test_contrast_draws_from_the_noise() -> None:
    objective = knowing(Contrast(power=0.5), np.array([0, 8, 24, 99]))
    drawn = objective.draw(200_000, torch.device("cpu"))
    found = torch.bincount(drawn, minlength=4) / len(drawn)
    noise = torch.tensor([1.0, 3.0, 5.0, 10.0]) / 19
    torch.testing.assert_close(found, noise, rtol=0, atol=0.005)  # 4 standard errors


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 12), st.integers(1, 5), st.integers(1, 12), st.integers(0, 999))
def test_sampled_softmax(words: int, width: int, k: int, seed: int) -> None:
    """-log of exp(s_t - log Q_t) over the sum of exp(s_j - log Q_j): Jean et al. 2015."""
    layer, _ = made(Sampled(), words, width, seed)
    hidden = torch.randn(4, width, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(words, (4,))
    drawn = torch.randperm(words)[: min(k, words)]
    chance = -torch.rand(words, dtype=torch.float64)
    ours = sampled_total(layer, hidden, targets, drawn, chance)
    plain = torch.zeros((), dtype=torch.float64)
    for n in range(4):
        among = {int(targets[n]), *drawn.tolist()}
        scores = {w: layer.weight[w] @ hidden[n] + layer.bias[w] - chance[w] for w in sorted(among)}
        plain = plain + torch.logsumexp(torch.stack(list(scores.values())), 0)
        plain = plain - scores[int(targets[n])]
    same(ours, plain, hidden, layer.weight, layer.bias)


def test_all_words_sampled_is_the_full_softmax() -> None:
    layer, counts = made(Sampled(), 20, 4, 0)
    hidden = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(20, (9,))
    ours = knowing(Sampled(samples=20), counts).total(layer, hidden, targets)
    full = F.cross_entropy(layer(hidden), targets, reduction="sum")
    same(ours, full, hidden, layer.weight, layer.bias)


def test_sampled_corrects_by_the_chance_of_being_drawn() -> None:
    objective = knowing(Sampled(samples=3), np.array([0, 8, 24, 99]))
    generator = [objective.draw(3, torch.device("cpu")).unique() for _ in range(20_000)]
    found = torch.bincount(torch.cat(generator), minlength=4) / len(generator)
    chance = 1 - (1 - objective._noise) ** 3
    torch.testing.assert_close(found.double(), chance, rtol=0, atol=0.015)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 30), st.integers(1, 5), st.integers(0, 999))
def test_hierarchical_softmax(words: int, width: int, seed: int) -> None:
    """The product of sigmoids on the Huffman path, written word by word."""
    layer, counts = made(Hierarchical(), words, width, seed)
    begins, nodes, labels = huffman(counts)
    hidden = torch.randn(4, width, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(words, (4,))
    ours = Hierarchical().total(layer, hidden, targets)
    plain = torch.zeros((), dtype=torch.float64)
    for n, word in enumerate(targets.tolist()):
        for place in range(begins[word], begins[word + 1]):
            score = layer.weight[nodes[place]] @ hidden[n] + layer.bias[nodes[place]]
            right = torch.sigmoid(score)
            plain = plain - torch.log(right if labels[place] else 1 - right)
    same(ours, plain, hidden, layer.weight, layer.bias)


@settings(deadline=None, max_examples=30)
@given(st.integers(8, 40), st.integers(1, 20), st.integers(0, 999))
def test_adaptive_softmax_equals_torch(words: int, width: int, seed: int) -> None:
    torch.manual_seed(seed)
    cutoffs = sorted(np.random.default_rng(seed).choice(np.arange(1, words), 2, replace=False))
    cutoffs = [int(c) for c in cutoffs]
    counts = np.random.default_rng(seed).integers(0, 99, words)
    order = np.argsort(-counts, kind="stable")
    layer = AdaptiveOutput(words, width, counts, cutoffs).double()
    # torch shrinks to width // div^(i + 1), which must not be zero
    torch_width = max(16, width)
    if width < 16:
        layer = AdaptiveOutput(words, torch_width, counts, cutoffs).double()
    oracle = nn.AdaptiveLogSoftmaxWithLoss(torch_width, words, cutoffs, 4.0, head_bias=True).double()  # fmt: skip
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
        oracle.head.weight.copy_(layer.frequent.weight)
        oracle.head.bias.copy_(layer.frequent.bias)
        for ours, theirs in zip(layer.rare, oracle.tail, strict=True):
            ours[1].bias.zero_()  # torch's clusters have none
            theirs[0].weight.copy_(ours[0].weight)
            theirs[1].weight.copy_(ours[1].weight)
    hidden = torch.randn(9, torch_width, dtype=torch.float64, requires_grad=True)
    ranks = torch.randint(words, (9,))
    targets = torch.from_numpy(order)[ranks]
    total = Adaptive().total(layer, hidden, targets)
    loss = oracle(hidden, ranks).loss * 9
    torch.testing.assert_close(total, loss, **CLOSE)
    torch.testing.assert_close(gradients(total, hidden)[0], gradients(loss, hidden)[0], **CLOSE)
    mine = gradients(Adaptive().total(layer, hidden, targets), *layer.rare[1].parameters())
    true = gradients(oracle(hidden, ranks).loss * 9, *oracle.tail[1].parameters())
    for a, b in zip((mine[0], mine[1]), true, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)
    torch.testing.assert_close(
        layer.log_probabilities(hidden)[:, torch.from_numpy(order)], oracle.log_prob(hidden), **CLOSE
    )  # fmt: skip


def test_cheapest_cutoffs_are_the_cheapest() -> None:
    counts = np.sort((1e5 / np.arange(1, 301)).astype(int))[::-1]
    width, total = 64, counts.sum() + len(counts)
    places = np.unique(np.geomspace(1, 299, 60).astype(int))

    def cost(first: int, second: int) -> float:
        inside = [(counts[a:b] + 1).sum() / total for a, b in ((first, second), (second, 300))]
        clusters = inside[0] * 16 * (64 + second - first) + inside[1] * 4 * (64 + 300 - second)
        return float(width * (first + 2) + clusters)

    costs = {(a, b): cost(a, b) for a in places for b in places if a < b}
    assert tuple(cheapest_cutoffs(counts, width)) == min(costs, key=lambda k: costs[k])


def test_every_layer_learns_a_known_entropy() -> None:
    """Independent words with known shares: every objective comes to the entropy, and none below it."""
    shares = np.array([0.4, 0.25, 0.15, 0.1, 0.05, 0.03, 0.02])
    entropy = float(-(shares * np.log(shares)).sum())
    generator = np.random.default_rng(0)
    for objective in KINDS:
        torch.manual_seed(0)
        words = torch.from_numpy(generator.choice(7, (400, 64), p=shares))
        layer = output_layer(objective, np.ones(7), 4)
        learned = knowing(objective, np.ones(7))
        body = Body(layer, torch.ones(1, 64, 4))
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.03)
        for row in words:
            move = next(learned.losses(body, {"tokens": row[None], "targets": row[None]}))
            optimizer.zero_grad()
            (move.loss / move.weight).backward()
            optimizer.step()
        found = layer.log_probabilities(torch.ones(1, 4))[0].detach().double().exp()
        divergence = float((torch.tensor(shares) * (torch.tensor(shares) / found).log()).sum())
        assert 0 <= divergence < 0.02 * entropy, f"{objective}: {divergence}"


def test_refuses() -> None:
    with pytest.raises(UserError, match="cutoffs 5, 3: expected rising numbers below"):
        output_layer(Adaptive(cutoffs=(5, 3)), np.ones(9), 4)
    with pytest.raises(UserError, match="hierarchical: has no output row for each word"):
        output_layer(Hierarchical(), np.ones(9), 4, nn.Embedding(9, 4))
    with pytest.raises(ValueError, match="cutoffs that rise"):
        AdaptiveOutput(9, 4, cutoffs=[3, 9])
    with pytest.raises(ValueError, match="paths of 9 words, got 5"):
        TreeOutput(9, 4, huffman(np.ones(5)))


def test_tied_rows_are_one_parameter() -> None:
    vectors = nn.Embedding(9, 4)
    layer = output_layer(Softmax(), np.ones(9), 4, vectors)
    assert isinstance(layer, FullOutput) and layer.weight is vectors.weight


def test_shapes_that_differ_are_refused() -> None:
    body = Body(FullOutput(5, 3), torch.randn(2, 4, 3))
    batch = {"tokens": torch.zeros(2, 4, dtype=torch.int64), "targets": torch.zeros(2, 3).long()}
    with pytest.raises(ValueError, match="expects states"):
        next(Softmax().losses(body, batch))


def test_memory_of_an_evaluation_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces or whole, the same."""
    from fourfold.models import output

    for objective in KINDS:
        layer, _ = made(objective, 30, 6, 1)
        hidden, targets = torch.randn(50, 6, dtype=torch.float64), torch.randint(30, (50,))
        whole = layer.negative_log(hidden, targets)
        monkeypatch.setattr(output, "BLOCK", 100)
        torch.testing.assert_close(layer.negative_log(hidden, targets), whole, **CLOSE)
        monkeypatch.undo()
