"""The bench of generation: what it measures, whom it leaves out, how it is asked for on the command line."""

from __future__ import annotations

import json

import pytest

import fourfold
from fourfold.cli.main import main
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.data.text import Text
from fourfold.optimizers.gradient import Gradient
from fourfold.systems.gpt import GPT
from fourfold.systems.ngram import NGramModel
from fourfold.tasks.speeds import bandwidth, speed_table, speeds


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    toy, _ = GPT.toy()
    changes = {"data": Text(unit="character", window=24), "optimizer": Gradient(steps=2)}
    folder = tmp_path_factory.mktemp("gpt") / "run"
    return fourfold.fit(toy.model_copy(update=changes), {"text": ["the cat. " * 400]}, out=folder)


def test_every_engine_that_serves_is_measured(run: Run) -> None:
    found, refused, memory = speeds(run, tokens=6, prompt=3, rows=2)
    measured = {(speed.engine, speed.precision) for speed in found}
    assert {("torch", "float32"), ("compiled", "float32"), ("compiled", "int8")} <= measured
    assert all(s.first > 0 and s.rate > 0 and s.limit > 0 for s in found) and memory > 0
    exact, small = (next(s for s in found if s[:2] == ("compiled", p)) for p in ("float32", "int8"))
    assert small.limit == pytest.approx(exact.limit * 4 / 1.0625)
    if ("llama.cpp", "float32") not in measured:
        assert any("pip install llama-cpp-python" in sentence for sentence in refused)
    table = speed_table(found, memory, 2)
    assert len(table.rows) == len(found) and "2 texts at once" in table.caption


def test_the_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    main(["bench", "generate", str(run.folder), "--tokens", "5", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["engines"][0]["engine"] == "torch" and told["threads"] == 1
    main(["bench", "generate", str(run.folder), "--tokens", "5"])
    assert "memory's" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "expected generate and a run, got nothing"),
        (["generat", "x"], "did you mean generate"),
        (["generate"], "expected one run, got 0"),
        (["generate", "no-such-run"], "no such run"),
        (["generate", "x", "--rows", "0"], "--rows: expected 1 or more, got 0"),
        (["generate", "x", "--tokens", "many"], "expected a whole number"),
    ],
)
def test_what_is_no_bench(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["bench", *words])
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_other_models_are_refused() -> None:
    counting = fourfold.fit(NGramModel(order=2), {"text": ["a b c " * 90]}, out=False)
    with pytest.raises(UserError, match="measures Transformers .* is a run of ngram"):
        speeds(counting)


def test_the_memory_is_measured() -> None:
    assert 1e7 < bandwidth() < 1e13
