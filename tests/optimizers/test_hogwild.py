"""Hogwild: any loss falls, one thread is exact and resumes exactly, the text is walked in order."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fourfold.core.evaluation import measure
from fourfold.core.run import Run
from fourfold.data.sentences import Sentences
from fourfold.models.word_vectors import WordVectors
from fourfold.objectives.words import WordPrediction
from fourfold.optimizers import hogwild
from fourfold.optimizers.hogwild import Hogwild, _stretches


def fitted(
    loss: str, algorithm: str, threads: int, epochs: int = 30
) -> tuple[WordVectors, Any, Any, Any]:
    """Vectors of a language of two topics whose words never meet."""
    random = np.random.default_rng(0)
    topics = [[f"{letter}{i}" for i in range(8)] for letter in "ab"]
    lines = [" ".join(random.choice(topics[random.integers(2)], 8)) for _ in range(400)]
    data = Sentences(min_count=1, unit="space", thin=0).open({"text": ["\n".join(lines)]})
    run = SimpleNamespace(data=data, seed=0)
    objective = WordPrediction(loss=loss).prepare(run)  # type: ignore[arg-type]
    torch.manual_seed(0)
    words = len(data.vocabulary)
    model = WordVectors(
        words, 8, outputs=objective.rows(words), bias=objective.biased, algorithm=algorithm
    )  # type: ignore[arg-type]
    search = hogwild._Search(Hogwild(epochs=epochs, threads=threads), objective, model, data, run)  # type: ignore[arg-type]
    before = measure(objective, model, data, "train", torch.device("cpu"))["loss"]
    while search.progress < 1:
        search._advance()
    after = measure(objective, model, data, "train", torch.device("cpu"))["loss"]
    assert int(search.seen[:, 0].sum()) == epochs * 3200
    return model, data, before, after


@pytest.mark.parametrize("loss", ["negative", "sampled", "hierarchical", "softmax", "contrast"])
@pytest.mark.parametrize("algorithm", ["skip-gram", "cbow"])
def test_words_of_a_topic_come_together(loss: str, algorithm: str) -> None:
    epochs = 30 if algorithm == "skip-gram" else 100
    model, data, before, after = fitted(loss, algorithm, 1, epochs)
    assert after < before
    names = [w[0] for w in data.vocabulary.words]
    vectors = torch.nn.functional.normalize(model.vectors(), dim=1)
    alike = vectors @ vectors.T
    same = np.equal.outer(names, names)
    np.fill_diagonal(same, False)
    other = ~np.equal.outer(names, names)
    together, apart = (float(alike[torch.from_numpy(mask)].mean()) for mask in (same, other))
    assert together > apart + 0.2


def test_the_full_softmax_reaches_the_entropy_and_no_less() -> None:
    """Each word of a topic is drawn with 1/8, whatever stands beside it: log 8 nats."""
    *_, after = fitted("softmax", "cbow", 1, epochs=60)
    assert np.log(8) - 0.03 < after < np.log(8) + 0.05  # of 3,200 words it remembers a little


def test_two_threads_learn_the_same() -> None:
    *_, one = fitted("negative", "skip-gram", 1)
    *_, two = fitted("negative", "skip-gram", 2)
    assert two == pytest.approx(one, rel=0.03)


def test_one_thread_gives_equal_bits() -> None:
    first, *_ = fitted("negative", "skip-gram", 1, epochs=3)
    again, *_ = fitted("negative", "skip-gram", 1, epochs=3)
    assert torch.equal(first.inputs, again.inputs) and torch.equal(first.outputs, again.outputs)


def test_stretches_are_whole_sentences_in_order_and_leave_none_out() -> None:
    ends = np.array([0, 3, 3, 50, 51, 52, 90, 200, 201])
    for size in (1, 10, 60, 1000):
        found = _stretches(ends, size)
        assert found[0][0] == 0 and found[-1][1] == len(ends) - 1
        assert all(a[1] == b[0] for a, b in zip(found, found[1:], strict=False))
        assert all(a < b for a, b in found)


def test_resuming_goes_on_exactly(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    lines = [" ".join(random.choice([f"w{i}" for i in range(30)], 9)) for _ in range(300)]
    source = {"text": ["\n".join(lines)]}

    def search(folder: Path) -> hogwild._Search:
        data = Sentences(min_count=1, unit="space", thin=1e-1).open(source)
        from fourfold.systems.gpt import GPT  # any system: the search only asks for its name

        run = Run(GPT(), folder=folder)
        run.data, run.preview = data, lambda: None  # type: ignore[method-assign]
        objective = WordPrediction().prepare(run)
        torch.manual_seed(0)
        run.model = WordVectors(len(data.vocabulary), 8)
        made = hogwild._Search(Hogwild(epochs=4, threads=1), objective, run.model, data, run)
        made.stretches = _stretches(data.part("train").ends, 500)
        made.round = 2
        return made

    whole = search(tmp_path / "whole")
    whole.run_to_end()
    half = search(tmp_path / "half")
    for _ in range(3):
        half._advance()
    half._checkpoint()
    rest = search(tmp_path / "half")
    rest.run_to_end()
    assert rest.done == whole.done
    assert torch.equal(rest.model.inputs, whole.model.inputs)
    assert torch.equal(rest.model.outputs, whole.model.outputs)
