"""An expression's graph as a drawing that plays: values forward, gradients backward.

Each box is a value with its gradient, each edge says upstream gradient x local gradient = downstream
gradient. `templates/play.js` steps through the groups marked `data-step`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fourfold.core.types import Picture
from fourfold.look.expression_functions import Array, show
from fourfold.look.expression_graph import Edge, Graph, Node
from fourfold.look.layers import Layout, arrange
from fourfold.look.svg import Drawing, elide, text_width

SIZE, LINE = 12.0, 16.0  # of text and of its lines, in pixels
WIDEST = 280.0  # a box, in pixels
CAPTION = (
    "Each box holds a value and its gradient: how much the result changes with it. On each edge: the upstream gradient "
    "times the local gradient is the downstream gradient, which flows back to the edge's source."
)


def draw(graph: Graph) -> Picture:
    """The graph of an expression, evaluated and differentiated."""
    nodes = shown(graph)
    numbers = {node: i for i, node in enumerate(nodes)}
    edges = [edge for node in nodes for edge in node.inputs]
    lines = [_lines(graph, node) for node in nodes]
    sizes = [_size(node_lines) for node_lines in lines]
    labels = [_label(graph, edge) for edge in edges]
    spaces = [(text_width(t, 11) + 8, 18.0) if t else None for t in labels]
    layout = arrange(sizes, [(numbers[e.source], numbers[e.target]) for e in edges], spaces)
    drawing = Drawing(layout.width, layout.height)
    order = _steps(graph, nodes)
    for i, edge in enumerate(edges):
        with drawing.group():
            stroke = "warn" if edge.cut else "line"
            drawing.line(layout.routes[i], arrow=True, dashed=edge.cut, stroke=stroke)
    for i, edge in enumerate(edges):
        _draw_label(drawing, graph, edge, labels[i], layout.labels[i], order)
    for i, node in enumerate(nodes):
        _draw_node(drawing, graph, node, lines[i], layout, i, sizes[i], order)
    return drawing.picture("Computation graph", CAPTION, script="play")


def shown(graph: Graph) -> list[Node]:
    """The nodes that the result was computed from, and changes in place that forbid its gradient."""
    changes = {conflict.change for conflict in graph.conflicts}
    found = {node for node in graph.nodes if node.in_place and node.statement in changes}
    found.add(graph.result)
    for node in reversed(graph.nodes):
        if node in found:
            found |= {edge.source for edge in node.inputs}
    return [node for node in graph.nodes if node in found]


def title(node: Node) -> str:
    """What a node is, in a few characters: its name, its expression, or the operation alone."""
    text = node.text
    if text_width(text, SIZE, True) > WIDEST - 24 and node.inputs:
        named = {"maximum": "max", "minimum": "min", "neg": "-"}.get(node.function, node.function)
        text = f"{named}(…)" if named.isalpha() else f"… {named} …"
    fresh = [name for name in node.names if name != node.text and not node.in_place]
    return f"{', '.join(fresh)} = {text}" if fresh else text


def gradient_words(graph: Graph, node: Node) -> str:
    """A node's gradient, as the sum that it is where the value is used several times."""
    if node.gradients is None:
        return ""
    total = _batch(node.gradients)
    terms = [_batch(e.downstream) for e in graph.uses(node) if e.downstream is not None]
    if len(terms) < 2:
        return total
    sum_ = f"{' + '.join(map(_bracketed, terms))} = {total}"
    return sum_ if len(sum_) <= 34 else f"{total} (a sum of {len(terms)})"


def _batch(arrays: Sequence[Array]) -> str:
    """One value, or one for each sample with bars between."""
    if all(np.array_equal(a, arrays[0]) for a in arrays):
        return show(arrays[0], 30, 4)
    shown = " | ".join(show(a, 18, 4) for a in arrays[:3])
    return shown + (" | …" if len(arrays) > 3 else "")


def _bracketed(text: str) -> str:
    return f"({text})" if text.startswith("-") or "|" in text else text


def _lines(graph: Graph, node: Node) -> list[tuple[str, str, str]]:
    """Title, value and gradient: kind, text in front and text."""
    rows = [("title", "", title(node)), ("value", "value ", _batch(node.values))]
    if node.gradients is not None:
        rows.append(("gradient", "gradient ", gradient_words(graph, node)))
        if len(node.gradients) > 1 and not node.varies:
            rows.append(("gradient", "batch's sum ", show(np.sum(node.gradients, axis=0), 30, 4)))
    return [
        (kind, front, elide(text, WIDEST - 24 - text_width(front, SIZE), SIZE))
        for kind, front, text in rows
    ]


def _size(lines: list[tuple[str, str, str]]) -> tuple[float, float]:
    widest = max(text_width(front + text, SIZE, kind == "title") for kind, front, text in lines)
    return max(72.0, widest + 24), LINE * len(lines) + 14


def _label(graph: Graph, edge: Edge) -> str:
    if edge.cut:
        return "detach: no gradient"
    if edge.upstream is None or edge.downstream is None or edge.local is None:
        return ""
    upstream, downstream = _batch(edge.upstream), _batch(edge.downstream)
    if edge.target.function == "broadcast":
        return f"{upstream} summed = {downstream}"
    local = _batch(edge.local) if edge.elementwise else _jacobian(edge.local)
    return elide(f"{_bracketed(upstream)} × {_bracketed(local)} = {downstream}", WIDEST + 60, 11)


def _jacobian(locals_: Sequence[Array]) -> str:
    """A Jacobian written out where it is one row, otherwise its size."""
    rows, columns = locals_[0].shape
    return _batch([local[0] for local in locals_]) if rows == 1 else f"J({rows}×{columns})"


def _steps(graph: Graph, nodes: list[Node]) -> dict[Node, tuple[int, int | None]]:
    """When each node's value appears, and when its gradient is complete."""
    order: dict[Node, tuple[int, int | None]] = {n: (i + 1, None) for i, n in enumerate(nodes)}
    step = len(nodes)
    for node in reversed(nodes):
        if node.gradients is not None:
            step += 1
            order[node] = (order[node][0], step)
    return order


def _draw_label(
    drawing: Drawing,
    graph: Graph,
    edge: Edge,
    label: str,
    place: tuple[float, float] | None,
    order: dict[Node, tuple[int, int | None]],
) -> None:
    if not label or place is None:
        return
    step = order[edge.target][1] or order[edge.target][0]
    width = text_width(label, 11) + 8
    hint = label
    if edge.local is not None and edge.upstream is not None and edge.downstream is not None:
        hint = (
            f"from {edge.target.text} back to {edge.source.text}: upstream {show(edge.upstream[0])} "
            f"x local {show(edge.local[0])} = downstream {show(edge.downstream[0])}"
        )
    with drawing.group(hint, data_step=step):
        drawing.box(place[0] - width / 2, place[1], width, 18, fill="page", stroke="none", radius=3)
        fill = "warn" if edge.cut else "gradient"
        drawing.text(place[0], place[1] + 13, label, size=11, anchor="middle", fill=fill)


def _draw_node(
    drawing: Drawing,
    graph: Graph,
    node: Node,
    lines: list[tuple[str, str, str]],
    layout: Layout,
    number: int,
    size: tuple[float, float],
    order: dict[Node, tuple[int, int | None]],
) -> None:
    x, y = layout.boxes[number]
    forbids = {c.change for c in graph.conflicts}
    conflict = any(node is c.node for c in graph.conflicts) or (
        node.in_place and node.statement in forbids
    )
    fill = "given" if node.function == "given" else "tint" if node.function == "number" else "card"
    fill = "result" if node is graph.result else fill
    hint = f"{node.text} = {show(node.values[0], 400)}"
    with drawing.group(hint):
        drawing.box(x, y, *size, fill=fill, stroke="warn" if conflict else "rule")
        for row, (kind, front, text) in enumerate(lines):
            base = y + 19 + row * LINE
            if kind == "title":
                drawing.text(x + size[0] / 2, base, text, size=SIZE, anchor="middle", bold=True)
                continue
            forward, backward = order[node]
            step = forward if kind == "value" else backward
            says = f"{node.text}: {front}{text}"
            with drawing.group(data_step=step, data_says=says, data_pass=kind):
                drawing.text(x + 12, base, front.strip(), size=SIZE, fill="soft")
                drawing.text(x + size[0] - 12, base, text, size=SIZE, fill=kind, anchor="end")
