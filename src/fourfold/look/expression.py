"""Small expressions as text, parsed against a whitelist; nothing of them is ever evaluated by Python.

    parse("a = x * y; a + max(y, [1, 2])")     statements, the last of which is explained
    parse_value("x", "1,2,3")                  a value given to a name: here a batch of three numbers

Allowed are numbers, names, vectors and matrices in brackets, + - * / ** @, the functions listed in
`FUNCTIONS`, and before the last statement `name = ...` and in-place changes as `name += ...`. Text, depth,
number of operations and size of numbers are bounded, so that no input takes long.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from fourfold.core.errors import UserError, nearest

LONGEST = 2_000  # characters
DEEPEST = 50  # operations inside one another
MOST = 300  # numbers, names and operations
LARGEST = (
    1e12  # of a number that is written out; what comes of it may be as large as a float64 holds
)
ENTRIES = 64  # numbers in a vector or matrix
SAMPLES = 32  # in a batch

FUNCTIONS: dict[str, tuple[int, int | None]] = {
    "max": (1, None), "min": (1, None), "exp": (1, 1), "log": (1, 1), "sin": (1, 1), "cos": (1, 1),
    "tanh": (1, 1), "sigmoid": (1, 1), "relu": (1, 1), "abs": (1, 1), "sqrt": (1, 1), "square": (1, 1),
    "sum": (1, 1), "mean": (1, 1), "norm": (1, 1), "softmax": (1, 1), "dot": (2, 2), "matmul": (2, 2),
    "detach": (1, 1),
}  # fmt: skip
"""Least and most arguments of each function."""

OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**", ast.MatMult: "@",
}  # fmt: skip
STRANGE = {
    ast.Attribute: "an attribute", ast.Subscript: "an index", ast.Lambda: "a lambda", ast.Compare: "a comparison",
    ast.BoolOp: "and / or", ast.IfExp: "a condition", ast.NamedExpr: "an assignment inside an expression",
    ast.Tuple: "a tuple (a vector is written [1, 2])", ast.Starred: "a starred value", ast.ListComp: "a comprehension",
    ast.GeneratorExp: "a comprehension", ast.Await: "await", ast.Yield: "yield", ast.YieldFrom: "yield",
}  # fmt: skip
LETTERS = re.compile(r"[\w\s+\-*/@()\[\],.;=]*")


@dataclass(frozen=True)
class Number:
    """A number that is written out."""

    value: float
    text: str


@dataclass(frozen=True)
class Name:
    """A value given from outside, or assigned before."""

    text: str


@dataclass(frozen=True)
class Call:
    """An operation: an operator, "neg", "stack" (brackets) or one of `FUNCTIONS`."""

    function: str
    arguments: tuple[Term, ...]
    text: str


Term = Number | Name | Call


@dataclass(frozen=True)
class Statement:
    """`target = term`, an in-place change as `target += term`, or a bare term."""

    term: Term
    text: str
    target: str = ""
    change: str = ""
    """The operator of an in-place change."""


def parse(text: str) -> list[Statement]:
    """Statements separated by `;` or lines; the last one's value is the result.

    Raises:
        UserError: anything that is not allowed, named with what is; too long, too deep, too much.
    """
    body = _tree(text).body
    if not body:
        raise UserError("the expression is empty")
    reader = _Reader()
    statements = [reader.statement(node) for node in body]
    for statement in statements[:-1]:
        if not statement.target:
            raise UserError(
                f"{statement.text}: its value is not used; only the last statement stands without a name"
            )
    return statements


def parse_value(name: str, text: str) -> tuple[list[Term], bool]:
    """A value given to a name.

    Args:
        name: for errors.
        text: a number, a vector [1, 2] or matrix [[1, 2], [3, 4]]; several of these, separated by
            commas, are a batch of samples.

    Returns:
        The samples, one if it is no batch, and whether it is a batch.

    Raises:
        UserError: anything but numbers, or too many of them.
    """
    body = _tree(text).body
    node = body[0].value if len(body) == 1 and isinstance(body[0], ast.Expr) else None
    if node is None:
        raise UserError(f"{name}={text}: expected a number, a vector [1, 2] or samples 1,2,3")
    samples = node.elts if isinstance(node, ast.Tuple) else [node]
    if not 0 < len(samples) <= SAMPLES:
        raise UserError(
            f"{name}={_short(text)}: expected 1 to {SAMPLES} samples, got {len(samples)}"
        )
    terms = [_Reader().term(sample, 0) for sample in samples]
    for term in terms:
        if not _constant(term):
            raise UserError(f"{name}={text}: expected numbers only, as {name}=1.5 or {name}=[1, 2]")
    return terms, isinstance(node, ast.Tuple)


def names(statements: Iterable[Statement]) -> list[str]:
    """Names that must be given from outside, in the order in which they are met."""
    assigned: set[str] = set()
    wanted: dict[str, None] = {}

    def visit(term: Term) -> None:
        if isinstance(term, Name) and term.text not in assigned:
            wanted[term.text] = None
        for argument in term.arguments if isinstance(term, Call) else ():
            visit(argument)

    for statement in statements:
        if statement.change:
            visit(Name(statement.target))
        visit(statement.term)
        if statement.target and not statement.change:
            assigned.add(statement.target)
    return list(wanted)


def _constant(term: Term) -> bool:
    if isinstance(term, Call):
        return term.function in ("neg", "stack") and all(map(_constant, term.arguments))
    return isinstance(term, Number)


def _tree(text: str) -> ast.Module:
    if len(text) > LONGEST:
        raise UserError(
            f"{text[:30]}…: expected an expression of at most {LONGEST:,} characters, got {len(text):,}"
        )
    plain = LETTERS.match(text)
    if plain is not None and (strange := text[plain.end() :]):
        hint = "; a power is written **" if strange[0] == "^" else f"; {_allowed()}"
        raise UserError(f"{_short(text)}: {strange[0]!r} has no place in an expression{hint}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's own hints at odd spellings, as 1or
            return ast.parse(text.strip(), mode="exec")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "too deep"
        raise UserError(f"{_short(text)}: cannot be read as an expression ({reason})") from None


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:59] + "…"


def _allowed() -> str:
    return f"allowed are numbers, names, [vectors], + - * / ** @ and {', '.join(FUNCTIONS)}"


class _Reader:
    """Python's syntax tree, node by node, as terms."""

    def __init__(self) -> None:
        self.count = 0

    def statement(self, node: ast.stmt) -> Statement:
        """One statement."""
        if isinstance(node, ast.Expr):
            return Statement(self.term(node.value, 0), _source(node))
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, change = node.targets[0], ""
        elif isinstance(node, ast.AugAssign) and type(node.op) in OPERATORS:
            target, change = node.target, OPERATORS[type(node.op)]
        else:
            raise UserError(
                f"{_source(node)}: a statement is an expression, name = expression or name += expression"
            )
        if not isinstance(target, ast.Name) or change == "@":
            raise UserError(f"{_source(node)}: expected a name before =, and + - * / or ** for +=")
        if target.id in FUNCTIONS:
            raise UserError(f"{_source(node)}: {target.id} is a function; take another name")
        return Statement(self.term(node.value, 0), _source(node), target.id, change)

    def term(self, node: ast.expr, depth: int) -> Term:
        """One expression."""
        self.count += 1
        if depth > DEEPEST or self.count > MOST:
            what = (
                f"deeper than {DEEPEST}"
                if depth > DEEPEST
                else f"more than {MOST} numbers, names and operations"
            )
            raise UserError(f"the expression is too large: {what}")
        if isinstance(node, ast.Constant):
            return _number(node)
        if isinstance(node, ast.Name):
            if node.id in FUNCTIONS:
                raise UserError(f"{node.id}: is a function; write {node.id}(...)")
            return Name(node.id)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd):
            return self.term(node.operand, depth + 1)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return Call("neg", (self.term(node.operand, depth + 1),), _source(node))
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            sides = self.term(node.left, depth + 1), self.term(node.right, depth + 1)
            return Call(OPERATORS[type(node.op)], sides, _source(node))
        if isinstance(node, ast.List):
            return self._stack(node, depth)
        if isinstance(node, ast.Call):
            return self._call(node, depth)
        kind = STRANGE.get(type(node), "this")
        raise UserError(f"{_short(_source(node))}: {kind} is not allowed; {_allowed()}")

    def _stack(self, node: ast.List, depth: int) -> Term:
        if not 0 < len(node.elts) <= ENTRIES:
            raise UserError(
                f"{_short(_source(node))}: expected 1 to {ENTRIES} entries, got {len(node.elts)}"
            )
        return Call("stack", tuple(self.term(e, depth + 1) for e in node.elts), _source(node))

    def _call(self, node: ast.Call, depth: int) -> Term:
        source = _short(_source(node))
        if not isinstance(node.func, ast.Name):
            raise UserError(f"{source}: expected a function's name before (; {_allowed()}")
        name = node.func.id
        if name not in FUNCTIONS:
            raise UserError(
                f"{name}: no such function{nearest(name, FUNCTIONS) or '; ' + _allowed()}"
            )
        least, most = FUNCTIONS[name]
        if node.keywords or len(node.args) < least or len(node.args) > (most or ENTRIES):
            wanted = f"{least}" if most == least else f"at least {least}"
            raise UserError(f"{source}: {name} takes {wanted} plain arguments")
        arguments = [self.term(a, depth + 1) for a in node.args]
        if name == "matmul":
            return Call("@", tuple(arguments), _source(node))
        if name in ("max", "min") and len(arguments) > 2:  # pair by pair, as torch does
            *inner, last = arguments
            first = inner[0]
            for argument in inner[1:]:
                first = Call(name, (first, argument), f"{name}({first.text}, {argument.text})")
            return Call(name, (first, last), _source(node))
        return Call(name, tuple(arguments), _source(node))


def _number(node: ast.Constant) -> Number:
    value = node.value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(f"{_short(_source(node))}: expected a number; {_allowed()}")
    if not (isinstance(value, int) or math.isfinite(value)) or abs(value) > LARGEST:
        raise UserError(
            f"{_short(_source(node))}: numbers may be at most {LARGEST:g}, this one is larger"
        )
    return Number(float(value), _source(node))


def _source(node: ast.AST) -> str:
    """The piece as text; of one that is too deep to be written out, its kind."""
    try:
        return ast.unparse(node)
    except (RecursionError, ValueError):  # also a number of thousands of digits
        return type(node).__name__.lower()
