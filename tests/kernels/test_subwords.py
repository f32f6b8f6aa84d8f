"""Character n-grams: fastText's hash as gensim computes it, the kernel against its plain form and autograd."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fourfold.kernels import subwords, subwords_plain
from fourfold.kernels import word2vec as kernel
from fourfold.kernels.subwords import grams
from fourfold.models.subword_vectors import SubwordVectors
from fourfold.objectives.words import WordPrediction

NAMES = ["ab", "abc", "babel", "cab", "dab", "红楼", "梦", "naïve", "x", "cabab"]
WORDS, WIDTH, BUCKETS = len(NAMES), 7, 13
COUNTS = np.random.default_rng(5).integers(3, 90, WORDS)
KINDS = {
    "negative": kernel.SIGMOIDS, "sampled": kernel.SOFTMAX, "softmax": kernel.SOFTMAX,
    "contrast": kernel.CONTRAST, "hierarchical": kernel.PATH,
}  # fmt: skip


@pytest.mark.parametrize("shortest, longest", [(3, 6), (1, 2), (2, 4)])
def test_the_hash_is_fasttexts(shortest: int, longest: int) -> None:
    fasttext = pytest.importorskip("gensim.models.fasttext")
    words = ["where", "a", "红楼梦", "naïve", "Ünïcôdé", "한국어", "x" * 40]
    found = grams(words, shortest, longest, 2_000_000, own=False)
    for number, word in enumerate(words):
        ours = found.rows[found.begins[number] : found.begins[number + 1]].tolist()
        theirs = fasttext.ft_ngram_hashes(word, shortest, longest, 2_000_000)
        assert sorted(ours) == sorted(theirs)


def test_a_word_begins_with_its_own_row() -> None:
    found = grams(NAMES, 3, 6, BUCKETS)
    assert [found.rows[b] for b in found.begins[:-1]] == list(range(WORDS))
    assert found.rows.max() < WORDS + BUCKETS
    assert (
        found.begins[NAMES.index("x") + 1] - found.begins[NAMES.index("x")] == 2
    )  # itself and <x>


def model_of(loss: str, algorithm: Any, mean: bool = True) -> tuple[SubwordVectors, WordPrediction]:
    run = SimpleNamespace(data=SimpleNamespace(vocabulary=SimpleNamespace(counts=COUNTS)))
    objective = WordPrediction(loss=loss).prepare(run)  # type: ignore[arg-type]
    torch.manual_seed(0)
    rows = grams(NAMES, 2, 4, BUCKETS)
    made = SubwordVectors(
        WORDS, WIDTH, torch.from_numpy(rows.begins), torch.from_numpy(rows.rows), BUCKETS,
        outputs=objective.rows(WORDS), bias=objective.biased, algorithm=algorithm, mean=mean,
    )  # fmt: skip
    with torch.no_grad():
        made.inputs[:, :WIDTH] = torch.randn(WORDS + BUCKETS, WIDTH) / 2
        made.outputs[:, : made.columns] = torch.randn(len(made.outputs), made.columns) / 2
    return made, objective


def settings_of(
    objective: WordPrediction, model: SubwordVectors, total: int, rate: float
) -> kernel.Settings:
    negatives = -1 if objective.loss == "softmax" else objective.negatives
    return kernel.Settings(
        3, negatives, KINDS[objective.loss], model.algorithm == "cbow", model.mean, model.bias, rate,
        min(rate, 0.01), float(total),
    )  # fmt: skip


@pytest.mark.parametrize("loss", list(KINDS))
@pytest.mark.parametrize("algorithm, mean", [("skip-gram", True), ("cbow", True), ("cbow", False)])
def test_the_kernel_does_what_its_plain_form_says(loss: str, algorithm: str, mean: bool) -> None:
    random = np.random.default_rng(1)
    words = random.choice(WORDS, 200, p=COUNTS / COUNTS.sum()).astype(np.int32)
    corpus = kernel.Corpus(words, np.array([0, 1, 40, 40, 150, 200], np.int64))
    model, objective = model_of(loss, algorithm, mean)
    tables = objective.tables(random.uniform(0.4, 1.4, WORDS).astype(np.float32))
    settings = settings_of(objective, model, 300, 0.05 if mean else 0.003)
    before = [m.detach().numpy() for m in (model.inputs, model.outputs)]
    fast = [m.copy() for m in before]
    seen, stats, state = (
        np.zeros((1, 8), np.int64),
        np.zeros((1, 8)),
        np.array([987654321], np.uint64),
    )
    subwords.train(corpus, tables, model.grams(), settings, *fast, 0, 5, 0, seen, state, stats)
    slow = [m.astype(np.float64) for m in before]
    last = subwords_plain.train(corpus, tables, model.grams(), settings, *slow, 0, 5, 987654321)
    assert int(state[0]) == last
    for a, b in zip(fast, slow, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)
    assert max(np.abs(b - s).max() for b, s in zip(slow, before, strict=True)) > 0.1


@pytest.mark.parametrize("loss", list(KINDS))
@pytest.mark.parametrize("algorithm", ["skip-gram", "cbow"])
def test_a_window_steps_along_autograds_gradient(loss: str, algorithm: str) -> None:
    """Two words: each is the other's context, so that the model's forward pass has the same pairs."""
    model, objective = model_of(loss, algorithm)
    model = model.double()
    corpus = kernel.Corpus(np.array([4, 7], np.int32), np.array([0, 2], np.int64))
    tables = objective.tables(np.ones(WORDS, np.float32))
    rate = 1e-6
    settings = settings_of(objective, model, 10**9, rate)
    before = [m.detach().clone() for m in (model.inputs, model.outputs)]
    slow = [m.detach().numpy().copy() for m in (model.inputs, model.outputs)]
    subwords_plain.train(corpus, tables, model.grams(), settings, *slow, 0, 1, 77)
    from fourfold.kernels.word2vec_plain import Generator

    generator, total = Generator(77), torch.zeros((), dtype=torch.float64)
    for middle, other in ((4, 7), (7, 4)):
        generator.bits()
        given, target = (middle, other) if algorithm == "skip-gram" else (other, middle)
        batch = {"context": torch.tensor([[given, -1]]), "middle": torch.tensor([target])}
        if loss in ("negative", "sampled", "contrast"):
            drawn = [
                generator.sample(tables.probability, tables.alias)
                for _ in range(objective.negatives)
            ]
            batch["negatives"] = torch.tensor([drawn])
        (move,) = objective.losses(model, batch)
        total = total + move.loss
    to_inputs, to_outputs = torch.autograd.grad(total, [model.inputs, model.outputs])
    if model.bias >= 0:
        to_inputs[:, model.bias] = 0
    # each input row takes the whole gradient of the mean, not its share of it
    rows = model.grams()
    sizes = {w: rows.begins[w + 1] - rows.begins[w] for w in (4, 7)}
    steps = [(torch.from_numpy(s) - b) / rate for s, b in zip(slow, before, strict=True)]
    torch.testing.assert_close(steps[1], -to_outputs, atol=1e-4, rtol=0)
    own = {w: int(rows.rows[rows.begins[w]]) for w in (4, 7)}
    for word in (4, 7):
        torch.testing.assert_close(
            steps[0][own[word]], -to_inputs[own[word]] * float(sizes[word]), atol=1e-4, rtol=0
        )
    assert steps[0].abs().max() > 0.1


def test_a_vector_is_the_mean_of_its_rows() -> None:
    model, _ = model_of("negative", "skip-gram")
    rows = model.grams()
    for word in range(WORDS):
        mine = rows.rows[rows.begins[word] : rows.begins[word + 1]].astype(int)
        expected = model.inputs.detach()[mine].mean(0)[:WIDTH]
        torch.testing.assert_close(model.vectors()[word], expected)
    hidden, window = model(torch.tensor([[3, -1, 5], [-1, -1, -1]]))
    assert window.tolist() == [0, 0]
    torch.testing.assert_close(hidden[:, :WIDTH].detach(), model.vectors()[[3, 5]])
