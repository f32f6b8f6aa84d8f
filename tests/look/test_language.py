"""Pictures of language models: where the pieces of a passage stand, Zipf's plot of any counts."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.look import language
from fourfold.look.language import _width, laid_out, passage, zipf

pieces = st.lists(
    st.sampled_from(["the", " cat", " ", "\n", "床前", "。\n", " a\nb", "x" * 30, ""]), max_size=30
)


@settings(deadline=None)
@given(pieces)
def test_nothing_of_a_passage_is_lost(said: list[str]) -> None:
    """In order, within the lines, and never over one another; only blanks at a line's beginning go."""
    cells, lines = laid_out(said, [1.0] * len(said), 20)
    shown = "".join(cell.text for cell in cells)
    assert shown.replace(" ", "") == "".join(said).replace("\n", "").replace(" ", "")
    ends: dict[int, int] = {}
    for cell in cells:
        assert cell.column == ends.get(cell.line, 0) and cell.line < lines
        ends[cell.line] = cell.column + _width(cell.text)
        assert ends[cell.line] <= 20


def test_letters_that_no_font_here_has_are_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "drawable", lambda text: text.isascii())
    assert passage(["a", " <b>"], [1.0, 9.0]).svg == ""
    root = ET.fromstring(passage(["床前", "\n<明>"], [1.0, 9.0]).svg)
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["床前", "<明>"]


@pytest.mark.parametrize("counts", [[1], [5, 5, 5], [0, 9, 1, 0], list(range(1, 3000))])
def test_any_counts_are_drawn(counts: list[int]) -> None:
    made = zipf(np.array(counts), [f"w{i}" for i in range(len(counts))])
    assert made.png.startswith(b"\x89PNG") and f"{sum(c > 0 for c in counts):,}" in made.caption
