"""Grammars and biases through the verb: what comes out parses, by every engine and kind of vocabulary."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.data.subwords import Subwords
from fourfold.data.text import Text
from fourfold.data.vocabulary import Bytes, Characters, Vocabulary
from fourfold.data.words import Words
from fourfold.models.sampling import Sampler, Sampling, draw
from fourfold.optimizers.gradient import Gradient
from fourfold.systems.gpt import GPT
from fourfold.systems.ngram import NGramModel
from fourfold.tasks.drawing import drawing
from fourfold.tasks.grammar import grammar

pytest.importorskip("llguidance", reason="grammars need llguidance")
LESSON = 'the cat {"sat": [10, 2]} on the mat, 猫坐在垫子上。 the dog: 345. '
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 4},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["a", "猫"]}, "maxItems": 2},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def learned() -> Vocabulary:
    return Subwords.learn(lambda: iter([(LESSON * 20, "")]), 300, 1, 1000)


VOCABULARIES = {
    "bytes": Bytes,
    "characters": lambda: Characters(sorted({*(LESSON + json.dumps(SCHEMA))})),
    "bpe": learned,
}


def said(vocabulary: Vocabulary, seed: int, most: int = 400, **kind: Any) -> tuple[str, bool]:
    """What a model that knows nothing says under a grammar, and whether it came to an end."""
    rules = grammar(vocabulary, **kind)
    assert rules is not None
    noise, guide, tokens = torch.Generator().manual_seed(seed), rules.guide(), []
    sampler = Sampler(Sampling(1.0), noise, never=vocabulary.never, guide=guide)
    while len(tokens) < most and not sampler.ended:
        (token,) = draw([sampler], 3 * torch.randn(1, len(vocabulary), generator=noise))
        if token not in vocabulary.ends:
            tokens.append(token)
    return vocabulary.decode(tokens), guide.whole


@pytest.mark.parametrize("kind", VOCABULARIES)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_json_is_valid_by_its_schema(kind: str, seed: int) -> None:
    text, whole = said(VOCABULARIES[kind](), seed, schema=json.dumps(SCHEMA))
    found = json.loads(text)
    assert whole and {"name", "age"} <= {*found} <= {"name", "age", "tags"}
    assert len(found["name"]) <= 4 and 0 <= found["age"] <= 99
    assert set(found.get("tags", [])) <= {"a", "猫"}


@pytest.mark.parametrize("kind", VOCABULARIES)
@pytest.mark.parametrize("regex", ["(cat|dog){1,3}", "[0-9]{3}-[0-9]{2}", "猫(坐|在){2}。?"])
def test_text_matches_its_expression(kind: str, regex: str) -> None:
    vocabulary = VOCABULARIES[kind]()
    if kind == "characters" and "-" in regex:
        vocabulary = Characters(sorted({*LESSON, "-", *"0123456789"}))
    for seed in range(5):
        text, whole = said(vocabulary, seed, regex=regex)
        assert whole and re.fullmatch(regex, text)


@pytest.mark.parametrize(
    "kind, message",
    [
        ({"regex": "a("}, r"--regex: unclosed group, at '\('"),
        ({"schema": "[1"}, "--schema: is no JSON"),
        ({"schema": "3"}, "--schema: expected a JSON object, got int"),
        ({"schema": '{"type": "strin"}'}, "--schema: Invalid type: strin"),
        ({"regex": "a", "schema": "{}"}, "give one of them"),
    ],
)
def test_what_is_no_grammar(kind: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        grammar(Bytes(), **kind)


def test_letters_that_the_vocabulary_has_not() -> None:
    with pytest.raises(UserError, match="goes with units that spell every letter .*, not word"):
        grammar(Words(["a"]), regex="a")
    guide = grammar(Characters(list("abc")), regex="ax").guide()  # type: ignore[union-attr]
    assert guide.allowed().nonzero().tolist() == [[2]]
    guide.push(2)
    with pytest.raises(UserError, match="it has no such characters"):
        guide.allowed()


def test_biases_by_text_and_number() -> None:
    sampling, rules = drawing(
        Characters(list("abc")), temperature=1, logit_bias=["b=-2.5", "#4=7", "==1"][:2]
    )
    assert sampling.logit_bias == {3: -2.5, 4: 7.0} and rules is None
    for wrong, message in [
        ("b", "expected TEXT=BIAS"), ("b=x", "expected TEXT=BIAS"), ("b=nan", "expected TEXT=BIAS"),
        ("#9=1", "the last one is 4"), ("ab=1", '"ab" is #2 #3 in this'), ("=1", '"" is none'), ("z=1", "text of one token"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=message):
            drawing(Characters(list("abc")), temperature=1, logit_bias=[wrong])


@pytest.fixture(scope="module")
def gpt() -> Run:
    toy, _ = GPT.toy()
    changes = {"data": Text(unit="character", window=32), "optimizer": Gradient(steps=3)}
    return fourfold.fit(toy.model_copy(update=changes), {"text": [LESSON * 60]}, out=False)


def test_every_engine_keeps_to_the_grammar(gpt: Run) -> None:
    for engine in ("torch", "compiled"):
        texts = [
            "".join(gpt.generate("the ", tokens=60, seed=seed, engine=engine, regex="(cat|dog)+: 1[0-9]?"))
            for seed in range(4)
        ]  # fmt: skip
        assert all(re.fullmatch("(cat|dog)+: 1[0-9]?", text) for text in texts)
    greedy = {
        "".join(gpt.generate("the ", tokens=60, temperature=0, engine=engine, regex="[a-m ]{40}"))
        for engine in ("torch", "compiled")
    }
    assert len(greedy) == 1 and re.fullmatch("[a-m ]{40}", *greedy)


def test_counting_models_keep_to_it_too() -> None:
    system = NGramModel(data=Text(unit="character"), order=3)
    run = fourfold.fit(system, {"text": [LESSON * 30]}, out=False)
    text = "".join(run.generate("the ", tokens=40, seed=0, schema='{"enum": ["cat", "dog"]}'))
    assert json.loads(text) in ("cat", "dog")


def test_a_text_that_is_cut_off_is_said(gpt: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(gpt.console, "say", said.append)
    assert len("".join(gpt.generate("the ", tokens=5, regex="c{9}"))) == 5
    assert any("ended before all that --regex asks for" in sentence for sentence in said)


def test_penalty_and_bias_through_the_verb(gpt: Run) -> None:
    only = {"logit_bias": ("m=200",), "temperature": 0, "tokens": 6, "engine": "torch"}
    assert "".join(gpt.generate("the ", **only)) == "mmmmmm"
    assert "m" not in "".join(gpt.generate("the ", tokens=60, seed=0, logit_bias=("m=-300",)))
    plain, varied = (
        "".join(gpt.generate("t", tokens=20, temperature=0, repetition_penalty=penalty))
        for penalty in (1.0, 1e9)
    )
    assert len({*varied}) > len({*plain})
    with pytest.raises(UserError, match="logit-bias"):
        "".join(gpt.generate("t", logit_bias=("mm=1",)))
