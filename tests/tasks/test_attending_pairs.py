"""Attention of encoder-decoders: three maps, each with the names of who asks and who is asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fourfold import api
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.look.attention import attention_maps
from fourfold.models.attention import attention_weights
from fourfold.systems.nat import AllWordsAtOnce
from fourfold.systems.transformer import TransformerTranslator
from fourfold.tasks.attending import attended, attention_of
from fourfold.tasks.looking import batch_of


@pytest.fixture(scope="module")
def run() -> Run:
    toy, source = TransformerTranslator.toy()
    return api.fit(toy, source, out=False, **{"optimizer.steps": 60, "optimizer.lr": 1e-2})


def test_who_asks_and_who_is_asked(run: Run) -> None:
    pair = {"source": ["1234"], "target": ["987654"]}
    batch, _ = batch_of(run, pair, 1)
    source, target, cross = attended(run, batch, 0)
    end = run.data.target_vocabulary.token(run.data.target_vocabulary.end)  # type: ignore[attr-defined]
    assert source.queries == source.keys == [*"1234", end] and source.own
    assert target.queries == target.keys == ["<begin>", *"987654"] and target.own
    # a row is what is said there, not what is read
    assert (cross.queries, cross.keys, cross.own) == ([*"987654", end], source.keys, False)
    assert [list(one.calls) for one in (source, target, cross)] == [
        [f"{side}.{layer}.{kind}" for layer in range(2)]
        for side, kind in (("encoder", "attention"), ("decoder", "attention"), ("decoder", "cross"))
    ]
    weights = attention_of(cross)["decoder.0.cross"]
    assert weights.shape == (2, 7, 5)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    model: Any = run.model  # the first layer's weights, from its own products
    with torch.no_grad():
        x = model.embed(model.source_embedding, model.source_positions, batch["source"])
        layer = model.encoder[0]
        parts = layer.attention.query_key_value(layer.around_attention.norm(x))
        q, k, _ = parts.unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        expected = attention_weights(q, k, causal=False)[0]
    np.testing.assert_allclose(attention_of(source)["encoder.0.attention"], expected, rtol=1e-5)


def test_padding_is_not_drawn(run: Run) -> None:
    pairs = {"source": ["12", "123456789"], "target": ["21", "987654321"]}
    batch, _ = batch_of(run, pairs, 2)
    source, target, cross = attended(run, batch, 0)
    assert (len(source.keys), len(target.keys)) == (3, 3)
    for one in (source, target, cross):
        for weights in attention_of(one).values():
            assert weights.shape[1:] == (3, 3)
            np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)


def test_a_sentence_is_explained_beside_its_translation(run: Run) -> None:
    found = run.explain("4321", word="3")
    (said,) = run.translate("4321", beam=1)
    assert f'translated as "{said}"' in " ".join(found.sentences)
    assert '"3" (position 2 of 5) in encoder.0.attention, head 0' in found.sentences[0]
    titles = [picture.title for picture in found.pictures]
    assert [t for t in titles if t.startswith("Attention of")] == [
        "Attention of the source to itself",
        "Attention of the target to itself",
        "Attention of the target to the source",
    ]
    crossing = run.explain("4321", word=said[0], module="decoder.1.cross", head=1)
    assert "decoder.1.cross, head 1" in crossing.sentences[0]
    assert len(crossing.tables[0].rows) == 5
    with pytest.raises(UserError, match="did you mean decoder.1.cross"):
        run.explain("4321", word="3", module="decoder.9.cross")
    with pytest.raises(UserError, match="not in the text"):
        run.explain("4321", word="7")


def test_slots_are_called_by_what_they_say() -> None:
    toy, source = AllWordsAtOnce.toy()
    few = {"length": "ctc", "reveal": "none", "optimizer.steps": 3}
    run = api.fit(toy, source, out=False, **few)
    batch, _ = batch_of(run, {"source": ["123"], "target": ["o t t"]}, 1)
    _, target, cross = attended(run, batch, 0)
    assert len(target.queries) == 2 * 4 + 4 and cross.queries is target.queries


def test_maps_of_two_sequences_want_names_of_both() -> None:
    weights = {"layer": np.full((2, 3, 4), 0.25)}
    assert attention_maps(weights, list("abcd"), queries=list("xyz")).png.startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="queries"):
        attention_maps(weights, list("abcd"), queries=list("xy"))
