"""The ONNX graph around an exported model: raw columns to prepared ones before it, decisions after it.

The same arithmetic as `data.columns.Encoding.encode`, in float64 until the last cast. Each column is an
input of its own, (N, 1): float64 for numbers and for dates (seconds since 1970), where NaN is missing, and
strings otherwise, where "" is. Shapes: N rows, D prepared columns, C classes or labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fourfold.core.targets import Target
from fourfold.data.columns import Encoding
from fourfold.data.forms import FALSE, TRUE
from fourfold.tasks.onnx_rows import measured

ML = "ai.onnx.ml"
ML_VERSION = 4
"""The first whose LabelEncoder takes float64."""


class Graph:
    """Nodes in the order in which they run, with names that no column has."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.mark = "/"
        while any(name.startswith(self.mark) for name in columns):
            self.mark += "/"

    def name(self, what: str) -> str:
        """A fresh name."""
        return f"{self.mark}{what}_{len(self.nodes) + len(self.initializers)}"

    def constant(self, values: Any, dtype: Any = np.float64) -> str:
        """An array, kept in the file."""
        name = self.name("constant")
        self.initializers.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def add(self, kind: str, *inputs: str, out: str = "", domain: str = "", **options: Any) -> str:
        """A node; the name of its output."""
        out = out or self.name(kind.lower())
        self.nodes.append(helper.make_node(kind, inputs, [out], domain=domain, **options))
        return out

    def looked_up(self, value: str, keys: Any, values: Any, default: Any, out: str = "") -> str:
        """Each value's entry in a table, or the default."""
        tables = {"keys": keys, "values": values, "default": [default]}
        tensors = {f"{n}_tensor": _tensor(n, given) for n, given in tables.items()}
        return self.add("LabelEncoder", value, out=out, domain=ML, **tensors)


def _tensor(name: str, values: Any) -> onnx.TensorProto:
    text = isinstance(values[0], str)
    return numpy_helper.from_array(np.asarray(values, object if text else None), name)


def prepare(
    graph: Graph, encodings: Sequence[Encoding], dtype: str, out: str, *, lost: bool
) -> str | None:
    """Add the columns' preparation.

    Args:
        graph: takes the inputs and nodes.
        encodings: of the columns, in order.
        dtype: of the prepared numbers.
        out: name of the features, (N, D).
        lost: whether rows with a missing cell have no answer.

    Returns:
        The name of (N, 1) bool, the rows that have no answer; None where all have one.
    """
    pieces, gone = [], []
    for encoding in encodings:
        kind = TensorProto.DOUBLE if measured(encoding) else TensorProto.STRING
        graph.inputs.append(helper.make_tensor_value_info(encoding.name, kind, ["rows", 1]))
        missing = ""
        if measured(encoding) or encoding.indicator or lost:
            missing = _missing(graph, encoding)
        if encoding.kind == "number":
            pieces.append(_number(graph, encoding, encoding.name, missing))
        elif encoding.kind == "date":
            found = calendar(graph, encoding.name)
            for part in encoding.parts:
                value = found[part.name.rsplit(" ", 1)[1]]
                pieces.append(_number(graph, part, value, missing))
        elif encoding.categories:
            pieces += _codes(graph, encoding, missing)
        if encoding.indicator:
            pieces.append(graph.add("Cast", missing, to=TensorProto.DOUBLE))
        gone.append(missing)
    joined = graph.add("Concat", *pieces, axis=1)
    graph.add("Cast", joined, out=out, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    if not lost:
        return None
    numbers = [graph.add("Cast", missing, to=TensorProto.DOUBLE) for missing in gone]
    beside = graph.add("Concat", *numbers, axis=1)
    most = graph.add("ReduceMax", beside, graph.constant([1], np.int64), keepdims=1)
    return graph.add("Greater", most, graph.constant(0.5))


def _missing(graph: Graph, encoding: Encoding) -> str:
    if measured(encoding):
        return graph.add("IsNaN", encoding.name)
    empty = graph.looked_up(encoding.name, [""], [1.0], 0.0)
    return graph.add("Greater", empty, graph.constant(0.5))


def _number(graph: Graph, encoding: Encoding, value: str, missing: str) -> str:
    if encoding.fill is not None:
        value = graph.add("Where", missing, graph.constant(float(encoding.fill)), value)
    shifted = graph.add("Sub", value, graph.constant(encoding.mean))
    return graph.add("Div", shifted, graph.constant(encoding.scale))


def calendar(graph: Graph, seconds: str) -> dict[str, str]:
    """Year, month, weekday (1 is Monday), hour (with minutes as a fraction) and days, of seconds since 1970.

    The proleptic Gregorian calendar by whole-number arithmetic, as in Hinnant's "chrono-Compatible
    Low-Level Date Algorithms" (2013): years begin in March, so that the leap day is their last.
    """

    def plus(a: str, b: str | float) -> str:
        return graph.add("Add", a, b if isinstance(b, str) else graph.constant(b))

    def times(a: str, b: float) -> str:
        return graph.add("Mul", a, graph.constant(b))

    def minus(a: str, b: str) -> str:
        return graph.add("Sub", a, b)

    def whole(a: str, b: float) -> str:
        return graph.add("Floor", graph.add("Div", a, graph.constant(b)))

    def rest(a: str, b: float) -> str:
        return minus(a, times(whole(a, b), b))

    day, second = whole(seconds, 86_400), rest(seconds, 86_400)
    from_march = plus(day, 719_468)  # days since the first of March of the year 0
    in_era = rest(from_march, 146_097)  # of 400 years
    leaps = minus(whole(in_era, 36_524), plus(whole(in_era, 1_460), whole(in_era, 146_096)))
    year = whole(plus(in_era, leaps), 365)
    before = minus(plus(times(year, 365), whole(year, 4)), whole(year, 100))
    month = whole(plus(times(minus(in_era, before), 5), 2), 153)  # 0 is March
    january = whole(month, 10)  # 1 in January and February, which belong to the year before
    return {
        "year": plus(plus(year, times(whole(from_march, 146_097), 400)), january),
        "month": minus(plus(month, 3), times(january, 12)),
        "weekday": plus(rest(plus(day, 3), 7), 1),
        "hour": graph.add("Div", whole(second, 60), graph.constant(60)),
        "days": graph.add("Div", seconds, graph.constant(86_400)),
    }


def _codes(graph: Graph, encoding: Encoding, missing: str) -> list[str]:
    """One-hot columns of a category, 0 and 1 of a binary one, or codes to be embedded."""
    keys: list[Any] = list(encoding.categories)
    codes = list(map(float, range(len(keys))))
    value, fill = encoding.name, encoding.fill
    if encoding.numeric:
        keys = [float(key) for key in keys]
        if fill is not None:
            value = graph.add("Where", missing, graph.constant(float(fill)), value)
    else:
        given = {**dict(zip(keys, codes, strict=True)), **_spellings(encoding)}
        if fill in given:
            given[""] = given[str(fill)]
        keys, codes = list(given), list(given.values())
    code = graph.looked_up(value, keys, codes, -1.0)  # (N, 1)
    if encoding.embedded:
        found = [graph.add("Add", code, graph.constant(1.0))]
    else:
        binary = encoding.kind == "binary"
        wanted = [1.0] if binary else list(map(float, range(len(encoding.categories))))
        same = graph.add("Equal", code, graph.constant([wanted]))
        found = [graph.add("Cast", same, to=TensorProto.DOUBLE)]
    if encoding.other:
        less = graph.add("Less", code, graph.constant(0.0))
        found.append(graph.add("Cast", less, to=TensorProto.DOUBLE))
    return found


def _spellings(encoding: Encoding) -> dict[str, float]:
    """Other words for yes and no, where the column is of these."""
    found: dict[str, float] = {}
    for own, words in zip(encoding.form.words, (FALSE, TRUE), strict=False):
        if own in encoding.categories:
            code = float(encoding.categories.index(own))
            for word in words:
                found |= dict.fromkeys((word, word.capitalize(), word.upper()), code)
    return found


def answer(
    graph: Graph, target: Target, values: Sequence[str], names: Sequence[str], gone: str | None
) -> None:
    """Add what is decided from the model's answers, and the outputs.

    Args:
        graph: takes the nodes and outputs.
        target: a number, a category or labels.
        values: (N,) of a number and its further values; (N, C) of classes or labels.
        names: of the outputs: of each value for a number; otherwise of the decision and of the values.
        gone: (N, 1) bool, rows that have no answer (NaN, "" or -1); None where all have.
    """
    flat = None if gone is None else graph.add("Squeeze", gone, graph.constant([1], np.int64))
    where = flat if target.kind == "number" else gone
    shape: list[str | int | None] = ["rows"]
    if target.kind != "number":
        shape.append(len(target.classes))
    if target.kind == "category":
        _category(graph, target.classes, values[0], names[0], flat)
        names = names[1:]
    elif target.kind == "labels":
        likely = graph.add("Greater", values[0], graph.constant(0.5))
        chosen = graph.add("Cast", likely, to=TensorProto.INT64)
        _given(graph, chosen, names[0], where, np.int64(-1))
        graph.outputs.append(helper.make_tensor_value_info(names[0], TensorProto.INT64, shape))
        names = names[1:]
    for value, out in zip(values, names, strict=True):
        _given(graph, value, out, where, np.float64(np.nan))
        graph.outputs.append(helper.make_tensor_value_info(out, TensorProto.DOUBLE, shape))


def _given(graph: Graph, value: str, out: str, gone: str | None, instead: np.generic) -> None:
    """An output, with something else where rows have no answer."""
    if gone is None:
        graph.add("Identity", value, out=out)
    else:
        graph.add("Where", gone, graph.constant(instead, instead.dtype), value, out=out)


def _category(graph: Graph, classes: Sequence[str], value: str, out: str, gone: str | None) -> None:
    """The most probable class, (N,) strings; "" where rows have no answer."""
    chosen = graph.add("ArgMax", value, axis=1, keepdims=0)
    if gone is not None:
        chosen = graph.add("Where", gone, graph.constant(-1, np.int64), chosen)
    graph.looked_up(chosen, np.arange(len(classes), dtype=np.int64), classes, "", out=out)
    graph.outputs.append(helper.make_tensor_value_info(out, TensorProto.STRING, ["rows"]))


def joined(
    graph: Graph, model: onnx.ModelProto, before: int, facts: dict[str, str]
) -> onnx.ModelProto:
    """One file of the graph's first nodes, the model's, and the graph's remaining ones.

    Args:
        graph: whose names do not meet the model's.
        model: between them.
        before: how many nodes of the graph run before the model.
        facts: kept in the file as metadata.
    """
    nodes = [*graph.nodes[:before], *model.graph.node, *graph.nodes[before:]]
    body = helper.make_graph(
        nodes, "fourfold", graph.inputs, graph.outputs,
        [*graph.initializers, *model.graph.initializer],
    )  # fmt: skip
    opsets = [o for o in model.opset_import if o.domain != ML]
    made = helper.make_model(
        body,
        producer_name="fourfold",
        ir_version=model.ir_version,
        functions=list(model.functions),
        opset_imports=[*opsets, helper.make_opsetid(ML, ML_VERSION)],
    )
    helper.set_model_props(made, facts)
    onnx.checker.check_model(made, full_check=True)
    return made
