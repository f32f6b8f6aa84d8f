"""Drawings as SVG and PNG, and pages of explanations."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fourfold.core.types import Explanation, Picture, Table
from fourfold.look.page import as_text, cell, render
from fourfold.look.svg import Drawing, elide, text_width

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "<script>alert('x')</script> & \"$x$\" \x00\x1b[31m"


def drawing() -> Drawing:
    made = Drawing(100, 60)
    with made.group(HOSTILE, data_step=3):
        made.box(0, 0, 100, 60, fill="given")
        made.text(50, 30, HOSTILE, anchor="middle", bold=True)
    made.line([(10, 0), (30, 60)], arrow=True, dashed=True)
    made.line([(10, 5), (30, 5)], straight=True)
    made.dot(50, 30, 4, "c1")
    return made


def test_svg_is_well_formed_and_escaped() -> None:
    root = ET.fromstring(drawing().svg(HOSTILE))
    assert root.tag == f"{SVG}svg" and not list(root.iter(f"{SVG}script"))
    assert root.get("viewBox") == "-14 -14 128 88"
    (text,) = root.iter(f"{SVG}text")
    assert text.text is not None and "<script>" in text.text and "\x1b" not in text.text
    group = next(g for g in root.iter(f"{SVG}g") if g.get("data-step"))
    assert group.get("data-step") == "3" and group.find(f"{SVG}title") is not None


def test_scripts_are_ours_and_hidden_drawings_are_not_seen() -> None:
    root = ET.fromstring(drawing().svg("a", script="open", hidden=[drawing(), drawing()]))
    (script,) = root.iter(f"{SVG}script")
    assert script.text is not None and "data-opens" in script.text
    views = [g for g in root.iter(f"{SVG}g") if g.get("data-view")]
    assert [v.get("data-view") for v in views] == ["0", "1", "2"]
    assert [v.get("style") for v in views] == [None, "display:none", "display:none"]


def test_png_is_twice_the_size_unless_it_would_be_very_large() -> None:
    assert Image.open(io.BytesIO(drawing().png())).size == (256, 176)
    assert max(Image.open(io.BytesIO(Drawing(20, 20_000).png())).size) <= 8_100


def test_what_is_drawn_is_seen() -> None:
    made = Drawing(100, 100, margin=0)
    made.box(0, 0, 100, 100, fill="c0", stroke="none", radius=0)
    made.dot(50, 50, 20, "c1")
    image = Image.open(io.BytesIO(made.png())).convert("RGB")
    assert image.getpixel((10, 10)) == (0x00, 0x72, 0xB2)
    assert image.getpixel((100, 100)) == (0xD5, 0x5E, 0x00)


@given(st.text(max_size=40), st.floats(5, 300))
def test_elided_text_fits(text: str, width: float) -> None:
    cut = elide(text, width, 12)
    assert text_width(cut, 12) <= max(width, text_width("…", 12)) + 1e-6
    assert cut == text or (cut.endswith("…") and text.startswith(cut[:-1]))


def test_chinese_counts_a_size_each() -> None:
    assert text_width("计算图", 12) == 36
    assert text_width("a计", 12) == text_width("a", 12) + 12


TABLE = Table(
    "Numbers", ("name", "value", "list"), (("a", 1.5, [1.0, 2.0]), ("b", None, None)), "below"
)


def test_page_holds_everything_and_escapes_it() -> None:
    pictures = (
        Picture("drawn", b"\x89PNG", "caption", drawing().svg("x")),
        Picture("pixels", b"\x89PNG"),
    )
    page = render(Explanation(HOSTILE, (HOSTILE,), (TABLE,), pictures))
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "<svg" in page and "data:image/png;base64" in page
    assert "default-src 'none'" in page and "http://" not in page.replace("http://www.w3.org", "")
    assert "[1, 2]" in page and "below" in page


def test_text_aligns_columns() -> None:
    lines = list(as_text(Explanation("t", ("First.",), (TABLE,))))
    assert lines == ["First.", "", "Numbers", "  name  value  list", "  a       1.5  [1, 2]", "  b"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, ""), (1.0, "1"), (-0.0, "0"), (1 / 3, "0.333333"), (12345, "12,345"), (True, "True"), ("x", "x"),
     ([[1.0], [2.5]], "[[1], [2.5]]")],
)  # fmt: skip
def test_cells(value: object, shown: str) -> None:
    assert cell(value) == shown
