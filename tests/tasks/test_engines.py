"""Which engine continues a text, what is said about it, and what int8 costs."""

from __future__ import annotations

import gc
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.data.text import Text
from fourfold.models import compiled, packed
from fourfold.models.transformer import Transformer
from fourfold.optimizers.gradient import Gradient
from fourfold.systems.gpt import GPT
from fourfold.tasks import engines

LESSON = "the cat sat on the mat. the dog sat on the log. "


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    toy, _ = GPT.toy()
    system = toy.model_copy(
        update={
            "data": Text(unit="character", window=24, batch=16),
            "optimizer": Gradient(
                algorithm="muon", lr=0.02, other_lr=1e-2, steps=60, precision="float32"
            ),
        }
    )
    return fourfold.fit(
        system, {"text": [LESSON * 120]}, out=tmp_path_factory.mktemp("gpt") / "run"
    )


class Heard:
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, sentence: str) -> None:
        self.said.append(sentence)


@pytest.fixture
def heard(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    console = Heard()
    monkeypatch.setattr(type(run), "console", property(lambda self: console))
    return console.said


def test_greedy_text_is_the_same_by_every_engine(run: Run, heard: list[str]) -> None:
    texts = {
        engine: "".join(run.generate("the ", tokens=80, temperature=0, engine=engine))
        for engine in ("torch", "compiled", "auto")
    }
    assert len(set(texts.values())) == 1
    assert [s for s in heard if "Engine" in s] == ["Engine: compiled, float32."] * 2


def test_int8_is_measured_once_and_said(run: Run, heard: list[str]) -> None:
    text = "".join(run.generate("the ", tokens=70, seed=1, precision="int8"))
    assert len(text) == 70
    (sentence,) = [s for s in heard if "Engine" in s]
    assert "int8; bits per byte on 512 held-out tokens" in sentence
    kept = json.loads((run.folder / engines.FILE).read_text())
    before, after, error = kept["cost"]
    # the same tokens, read by the model at once
    assert before == pytest.approx(run.evaluate()["bits_per_byte"], rel=0.5)
    assert before != after and abs(after - before) < 0.05 and 0 < error < 0.1
    again = engines.int8_cost(run, run.model, None)  # type: ignore[arg-type]
    assert again == engines.Cost(before, after, error)


def test_the_measure_is_the_models_own(run: Run) -> None:
    """With the float32 decoder before and after are the same."""
    from fourfold.models.compiled import CompiledDecoder

    cost = engines._measured(run, run.model, CompiledDecoder(run.model, 8, window=64))
    assert cost.before == pytest.approx(cost.after, rel=1e-4) and cost.error < 1e-4


def test_one_prompt_does_not_depend_on_the_others(run: Run) -> None:
    options = {"tokens": 70, "seed": 3, "engine": "compiled", "precision": "float32"}
    together = list(run.generate(["the cat", "the dog", "a"], **options))
    alone = ["".join(run.generate(text, **options)) + "\n" for text in ("the cat", "the dog", "a")]
    assert together == alone


def test_without_held_out_text_the_logits_are_compared(run: Run) -> None:
    cost = engines.Cost(None, None, 0.0123)
    assert cost.small and "1.23%" in cost.sentence
    assert not engines.Cost(1.0, 1.02, 0.0).small


@pytest.mark.parametrize(
    "options, message",
    [
        ({"engine": "torch", "precision": "int8"}, "compiled engine's"),
        ({"engine": "compiled", "precision": "bfloat16"}, "is torch's"),
    ],
)
def test_what_does_not_go_together(run: Run, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        "".join(run.generate("a", **options))


def test_what_is_measured_is_by_byte() -> None:
    """A character of Chinese has three."""
    from fourfold.models.compiled import CompiledDecoder

    toy, _ = GPT.toy()
    system = toy.model_copy(
        update={"data": Text(unit="character", window=24), "optimizer": Gradient(steps=20)}
    )
    chinese = fourfold.fit(system, {"text": ["猫坐在垫子上。狗坐在木头上。" * 200]}, out=False)
    expected = chinese.evaluate()["bits_per_byte"]
    cost = engines.int8_cost(chinese, chinese.model, CompiledDecoder(chinese.model, 8, "int8", 64))
    assert cost.before == pytest.approx(expected, rel=0.3)
    assert cost.after == pytest.approx(expected, rel=0.3)


def test_weights_are_packed_once_until_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packings: list[str] = []
    plain = compiled.weights_of

    def counted(model: Any, kind: str) -> Any:
        packings.append(kind)
        return plain(model, kind)

    monkeypatch.setattr(packed, "weights_of", counted)
    toy, sources = GPT.toy()
    run = fourfold.fit(toy.model_copy(update={"optimizer": Gradient(steps=2)}), sources, out=False)
    measured = []
    monkeypatch.setattr(
        engines, "_measured", lambda *_: measured.append(1) or engines.Cost(1, 1, 0)
    )
    options: dict[str, Any] = {"tokens": 70, "temperature": 0, "engine": "compiled"}
    drawn = {**options, "temperature": 1, "seed": 1, "precision": "int8"}

    def text(**more: Any) -> str:
        return "".join(run.generate("a", **{**options, **more}))

    first = text()
    assert text() == first and packings == ["float32"]
    for _ in range(2):
        text(**drawn)
    assert packings == ["float32", "int8"] and len(measured) == 1
    with torch.no_grad():
        run.model.head.weight.neg_()
    second = text()
    assert packings[2:] == ["float32"]
    assert second == text(engine="torch") != first
    run.model.head.weight.data.neg_()  # which autograd does not count
    assert text() == first and packings[3:] == ["float32"]
    text(**drawn)
    assert packings[4:] == ["int8"] and len(measured) == 2


def test_packed_weights_are_bounded_and_go_with_their_models(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packed, "_kept", OrderedDict())
    sizes = {"width": 32, "layers": 1, "heads": 2, "window": 8}
    models = [Transformer(5, **sizes).eval() for _ in range(packed.KEPT + 2)]
    for model in models:
        packed.packed(model, "int8")
    assert len(packed._kept) == packed.KEPT
    again = packed.packed(models[-1], "int8")
    assert packed.packed(models[-1], "int8") is again
    del model, models[:-1]
    gc.collect()
    packed.packed(models[0], "float32")
    assert [kind for _, kind in packed._kept] == ["int8", "float32"]
    monkeypatch.setattr(packed, "MOST", 0)
    found = packed.packed(models[0], "float32")
    assert packed.packed(models[0], "float32") is found  # as long as nothing new comes
    models[0].head.weight.data.add_(1)
    assert packed.packed(models[0], "float32") is not found and not packed._kept


@pytest.fixture(scope="module")
def other() -> Run:
    toy, sources = GPT.toy()
    system = toy.model_copy(update={"norm": "layer", "optimizer": Gradient(steps=2)})
    return fourfold.fit(system, sources, out=False)


def test_other_forms_fall_back_to_torch(other: Run, heard: list[str]) -> None:
    assert len("".join(other.generate("a", tokens=70, seed=0))) > 0
    with pytest.raises(UserError, match="norm layer, not rms; --engine torch does"):
        "".join(other.generate("a", engine="compiled"))
    assert not [s for s in heard if "compiled" in s]


def test_short_texts_and_large_models_on_many_threads_stay_with_torch(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not engines._pays(run.model, engines.SHORT)
    assert engines._pays(run.model, engines.SHORT + 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    assert engines._pays(run.model, 200)
    monkeypatch.setattr(engines, "LARGE", 10)
    assert not engines._pays(run.model, 200)


def test_cost_is_measured_anew_for_other_weights(run: Run, tmp_path: Path) -> None:
    kept = run.folder / engines.FILE
    kept.write_text(json.dumps({"weights": [1, 2], "cost": [9, 9, 9]}))
    from fourfold.models.compiled import CompiledDecoder

    cost = engines.int8_cost(run, run.model, CompiledDecoder(run.model, 8, "int8", 64))
    assert cost.before != 9 and json.loads(kept.read_text())["weights"] != [1, 2]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Run:
    toy, _ = GPT.toy()
    changes = {
        "layers": 1,
        "data": Text(unit="character", window=24),
        "optimizer": Gradient(steps=8),
    }
    folder = tmp_path_factory.mktemp("gpt") / "small"
    return fourfold.fit(toy.model_copy(update=changes), {"text": [LESSON * 120]}, out=folder)


@pytest.mark.parametrize("engine", ["torch", "compiled"])
def test_guesses_change_no_text(run: Run, small: Run, engine: str) -> None:
    greedy = {"tokens": 90, "temperature": 0, "engine": engine}
    plain = "".join(run.generate("the ", **greedy))
    for draft in ("prompt", str(small.folder)):
        assert "".join(run.generate("the ", draft=draft, **greedy)) == plain
    drawn = {"tokens": 70, "seed": 4, "engine": engine, "precision": "float32"}
    assert "".join(run.generate("a", draft="prompt", **drawn)) == "".join(
        run.generate("a", **drawn)
    )
    several = list(run.generate(["the cat", "a"], draft=str(small.folder), **greedy))
    assert several == list(run.generate(["the cat", "a"], **greedy))


def test_drafts_that_cannot_guess(run: Run, tmp_path: Path) -> None:
    toy, sources = GPT.toy()
    other = fourfold.fit(toy.model_copy(update={"optimizer": Gradient(steps=2)}), sources, out=tmp_path / "o")  # fmt: skip
    for draft, message in [(other.folder, "has another vocabulary"), (tmp_path / "no", "no")]:
        with pytest.raises(UserError, match=message):
            "".join(run.generate("a", draft=str(draft)))
