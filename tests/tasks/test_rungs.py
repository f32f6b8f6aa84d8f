"""Every language model keeps what its verbs rest on: sums of one, steps that equal the whole, rows that stand alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import fourfold
from fourfold.core.registry import index, load_system
from fourfold.core.run import Run
from fourfold.core.types import Score
from fourfold.tasks import archive
from fourfold.tasks.language import LanguageModel, vocabulary_of
from fourfold.tasks.reader import Reader

RUNGS = [
    name
    for name, entry in index().items()
    if entry.reads == "text" and issubclass(load_system(name), LanguageModel)
]
TEXT = "3 and 4 make 7.\n12 and 9 make 21 .\n" * 3 + "a zebra"


@pytest.fixture(scope="module", params=RUNGS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    toy, source = load_system(request.param).toy()
    return fourfold.fit(toy, source, out=tmp_path_factory.mktemp("rungs") / request.param)


def test_the_ladder_is_there() -> None:
    assert {"ngram", "nnlm", "lbl", "hlbl", "rnn", "gru", "lstm", "gpt"} <= set(RUNGS)


@torch.no_grad()
def test_steps_are_the_whole_and_sum_to_one(run: Run) -> None:
    reader = run.system.reader(run)  # type: ignore[attr-defined]
    vocabulary = vocabulary_of(run.data)
    tokens = np.concatenate([[vocabulary.end], vocabulary.encode(TEXT)[:30]])
    state = reader.start(1)
    for token in tokens[1:]:
        said = reader.next(state)
        assert said.shape == (1, len(vocabulary))
        assert float(said.double().exp().sum()) == pytest.approx(1, abs=1e-4)
        state = reader.push(state, torch.tensor([token]))
    whole = reader.surprises(tokens)
    assert whole.shape == (len(tokens) - 1,) and whole.dtype == np.float64
    np.testing.assert_allclose(whole, Reader.surprises(reader, tokens), rtol=2e-3, atol=2e-3)


@torch.no_grad()
def test_rows_stand_alone(run: Run) -> None:
    reader = run.system.reader(run)  # type: ignore[attr-defined]
    vocabulary = vocabulary_of(run.data)
    rows = torch.randint(len(vocabulary), (5, 3), generator=torch.Generator().manual_seed(0))
    together, alone = reader.start(3), [reader.start(1) for _ in range(3)]
    for tokens in rows:
        together = reader.push(together, tokens)
        alone = [reader.push(s, tokens[i : i + 1]) for i, s in enumerate(alone)]
        said = torch.cat([reader.next(s) for s in alone])
        torch.testing.assert_close(reader.next(together), said, rtol=1e-3, atol=1e-3)


def test_a_file_comes_back_in_the_size_that_is_scored(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x").write_text(TEXT)
    packed = run.compress(tmp_path / "x", rows=2)
    assert run.expand(packed, out=tmp_path / "y").read_bytes() == TEXT.encode()
    body = archive.read(run.compress(tmp_path / "x", out=tmp_path / "z").read_bytes(), "z").body
    score = run.score(TEXT)
    assert isinstance(score, Score)
    assert 8 * len(body) == pytest.approx(score["bits_per_byte"] * len(TEXT), rel=0.01, abs=24)


def test_the_unknown_token_is_never_said(run: Run) -> None:
    assert "<unk>" not in "".join(run.generate(tokens=60, temperature=30.0, seed=0))
