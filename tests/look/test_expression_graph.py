"""Values and gradients of expressions against torch.autograd and finite differences."""

from __future__ import annotations

import ast
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fourfold.core.errors import UserError
from fourfold.look.expression import parse
from fourfold.look.expression_backward import backpropagate
from fourfold.look.expression_graph import Graph, evaluate


def explained(text: str, **values: Any) -> Graph:
    graph = evaluate(
        parse(text), {name: [np.array(v, dtype=np.float64)] for name, v in values.items()}
    )
    backpropagate(graph)
    return graph


def gradient(graph: Graph, name: str) -> np.ndarray | None:
    node = next(n for n in graph.nodes if n.function == "given" and n.text == name)
    return None if node.gradients is None else node.gradients[0]


# --- the oracle: Python runs the same text on torch's tensors ----------------------------------------


class _Tensors(ast.NodeTransformer):
    """Numbers and lists as tensors, so that the text means the same to torch."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Call(ast.Name("number", ast.Load()), [node], [])

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        node.left = self.visit(node.left)
        if not (isinstance(node.op, ast.Pow) and isinstance(node.right, ast.Constant)):
            node.right = self.visit(node.right)  # torch has a power of its own for plain numbers
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        if not (isinstance(node.op, ast.Pow) and isinstance(node.value, ast.Constant)):
            node.value = self.visit(node.value)
        return node

    def visit_List(self, node: ast.List) -> ast.AST:
        self.generic_visit(node)
        return ast.Call(ast.Name("stack", ast.Load()), [node], [])


def _extreme(pair: Any, whole: Any) -> Any:
    def call(*arguments: Tensor) -> Tensor:
        found = arguments[0] if len(arguments) > 1 else whole(arguments[0])
        for other in arguments[1:]:
            found = pair(found, other)
        return found

    return call


FUNCTIONS: dict[str, Any] = {
    "max": _extreme(torch.maximum, torch.max), "min": _extreme(torch.minimum, torch.min), "exp": torch.exp,
    "log": torch.log, "sin": torch.sin, "cos": torch.cos, "tanh": torch.tanh, "sigmoid": torch.sigmoid,
    "relu": torch.relu, "abs": torch.abs, "sqrt": torch.sqrt, "square": torch.square, "sum": torch.sum,
    "mean": torch.mean, "norm": torch.linalg.vector_norm, "softmax": lambda v: torch.softmax(v, -1),
    "dot": torch.dot, "matmul": torch.matmul, "detach": torch.detach, "stack": torch.stack,
    "number": lambda value: torch.tensor(float(value), dtype=torch.float64),
}  # fmt: skip


def torch_result(text: str, leaves: dict[str, Tensor]) -> Tensor:
    """The last statement's value."""
    tree = _Tensors().visit(ast.parse(text))
    last = tree.body[-1]
    names: dict[str, Any] = {**FUNCTIONS, **leaves}
    if isinstance(last, ast.Expr):
        tree.body[-1] = ast.Assign([ast.Name("result", ast.Store())], last.value)
    ast.fix_missing_locations(tree)
    exec(compile(tree, "oracle", "exec"), names)  # the test's own text
    target = (
        "result"
        if isinstance(last, ast.Expr)
        else ast.unparse(
            last.targets[0] if isinstance(last, ast.Assign) else last.target  # type: ignore[attr-defined]
        )
    )
    found: Tensor = names[target]
    return found


def leaves_of(values: dict[str, Any]) -> dict[str, Tensor]:
    return {
        name: torch.tensor(v, dtype=torch.float64, requires_grad=True) for name, v in values.items()
    }


def assert_as_torch(text: str, values: dict[str, Any]) -> None:
    graph = explained(text, **values)
    leaves = leaves_of(values)
    result = torch_result(text, leaves)
    np.testing.assert_allclose(graph.result.values[0], result.detach(), rtol=1e-10, atol=1e-12)
    if not result.requires_grad:
        assert all(gradient(graph, name) is None for name in values)
        return
    result.sum().backward()
    for name, leaf in leaves.items():
        ours = gradient(graph, name)
        if leaf.grad is None:
            assert ours is None, name
        else:
            assert ours is not None, name
            np.testing.assert_allclose(ours, leaf.grad, rtol=1e-9, atol=1e-10, err_msg=name)
    for leaf in leaves.values():
        leaf.grad = None
    for row, entry in enumerate(torch_result(text, leaves).reshape(-1)):
        for name, leaf in leaves.items():
            node = next(n for n in graph.nodes if n.function == "given" and n.text == name)
            (found,) = torch.autograd.grad(entry, leaf, retain_graph=True, allow_unused=True)
            if node.jacobians is not None:
                want = np.zeros(leaf.numel()) if found is None else found.reshape(-1).numpy()
                np.testing.assert_allclose(node.jacobians[0][row], want, rtol=1e-9, atol=1e-10)


EXAMPLES: list[tuple[str, dict[str, Any]]] = [
    ("(x + y) * max(y, z)", {"x": 1, "y": 2, "z": 0}),
    ("x - y / z", {"x": 1, "y": 2, "z": -3}),
    ("x ** y", {"x": 2.5, "y": 1.5}),
    ("x ** 3", {"x": -2}),
    ("x ** 0", {"x": 0}),
    ("0 ** x", {"x": 2}),
    ("max(x, y, z)", {"x": 1, "y": 1, "z": 1}),
    ("min(x, y)", {"x": 1, "y": 1}),
    ("max(v)", {"v": [1, 3, 3]}),
    ("min(v) + max(v)", {"v": [1, 3, 2]}),
    ("relu(v)", {"v": [-1, 0, 2]}),
    ("abs(v)", {"v": [-1, 0, 2]}),
    ("norm(v)", {"v": [0, 0]}),
    ("norm(W)", {"W": [[3, 0], [0, 4]]}),
    ("softmax(W)", {"W": [[1, 2, 3], [0, 0, -5]]}),
    ("sigmoid(v) * 1000", {"v": [-800, 0, 800]}),
    ("W @ v + b", {"W": [[1, 2], [3, 4], [5, 6]], "v": [1, -1], "b": [0.5, 1, 2]}),
    ("v @ W", {"W": [[1, 2], [3, 4]], "v": [1, -1]}),
    ("v @ u", {"v": [1, 2], "u": [3, 4]}),
    ("A @ B", {"A": [[1, 2], [3, 4]], "B": [[5, 6, 7], [7, 8, 9]]}),
    ("W + v", {"W": [[1, 2], [3, 4]], "v": [1, -1]}),
    ("W * s - [[1], [2]]", {"W": [[1, 2], [3, 4]], "s": 3}),
    ("[x, 2, x * y]", {"x": 2, "y": 3}),
    ("[[x, y], [y, x]] @ [1, 2]", {"x": 2, "y": 3}),
    ("x * detach(x) + detach(y)", {"x": 2, "y": 3}),
    ("a = x * y; b = a; a += x; b * a", {"x": 2, "y": 3}),
    ("a = x + y; a -= 1; a += y; a", {"x": 2, "y": 3}),
    ("a = x + 0; a *= y; a", {"x": 2, "y": 3}),
    ("a = x + 0; a /= y; a **= 2; a * 1", {"x": 2, "y": 3}),
    ("a = x + 0; d = detach(a); a += y; a * d", {"x": 2, "y": 3}),
    ("a = [1, 2]; a *= v; sum(a)", {"v": [3, 4]}),
    ("x", {"x": 2}),
    ("v", {"v": [2, 3]}),
    ("a = 2; a * x", {"x": 2}),
    ("x = x * x; x * y", {"x": 2, "y": 3}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "values"), EXAMPLES)
def test_examples_equal_torch(text: str, values: dict[str, Any]) -> None:
    assert_as_torch(text, values)


# --- random expressions ------------------------------------------------------------------------------

SMOOTH = ["exp(tanh({}))", "log(square({}) + 1)", "sin({})", "cos({})", "tanh({})", "sigmoid({})",
          "sqrt(square({}) + 0.5)", "square({})", "-({})", "({}) ** 2", "({}) / 3"]  # fmt: skip
KINKED = ["relu({})", "abs({})", "detach({})"]
PAIRS = ["({}) + ({})", "({}) - ({})", "({}) * ({})", "({}) / (square({}) + 1)"]


def expressions(kinks: bool) -> st.SearchStrategy[str]:
    """Texts over scalars x and y, vectors u and v of three and a 3 x 3 matrix W; the result is a scalar."""
    one = SMOOTH + (KINKED if kinks else [])
    two = PAIRS + (["max({}, {})", "min({}, {})"] if kinks else [])
    start = st.tuples(
        st.sampled_from(["x", "y", "x", "1.5", "-2"]), st.sampled_from(["u", "v", "[1, x, y]"])
    )

    def grown(inner: st.SearchStrategy[tuple[str, str]]) -> st.SearchStrategy[tuple[str, str]]:
        def build(draw: st.DrawFn) -> tuple[str, str]:
            (s, v), (t, w) = draw(inner), draw(inner)
            scalar = draw(st.sampled_from(
                [o.format(s) for o in one] + [o.format(s, t) for o in two]
                + [f"sum({v})", f"mean({v})", f"dot({v}, {w})", f"norm(({v}) + 3)", f"({v}) @ ({w})"]
                + ([f"max({v})", f"min({v})"] if kinks else [])
            ))  # fmt: skip
            vector = draw(st.sampled_from(
                [o.format(v) for o in one] + [o.format(v, w) for o in two]
                + [f"softmax({v})", f"({s}) * ({v})", f"({v}) + ({t})", f"W @ ({v})", f"({v}) @ W", f"[{s}, {t}, 1]"]
            ))  # fmt: skip
            return scalar, vector

        return st.composite(build)()

    return st.recursive(start, grown, max_leaves=6).map(lambda pair: f"{pair[0]} + sum({pair[1]})")


number = st.floats(-2, 2, allow_nan=False).map(lambda v: round(v, 3))
given_values = st.fixed_dictionaries(
    {
        "x": number,
        "y": number,
        "u": st.lists(number, min_size=3, max_size=3),
        "v": st.lists(number, min_size=3, max_size=3),
        "W": st.lists(st.lists(number, min_size=3, max_size=3), min_size=3, max_size=3),
    }
)


def used(text: str, values: dict[str, Any]) -> dict[str, Any]:
    found = {n.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name)}
    return {name: value for name, value in values.items() if name in found}


@settings(max_examples=150, deadline=None)
@given(expressions(kinks=True), given_values)
def test_random_expressions_equal_torch(text: str, values: dict[str, Any]) -> None:
    chosen = used(text, values)
    assume(chosen)
    try:
        explained(text, **chosen)
    except UserError as error:  # sizes and overflow; nothing else can be wrong with these
        assert "too large" in str(error) or "finite" in str(error), error
        return
    assert_as_torch(text, chosen)


@settings(max_examples=80, deadline=None)
@given(expressions(kinks=False), given_values)
def test_random_expressions_equal_a_finite_difference(text: str, values: dict[str, Any]) -> None:
    chosen = used(text, values)
    assume(chosen)
    try:
        graph = explained(text, **chosen)
    except UserError as error:
        assert "too large" in str(error), error
        return
    step = 1e-5
    for name, value in chosen.items():
        array = np.array(value, dtype=np.float64)
        found = gradient(graph, name)
        assert found is not None
        for at in np.ndindex(*array.shape):
            ends = []
            for sign in (1, -1):
                moved = array.copy()
                moved[at] += sign * step
                ends.append(float(explained(text, **{**chosen, name: moved}).result.values[0]))
            slope = (ends[0] - ends[1]) / (2 * step)
            scale = max(1.0, abs(ends[0]), float(np.abs(found).max()))
            # the error is a third derivative's times step^2, and rounding over step
            assert abs(slope - found[at]) < 1e-3 * scale**2, (name, at, slope, found[at])


@settings(max_examples=150, deadline=None)
@given(expressions(kinks=True), given_values)
def test_downstream_is_upstream_times_local_and_sums_to_the_gradient(
    text: str, values: dict[str, Any]
) -> None:
    chosen = used(text, values)
    assume(chosen)
    try:
        graph = explained(text, **chosen)
    except UserError:
        return
    for edge in graph.edges:
        if edge.upstream is None or edge.downstream is None or edge.local is None:
            continue
        up, local = edge.upstream[0], edge.local[0]
        want = (
            up * local
            if edge.elementwise
            else (up.ravel() @ local).reshape(edge.downstream[0].shape)
        )
        np.testing.assert_allclose(edge.downstream[0], want, rtol=1e-9, atol=1e-10)
    for node in graph.nodes:
        parts = [e.downstream[0] for e in graph.uses(node) if e.downstream is not None]
        if parts and node.gradients is not None and node is not graph.result:
            np.testing.assert_allclose(node.gradients[0], sum(parts), rtol=1e-9, atol=1e-10)


# --- in-place changes ----------------------------------------------------------------------------------

NAMES = ["a", "b", "c"]
TERMS = st.sampled_from(
    ["a", "b", "c", "x", "y", "1", "a * b", "a * a", "exp(a)", "exp(b)", "sin(a)", "sqrt(square(b) + 1)", "tanh(c)",
     "relu(a)", "sigmoid(b)", "c ** 2", "a / (b * b + 1)", "b + c", "max(a, b)", "abs(c)", "square(c)", "x * c",
     "detach(a)", "detach(b) * c", "log(square(a) + 1)", "(a * a + 1) ** b", "-c", "b - 1"]
)  # fmt: skip
STATEMENTS = st.one_of(
    st.builds("{} = {}".format, st.sampled_from(NAMES), TERMS),
    st.builds(
        "{} {}= {}".format,
        st.sampled_from(NAMES),
        st.sampled_from(["+", "-", "*", "/", "**"]),
        TERMS,
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STATEMENTS, min_size=1, max_size=5), st.sampled_from(["a", "b * c", "a + b + c"]))
def test_what_torchs_version_counter_refuses_is_named(lines: list[str], end: str) -> None:
    text = "; ".join(["a = x * y", "b = a + y", "c = tanh(x) + 3", *lines, end])
    values = {"x": 0.7, "y": 1.3}
    try:
        graph = explained(text, **values)
    except UserError as error:
        sentence = str(error)
        if "shares its memory" in sentence:
            return  # torch changes the original behind its gradient's back
        if "leaf" in sentence:
            with pytest.raises(RuntimeError, match="leaf"):
                torch_result(text, leaves_of(values))
            return
        assert any(word in sentence for word in ("zero", "whole powers", "too large", "finite")), (
            sentence
        )
        return
    leaves = leaves_of(values)
    result = torch_result(text, leaves)
    np.testing.assert_allclose(graph.result.values[0], result.detach(), rtol=1e-9)
    if graph.conflicts:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            result.backward()
        for conflict in graph.conflicts:
            assert graph.statements[conflict.change].change
    elif result.requires_grad:
        result.backward()
        for name, leaf in leaves.items():
            ours = gradient(graph, name)
            assert (ours is None) == (leaf.grad is None)
            if ours is not None:
                np.testing.assert_allclose(ours, leaf.grad, rtol=1e-8, atol=1e-10)


def test_the_change_in_place_is_named_at_its_statement() -> None:
    graph = explained("a = x * y; b = a * a; a += 1; b", x=1, y=2)
    (conflict,) = graph.conflicts
    assert (conflict.node.text, conflict.text, conflict.change) == ("a * a", "a", 2)
    assert all(node.gradients is None for node in graph.nodes)


# --- batches ---------------------------------------------------------------------------------------------


def test_a_batch_is_each_sample_by_itself() -> None:
    xs, ys = [1.0, 2.0, -3.0], [2.0, 4.0, 5.0]
    text = "square(w * x + b - y) * sum([w, x])"
    given_ = {
        "w": [np.array(0.5)],
        "b": [np.array(0.1)],
        "x": [np.array(v) for v in xs],
        "y": [np.array(v) for v in ys],
    }
    graph = evaluate(parse(text), given_)
    backpropagate(graph)
    alone = [explained(text, w=0.5, b=0.1, x=x, y=y) for x, y in zip(xs, ys, strict=True)]
    for name in "wbxy":
        node = next(n for n in graph.nodes if n.text == name)
        assert node.gradients is not None
        each = [gradient(a, name) for a in alone]
        np.testing.assert_allclose(node.gradients, each)
    leaves = leaves_of({"w": 0.5, "b": 0.1})
    batch = {"x": torch.tensor(xs), "y": torch.tensor(ys)}
    total = torch.stack(
        [
            torch_result(text, {**leaves, "x": x, "y": y})
            for x, y in zip(*batch.values(), strict=True)
        ]
    ).sum()
    total.backward()
    node = next(n for n in graph.nodes if n.text == "w")
    assert node.total == pytest.approx(float(leaves["w"].grad))  # type: ignore[arg-type]
    assert not node.varies and graph.result.varies


# --- wrong input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values", "said"),
    [
        ("x / y", {"x": 1, "y": 0}, "x / y: division by zero: y is 0"),
        ("x / v", {"x": 1, "v": [1, 0]}, "division by zero: v is [1, 0]"),
        ("x ** -1", {"x": 0}, "division by zero: x is 0"),
        ("x ** 0.5", {"x": -1}, "a negative number has only whole powers"),
        ("log(x)", {"x": 0}, "log needs values above 0, and x is 0"),
        ("sqrt(x - 2)", {"x": 1}, "sqrt needs values of at least 0, and x - 2 is -1"),
        ("sqrt(x)", {"x": 0}, "no finite derivative with respect to x at 0"),
        ("x ** y", {"x": -2, "y": 2}, "no finite derivative with respect to y"),
        ("u + v", {"u": [1, 2], "v": [1, 2, 3]}, "u is a vector of 2 and v a vector of 3"),
        ("W @ v", {"W": [[1, 2]], "v": [1, 2, 3]}, "W is a 1 x 2 matrix and v a vector of 3"),
        ("x @ v", {"x": 1, "v": [1, 2]}, "x is a number and v a vector of 2"),
        ("dot(W, W)", {"W": [[1, 2]]}, "dot needs two vectors of one length"),
        ("softmax(x)", {"x": 1}, "softmax needs a vector"),
        ("[x, v]", {"x": 1, "v": [1, 2]}, "expected entries of one shape"),
        ("[W, W]", {"W": [[1, 2]]}, "expected entries of one shape, at most vectors"),
        ("a = x * y; a += v; a", {"x": 1, "y": 2, "v": [1, 2]}, "a is a number and cannot hold a vector of 2"),
        ("x += 1; x", {"x": 1}, "torch refuses to change a leaf in place; write x = x +"),
        ("a = x; a *= 2; a", {"x": 1}, "x is given from outside (a leaf)"),
        ("a = x * 2; d = detach(a); d += 1; a", {"x": 1}, "d is detached and shares its memory with a"),
        ("x + y", {"x": 1}, "y: has no value; give it one: y=1"),
        ("x + 1", {"x": 1, "yy": 2}, "yy: the expression takes no value of this name"),
        ("learning", {"learnin": 1}, "did you mean learning?"),
        ("9**9**9", {}, "too large for a float64"),
        ("exp(x)", {"x": 1000}, "too large for a float64"),
        ("A @ B", {"A": [[1]] * 16, "B": [[1] * 16]}, "too large to be shown"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_sentence(text: str, values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        explained(text, **values)
    assert said in str(caught.value)


def test_wrong_batches() -> None:
    one, two = [np.array(1.0)], [np.array(1.0), np.array(0.0)]
    with pytest.raises(UserError, match="division by zero: y is 0 .sample 2."):
        evaluate(parse("x / y"), {"x": one, "y": two})
    with pytest.raises(UserError, match="x has 2, y has 3 samples"):
        evaluate(parse("x / y"), {"x": two, "y": [np.array(1.0)] * 3})
    with pytest.raises(UserError, match="samples of one shape"):
        evaluate(parse("x"), {"x": [np.array(1.0), np.array([1.0, 2.0])]})


def test_kinks_are_told() -> None:
    assert "equal; the gradient goes to both in halves" in explained("max(x, y)", x=1, y=1).notes[0]
    assert "kink at 0" in explained("relu(x)", x=0).notes[0]
    assert "equal shares" in explained("max(v)", v=[1, 1]).notes[0]
    assert not explained("max(x, y) + relu(x) + abs(y)", x=1, y=2).notes


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("W / [1, 2, 3]", {"W": [[1, 2, 3], [4, 5, 6]]}),
        ("x * [[1], [2]]", {"x": [1, 2, 3]}),
        ("W * detach(y)", {"W": [[1, 2, 3], [4, 5, 6]], "y": [1, 2, 3]}),
    ],
)
def test_what_has_no_gradient_may_be_broadcast(text: str, values: dict[str, Any]) -> None:
    from fourfold.cli.explain import explain_command

    words = [f"{name}={value}".replace(" ", "") for name, value in values.items()]
    explain_command([text, *words])


def test_sigmoid_is_exact_at_both_ends() -> None:
    import math

    from fourfold.look.expression_functions import TABLE

    for x in (-40.0, -30.0, -1.0, 0.0, 2.0, 40.0):
        wanted = math.exp(x) / (1 + math.exp(x))
        assert float(TABLE["sigmoid"].value(np.array(x))) == pytest.approx(wanted, rel=1e-14)
