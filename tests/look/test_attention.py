"""Attention maps and what they say of a head."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from fourfold.look.attention import attention_maps, attention_table, visible


def causal(rng: np.random.Generator, heads: int, time: int) -> np.ndarray:
    scores = rng.normal(size=(heads, time, time))
    scores[:, np.triu_indices(time, 1)[0], np.triu_indices(time, 1)[1]] = -np.inf
    exponents = np.exp(scores)
    return exponents / exponents.sum(axis=-1, keepdims=True)


def test_habits_of_known_heads() -> None:
    time = 5
    itself = np.eye(time)
    before = np.eye(time, k=-1)
    before[0, 0] = 1
    even = np.tril(np.ones((time, time)))
    even /= even.sum(axis=1, keepdims=True)
    table = attention_table({"layer": np.stack([itself, before, even])})
    rows = [row[2:] for row in table.rows]
    assert rows[0] == (1.0, 0.0, 0.0, 0.0, 1.0)
    assert rows[1] == (1.0, 1.0, 0.25, 1.0, 0.0)  # the second token's predecessor is the first
    spread, distance, first, *_ = rows[2]
    assert spread == pytest.approx(np.prod([2, 3, 4, 5]) ** 0.25)
    assert distance == pytest.approx(np.mean([0.5, 1, 1.5, 2]))
    assert first == pytest.approx(np.mean([1 / 2, 1 / 3, 1 / 4, 1 / 5]))


def test_a_single_token() -> None:
    assert attention_table({"a": np.ones((1, 1, 1))}).rows[0][2] == 1.0


@pytest.mark.parametrize(("asking", "asked"), [(1, 1), (1, 13), (13, 1)])
def test_a_map_of_a_single_row_or_column_has_room(asking: int, asked: int) -> None:
    """Warnings are errors: names that stood off by whole cells left the axes no room."""
    weights = {"decoder.0.attention": np.full((2, asking, asked), 1 / asked)}
    attention_maps(weights, ["<begin>"] * asked, queries=["<begin>"] * asking)


def test_all_layers_and_heads_are_drawn() -> None:
    rng = np.random.default_rng(0)
    weights = {f"blocks.{i}": causal(rng, 3, 6) for i in range(2)}
    small = attention_maps(weights, list("它 was "))
    assert small.png.startswith(b"\x89PNG") and "Shown" not in small.caption
    many = {f"blocks.{i}": causal(rng, 14, 4) for i in range(13)}
    large = attention_maps(many, list("abcd"))
    assert "Shown: 12 of 13 layers, 12 of 14 heads." in large.caption
    assert Image.open(io.BytesIO(large.png)).width > Image.open(io.BytesIO(small.png)).width


def test_long_texts_are_cut_and_it_is_said() -> None:
    weights = {"a": causal(np.random.default_rng(0), 1, 40)}
    assert "the first 32 of 40 tokens" in attention_maps(weights, ["x"] * 40).caption


def test_names_must_fit() -> None:
    with pytest.raises(ValueError, match="expects 3 keys"):
        attention_maps({"a": np.ones((1, 2, 2))}, ["a", "b", "c"])


def test_blanks_are_visible() -> None:
    assert visible(" a\n\t") == "␣a↵⇥" and visible("x" * 20) == "x" * 11 + "…"
