"""nnlm and lbl against their papers' formulas written with loops; causality; word trees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fourfold.models.log_bilinear import LogBilinear
from fourfold.models.nnlm import NeuralLanguageModel
from fourfold.models.output import FullOutput, TreeOutput
from fourfold.models.word_tree import clustered, grow, halved, top_levels
from fourfold.objectives.words import huffman

CLOSE = {"rtol": 1e-10, "atol": 1e-12}
size = st.integers(1, 5)


def nnlm(words: int, width: int, hidden: int, context: int, *, direct: bool) -> NeuralLanguageModel:
    columns = NeuralLanguageModel.features(width, hidden, context, direct=direct)
    model = NeuralLanguageModel(
        words, FullOutput(words, columns), width, hidden, context, direct=direct
    )
    return scattered(model)


def lbl(words: int, width: int, context: int, *, diagonal: bool, tree: bool) -> LogBilinear:
    vectors = nn.Embedding(words, width)
    head = (
        TreeOutput(words, width, grow(torch.randperm(words).numpy(), halved))
        if tree
        else FullOutput(words, width, rows=vectors)
    )
    return scattered(LogBilinear(vectors, head, context, diagonal=diagonal))


def scattered(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model.double().eval()


def every_model(words: int, width: int, context: int) -> list[nn.Module]:
    return [
        *(nnlm(words, width, 4, context, direct=d) for d in (False, True)),
        *(lbl(words, width, context, diagonal=d, tree=t) for d in (False, True) for t in (False, True)),
    ]  # fmt: skip


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 9), size, size, st.integers(1, 4), st.booleans(), st.integers(0, 99))
def test_nnlm_is_the_papers_formula(
    words: int, width: int, hidden: int, context: int, direct: bool, seed: int
) -> None:
    """y = b + W x + U tanh(d + H x), x = (C(w_t-1), ..., C(w_t-n+1)): Bengio et al. 2003, formula 1."""
    torch.manual_seed(seed)
    model = nnlm(words, width, hidden, context, direct=direct)
    tokens = torch.randint(words, (2, context + 2))
    found = model(tokens)
    assert found.shape == (2, 3, words)
    table, big_h, d = model.embedding.weight, model.hidden.weight, model.hidden.bias
    rows, b = model.head.weight, model.head.bias
    u, w = rows[:, :hidden], rows[:, hidden:]
    for row in range(2):
        for t in range(3):
            x = torch.cat([table[tokens[row, t + i]] for i in range(context)])
            y = b + u @ torch.tanh(d + big_h @ x)
            if direct:
                y = y + w @ x
            torch.testing.assert_close(found[row, t], torch.log_softmax(y, 0), **CLOSE)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 9), size, st.integers(1, 4), st.booleans(), st.integers(0, 99))
def test_lbl_is_the_papers_formula(
    words: int, width: int, context: int, diagonal: bool, seed: int
) -> None:
    """P(w) ~ exp(r_hat . r_w + b_w), r_hat = sum_i C_i r_(w_i): Mnih and Hinton 2007."""
    torch.manual_seed(seed)
    model = lbl(words, width, context, diagonal=diagonal, tree=False)
    assert model.head.weight is model.embedding.weight
    tokens = torch.randint(words, (2, context + 2))
    found, vectors = model(tokens), model.embedding.weight
    for row in range(2):
        for t in range(3):
            predicted = torch.zeros(width, dtype=torch.float64)
            for i in range(context):
                r = vectors[tokens[row, t + i]]
                place = model.places[i]
                for out in range(width):
                    if diagonal:
                        predicted[out] += place[out] * r[out]
                    else:
                        predicted[out] += sum(r[k] * place[k, out] for k in range(width))
            scores = torch.stack(
                [predicted @ vectors[w] + model.head.bias[w] for w in range(words)]
            )
            torch.testing.assert_close(found[row, t], torch.log_softmax(scores, 0), **CLOSE)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 12), size, st.integers(1, 4), st.integers(0, 99))
def test_probabilities_sum_to_one(words: int, width: int, context: int, seed: int) -> None:
    torch.manual_seed(seed)
    for model in every_model(words, width, context):
        found = model(torch.randint(words, (3, context + 1)))
        ones = torch.ones(3, 2, dtype=torch.float64)
        torch.testing.assert_close(found.exp().sum(-1), ones, **CLOSE)


def test_sees_its_context_and_nothing_else() -> None:
    torch.manual_seed(0)
    context = 3
    for model in every_model(11, 4, context):
        tokens = torch.randint(11, (2, 9))
        before = model(tokens)
        for place in range(9):
            changed = tokens.clone()
            changed[:, place] = (changed[:, place] + 1) % 11
            moved = (model(changed) - before).abs().amax((0, 2)) > 1e-9
            # the state at t has read tokens t to t + context - 1
            assert moved.tolist() == [t <= place < t + context for t in range(7)]


def test_refuses_less_than_a_context() -> None:
    for model in every_model(5, 3, 4):
        with pytest.raises(ValueError, match="C = 4 words of context"):
            model(torch.zeros(2, 3, dtype=torch.int64))


# --- trees ----------------------------------------------------------------------------------------------


def leaves(paths: tuple[np.ndarray, np.ndarray, np.ndarray]) -> set[tuple[tuple[int, int], ...]]:
    begins, nodes, labels = paths
    return {
        tuple(zip(nodes[a:b].tolist(), labels[a:b].astype(int).tolist(), strict=True))
        for a, b in zip(begins[:-1], begins[1:], strict=True)
    }


def check_tree(paths: tuple[np.ndarray, np.ndarray, np.ndarray], words: int) -> None:
    """Every node has two sides, and every word a leaf of its own."""
    found = leaves(paths)
    assert len(found) == words and len(paths[0]) == words + 1
    turns: dict[int, set[int]] = {}
    parents: dict[int, set[tuple[int, int]]] = {}
    for path in found:
        for node, turn in path:
            turns.setdefault(node, set()).add(turn)
        for above, (below, _) in zip(path, path[1:], strict=False):
            parents.setdefault(below, set()).add(above)
    if words > 1:
        assert sorted(turns) == list(range(words - 1))
        assert all(sides == {0, 1} for sides in turns.values())
        assert all(len(above) == 1 for above in parents.values())


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 60), st.integers(1, 4), st.sampled_from(["adaptive", "balanced"]), st.integers(0, 99))  # fmt: skip
def test_trees_have_every_word_once(words: int, width: int, how: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(words, width)).round(random.integers(0, 3))  # ties too
    paths = clustered(vectors, how)  # type: ignore[arg-type]
    check_tree(paths, words)
    check_tree(grow(random.permutation(words), halved), words)
    lengths = np.diff(grow(random.permutation(words), halved)[0])
    assert lengths.max() - lengths.min() <= 1
    if how == "balanced":
        assert np.diff(paths[0]).max() - np.diff(paths[0]).min() <= 1


def test_clusters_are_found() -> None:
    """Four far apart clouds of unequal size are what the second level of an adaptive tree separates."""
    random = np.random.default_rng(0)
    kinds = np.repeat([0, 1, 2, 3], [40, 60, 80, 20])
    centres = np.array([[0, 0], [0, 30], [300, 0], [300, 30]])
    vectors = centres[kinds] + random.normal(size=(200, 2))
    top = top_levels(clustered(vectors, "adaptive"), 2)
    assert sorted(len(set(kinds[top[turns]])) for turns in ("00", "01", "10", "11")) == [1, 1, 1, 1]
    assert sorted(len(top[turns]) for turns in ("00", "01", "10", "11")) == [20, 40, 60, 80]


def test_a_tree_comes_back_from_a_layer_and_from_a_file() -> None:
    counts = np.array([5, 1, 1, 9, 2])
    layer = TreeOutput(5, 3, huffman(counts), counts)
    for mine, given_ in zip(layer.paths(), huffman(counts), strict=True):
        np.testing.assert_array_equal(mine, given_)
    again = TreeOutput(5, 3, grow(np.arange(5), halved))
    assert again.nodes.shape != layer.nodes.shape
    again.load_state_dict(layer.state_dict())
    hidden = torch.randn(2, 3)
    torch.testing.assert_close(again.log_probabilities(hidden), layer.log_probabilities(hidden))
    assert layer.lengths.tolist() == np.diff(huffman(counts)[0]).tolist()


def test_a_new_tree_begins_at_the_words_frequencies() -> None:
    counts = np.array([5, 1, 0, 9, 2, 30])
    layer = TreeOutput(6, 3, grow(np.arange(6), halved), counts)
    with torch.no_grad():
        layer.weight.normal_()
    layer.plant(huffman(counts), counts)
    shares = torch.from_numpy((counts + 1) / (counts + 1).sum()).float()
    found: Tensor = layer.log_probabilities(torch.randn(1, 3)).exp()[0]
    torch.testing.assert_close(found, shares)
    assert int(layer.planted) == 2
