"""Reverse-mode differentiation of an expression's graph: upstream times local is downstream.

    backpropagate(graph)

Each node carries its whole Jacobian, (R, entries) with R entries of the result; the gradient is that of the
sum of the result's entries, so the sum of its rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fourfold.core.errors import UserError
from fourfold.look.expression_functions import Array, show
from fourfold.look.expression_graph import Conflict, Edge, Graph, Node


def backpropagate(graph: Graph) -> None:
    """Fill in every gradient, unless a kept value was changed in place (`graph.conflicts` says so).

    Raises:
        UserError: a local derivative is infinite or does not exist.
    """
    reached = _reached(graph)
    for node in reversed(graph.nodes):
        for kept in node.kept if node in reached else ():
            if len(kept.storage.changes) > kept.version:
                conflict = Conflict(node, kept.text, kept.storage.changes[kept.version])
                graph.conflicts += [] if conflict in graph.conflicts else [conflict]
    if graph.conflicts or not graph.result.needs:
        return
    graph.result.jacobians = [np.eye(value.size) for value in graph.result.values]
    for node in reversed(graph.nodes):
        if node.jacobians is None:
            continue
        pairs = zip(node.jacobians, node.values, strict=True)
        node.gradients = [j.sum(axis=0).reshape(v.shape) for j, v in pairs]
        for edge in node.inputs:
            if edge.local is not None:
                _flow_back(edge, edge.local)


def _reached(graph: Graph) -> set[Node]:
    """Nodes through which a gradient flows."""
    found = {graph.result} if graph.result.needs else set()
    for node in reversed(graph.nodes):
        if node in found:
            found |= {edge.source for edge in node.inputs if edge.local is not None}
    return found


def _flow_back(edge: Edge, local: Sequence[Array]) -> None:
    target, source = edge.target, edge.source
    assert target.jacobians is not None  # noqa: S101
    shape = source.values[0].shape
    back = []
    for jacobian, derivative, value in zip(target.jacobians, local, source.values, strict=True):
        if not np.isfinite(derivative).all():
            raise UserError(
                f"{target.text}: has no finite derivative with respect to {source.text} at {show(value)}"
            )
        back.append(jacobian * derivative.ravel() if edge.elementwise else jacobian @ derivative)
    edge.upstream = target.gradients
    edge.downstream = [b.sum(axis=0).reshape(shape) for b in back]
    before = source.jacobians
    source.jacobians = (
        back if before is None else [a + b for a, b in zip(before, back, strict=True)]
    )
