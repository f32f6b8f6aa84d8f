"""Ordered text: rows that go on from batch to batch, every token a target exactly once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.data.continuing import rows_of
from fourfold.data.text import IGNORE, Text, TextData


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 120),
    st.integers(1, 9),
    st.integers(1, 12),
    st.integers(0, 3),
    st.one_of(st.none(), st.integers(0, 9)),
)
def test_every_token_is_a_target_once_and_rows_go_on(
    count: int, rows: int, window: int, seed: int, epoch: int | None
) -> None:
    """Tokens are their own places, so that what was read before each target can be told."""
    tokens = np.arange(count + 1)
    made = rows_of(count, rows, window, seed, epoch)
    batches = [made.batch(tokens, step, -5, IGNORE) for step in range(made.steps)]
    seen = [t for b in batches for t in b["targets"].flatten().tolist() if t != IGNORE]
    assert sorted(seen) == list(range(1, count + 1))
    for step, batch in enumerate(batches):
        counts = batch["targets"] != IGNORE
        assert batch["tokens"].shape == batch["targets"].shape == (made.rows, counts.shape[1])
        assert counts.shape[1] <= window and bool(counts.any(dim=0).all())
        assert (batch["tokens"][counts] + 1 == batch["targets"][counts]).all()
        assert (batch["tokens"][~counts] == -5).all()
        assert (~counts).sum() <= made.rows and not bool((~counts)[:, :-1].any())
        assert batch["begins"].tolist() == [step == 0] * made.rows
    for before, after in itertools.pairwise(batches):
        there = (after["targets"] != IGNORE).all(dim=1)
        assert (after["tokens"][there, 0] == before["targets"][there, -1]).all()


def test_epochs_are_cut_at_other_places() -> None:
    firsts = {rows_of(1000, 4, 35, 0, epoch).first for epoch in range(40)}
    assert len(firsts) > 8 and min(firsts) >= 18 and max(firsts) <= 35
    assert rows_of(1000, 4, 35, 0, None).first == 35
    assert rows_of(1000, 4, 35, 7, 3) == rows_of(1000, 4, 35, 7, 3)


def _text(batch: int = 3, window: int = 5) -> TextData:
    options = Text(unit="character", ordered=True, batch=batch, window=window)
    return options.open({"text": ["The quick brown fox jumps over the lazy dog. " * 7]})


def test_text_in_order() -> None:
    data = _text()
    tokens = data.tokens("train")
    batches = list(data.batches("train"))
    assert len(batches) == data.length("train") and len(batches) * 3 == data.size("train")
    row = np.concatenate([batch["targets"][0].numpy() for batch in batches])
    assert row[row != IGNORE].tolist() == tokens[1 : 1 + (row != IGNORE).sum()].tolist()
    assert batches[0]["tokens"][0, 0] == data.vocabulary.end
    total = sum(int((batch["targets"] != IGNORE).sum()) for batch in batches)
    assert total == len(tokens) - 1
    assert "none" in data.summary()["not targets in one epoch"]


def test_an_epoch_goes_on_where_it_was_left() -> None:
    whole = [b["tokens"].tolist() for b in _text().batches("train", epoch=1)]
    data, fresh = _text(), _text()
    list(data.batches("train", epoch=0))
    begun = [b["tokens"].tolist() for b in itertools.islice(data.batches("train", epoch=1), 4)]
    fresh.load_state_dict(data.state_dict())
    rest = list(fresh.batches("train", epoch=1))
    assert begun + [b["tokens"].tolist() for b in rest] == whole
    assert not any(bool(b["begins"].any()) for b in rest)
    assert len(whole) == _text().length("train", 1)


@pytest.mark.parametrize("batch", [1, 20, 1000])
def test_fewer_tokens_than_rows(batch: int) -> None:
    data = Text(unit="character", ordered=True, batch=batch, window=4).open(
        {"text": ["abcdefgh " * 4]}
    )
    found = [t for b in data.batches("train") for t in b["targets"].flatten().tolist()]
    assert sum(t != IGNORE for t in found) == len(data.tokens("train")) - 1


def test_what_is_not_ordered_says_nothing_of_beginnings() -> None:
    data = Text(unit="character", batch=4, window=8).open({"text": ["hello world " * 20]})
    assert set(next(iter(data.batches("train", epoch=0)))) == {"tokens", "targets"}
