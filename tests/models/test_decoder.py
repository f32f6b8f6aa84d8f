"""Slots of a decoder: whatever joins, goes on, leaves, is copied or cut, each slot's logits are the model's of its text."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.models.compiled import CompiledDecoder
from fourfold.models.decoder import Decoder, advance
from fourfold.models.torch_decoder import TorchDecoder
from fourfold.models.transformer import Transformer

SLOTS, WINDOW, VOCABULARY = 3, 9, 13
FORMS: dict[str, dict[str, Any]] = {
    "llama": {"kv_heads": 2},
    "sliding": {"sliding": (None, 3), "bias": "qkv", "query_key_norm": True},
    "learned": {"positions": "learned", "norm": "layer", "feedforward": "gelu", "bias": "all"},
    "alibi": {"positions": "alibi", "sliding": 4},
    "shaw": {"positions": "shaw", "kv_heads": 1},
    "t5": {"positions": "t5"},
}


def model(**changes: Any) -> Transformer:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"width": 16, "layers": 2, "heads": 4, "window": WINDOW}
    made = Transformer(VOCABULARY, **{**sizes, **changes}).eval()
    made.initialize(0.3)  # far from uniform: an error changes the logits
    return made


def made(engine: str, net: Transformer) -> Decoder:
    if engine == "torch":
        return TorchDecoder(net, SLOTS, torch.float32)
    return CompiledDecoder(net, SLOTS)


CASES = [("torch", form) for form in FORMS] + [("compiled", "llama"), ("compiled", "sliding")]


@pytest.mark.parametrize("engine, form", CASES)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_each_slot_is_answered_as_the_model_answers_its_text(
    engine: str, form: str, data: st.DataObject
) -> None:
    net = model(**FORMS[form])
    decoder = made(engine, net)
    texts: list[list[int]] = [[] for _ in range(SLOTS)]
    token, slot = st.integers(0, VOCABULARY - 1), st.integers(0, SLOTS - 1)
    for _ in range(6):
        what = data.draw(st.sampled_from(["read", "read", "read", "copy", "cut"]))
        if what == "copy":
            source, target = data.draw(slot), data.draw(slot)
            length = data.draw(st.integers(0, len(texts[source])))
            decoder.copy(source, target, length)
            texts[target] = texts[source][:length]
        elif what == "cut":
            one = data.draw(slot)
            length = data.draw(st.integers(0, len(texts[one])))
            decoder.cut(one, length)
            texts[one] = texts[one][:length]
        else:
            slots = data.draw(st.lists(slot, min_size=1, unique=True))
            slots = [s for s in slots if len(texts[s]) < WINDOW]
            if not slots:
                continue
            more = [
                data.draw(st.lists(token, min_size=1, max_size=WINDOW - len(texts[s])))
                for s in slots
            ]
            every = data.draw(st.booleans())
            expected = []
            for s, some in zip(slots, more, strict=True):
                texts[s] = texts[s] + some
                with torch.no_grad():
                    logits = net(torch.tensor([texts[s]]))[0]
                expected.append(logits[-len(some) :] if every else logits[-1:])
            found = decoder.read(slots, more, every=every)
            torch.testing.assert_close(found, torch.cat(expected), rtol=1e-4, atol=1e-4)
        assert decoder.lengths == [len(text) for text in texts]


@pytest.mark.parametrize("engine", ["torch", "compiled"])
def test_what_is_refused(engine: str) -> None:
    decoder = made(engine, model())
    decoder.read([1], [[1] * (WINDOW - 1)])
    refused: list[tuple[Any, type[Exception], str]] = [
        (
            ([1], [[1, 2]]),
            ValueError,
            "window of 9 positions is full: slot 1 holds 8 tokens, got 2",
        ),
        (([0, 0], [[1], [2]]), ValueError, "different slots below 3, got .0, 0."),
        (([3], [[1]]), ValueError, "slots below 3"),
        (([-1], [[1]]), ValueError, "slots below 3"),
        (([], []), ValueError, "slots below 3"),
        (([0], [[]]), ValueError, "tokens for each of 1 slots"),
        (([0, 2], [[1]]), ValueError, "tokens for each of 2 slots"),
        (([0], [[13]]), IndexError, "0 to 12, got 13"),
        (([0], [[-1]]), IndexError, "0 to 12, got -1"),
    ]
    for given_, kind, message in refused:
        with pytest.raises(kind, match=message):
            decoder.read(*given_)
    for call in (
        lambda: decoder.copy(0, 1, 1),
        lambda: decoder.cut(1, 9),
        lambda: decoder.cut(1, -1),
    ):
        with pytest.raises(ValueError, match="holds"):
            call()
    assert decoder.lengths == [0, WINDOW - 1, 0]
    decoder.read([1], [[1]])


@pytest.mark.parametrize("engine", ["torch", "compiled"])
def test_full_windows_go_on_from_their_last_half(engine: str) -> None:
    net = model()
    decoder = made(engine, net)
    texts = [[1] * WINDOW, [2, 3]]
    decoder.read([0, 1], texts)
    for new in range(3, 12):
        texts = [[*text, new][-WINDOW:] for text in texts]
        found = advance(decoder, [0, 1], texts)
        for slot, logits in enumerate(found):
            context = texts[slot][-decoder.lengths[slot] :]
            with torch.no_grad():
                exact = net(torch.tensor([context]))[0, -1]
            torch.testing.assert_close(logits, exact, rtol=1e-4, atol=1e-4)
    assert decoder.lengths == [8, 6, 0]
