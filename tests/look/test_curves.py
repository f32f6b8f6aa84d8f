"""Curves as SVG: well formed, escaped, and every point where its axes say it is."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fourfold.look.curves import Curve, chart, log_ticks, smooth, smooth_both_ways, ticks

finite = st.floats(-1e9, 1e9)


def parse(markup: str) -> ET.Element:
    return ET.fromstring(f"<div>{markup}</div>")


def lines(markup: str) -> list[list[tuple[float, float]]]:
    return [
        [(float(x), float(y)) for x, y in (p.split(",") for p in line.attrib["points"].split())]
        for line in parse(markup).iter("polyline")
    ]


def tick_places(markup: str) -> dict[float, float]:
    """Values of the vertical axis and where the inner drawing has them."""
    texts = [t for t in parse(markup).iter("text") if t.attrib["text-anchor"] == "end"]
    left = [t for t in texts if float(t.attrib["x"]) < 64]
    return {float((t.text or "").replace(",", "")): float(t.attrib["y"]) - 4 - 12 for t in left}


@given(finite, st.floats(1e-6, 1e9), st.integers(2, 10))
@settings(deadline=None, max_examples=100)
def test_ticks_are_round_and_within(low: float, span: float, count: int) -> None:
    assume(span > 1e-6 * abs(low))  # below that float64 has no round numbers left
    high = low + span
    found = ticks(low, high, count)
    if len(found) < 2:
        return
    step = found[1] - found[0]
    assert len(found) <= count + 1
    assert all(low - step * 1e-6 <= t <= high + step * 1e-6 for t in found)
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 4) in (1, 2, 5)


def test_ticks_of_known_ranges() -> None:
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(1.4, 3.6) == pytest.approx([1.5, 2.0, 2.5, 3.0, 3.5])
    assert log_ticks(0.5, 200) == pytest.approx([1, 10, 100])
    assert log_ticks(1, 50) == pytest.approx([1, 2, 5, 10, 20, 50])


def test_smooth_is_an_average_corrected_for_its_start() -> None:
    assert smooth([5.0, 5.0, 5.0], span=10) == pytest.approx([5, 5, 5])
    # keep 1/2: weights 1/2 and 1/4 of the newest and the one before, over their sum
    assert smooth([0.0, 3.0], span=2) == pytest.approx([0, 3 * 0.5 / 0.75])
    assert smooth([1.0, math.nan, 1.0], span=3) == pytest.approx([1, 1, 1])
    assert math.isnan(smooth([math.nan, 2.0])[0])


def test_smooth_both_ways_does_not_lag() -> None:
    line = [float(i) for i in range(200)]
    assert smooth_both_ways(line, span=10)[100] == pytest.approx(100, abs=1e-3)
    assert smooth(line, span=10)[100] == pytest.approx(91, abs=0.1)
    assert smooth_both_ways([math.nan, 2.0, math.nan]) == [2.0, 2.0, 2.0]


def test_points_stand_where_the_axis_says() -> None:
    markup = chart([Curve("loss", [0, 1, 2, 3], [1.0, 2.0, 4.0, 3.0])])
    places = tick_places(markup)
    (points,) = lines(markup)
    for value, (_, y) in zip([1.0, 2.0, 4.0, 3.0], points, strict=True):
        assert y == pytest.approx(places[value], abs=0.2)
    xs = [x for x, _ in points]
    assert xs[1] - xs[0] == pytest.approx(xs[3] - xs[2], abs=0.2)


def test_values_far_apart_get_a_logarithmic_axis() -> None:
    values = [10.0**-i for i in range(5)]
    markup = chart([Curve("loss", range(5), values)], y_label="loss")
    ys = [y for _, y in lines(markup)[0]]
    steps = [b - a for a, b in zip(ys, ys[1:], strict=False)]
    assert "loss (log scale)" in markup
    assert steps == pytest.approx([steps[0]] * 4, abs=0.2)
    assert "log scale" not in chart([Curve("loss", range(5), values)], log=False)
    assert "log scale" not in chart([Curve("loss", [0, 1], [-1.0, 100.0])], log=True)


def test_an_axis_from_zero() -> None:
    curve = Curve("rate", [0, 1], [1000.0, 1010.0])
    assert 0.0 in tick_places(chart([curve], from_zero=True))
    assert 0.0 not in tick_places(chart([curve]))


def test_outliers_are_counted_not_hidden() -> None:
    values = [1 + 0.1 * (i % 7) for i in range(300)]
    assert "beyond" not in chart([Curve("a", range(300), values)])
    values[150] = 500.0
    markup = chart([Curve("a", range(300), values)], log=False)
    assert "1 outlying point lies beyond the axis" in markup
    assert max(tick_places(markup)) < 3


def test_points_that_are_not_finite_are_left_out() -> None:
    markup = chart([Curve("a", [0, 1, 2, 3], [1.0, math.nan, math.inf, 2.0])])
    assert len(lines(markup)[0]) == 2
    assert "2 points are not finite" in markup
    assert chart([Curve("a", [0, 1], [1.0, math.nan])]) == ""
    assert chart([]) == ""


def test_long_series_are_thinned_between_their_ends() -> None:
    n = 50_000
    markup = chart([Curve("a", range(n), [float(i) for i in range(n)])], log=False)
    (points,) = lines(markup)
    assert len(points) == 400
    ys = [y for _, y in points]
    assert ys == sorted(ys, reverse=True)
    assert len(markup) < 40_000


def test_names_are_escaped_and_said_on_hover() -> None:
    name = 'a <script> & "损失"'
    markup = chart(
        [Curve(name, [0, 1000], [1.5, 2.5]), Curve("b", [0, 1], [1.0, 2.0])], y_label=name
    )
    tree = parse(markup)
    assert "<script>" not in markup
    assert f"{name} at 1,000: 2.500" in [t.text for t in tree.iter("title")]
    assert [s.tail or "".join(s.itertext()) for s in tree.iter("span")] == [name, "b"]


series = st.lists(st.tuples(finite, st.floats(allow_nan=True, allow_infinity=True)), max_size=80)


@given(st.lists(series, max_size=3), st.sampled_from([None, True, False]), st.booleans())
@settings(deadline=None, max_examples=100)
def test_any_series_gives_well_formed_svg(
    many: list[list[tuple[float, float]]], log: bool | None, zero: bool
) -> None:
    curves = [
        Curve(f"c{i}", [x for x, _ in s], [y for _, y in s], faint=i == 0, dots=i == 1)
        for i, s in enumerate(many)
    ]
    markup = chart(curves, log=log, from_zero=zero)
    parse(markup)
    assert not re.search(r"\b(nan|inf)\b", markup)
