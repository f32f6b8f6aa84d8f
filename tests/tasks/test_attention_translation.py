"""Transformers that translate: one begins from the weights of another, by the same options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fourfold import api
from fourfold.core.errors import UserError
from fourfold.systems.nat import AllWordsAtOnce
from fourfold.systems.seq2seq import Sequences
from fourfold.systems.transformer import TransformerTranslator

NUMBERS = [str(7919 * n % 100_000) for n in range(100)]
PAIRS = {"source": NUMBERS, "target": [number[::-1] for number in NUMBERS]}
STEPS = {"optimizer.steps": 1, "optimizer.evaluate_every": "100%"}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: Any) -> Path:
    toy, _ = TransformerTranslator.toy()
    folder = tmp_path_factory.mktemp("teacher") / "run"
    api.fit(toy, PAIRS, out=folder, **STEPS, heads=4, norm="post")
    return folder


def test_a_student_begins_with_what_it_has_of_the_teachers(
    teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, seen = api.open(teacher).model.state_dict(), {}
    begun = AllWordsAtOnce.begin

    def watched(self: AllWordsAtOnce, run: Any) -> None:
        seen.update({name: t.clone() for name, t in run.model.state_dict().items()})
        begun(self, run)

    monkeypatch.setattr(AllWordsAtOnce, "begin", watched)
    run = api.fit(
        "nat", PAIRS, out=False, from_=teacher, length="predicted", decoder_layers=1, **STEPS
    )
    system = run.system
    assert isinstance(system, AllWordsAtOnce)  # whose shape is the teacher's, where nothing is said
    assert (system.layers, system.width, system.heads, system.norm) == (2, 16, 4, "post")
    shared = [name for name in seen if name in theirs]
    assert {name for name in seen if name not in theirs} == {"difference.weight", "difference.bias"}
    assert all(name.startswith("decoder.1.") for name in theirs if name not in seen)
    assert any(name.startswith("decoder.0.cross") for name in shared)
    for name in shared:
        torch.testing.assert_close(seen[name], theirs[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"width": 32}, "--width 32: the weights of .* were made with width 16"),
        ({"heads": 2}, "--heads 2: .* made with heads 4"),
        ({"norm": "pre"}, "--norm pre: .* made with norm post"),
        ({"rotary_base": 500.0}, "--rotary-base 500.0: .* made with rotary_base 10000"),
        ({"decoder_layers": 3}, "--decoder-layers 3: the decoder of .* has 2"),
    ],
)
def test_another_shape_is_refused(teacher: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        api.fit("nat", PAIRS, out=False, from_=teacher, **STEPS, **options)


def test_a_transformer_goes_on_with_all_of_its_layers(teacher: Path) -> None:
    with pytest.raises(UserError, match="--decoder-layers 1: the decoder of .* has 2"):
        api.fit("transformer", PAIRS, out=False, from_=teacher, decoder_layers=1, **STEPS)
    run = api.fit("transformer", PAIRS, out=False, from_=teacher, **STEPS)
    assert isinstance(run.system, TransformerTranslator) and run.system.norm == "post"


def test_a_recurrent_run_is_no_beginning(tmp_path: Path) -> None:
    toy, _ = Sequences.toy()
    api.fit(toy, PAIRS, out=tmp_path / "run", **STEPS)
    with pytest.raises(UserError, match="is a run of seq2seq, whose weights are no nat's"):
        api.fit("nat", PAIRS, out=False, from_=tmp_path / "run", **STEPS)
