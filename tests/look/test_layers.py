"""Layered drawings: nothing overlaps, edges run down, cycles are refused."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.look.layers import Layout, arrange

sizes = st.tuples(st.floats(20, 200), st.floats(20, 80))


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[tuple[float, float]], list[tuple[int, int]]]:
    boxes = draw(st.lists(sizes, min_size=1, max_size=9))
    pairs = list(itertools.combinations(range(len(boxes)), 2))
    edges = draw(st.lists(st.sampled_from(pairs), max_size=14)) if pairs else []
    return boxes, edges


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] - 1e-6 and b[0] < a[2] - 1e-6 and a[1] < b[3] - 1e-6 and b[1] < a[3] - 1e-6


def frames(layout: Layout, boxes: list[tuple[float, float]]) -> list[tuple[float, ...]]:
    return [(x, y, x + w, y + h) for (x, y), (w, h) in zip(layout.boxes, boxes, strict=True)]


@settings(max_examples=120, deadline=None)
@given(graphs())
def test_boxes_and_labels_keep_apart_and_inside(
    graph: tuple[list[tuple[float, float]], list[tuple[int, int]]],
) -> None:
    boxes, edges = graph
    labels = [(60.0, 16.0)] * len(edges)
    layout = arrange(boxes, edges, labels)
    placed = frames(layout, boxes)
    placed += [(p[0] - 30, p[1], p[0] + 30, p[1] + 16) for p in layout.labels if p is not None]
    assert len(placed) == len(boxes) + len(edges)
    for a, b in itertools.combinations(placed, 2):
        assert not overlap(a, b)
    for left, top, right, bottom in placed:
        assert left >= -1e-6 and top >= 0
        assert right <= layout.width + 1e-6 and bottom <= layout.height + 1e-6


@settings(max_examples=120, deadline=None)
@given(graphs())
def test_edges_run_down_from_box_to_box(
    graph: tuple[list[tuple[float, float]], list[tuple[int, int]]],
) -> None:
    boxes, edges = graph
    layout = arrange(boxes, edges)
    placed = frames(layout, boxes)
    for (a, b), route in zip(edges, layout.routes, strict=True):
        assert placed[a][3] < placed[b][1]
        assert route[0][1] == pytest.approx(placed[a][3]) and route[-1][1] == pytest.approx(
            placed[b][1]
        )
        assert (
            placed[a][0] < route[0][0] < placed[a][2] and placed[b][0] < route[-1][0] < placed[b][2]
        )
        assert all(p[1] <= q[1] + 1e-6 for p, q in itertools.pairwise(route))


def test_lines_pass_beside_boxes() -> None:
    # a long edge past a chain of wide boxes
    boxes = [(100.0, 40.0)] * 5
    layout = arrange(boxes, [(0, 1), (1, 2), (2, 3), (3, 4), (0, 4)])
    placed = frames(layout, boxes)[1:4]
    long = layout.routes[-1]
    for (x0, y0), (x1, y1) in itertools.pairwise(long):
        for step in range(51):
            t = step / 50
            y, x = y0 + (y1 - y0) * (1.5 * t * (1 - t) + t**3), x0 + (x1 - x0) * t * t * (3 - 2 * t)
            assert not any(f[0] < x < f[2] and f[1] < y < f[3] for f in placed)


def test_a_tree_has_no_crossing() -> None:
    edges = [(0, 4), (1, 5), (2, 4), (3, 5), (4, 6), (5, 6)]
    layout = arrange([(40.0, 20.0)] * 7, edges)
    x = [place[0] for place in layout.boxes]
    assert max(x[0], x[2]) < min(x[1], x[3]) or max(x[1], x[3]) < min(x[0], x[2])


def test_a_chain_is_straight() -> None:
    layout = arrange([(80.0, 20.0), (40.0, 20.0), (120.0, 20.0)], [(0, 1), (1, 2)])
    middles = {round(x + w / 2, 3) for (x, _), w in zip(layout.boxes, (80, 40, 120), strict=True)}
    assert len(middles) == 1


def test_cycles_are_refused() -> None:
    with pytest.raises(ValueError, match="cycle"):
        arrange([(10.0, 10.0)] * 2, [(0, 1), (1, 0)])


def test_nothing_is_a_layout_too() -> None:
    assert arrange([], []).boxes == []
