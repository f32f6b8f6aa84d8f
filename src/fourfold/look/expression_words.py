"""An expression explained: its value and gradients in sentences, tables and a drawing.

explain("(x + y) * max(y, z)", {"x": "1", "y": "2", "z": "0"})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fourfold.core.types import Explanation, Table
from fourfold.look.expression import Name, Number, parse, parse_value
from fourfold.look.expression_backward import backpropagate
from fourfold.look.expression_draw import draw, gradient_words, shown
from fourfold.look.expression_functions import Array, show, words
from fourfold.look.expression_graph import (
    Conflict,
    Edge,
    Graph,
    Node,
    constant,
    evaluate,
)

JACOBIANS = 8
"""Local Jacobians that get a table of their own."""


def explain(text: str, given: Mapping[str, str], *, drawn: bool = True) -> Explanation:
    """Evaluate and differentiate an expression, with everything on the way.

    Args:
        text: an expression, or statements separated by semicolons (see `look.expression`).
        given: each name's value as text: a number, a vector [1, 2], a matrix, or a batch of
            samples separated by commas: 1,2,3.
        drawn: with the graph as a picture.

    Raises:
        UserError: anything that is not allowed or has no value, named.
    """
    statements = parse(text)
    values: dict[str, Sequence[Array]] = {}
    batches = []
    for name, written in given.items():
        samples, batch = parse_value(name, written)
        values[name] = [array for sample in samples if (array := constant(sample)) is not None]
        batches += [name] if batch else []
    graph = evaluate(statements, values)
    backpropagate(graph)
    sentences = _verdict(graph)
    if batches:
        sentences.append(
            f"{' and '.join(batches)}: a batch of {graph.samples} samples, each computed by itself; "
            "a gradient of the batch's sum is the sum of the samples' gradients."
        )
    if not graph.conflicts:
        sentences += _sums(graph)
    sentences += [*_cuts(graph), *graph.notes]
    pictures = (draw(graph),) if drawn else ()
    return Explanation(text, tuple(sentences), tuple(_tables(graph)), pictures)


def _verdict(graph: Graph) -> list[str]:
    """The value, the gradients of the given values, or why there are none."""
    result = graph.result
    value = f"{result.text} = {' | '.join(show(v) for v in _each(result))}"
    if result.varies:
        value += f"; summed over the batch {show(np.sum(result.values, axis=0))}"
    if graph.conflicts:
        return [*(_conflict(graph, c) for c in graph.conflicts), f"{value}."]
    leaves = [node for node in shown(graph) if node.function == "given"]
    reached = [node for node in leaves if node.gradients is not None]
    if not reached:
        return [f"{value}. No gradient: it depends on no given value."]
    found = [f"{_gradient(node)} with respect to {node.text}" for node in reached]
    of = " of the batch's sum" if result.varies else ""
    sentences = [f"{value}.", f"Gradient{of}: {', '.join(found)}."]
    if result.values[0].size > 1:
        sentences.append(
            f"The result is {words(result.values[0])}: the gradients are those of the sum of its entries, "
            "and the Jacobians below show each entry."
        )
    cut = [node.text for node in leaves if node.gradients is None]
    if cut:
        sentences.append(f"{', '.join(cut)}: no gradient arrives, as every way to it is cut.")
    return sentences


def _gradient(leaf: Node) -> str:
    """Of a value that all samples share the sum; of a batch one for each sample."""
    if leaf.varies or leaf.total is None:
        return " | ".join(show(g) for g in leaf.gradients or [])
    return show(leaf.total)


def _conflict(graph: Graph, conflict: Conflict) -> str:
    """What was changed in place, where, what needs it, and what to write instead."""
    change = graph.statements[conflict.change]
    same = conflict.change == conflict.node.statement
    keeper = (
        "the same statement"
        if same
        else f"statement {conflict.node.statement + 1}, {conflict.node.text},"
    )
    term = change.term.text if isinstance(change.term, Number | Name) else f"({change.term.text})"
    return (
        f"No gradient: statement {conflict.change + 1}, {change.text}, changes in place what {keeper} keeps for its "
        f"gradient, the value of {conflict.text}; torch's version counter refuses it in backward. "
        f"{change.target} = {change.target} {change.change} {term} makes a new value instead."
    )


def _sums(graph: Graph) -> list[str]:
    """Values that are used several times, and copies."""
    sentences = []
    for node in shown(graph):
        uses = [e for e in graph.uses(node) if e.downstream is not None]
        if len(uses) > 1:
            sentences.append(
                f"{_called(node)} is used {len(uses)} times; its gradient is the sum of what flows back: "
                f"{gradient_words(graph, node)}."
            )
        if node.function == "broadcast" and node.gradients is not None:
            origin = node.inputs[0]
            back = origin.downstream or []
            sentences.append(
                f"{node.text} to fit; the gradients of the copies are summed: "
                f"{' | '.join(show(b) for b in back[:4])}."
            )
    return sentences


def _cuts(graph: Graph) -> list[str]:
    return [
        f"{node.text} passes the value on and cuts the gradient."
        for node in shown(graph)
        if node.function == "detach"
    ]


def _called(node: Node) -> str:
    return node.names[0] if node.names and not node.in_place else node.text


def _each(node: Node) -> list[Array]:
    return node.values if node.varies else node.values[:1]


def _plain(arrays: Sequence[Array] | None) -> Any:
    """Arrays for a table: a number or lists, one for each sample where there are several."""
    if arrays is None:
        return None
    return arrays[0].tolist() if len(arrays) == 1 else [a.tolist() for a in arrays]


def _tables(graph: Graph) -> list[Table]:
    nodes = shown(graph)
    tables = [
        Table(
            "Values and gradients",
            ("node", "value", "gradient"),
            tuple((_row_name(n), _plain(_each(n)), _plain(n.gradients)) for n in nodes),
            "In the order in which they are computed; gradients are found in the reverse order.",
        )
    ]
    edges = [e for n in nodes for e in n.inputs if e.downstream is not None]
    if edges:
        tables.append(
            Table(
                "Edges",
                ("from", "into", "upstream", "local", "downstream"),
                tuple(
                    (
                        e.source.text,
                        e.target.text,
                        _plain(e.upstream),
                        _plain(e.local),
                        _plain(e.downstream),
                    )
                    for e in reversed(edges)
                ),
                "Upstream gradient times local derivative is the downstream gradient. Backwards, as they are computed.",
            )
        )
    if graph.samples > 1 and not graph.conflicts:
        tables.append(_per_sample(graph, nodes))
    return [*tables, *_jacobians(graph, nodes, edges)]


def _row_name(node: Node) -> str:
    fresh = [name for name in node.names if name != node.text and not node.in_place]
    return f"{', '.join(fresh)} = {node.text}" if fresh else node.text


def _per_sample(graph: Graph, nodes: Sequence[Node]) -> Table:
    """A row for each sample, and their sum."""
    leaves = [n for n in nodes if n.function == "given" and n.gradients is not None]
    varying = [n for n in nodes if n.function == "given" and n.varies]
    columns = [n.text for n in varying] + ["result"] + [f"gradient by {n.text}" for n in leaves]
    rows = []
    for s in range(graph.samples):
        cells = [n.values[s] for n in [*varying, graph.result]]
        cells += [n.gradients[s] for n in leaves if n.gradients is not None]
        rows.append((s + 1, *(c.tolist() for c in cells)))
    sums = [np.sum(graph.result.values, axis=0).tolist()]
    for leaf in leaves:
        sums.append(None if leaf.varies or leaf.total is None else leaf.total.tolist())
    rows.append(("sum", *[None] * len(varying), *sums))
    return Table(
        "Per-sample gradients",
        ("sample", *columns),
        tuple(rows),
        "The gradient of the batch's sum by a value that all samples share is the sum of its column.",
    )


def _jacobians(graph: Graph, nodes: Sequence[Node], edges: Sequence[Edge]) -> list[Table]:
    """Of the result by each given value where the result is no number, and of single operations."""
    tables: list[Table] = []
    of = " (sample 1)" if graph.samples > 1 else ""
    if graph.result.values[0].size > 1:
        for node in nodes:
            if node.function == "given" and node.jacobians is not None:
                name = f"Jacobian of {graph.result.text} by {node.text}{of}"
                tables.append(_matrix(name, graph.result, node, node.jacobians[0]))
    local = [e for e in edges if e.local is not None and not e.elementwise and len(e.local[0]) > 1]
    for e in local[:JACOBIANS]:
        assert e.local is not None  # noqa: S101
        name = f"Local Jacobian of {e.target.text} by {e.source.text}{of}"
        if name not in (t.title for t in tables):
            tables.append(_matrix(name, e.target, e.source, e.local[0]))
    return tables


def _matrix(name: str, target: Node, source: Node, jacobian: Array) -> Table:
    columns = [f"{_called(source)}{at}" for at in _places(source.values[0])]
    rows = tuple(
        (f"entry {at}" if at else "entry", *row.tolist())
        for at, row in zip(_places(target.values[0]), jacobian, strict=True)
    )
    caption = (
        "Each row is an entry of the result, each column an entry of what it is differentiated by."
    )
    return Table(name, ("", *columns), rows, caption)


def _places(array: Array) -> list[str]:
    return ["[" + ", ".join(map(str, at)) + "]" if at else "" for at in np.ndindex(*array.shape)]
