"""The verbs of language models: a reader of counted pairs as the oracle of the defaults, gpt as a system of its own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.core.types import Score
from fourfold.data.spelling import Spelling
from fourfold.data.text import Text
from fourfold.data.vocabulary import Vocabulary
from fourfold.models.sampling import Sampling
from fourfold.optimizers.gradient import Gradient
from fourfold.systems.gpt import GPT
from fourfold.tasks.reader import Reader, read_on

LESSON = "the cat sat on the mat. the dog sat on the log.\n"


class Pairs(Reader):
    """A bigram with add-one counts: simple enough to be checked by hand."""

    def __init__(self, vocabulary: Vocabulary, tokens: np.ndarray) -> None:
        self.vocabulary = vocabulary
        counts = np.ones((len(vocabulary), len(vocabulary)))
        np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
        self.table = torch.from_numpy(np.log(counts / counts.sum(1, keepdims=True)))

    def start(self, rows: int = 1) -> Tensor:
        return torch.full((rows,), self.vocabulary.end)

    def next(self, state: Tensor) -> Tensor:
        return self.table[state]

    def push(self, state: Tensor, tokens: Tensor) -> Tensor:
        return tokens


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    data = Text(window=8, unit="word").open({"text": [LESSON * 30]})
    return Pairs(data.vocabulary, data.tokens("train").astype(np.int64))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    toy, _ = GPT.toy()
    system = toy.model_copy(
        update={
            "data": Text(unit="word", window=16, batch=16),
            "optimizer": Gradient(lr=3e-3, steps=60, precision="float32"),
        }
    )
    folder = tmp_path_factory.mktemp("language") / "run"
    return fourfold.fit(system, {"text": [LESSON * 120]}, out=folder)


def generators(rows: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(7) for _ in range(rows)]


def test_surprises_by_steps_are_the_table(pairs: Pairs) -> None:
    tokens = np.array([pairs.vocabulary.end, *pairs.vocabulary.encode("the cat sat on the log.")])
    expected = -pairs.table.numpy()[tokens[:-1], tokens[1:]]
    np.testing.assert_allclose(pairs.surprises(tokens), expected, rtol=1e-12)


def test_rows_read_on_as_if_alone(pairs: Pairs) -> None:
    """Prompts of other lengths beside it change nothing, and nothing is read past what was asked."""
    starts = [pairs.vocabulary.encode(text).tolist() for text in ("", "the", "the cat sat on")]
    options: dict[str, Any] = {"tokens": 12, "sampling": Sampling(1.0)}
    said: dict[int, list[int]] = {row: [] for row in range(3)}
    for row, token in read_on(pairs, starts, generators=generators(3), **options):
        said[row].append(token)
    for row, start in enumerate(starts):
        alone = [t for _, t in read_on(pairs, [start], generators=generators(1), **options)]
        assert said[row] == alone and len(alone) <= 12


def test_what_never_comes_is_not_drawn(pairs: Pairs) -> None:
    best = int(pairs.table[pairs.vocabulary.end].argmax())
    options: dict[str, Any] = {"tokens": 1, "sampling": Sampling(0.0), "generators": generators(1)}
    assert [t for _, t in read_on(pairs, [[]], **options)] == [best]
    assert [t for _, t in read_on(pairs, [[]], never=(best,), **options)] != [best]


def test_tokens_and_back_again(run: Run) -> None:
    table = run.tokens("the cat zzz")
    assert isinstance(table, pl.DataFrame)
    assert table["token"].to_list() == ["the", "cat", "<unk>"]
    assert table["count"].to_list()[0] > table["count"].to_list()[1] > 0
    assert run.tokens(numbers=tuple(table["number"].to_list()[:2])) == "the cat"
    with pytest.raises(UserError, match="expected 0 to"):
        run.tokens(numbers=(10_000,))
    with pytest.raises(UserError, match="got both"):
        run.tokens("the", numbers=(1,))
    with pytest.raises(UserError, match="empty"):
        run.tokens("")


def test_a_score_is_the_sum_of_its_tokens(run: Run) -> None:
    text = "the cat sat on the log."
    whole, each = run.score(text), run.score(text, per_token=True)
    assert isinstance(whole, Score) and isinstance(each, pl.DataFrame)
    assert len(each) == whole["tokens"] == 7
    assert each["nats"].sum() == pytest.approx(whole["nats_per_token"] * 7)
    assert each["bits"].to_list() == pytest.approx((each["nats"] / math.log(2)).to_list())
    assert each["probability"].to_list() == pytest.approx(np.exp(-each["nats"].to_numpy()))


def test_a_reader_of_gpt_says_what_its_windows_say(run: Run) -> None:
    """Step by step with the cache equals the windows, until they slide."""
    reader = run.system.reader(run)
    tokens = np.asarray(run.data.vocabulary.encode(LESSON)[:15])  # type: ignore[attr-defined]
    tokens = np.concatenate([[reader.vocabulary.end], tokens])
    np.testing.assert_allclose(
        reader.surprises(tokens), Reader.surprises(reader, tokens), rtol=1e-4, atol=1e-4
    )
    state = reader.start(3)
    for _ in range(40):  # past the window of 16
        sums = reader.next(state).double().logsumexp(-1)
        torch.testing.assert_close(sums, torch.zeros(3, dtype=torch.float64), atol=1e-5, rtol=0)
        state = reader.push(state, torch.tensor([3, 4, 5]))


def test_the_report_shows_the_vocabulary(run: Run) -> None:
    titles = [picture.title for picture in run.system.pictures(run)]
    assert titles[-2:] == ["How often each entry occurs", "What surprises the model"]
    table = next(iter(run.system.tables(run)))
    assert table.rows[0][0] == "the" and table.rows[0][2] == run.data.vocabulary.counts.max()  # type: ignore[attr-defined]


def test_an_unknown_word_costs_its_spelling_per_byte_only(run: Run) -> None:
    vocabulary = run.data.vocabulary  # type: ignore[attr-defined]
    text = "the zebra sat on the quay."
    score, each = run.score(text), run.score(text, per_token=True)
    assert isinstance(score, Score) and isinstance(each, pl.DataFrame)
    assert each["token"].to_list().count("<unk>") == 2 and "".join(each["text"]) == text
    spelling = Spelling(vocabulary).bits(["zebra", "quay"])
    assert score["bits_per_byte"] == pytest.approx((each["bits"].sum() + spelling) / len(text))
    assert score["perplexity"] == pytest.approx(math.exp(each["nats"].mean()))
    assert "2 of 7 tokens" in score.notes[0] and "spelling" in score.notes[0]
    other = run.evaluate({"text": [text]})
    assert other["bits_per_byte"] == pytest.approx(score["bits_per_byte"], rel=1e-6)
    assert other["perplexity"] == pytest.approx(score["perplexity"], rel=1e-6)


def test_white_space_that_is_not_counted_is_told() -> None:
    toy, _ = GPT.toy()
    system = toy.model_copy(update={"data": Text(unit="space", window=8)})
    run = fourfold.fit(system, {"text": [LESSON * 120]}, out=False)
    assert run.score("the cat sat\n").notes == ()
    assert "white space" in run.score("the  cat sat").notes[0]


def test_what_became_unknown_is_in_the_report() -> None:
    toy, _ = GPT.toy()
    system = toy.model_copy(update={"data": Text(unit="word", window=8, vocabulary=8)})
    run = fourfold.fit(system, {"text": [LESSON * 120]}, out=False)
    tables = {table.title: table for table in run.system.tables(run)}
    assert len(tables["What became unknown"].rows) == 4
