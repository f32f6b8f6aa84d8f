"""The range coder against the same in integers of any length, against entropy, and back again."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fourfold.kernels import coder, coder_plain

slices = st.lists(
    st.tuples(st.integers(0, 2**26), st.integers(1, 2**26), st.integers(0, 2**26)), max_size=60
)


@settings(deadline=None, max_examples=300)
@given(slices)
@example([(2**26, 1, 0)] * 60)
@example([(0, 1, 2**26)] * 60)
def test_symbols_of_any_width(symbols: list[tuple[int, int, int]]) -> None:
    """(before, width, behind): equal bytes, and each is found again."""
    plain, state, out = coder_plain.Encoder(), coder.register(), np.zeros(2000, np.uint8)
    bits = 0.0
    for before, width, behind in symbols:
        total = before + width + behind
        plain.put(before, width, total)
        coder.put(state, out, before, width, total)
        bits += math.log2(total / width)
    written = coder.finish(state, out)
    assert written == plain.finish()
    assert len(written) * 8 <= bits + 16
    state, data = coder.opened(written)
    for before, width, behind in symbols:
        total = before + width + behind
        assert before <= coder._found(state, total) < before + width
        coder._take(state, data, before, width, total)


def test_a_carry_runs_through_many_bytes() -> None:
    """The range straddles one number for 200 symbols, so that all bytes out are 255, and ends above it."""
    plain, state, out = coder_plain.Encoder(), coder.register(), np.zeros(4000, np.uint8)
    total, put = 2**20, []

    def write(begin: int, width: int) -> None:
        put.append((begin, width))
        plain.put(begin, width, total)
        coder.put(state, out, begin, width, total)

    for _ in range(200):
        number = 0x40 << 56 + 8 * plain.size
        place = -(-(number - plain.low) // (plain.range // total)) - 1  # the last that begins below
        write(place, min(2, total - place))
        assert plain.low < 0x40 << 56 + 8 * plain.size < plain.low + plain.range
    size = int(state[2])
    assert size > 100 and out[0] == 0x3F and (out[1:size] == 255).all()
    number = 0x40 << 56 + 8 * plain.size
    write(-(-(number - plain.low) // (plain.range // total)), 1)
    assert out[0] == 0x40 and (out[1:size] == 0).all()
    written = coder.finish(state, out)
    assert written == plain.finish()
    state, data = coder.opened(written)
    for begin, width in put:
        assert begin <= coder._found(state, total) < begin + width
        coder._take(state, data, begin, width, total)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 5), st.integers(1, 300), st.integers(0, 2**32 - 1), st.floats(0.1, 30))
def test_rows_of_probabilities(rows: int, entries: int, seed: int, sharp: float) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(20, rows, entries)) * sharp
    exact = np.exp(logits - logits.max(-1, keepdims=True))
    rounded = (exact / exact.sum(-1, keepdims=True)).astype(np.float32)
    targets = generator.integers(entries, size=(20, rows))
    plain, state, out = coder_plain.Encoder(), coder.register(), np.zeros(8000, np.uint8)
    for step, chosen in zip(rounded, targets, strict=True):
        assert coder.put_rows(state, out, step, chosen)
        for row, target in zip(step.tolist(), chosen.tolist(), strict=True):
            plain.put_row(row, target)
    written = coder.finish(state, out)
    assert written == plain.finish()
    state, data = coder.opened(written)
    for step, chosen in zip(rounded, targets, strict=True):
        found = np.zeros(rows, np.int64)
        assert coder.take_rows(state, data, step, found)
        np.testing.assert_array_equal(found, chosen)


def test_what_is_written_is_the_entropy() -> None:
    generator = np.random.default_rng(0)
    p = np.array([[0.7, 0.2, 0.05, 0.05]], np.float32)
    drawn = generator.choice(4, size=50_000, p=[0.7, 0.2, 0.05, 0.05])
    state, out = coder.register(), np.zeros(50_000, np.uint8)
    for token in drawn[:, None]:
        coder.put_rows(state, out, p, token)
    ideal = -np.log2(p[0, drawn].astype(float)).sum()
    assert len(coder.finish(state, out)) * 8 == pytest.approx(ideal, abs=24)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -0.1, 0.4])
def test_what_are_no_probabilities_is_refused(wrong: float) -> None:
    p = np.array([[0.5, wrong]], np.float32)
    assert not coder.put_rows(coder.register(), np.zeros(99, np.uint8), p, np.zeros(1, np.int64))


words = st.lists(st.binary(max_size=12) | st.sampled_from([b"the", b"then", b"other"]), max_size=40)


@settings(deadline=None, max_examples=60)
@given(words, st.booleans())
def test_words_are_spelled(texts: list[bytes], ended: bool) -> None:
    plain, speller = coder_plain.Encoder(), coder_plain.Speller()
    bits = sum(coder_plain.put_word(plain, speller, word, ended) for word in texts)
    state, counts = coder.register(), coder.spelling_counts()
    out = np.zeros(20_000, np.uint8)
    for word in texts:
        coder.put_word(state, out, counts, np.frombuffer(word, np.uint8), ended)
    written = coder.finish(state, out)
    assert written == plain.finish()
    begins = np.cumsum([0, *map(len, texts)])
    data = np.frombuffer(b"".join(texts), np.uint8)
    cost = coder.spell_cost(coder.spelling_counts(), data, begins, ended)
    assert cost == pytest.approx(bits, rel=1e-9, abs=1e-9)
    assert len(written) * 8 <= bits + 16
    (state, data), counts = coder.opened(written), coder.spelling_counts()
    for word in texts:
        room = np.zeros(20 if ended else len(word), np.uint8)
        length = coder.take_word(state, data, counts, room, ended)
        assert room[:length].tobytes() == word


def test_counts_are_halved_alike() -> None:
    plain, speller = coder_plain.Encoder(), coder_plain.Speller()
    text = bytes(np.random.default_rng(1).integers(97, 99, 3000).astype(np.uint8))
    bits = coder_plain.put_word(plain, speller, text, False)
    state, out = coder.register(), np.zeros(60_000, np.uint8)
    coder.put_word(state, out, coder.spelling_counts(), np.frombuffer(text, np.uint8), False)
    assert coder.finish(state, out) == plain.finish()
    assert 3000 < bits < 3500  # two letters, equally likely: one bit each


def test_a_word_without_an_end_is_told() -> None:
    state, out = coder.register(), np.zeros(999, np.uint8)
    coder.put_word(state, out, coder.spelling_counts(), np.frombuffer(b"abcdefgh", np.uint8), True)
    state, data = coder.opened(coder.finish(state, out))
    assert coder.take_word(state, data, coder.spelling_counts(), np.zeros(4, np.uint8), True) == -1
