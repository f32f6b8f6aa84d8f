"""The compiled kernel against its plain form, autograd, and what sampling and Huffman codes should be."""

from __future__ import annotations

import heapq
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from fourfold.kernels import word2vec as kernel
from fourfold.kernels import word2vec_plain as plain
from fourfold.models.word_vectors import WordVectors
from fourfold.objectives.words import WordPrediction, alias_cells, huffman

WORDS, WIDTH = 23, 10
COUNTS = np.random.default_rng(5).integers(3, 90, WORDS)
LOSSES = ("negative", "sampled", "hierarchical", "softmax", "contrast")
KINDS = {
    "negative": kernel.SIGMOIDS, "sampled": kernel.SOFTMAX, "softmax": kernel.SOFTMAX,
    "contrast": kernel.CONTRAST, "hierarchical": kernel.PATH,
}  # fmt: skip


def prepared(loss: str) -> WordPrediction:
    run = SimpleNamespace(data=SimpleNamespace(vocabulary=SimpleNamespace(counts=COUNTS)))
    return WordPrediction(loss=loss).prepare(run)  # type: ignore[arg-type]


def model_of(objective: WordPrediction, algorithm: str, mean: bool) -> WordVectors:
    torch.manual_seed(0)
    made = WordVectors(
        WORDS, WIDTH, outputs=objective.rows(WORDS), bias=objective.biased, algorithm=algorithm, mean=mean,  # type: ignore[arg-type]
    )  # fmt: skip
    with torch.no_grad():
        made.inputs[:, :WIDTH] = torch.randn(WORDS, WIDTH) / 2
        made.outputs[:, : WIDTH + objective.biased] = (
            torch.randn(len(made.outputs), WIDTH + objective.biased) / 2
        )
    return made


def settings_of(
    objective: WordPrediction, model: WordVectors, total: int, rate: float = 0.3
) -> kernel.Settings:
    negatives = -1 if objective.loss == "softmax" else objective.negatives
    together = model.algorithm == "cbow"
    kind = KINDS[objective.loss]
    return kernel.Settings(
        3, negatives, kind, together, model.mean, model.bias, rate, min(rate, 0.01), float(total)
    )


def run_kernel(
    corpus: Any, tables: Any, settings: Any, model: WordVectors, state: int
) -> tuple[np.ndarray, ...]:
    inputs, outputs = model.inputs.detach().numpy().copy(), model.outputs.detach().numpy().copy()
    seen, stats_ = np.zeros((1, 8), np.int64), np.zeros((1, 8))
    generator = np.array([state], np.uint64)
    last = len(corpus.ends) - 1
    room = kernel.scratch(tables, settings, inputs, outputs)
    kernel.train(
        corpus, tables, settings, inputs, outputs, 0, last, 0, seen, generator, stats_, room
    )
    return inputs, outputs, generator, stats_


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("algorithm, mean", [("skip-gram", True), ("cbow", True), ("cbow", False)])
def test_the_kernel_does_what_its_plain_form_says(loss: str, algorithm: str, mean: bool) -> None:
    random = np.random.default_rng(1)
    words = random.choice(WORDS, 400, p=COUNTS / COUNTS.sum()).astype(np.int32)
    corpus = kernel.Corpus(words, np.array([0, 1, 40, 40, 150, 400], np.int64))
    objective = prepared(loss)
    model = model_of(objective, algorithm, mean)
    keep = random.uniform(0.4, 1.4, WORDS).astype(np.float32)
    rate = 0.3 if mean else 0.05  # a sum takes larger steps
    tables, settings = objective.tables(keep), settings_of(objective, model, 500, rate)
    inputs, outputs, generator, _ = run_kernel(corpus, tables, settings, model, 987654321)
    slow_in, slow_out = (m.detach().double().numpy().copy() for m in (model.inputs, model.outputs))
    state = plain.train(corpus, tables, settings, slow_in, slow_out, 0, 5, 987654321)
    assert int(generator[0]) == state
    np.testing.assert_allclose(inputs, slow_in, atol=2e-4)  # float32 against float64, 400 windows
    np.testing.assert_allclose(outputs, slow_out, atol=2e-4)
    moved = np.abs(slow_in - model.inputs.detach().numpy()).max()
    assert moved > 0.2  # else the tolerance would hide everything
    assert (inputs[:, WIDTH + objective.biased :] == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("features, lanes", [("+avx,+avx2,+fma", 8), ("+sse2", 4)])
def test_the_kernel_is_the_same_with_narrower_registers(
    features: str, lanes: int, tmp_path: Path
) -> None:
    here = f"{__file__}::test_the_kernel_does_what_its_plain_form_says"
    settings = {
        "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path),
    }  # fmt: skip
    check = f"from fourfold.kernels.lanes import LANES; assert LANES == {lanes}; import pytest; "
    check += f"raise SystemExit(pytest.main(['-q', {here!r}]))"
    done = subprocess.run(
        [sys.executable, "-c", check], env=os.environ | settings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("algorithm, mean", [("skip-gram", True), ("cbow", False)])
@pytest.mark.parametrize("state, hits", [(77, 0), (55433, 2)])
def test_one_window_steps_along_autograds_gradient(
    loss: str, algorithm: str, mean: bool, state: int, hits: int
) -> None:
    """A sentence of two words: two windows, the second apart by its rate of nearly zero.

    In `hits` of them a drawn word is the true one, which must not count against itself.
    """
    objective = prepared(loss)
    model = model_of(objective, algorithm, mean).double()
    corpus = kernel.Corpus(np.array([4, 7], np.int32), np.array([0, 2], np.int64))
    tables = objective.tables(np.ones(WORDS, np.float32))
    rate = 1e-3
    settings = settings_of(objective, model, 10**9, rate)
    before = [m.detach().clone() for m in (model.inputs, model.outputs)]
    slow = [m.detach().numpy().copy() for m in (model.inputs, model.outputs)]
    plain.train(corpus, tables, settings, *slow, 0, 1, state)
    # the same draws, window after window
    generator, hit = plain.Generator(state), 0
    total = torch.zeros((), dtype=torch.float64)
    for context, middle in ((7, 4), (4, 7)):
        generator.bits()
        batch = {"context": torch.tensor([[context, -1]]), "middle": torch.tensor([middle])}
        if loss in ("negative", "sampled", "contrast"):
            drawn = [
                generator.sample(tables.probability, tables.alias)
                for _ in range(objective.negatives)
            ]
            batch["negatives"], hit = torch.tensor([drawn]), hit + (middle in drawn)
        (move,) = objective.losses(model, batch)
        total = total + move.loss
    assert hit == (hits if loss in ("negative", "sampled", "contrast") else 0)
    gradients = torch.autograd.grad(total, [model.inputs, model.outputs])
    for after, first, gradient, name in zip(slow, before, gradients, ("in", "out"), strict=True):
        step = (torch.from_numpy(after) - first) / rate
        if model.bias >= 0 and name == "in":
            gradient = gradient.clone()
            gradient[:, model.bias] = 0  # a column of ones, not a weight
        # the second window sees what the first has moved: a difference of the order of the rate
        torch.testing.assert_close(step, -gradient, atol=0.02, rtol=0)
        assert step.abs().max() > 0.1


def test_the_sampler_draws_from_its_distribution() -> None:
    objective = prepared("negative")
    probability, alias = alias_cells(objective.noise)
    state = np.array([12345], np.uint64)
    drawn = np.bincount(
        [kernel.sample(state, probability, alias, WORDS) for _ in range(60_000)], minlength=WORDS
    )
    published = COUNTS**0.75 / (COUNTS**0.75).sum()
    assert stats.chisquare(drawn, published * drawn.sum()).pvalue > 1e-3
    counted = COUNTS / COUNTS.sum()
    assert stats.chisquare(drawn, counted * drawn.sum()).pvalue < 1e-9  # the power is there
    uniform = np.full(WORDS, drawn.sum() / WORDS)
    assert stats.chisquare(drawn, uniform).pvalue < 1e-9  # the test can tell


def test_huffman_codes_are_of_least_length_and_no_code_begins_another() -> None:
    begins, nodes, labels = huffman(COUNTS)
    codes = [tuple(labels[begins[w] : begins[w + 1]].astype(int).tolist()) for w in range(WORDS)]
    length = sum(int(c) * len(code) for c, code in zip(COUNTS, codes, strict=True))
    heap = [int(c) for c in COUNTS]
    heapq.heapify(heap)
    least = 0
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        least += merged
        heapq.heappush(heap, merged)
    assert length == least
    assert not any(a != b and b[: len(a)] == a for a in codes for b in codes)
    assert len(set(codes)) == WORDS and nodes.max() == WORDS - 2


def test_huffman_codes_of_the_textbook() -> None:
    """Cormen et al., figure 16.4: frequencies 45, 13, 12, 16, 9, 5 have codes of 1, 3, 3, 3, 4, 4 bits."""
    begins, _, _ = huffman(np.array([45, 13, 12, 16, 9, 5]))
    assert np.diff(begins).tolist() == [1, 3, 3, 3, 4, 4]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("algorithm", ["skip-gram", "cbow"])
def test_the_loss_is_that_of_the_formula(loss: str, algorithm: str) -> None:
    objective = prepared(loss)
    model = model_of(objective, algorithm, True)
    corpus = kernel.Corpus(np.array([3, 8, 5], np.int32), np.array([0, 3], np.int64))
    tables = objective.tables(np.ones(WORDS, np.float32))
    *_, found = run_kernel(
        corpus, tables, settings_of(objective, model, 10, rate=1e-9), model, 55433
    )
    generator = plain.Generator(55433)
    assert 1 + (generator.bits() >> 33) % 3 >= 2  # the first window's width: both other words
    batch = {"context": torch.tensor([[8, 5]]), "middle": torch.tensor([3])}
    if loss in ("negative", "sampled", "contrast"):
        drawn = [
            generator.sample(tables.probability, tables.alias) for _ in range(objective.negatives)
        ]
        batch["negatives"] = torch.tensor([drawn])
    (move,) = objective.losses(model, batch)
    # every 64th window is measured, the first among them
    assert found[0, 1] == move.weight == (2 if algorithm == "skip-gram" else 1)
    assert found[0, 0] == pytest.approx(float(move.loss.detach()), rel=1e-5)


@pytest.mark.parametrize("loss", ["negative", "sampled", "contrast"])
@pytest.mark.parametrize("algorithm", ["skip-gram", "cbow"])
def test_a_batchs_loss_is_the_sum_of_its_predictions_said_one_by_one(
    loss: str, algorithm: str
) -> None:
    """With a context of its own length each, and drawn words among which the true one is."""
    objective = prepared(loss)
    model = model_of(objective, algorithm, True).double()
    contexts, middles = [[1, 5, 9], [2], [8, 8]], [3, 4, 6]
    drawn = [[3, 7, 7, 1, 0], [5, 6, 7, 8, 9], [6, 6, 6, 6, 6]]
    batch = {
        "context": torch.tensor([c + [-1] * (4 - len(c)) for c in contexts]),
        "middle": torch.tensor(middles), "negatives": torch.tensor(drawn),
    }  # fmt: skip
    inputs, outputs = (m.detach().numpy() for m in (model.inputs, model.outputs))
    noise = COUNTS**0.75 / (COUNTS**0.75).sum()
    expected, predictions = 0.0, 0
    for context, middle, others in zip(contexts, middles, drawn, strict=True):
        for words in [context] if algorithm == "cbow" else [[c] for c in context]:
            hidden = inputs[words].mean(0)
            if model.bias >= 0:
                hidden[model.bias] = 1
            false = [w for w in others if w != middle]
            scores = outputs[[middle, *false]] @ hidden
            if loss == "sampled":
                expected += float(np.log(np.exp(scores).sum()) - scores[0])
            else:
                if loss == "contrast":
                    scores = scores - np.log(5 * noise[[middle, *false]])
                right = 1 / (1 + np.exp(-scores * np.array([1] + [-1] * len(false))))
                expected -= float(np.log(right).sum())
            predictions += 1
    (move,) = objective.losses(model, batch)
    assert move.weight == predictions == (3 if algorithm == "cbow" else 6)
    assert float(move.loss.detach()) == pytest.approx(expected, rel=1e-6)
