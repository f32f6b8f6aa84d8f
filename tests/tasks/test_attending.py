"""A word's way through a head ends where the model's own attention ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.models.attention import attention, looking
from fourfold.models.transformer import Transformer
from fourfold.systems.gan import GAN
from fourfold.systems.gpt import GPT
from fourfold.tasks.attending import walk_of


@pytest.fixture(scope="module")
def gpt() -> Run:
    toy, source = GPT.toy()
    return fourfold.fit(toy.model_copy(update={"data": toy.data.model_copy(update={"unit": "word"})}), source, out=False, steps=4)  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"positions": "alibi"}, {"sliding": 3}, {"kv_heads": 1}])
def test_the_walk_is_the_models_own(options: dict) -> None:
    torch.manual_seed(0)
    model = Transformer(11, 16, 1, 4, window=12, **options)
    model.initialize(0.5)
    with looking() as looked, torch.no_grad():
        model(torch.randint(11, (2, 9)))
    call = looked[0]
    told = {"sliding": options.get("sliding"), "bias": call.bias}
    outputs = attention(call.q, call.k, call.v, **told)[0]  # (H, T, D)
    for head in range(4):
        for place in (0, 5, 8):
            walk = walk_of(call, head, place)
            assert walk.weights().sum() == pytest.approx(1) and len(walk.weights()) == place + 1
            np.testing.assert_allclose(walk.output(), outputs[head, place], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(
                walk.weights(), call.weights()[0, head, place, : place + 1], rtol=1e-4, atol=1e-6
            )


def test_a_word_in_words(gpt: Run) -> None:
    found = gpt.explain("3 and 4 make 7.", word="make", module="blocks.1.attention", head=1)
    assert found.sentences[0].startswith('"make" (position 5 of ')
    assert (
        "blocks.1.attention, head 1" in found.sentences[0] and "16 features" in found.sentences[0]
    )
    assert "1/sqrt(16)" in found.sentences[1]
    table, picture = found.tables[0], found.pictures[0]
    assert [row[1] for row in table.rows] == ["<|end|>", "3", "and", "4", "make"]
    assert sum(row[5] for row in table.rows) == pytest.approx(1)
    assert picture.title == "The way of make through attention" and picture.png


def test_a_word_of_several_tokens() -> None:
    toy, source = GPT.toy()
    run = fourfold.fit(toy, source, out=False, steps=2)
    found = run.explain("3 and 4 make 7.", word="and")
    assert found.sentences[0].startswith('"d" (position 6 of ')


def test_a_chinese_word_of_several_bytes() -> None:
    """A word that no token shows is found by its own tokens."""
    toy, _ = GPT.toy()
    data = toy.data.model_copy(update={"unit": "byte"})
    text = "机器会思考。会思考的机器。" * 60
    run = fourfold.fit(toy.model_copy(update={"data": data}), {"text": [text]}, out=False, steps=2)
    found = run.explain("机器会思考。", word="思考")
    assert "(position 16 of " in found.sentences[0]  # the end token, then three bytes a character
    with pytest.raises(UserError, match="not in the text"):
        run.explain("机器会思考。", word="想")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"word": "make!"}, "not in the text.*make.*last token, is .*3 and 4 make 7"),
        ({"word": "make", "head": 2}, "expected 0 to 1"),
        ({"word": "make", "module": "blocks.9.attention"}, "no such module"),
        ({"word": "make", "module": "blocks.0"}, "no attention of that name"),
    ],
)
def test_what_is_not_there(gpt: Run, options: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        gpt.explain("3 and 4 make 7.", **options)


def test_a_model_without_attention() -> None:
    toy, source = GAN.toy()
    run = fourfold.fit(toy, source, out=False, steps=2)
    with pytest.raises(UserError, match="no self-attention"):
        run.explain(word="make")
