"""What is said, tabled and drawn of an expression."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from fourfold.core.errors import UserError
from fourfold.look.expression_words import explain

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [t.text or "" for t in ET.fromstring(svg).iter(f"{SVG}text")]


def test_the_example_of_the_help() -> None:
    found = explain("(x + y) * max(y, z)", {"x": "1", "y": "2", "z": "0"})
    assert found.sentences == (
        "(x + y) * max(y, z) = 6.",
        "Gradient: 2 with respect to x, 5 with respect to y, 0 with respect to z.",
        "y is used 2 times; its gradient is the sum of what flows back: 2 + 3 = 5.",
    )
    values, edges = found.tables
    assert values.rows == (
        ("x", 1.0, 2.0), ("y", 2.0, 5.0), ("z", 0.0, 0.0), ("x + y", 3.0, 2.0), ("max(y, z)", 2.0, 3.0),
        ("(x + y) * max(y, z)", 6.0, 1.0),
    )  # fmt: skip
    assert edges.columns == ("from", "into", "upstream", "local", "downstream")
    assert set(edges.rows) == {
        ("x", "x + y", 2.0, 1.0, 2.0), ("y", "x + y", 2.0, 1.0, 2.0), ("y", "max(y, z)", 3.0, 1.0, 3.0),
        ("z", "max(y, z)", 3.0, 0.0, 0.0), ("x + y", "(x + y) * max(y, z)", 1.0, 2.0, 2.0),
        ("max(y, z)", "(x + y) * max(y, z)", 1.0, 3.0, 3.0),
    }  # fmt: skip
    (picture,) = found.pictures
    drawn = texts(picture.svg)
    for label in ("x + y", "2 + 3 = 5", "3 × 1 = 3", "1 × 2 = 2", "3 × 0 = 0"):
        assert label in drawn
    assert picture.png.startswith(b"\x89PNG")


def test_steps_go_forward_and_then_backward() -> None:
    (picture,) = explain("(x + y) * max(y, z)", {"x": "1", "y": "2", "z": "0"}).pictures
    groups = ET.fromstring(picture.svg).iter(f"{SVG}g")
    steps = {g.get("data-says"): int(g.get("data-step", "0")) for g in groups if g.get("data-says")}
    assert (
        steps["x: value 1"] < steps["x + y: value 3"] < steps["(x + y) * max(y, z): value 6"] == 6
    )
    assert steps["(x + y) * max(y, z): gradient 1"] == 7 < steps["max(y, z): gradient 3"]
    assert steps["max(y, z): gradient 3"] < steps["y: gradient 2 + 3 = 5"]
    assert sorted(steps.values()) == list(range(1, 13))


def test_a_vectors_jacobian() -> None:
    found = explain("W @ x", {"W": "[[1, 2], [3, 4]]", "x": "[5, 6]"})
    assert "The result is a vector of 2" in found.sentences[2]
    tables = {t.title: t for t in found.tables}
    assert tables["Jacobian of W @ x by x"].rows == (
        ("entry [0]", 1.0, 2.0),
        ("entry [1]", 3.0, 4.0),
    )
    assert tables["Jacobian of W @ x by W"].columns == (
        "",
        "W[0, 0]",
        "W[0, 1]",
        "W[1, 0]",
        "W[1, 1]",
    )
    assert tables["Jacobian of W @ x by W"].rows[0] == ("entry [0]", 5.0, 6.0, 0.0, 0.0)
    local = explain("sum(softmax(z))", {"z": "[0, 0]"})
    assert any(
        t.title == "Local Jacobian of softmax(z) by z" and t.rows[0] == ("entry [0]", 0.25, -0.25)
        for t in local.tables
    )


def test_copies_and_their_summed_gradient() -> None:
    found = explain("sum(b * [1, 2, 3])", {"b": "2"})
    assert "b copied 3 times to fit; the gradients of the copies are summed: 6." in found.sentences
    assert "[1, 2, 3] summed = 6" in texts(found.pictures[0].svg)


def test_a_batch_has_its_samples_beside_their_sum() -> None:
    found = explain("square(w * x - y)", {"w": "0.5", "x": "1,2,3", "y": "2,4,5"})
    assert found.sentences[0] == "square(w * x - y) = 2.25 | 9 | 12.25; summed over the batch 23.5."
    assert "-36 with respect to w" in found.sentences[1]
    assert found.sentences[2].startswith("x and y: a batch of 3 samples")
    table = next(t for t in found.tables if t.title == "Per-sample gradients")
    by_w = [row[table.columns.index("gradient by w")] for row in table.rows]
    assert by_w == [-3.0, -12.0, -21.0, -36.0] and table.rows[-1][0] == "sum"
    assert "-3 | -12 | -21" in texts(found.pictures[0].svg)


def test_a_cut_is_drawn_as_one() -> None:
    found = explain("x * detach(x) + detach(y)", {"x": "2", "y": "3"})
    assert "detach(x) passes the value on and cuts the gradient." in found.sentences
    assert "y: no gradient arrives, as every way to it is cut." in found.sentences
    assert texts(found.pictures[0].svg).count("detach: no gradient") == 2
    assert found.pictures[0].svg.count("stroke-dasharray") == 2


def test_a_change_in_place_is_named() -> None:
    found = explain("a = x * y; b = a * a; a += 1; b", {"x": "1", "y": "2"})
    assert found.sentences[0] == (
        "No gradient: statement 3, a += 1, changes in place what statement 2, a * a, keeps for its gradient, the value "
        "of a; torch's version counter refuses it in backward. a = a + 1 makes a new value instead."
    )
    assert "a += 1" in texts(found.pictures[0].svg)
    assert (
        "the same statement" in explain("a = x + y; a *= a; a", {"x": "1", "y": "2"}).sentences[0]
    )
    assert (
        "a = a * (x + 1)"
        in explain("a = x * y; b = exp(a) * a; a *= x + 1; b", {"x": "1", "y": "2"}).sentences[0]
    )


def test_nothing_to_differentiate() -> None:
    assert (
        explain("1 + 2", {}).sentences[0] == "1 + 2 = 3. No gradient: it depends on no given value."
    )


def test_without_pictures_where_none_are_wanted() -> None:
    assert explain("x * y", {"x": "1", "y": "2"}, drawn=False).pictures == ()


def test_wrong_values_are_named() -> None:
    with pytest.raises(UserError, match="y=two: expected numbers only"):
        explain("x * y", {"x": "1", "y": "two"})
    with pytest.raises(UserError, match="expected entries of one shape"):
        explain("x", {"x": "[[1, 2], [3]]"})


def test_text_in_the_drawing_is_escaped() -> None:
    svg = explain("sum([学习, 1])", {"学习": "1"}).pictures[0].svg
    ET.fromstring(svg)
    assert "学习" in svg and not re.search(r"<script>[^<]*学习", svg)
