"""The GPU's blocks: draws are the text's, one window at a time is autograd's step, and Triton does what torch says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from fourfold.kernels import word2vec as kernel
from fourfold.kernels import word2vec_blocks as blocks
from fourfold.models.word_vectors import WordVectors
from fourfold.objectives.words import WordPrediction

WORDS, WIDTH, REACH = 23, 10, 3
COUNTS = np.random.default_rng(5).integers(3, 90, WORDS)
LOSSES = ("negative", "sampled", "hierarchical", "softmax", "contrast")
KINDS = {
    "negative": kernel.SIGMOIDS, "sampled": kernel.SOFTMAX, "softmax": kernel.SOFTMAX,
    "contrast": kernel.CONTRAST, "hierarchical": kernel.PATH,
}  # fmt: skip


def prepared(loss: str, counts: np.ndarray = COUNTS) -> WordPrediction:
    run = SimpleNamespace(data=SimpleNamespace(vocabulary=SimpleNamespace(counts=counts)))
    return WordPrediction(loss=loss).prepare(run)  # type: ignore[arg-type]


def model_of(
    objective: WordPrediction, algorithm: str, mean: bool = True, words: int = WORDS, width: int = WIDTH
) -> WordVectors:  # fmt: skip
    torch.manual_seed(0)
    made = WordVectors(
        words, width, outputs=objective.rows(words), bias=objective.biased, algorithm=algorithm, mean=mean,  # type: ignore[arg-type]
    )  # fmt: skip
    with torch.no_grad():
        made.inputs[:, :width] = torch.randn(words, width) / 2
        outputs = torch.randn(len(made.outputs), width + objective.biased) / 2
        made.outputs[:, : width + objective.biased] = outputs
    return made


def settings_of(objective: WordPrediction, model: WordVectors, reach: int = REACH) -> Any:
    negatives = -1 if objective.loss == "softmax" else objective.negatives
    kind = KINDS[objective.loss]
    together = model.algorithm == "cbow"
    return kernel.Settings(
        reach, negatives, kind, together, model.mean, model.bias, 0.1, 0.01, 1000.0
    )


def corpus_of(count: int = 400, words: int = WORDS) -> kernel.Corpus:
    random = np.random.default_rng(1)
    shares = random.random(words)
    numbers = random.choice(words, count, p=shares / shares.sum()).astype(np.int32)
    return kernel.Corpus(numbers, np.array([0, 1, 40, 40, count // 2, count], np.int64))


def batch_of(block: blocks.Block, at: int) -> dict[str, torch.Tensor]:
    """A window as the objective takes it, its context found word by word."""
    words, sentences = block.words.tolist(), block.sentences.tolist()
    near = int(block.near[at])
    around = [
        words[j]
        for j in range(max(0, at - near), min(len(words), at + near + 1))
        if j != at and sentences[j] == sentences[at]
    ]
    context = torch.full((1, 2 * REACH), -1)
    context[0, : len(around)] = torch.tensor(around)
    batch = {"context": context, "middle": block.words[at : at + 1].long()}
    if block.drawn.shape[1]:
        batch["negatives"] = block.drawn[at : at + 1].long()
    return batch


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("algorithm, mean", [("skip-gram", True), ("cbow", False)])
def test_one_window_at_a_time_steps_along_autograds_gradient(
    loss: str, algorithm: str, mean: bool
) -> None:
    objective = prepared(loss)
    model = model_of(objective, algorithm, mean).double()
    settings = settings_of(objective, model)
    tables = blocks.Looked.of(objective.tables(np.ones(WORDS, np.float32)), torch.device("cpu"))
    block = blocks.draw(corpus_of(60), 0, 5, tables, settings, 3)
    inputs, outputs = (m.detach().clone() for m in (model.inputs, model.outputs))
    total, predictions = blocks.step(
        block, tables, settings, inputs, outputs, (0.1, 0.05), together=1
    )
    expected, counted = 0.0, 0
    for at in range(len(block.words)):
        batch = batch_of(block, at)
        if (batch["context"] < 0).all():
            continue
        (move,) = objective.losses(model, batch)
        expected, counted = expected + float(move.loss.detach()), counted + int(move.weight)
        gradients = torch.autograd.grad(move.loss, [model.inputs, model.outputs])
        gradients = [g.clone() for g in gradients]  # type: ignore[assignment]
        if model.bias >= 0:
            gradients[0][:, model.bias] = 0
        rate = 0.1 - 0.05 * at / len(block.words)
        with torch.no_grad():
            model.inputs -= rate * gradients[0]
            model.outputs -= rate * gradients[1]
    assert counted == predictions > 100 / (3 if algorithm == "cbow" else 1)
    assert total == pytest.approx(expected, rel=1e-6)  # its tables are float32
    torch.testing.assert_close(inputs, model.inputs.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(outputs, model.outputs.detach(), rtol=1e-5, atol=1e-6)


def test_several_windows_at_once_step_as_one_by_one_at_a_small_rate() -> None:
    """What they differ by is of second order in the rate."""
    objective = prepared("negative")
    model = model_of(objective, "skip-gram").double()
    settings = settings_of(objective, model)
    tables = blocks.Looked.of(objective.tables(np.ones(WORDS, np.float32)), torch.device("cpu"))
    block = blocks.draw(corpus_of(), 0, 5, tables, settings, 3)
    found = []
    for together in (1, 64):
        matrices = [m.detach().clone() for m in (model.inputs, model.outputs)]
        blocks.step(block, tables, settings, *matrices, (1e-6, 1e-6), together=together)
        found.append([(a - b.detach()) / 1e-6 for a, b in zip(matrices, (model.inputs, model.outputs), strict=True)])  # fmt: skip
    for one, many in zip(*found, strict=True):
        torch.testing.assert_close(one, many, rtol=1e-3, atol=2e-3)


def test_draws_keep_negatives_and_widths_as_the_tables_say() -> None:
    objective = prepared("negative")
    settings = settings_of(objective, model_of(objective, "skip-gram"))
    keep = np.linspace(0.1, 1.2, WORDS).astype(np.float32)
    tables = blocks.Looked.of(objective.tables(keep), torch.device("cpu"))
    words = np.repeat(np.arange(WORDS), 4000).astype(np.int32)
    corpus = kernel.Corpus(words, np.array([0, len(words)], np.int64))
    block = blocks.draw(corpus, 0, 1, tables, settings, 7)
    share = np.bincount(block.words.numpy(), minlength=WORDS) / 4000
    np.testing.assert_allclose(share, np.minimum(keep, 1), atol=0.03)
    drawn = np.bincount(block.drawn.numpy().ravel(), minlength=WORDS)
    assert stats.chisquare(drawn, objective.noise * drawn.sum()).pvalue > 1e-3
    near = np.bincount(block.near.numpy(), minlength=REACH + 1)
    assert near[0] == 0 and stats.chisquare(near[1:]).pvalue > 1e-3
    again = blocks.draw(corpus, 0, 1, tables, settings, 7)
    assert all(torch.equal(a, b) for a, b in zip(block, again, strict=True))


def test_windows_keep_to_their_sentence_and_long_ones_are_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blocks, "LONGEST", 4)
    objective = prepared("negative")
    settings = settings_of(objective, model_of(objective, "skip-gram"))
    tables = blocks.Looked.of(objective.tables(np.ones(WORDS, np.float32)), torch.device("cpu"))
    corpus = kernel.Corpus(np.arange(12, dtype=np.int32), np.array([0, 3, 3, 9, 12], np.int64))
    block = blocks.draw(corpus, 0, 4, tables, settings, 7)
    assert block.sentences.tolist() == [1, 1, 1, 2, 2, 2, 2, 3, 3, 4, 4, 4]
    context = blocks.contexts(block, torch.arange(12), REACH)
    for at, row in enumerate(context.tolist()):
        near = int(block.near[at])
        same = [j for j in range(12) if block.sentences[j] == block.sentences[at]]
        assert [w for w in row if w >= 0] == [j for j in same if 0 < abs(j - at) <= near]
    later = blocks.draw(corpus, 2, 4, tables, settings, 7)
    assert later.words.tolist() == list(range(3, 12))


@pytest.mark.parametrize("loss", LOSSES)
def test_the_rate_follows_the_words_seen(loss: str) -> None:
    objective = prepared(loss)
    model = model_of(objective, "skip-gram")
    given: list[Any] = []
    made = blocks.Blocks(
        corpus_of(), objective.tables(np.ones(WORDS, np.float32)), settings_of(objective, model),
        model.inputs.detach(), model.outputs.detach(),
    )  # fmt: skip
    made.compiled = lambda *arguments: (given.append(arguments[-1]), (0.0, 0))[1]
    made.advance(0, 4, 0, 1)
    made.advance(4, 5, 900, 1)
    assert given[0] == pytest.approx((0.1, 0.1 - 0.09 * 0.2))
    assert given[1] == pytest.approx((0.1 - 0.09 * 0.9, 0.01))  # never below the last rate


# --- on a GPU -------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("width", [10, 100, 300])
@pytest.mark.parametrize("loss", [x for x in LOSSES if x != "softmax"])
@pytest.mark.parametrize("algorithm, mean", [("skip-gram", True), ("cbow", True), ("cbow", False)])
def test_triton_steps_as_torch_does(loss: str, algorithm: str, mean: bool, width: int) -> None:
    """At a small rate, where the order of the steps is of second order."""
    pytest.importorskip("triton")
    from fourfold.kernels import word2vec_triton

    words = 500
    counts = np.random.default_rng(0).integers(1, 1000, words)
    objective = prepared(loss, counts)
    model = model_of(objective, algorithm, mean, words, width).cuda()
    settings = settings_of(objective, model, 5)
    tables = blocks.Looked.of(objective.tables(np.ones(words, np.float32)), torch.device("cuda"))
    block = blocks.draw(corpus_of(20_000, words), 0, 5, tables, settings, 3)
    found, losses = [], []
    rate = 5e-5
    for run in (blocks.step, word2vec_triton.step):
        matrices = [m.detach().clone() for m in (model.inputs, model.outputs)]
        total, predictions = run(block, tables, settings, *matrices, (rate, rate / 2))
        found.append([(a - b.detach()) / rate for a, b in zip(matrices, (model.inputs, model.outputs), strict=True)])  # fmt: skip
        losses.append(total / predictions)
    assert losses[1] == pytest.approx(losses[0], rel=0.1)  # of every 64th window
    for ours, plain in zip(found[1], found[0], strict=True):
        difference = float((ours - plain).norm() / plain.norm())
        assert difference < 0.02, difference
        assert float(plain.norm()) > 1
    assert (matrices[0][:, width + objective.biased :] == 0).all()


@pytest.mark.gpu
def test_a_search_on_the_gpu_learns_what_one_on_the_processor_does() -> None:
    import fourfold

    random = np.random.default_rng(0)
    topics = [[f"{letter}{i}" for i in range(8)] for letter in "ab"]
    lines = [" ".join(random.choice(topics[random.integers(2)], 8)) for _ in range(4000)]
    options = {
        "data.min_count": 1, "data.unit": "space", "data.thin": 0, "width": 16, "epochs": 10,
        "data.split": (0.9, 0.1, 0.0),
    }  # fmt: skip
    losses = []
    for device in ("cpu", "cuda"):
        run = fourfold.fit(
            "word2vec", {"text": ["\n".join(lines)]}, out=False, device=device, **options
        )
        losses.append([x["valid.loss"] for x in run.metrics.lines if "valid.loss" in x][-1])
    assert losses[1] == pytest.approx(losses[0], rel=0.03)
