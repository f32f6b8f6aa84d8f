"""rnn, gru, lstm: what is carried, learned and said."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import fourfold
from fourfold import api, fitting
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.data.text import IGNORE, Text
from fourfold.models.recurrent import RecurrentLM
from fourfold.optimizers.gradient import Gradient
from fourfold.systems.gru import GRU
from fourfold.systems.lstm import LSTM
from fourfold.systems.rnn import RNN
from fourfold.tasks.recurrent_language import RecurrentReader, gradient_by_distance

SYSTEMS = (RNN, GRU, LSTM)


def _fit(system: Any, text: str, out: Any = False, **options: Any) -> Run:
    toy, _ = system.toy()
    base: dict[str, Any] = {"dropout": 0.0, "weight_dropout": 0.0}
    return fourfold.fit(api.configure(toy, {**base, **options}), {"text": [text]}, out=out)


# --- a source whose entropy is known ---------------------------------------------------------------


def _chain(length: int, seed: int) -> tuple[str, float]:
    """A Markov chain over three letters, and its entropy in nats a letter."""
    moves = np.array([[0.8, 0.1, 0.1], [0.1, 0.2, 0.7], [0.45, 0.45, 0.1]])
    values, vectors = np.linalg.eig(moves.T)
    stay = np.real(vectors[:, np.argmax(np.real(values))])
    stay /= stay.sum()
    entropy = -float((stay[:, None] * moves * np.log(moves)).sum())
    random, at, letters = np.random.default_rng(seed), 0, []
    for _ in range(length):
        at = int(random.choice(3, p=moves[at]))
        letters.append("abc"[at])
    return "".join(letters), entropy


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_loss_reaches_a_known_entropy_and_does_not_go_below(system: Any) -> None:
    text, entropy = _chain(30_000, 0)
    run = _fit(
        system, text,
        width=24, layers=1, **{"data.batch": 16, "data.window": 32, "optimizer.steps": 150},
    )  # fmt: skip
    held, _ = _chain(20_000, 1)
    score = run.evaluate({"text": [held]})
    assert entropy - 0.012 < score["loss"] < entropy + 0.02


# --- what only a carried state can know ------------------------------------------------------------


def _remember(lines: int, gap: int, seed: int) -> str:
    """A letter, dots, a question mark, and the letter again: further back than a window reaches."""
    random = np.random.default_rng(seed)
    return "".join(f"{x}{'.' * gap}?{x}" for x in random.choice(list("ab"), lines))


def _answers(run: Run, text: str) -> float:
    """Mean surprise, in nats, of the letters after a question mark."""
    vocabulary = run.data.vocabulary  # type: ignore[attr-defined]
    tokens = np.concatenate([[vocabulary.end], vocabulary.encode(text)])
    found = run.system.reader(run).surprises(tokens)  # type: ignore[attr-defined]
    return float(found[[i + 1 for i, character in enumerate(text) if character == "?"]].mean())


def test_a_symbol_from_beyond_the_window_is_remembered_with_a_carried_state_only() -> None:
    """What a letter after a question mark repeats was read 4 tokens before, and a window has 3."""
    text, held = _remember(3_000, 2, 0), _remember(80, 2, 1)
    found = {}
    for ordered in (True, False):
        run = _fit(
            GRU, text,
            width=32, layers=1,
            **{
                "data.window": 3, "data.batch": 32, "data.ordered": ordered, "optimizer.lr": 1e-2,
                "optimizer.steps": 800, "optimizer.schedule": "constant",
            },
        )  # fmt: skip
        found[ordered] = _answers(run, held)
    assert found[True] < 0.1
    assert found[False] > 0.5  # a coin is ln 2 = 0.69


# --- steps -----------------------------------------------------------------------------------------


def _begun(**options: Any) -> Run:
    toy, source = LSTM.toy()
    run = Run(api.configure(toy, {"dropout": 0.0, "weight_dropout": 0.0, **options}), seed=0)
    fitting.begin(run, source, None)
    return run


def test_micro_batches_of_a_step_go_on_from_one_another() -> None:
    """Two windows of 12 accumulated: gradients of both, the second from the first's state, over all tokens."""
    options = {"algorithm": "sgd", "lr": 0.5, "clip": None, "precision": "float32", "steps": 1}
    run = _begun(
        **{f"optimizer.{k}": v for k, v in options.items()},
        **{"optimizer.accumulate": 2, "data.window": 12, "optimizer.schedule": "constant"},
    )
    model: Any = run.model
    batches = [b for b, _ in zip(run.data.batches("train", epoch=0), range(2), strict=False)]
    run.data.load_state_dict({"epoch": 0, "batches": 0})
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    total, weight, states = torch.zeros(()), 0, None
    for batch in batches:
        hidden, after = model(batch["tokens"], states)
        logits = model.head(hidden).flatten(0, 1)
        total = total + F.cross_entropy(logits, batch["targets"].flatten(), reduction="sum")
        weight += int((batch["targets"] != IGNORE).sum())
        states = [tuple(s.detach() for s in layer) for layer in after]
    gradients = torch.autograd.grad(total / weight, list(model.parameters()))
    run.system.optimizer.minimize(run.objective, model, run.data, run)
    for (name, parameter), gradient in zip(model.named_parameters(), gradients, strict=True):
        expected = before[name] - 0.5 * gradient
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "objective", ["softmax", "sampled", "adaptive", "hierarchical", "contrast"]
)
def test_resumed_equals_run_through_in_the_middle_of_an_epoch(
    objective: str, tmp_path: Path
) -> None:
    from fourfold.core.errors import Interrupted
    from fourfold.testing import _stopping_after

    toy, source = LSTM.toy()
    options = {"objective": objective, "optimizer.steps": 9, "optimizer.accumulate": 2}
    options |= {"optimizer.precision": "bfloat16"}  # states are carried in it too
    system = api.configure(toy, {**options, "optimizer.evaluate_every": "2", "data.batch": 8})
    whole = api.fit(system, source, out=tmp_path / "whole")
    with _stopping_after(5), pytest.raises(Interrupted):
        api.fit(system, source, out=tmp_path / "parts")
    resumed = api.resume(tmp_path / "parts", source=source)
    mine, true = resumed.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(mine[name], true[name]) for name in true)
    losses = [[x["loss"] for x in run.metrics.lines if "loss" in x] for run in (whole, resumed)]
    assert losses[0] == losses[1]


# --- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("objective", ["softmax", "adaptive", "hierarchical"])
def test_the_reader_sums_to_one_and_equals_its_surprises(system: Any, objective: str) -> None:
    run = _fit(system, "one two three two one. " * 40, objective=objective)
    reader = run.system.reader(run)  # type: ignore[attr-defined]
    vocabulary = run.data.vocabulary  # type: ignore[attr-defined]
    tokens = np.concatenate([[vocabulary.end], vocabulary.encode("two one. three")])
    fast = reader.surprises(tokens)
    state, slow = reader.start(2), []
    for token in tokens[1:].tolist():
        said = reader.next(state)
        assert said.exp().sum(1).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
        slow.append(-float(said[1, token]))
        state = reader.push(state, torch.tensor([token, token]))
    assert fast.tolist() == pytest.approx(slow, rel=1e-4, abs=1e-4)


def test_surprises_in_pieces_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from fourfold.tasks import recurrent_language

    run = _fit(LSTM, "one two three two one. " * 40)
    data: Any = run.data
    tokens = np.asarray(data.tokens("train"), np.int64)
    reader = RecurrentReader(run.model, data.vocabulary)  # type: ignore[arg-type]
    whole = reader.surprises(tokens)
    monkeypatch.setattr(recurrent_language, "CHUNK", 7)
    assert reader.surprises(tokens) == pytest.approx(whole, rel=1e-4, abs=1e-5)
    assert len(whole) == len(tokens) - 1


def test_chinese() -> None:
    text = "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。" * 30
    run = _fit(GRU, text, **{"data.unit": "word", "optimizer.steps": 150, "data.batch": 8})
    assert run.score("春眠不觉晓")["perplexity"] < 2
    said = "".join(run.generate("春眠", tokens=8, temperature=0.0))
    assert said.startswith("不觉晓，")


# --- vectors and pictures ----------------------------------------------------------------------------


def test_word_vectors_of_both_sides() -> None:
    toy, _ = LSTM.toy()
    options = {"data.unit": "word", "embedding": 12}
    run = fourfold.fit(api.configure(toy, options), {"text": ["red green blue. " * 60]}, out=False)
    model: Any = run.model
    words, vectors = run.system.word_vectors(run)  # type: ignore[attr-defined]
    row = int(run.data.vocabulary.encode("green")[0])  # type: ignore[attr-defined]
    assert vectors.shape == (len(words), 12)
    assert vectors[words.index("green")].tolist() == model.embedding.weight[row].tolist()
    _, joined = run.system.word_vectors(run, "joined")  # type: ignore[attr-defined]
    expected = [*model.embedding.weight[row].tolist(), *model.head.weight[row].tolist()]
    assert joined[words.index("green")].tolist() == expected
    assert len(run.similar("green", top=2)) == 2
    tied = fourfold.fit(
        api.configure(toy, {**options, "tied": True}),
        {"text": ["red green blue. " * 60]},
        out=False,
    )
    with pytest.raises(UserError, match="one set of vectors"):
        tied.system.word_vectors(tied, "joined")  # type: ignore[attr-defined]


def test_gradients_by_distance_are_those_of_autograd() -> None:
    """Against the Jacobian: its rows, weighed by the same direction."""
    run = _fit(RNN, "one two three two one. " * 40)
    model: Any = run.model
    rows = torch.randint(len(run.data.vocabulary), (1, 5))  # type: ignore[attr-defined]
    found = gradient_by_distance(model, rows, seed=3)
    vectors = model.embedding(rows).detach()
    jacobian = torch.autograd.functional.jacobian(lambda x: model.read(x)[0][0, -1], vectors)
    direction = torch.randn(1, jacobian.shape[0], generator=torch.Generator().manual_seed(3))
    expected = torch.einsum("h,htd->td", direction[0], jacobian[:, 0]).norm(dim=-1).flip(0)
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_inspect_draws_every_cell() -> None:
    run = _fit(LSTM, "one two three two one. " * 40)
    found = run.inspect()
    assert found.pictures[-1].title == "Gradient by distance"
    names = [row[0] for row in found.tables[-1].rows]
    assert names == ["this run's LSTM", "RNN, untrained", "GRU, untrained", "LSTM, untrained"]
    assert "Back from a state" in found.sentences[-1]
    text = run.inspect("two three")
    assert text.pictures[-1].title == "Gradient by distance"


def test_an_untrained_rnn_forgets_faster_than_an_lstm() -> None:
    rows = torch.randint(50, (8, 60), generator=torch.Generator().manual_seed(0))
    curves = {}
    for system in (RNN, LSTM):
        torch.manual_seed(0)
        toy, _ = system.toy()
        model = toy._network(toy.cell, np.ones(50)).eval()
        curve = gradient_by_distance(model, rows)
        curves[toy.cell] = curve[30] / curve[0]
    assert curves["rnn"] < 0.1 * curves["lstm"]


# --- options and wrong ones -----------------------------------------------------------------------------


def test_the_head_begins_at_the_words_frequencies() -> None:
    toy, _ = LSTM.toy()
    data = Text(unit="character", ordered=True).open({"text": ["aaab" * 100]})
    model: RecurrentLM = toy.build(data)
    said = F.log_softmax(model.head(torch.zeros(1, toy.width)), -1).exp()[0]
    shares = (data.vocabulary.counts + 1) / (data.vocabulary.counts + 1).sum()
    assert said.tolist() == pytest.approx(shares.tolist(), rel=1e-5)


def test_tied_goes_with_rows_for_each_word() -> None:
    toy, source = LSTM.toy()
    with pytest.raises(UserError, match="adaptive: has no output row"):
        fourfold.fit(api.configure(toy, {"tied": True, "objective": "adaptive"}), source, out=False)


@pytest.mark.parametrize("text", ["word", "word " * 30])
def test_corpus_of_one_word(text: str) -> None:
    try:
        run = _fit(LSTM, text, **{"data.unit": "word", "optimizer.steps": 2})
    except UserError as error:
        assert "fewer than one window" in str(error)  # noqa: PT017
        return
    assert math.isfinite(run.score("word")["perplexity"])


def test_a_vocabulary_of_one_is_refused_or_read() -> None:
    try:
        run = _fit(LSTM, "red green blue. " * 60, **{"data.unit": "word", "data.vocabulary": 1})
    except UserError as error:
        assert "vocabulary" in str(error)  # noqa: PT017
        return
    assert run.score("red")["perplexity"] >= 1.0


def test_the_defaults_are_those_of_the_field() -> None:
    data = LSTM().data
    assert (data.unit, data.ordered, data.window, data.batch) == ("word", True, 35, 20)
    assert isinstance(LSTM().optimizer, Gradient)
