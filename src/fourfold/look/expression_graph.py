"""The computation graph of an expression, evaluated node by node.

    graph = evaluate(parse("(x + y) * max(y, z)"), {"x": [1.0], "y": [2.0], "z": [0.0]})

Values are float64. Shapes: S samples of the batch (1 without one), R entries of the result. In-place
changes follow torch: each storage counts its versions, an operation notes the version of what it keeps for
its gradient, and a gradient that would need an older version does not exist.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fourfold.core.errors import UserError, nearest
from fourfold.look.expression import ENTRIES, Call, Name, Number, Statement, Term, names
from fourfold.look.expression_functions import TABLE, Array, check, words


@dataclass
class Edge:
    """What flows from a node into an operation, and the gradient that flows back."""

    source: Node
    target: Node
    local: list[Array] | None
    """Derivative of the target by the source for each sample: of the target's shape where the function is
    elementwise, otherwise (entries of the target, entries of the source); None where none is needed."""
    elementwise: bool = True
    cut: bool = False
    """A detach: no gradient passes."""
    upstream: list[Array] | None = None
    downstream: list[Array] | None = None


@dataclass(eq=False)
class Node:
    """A value of the graph."""

    text: str
    function: str
    """An operation of `TABLE`, "broadcast" or "detach"; "given" or "number" where nothing is computed."""
    values: list[Array]
    """One for each sample."""
    needs: bool
    """Whether it depends on a given value, so that there is a gradient to find."""
    varies: bool
    """Whether it differs from sample to sample."""
    inputs: list[Edge] = field(default_factory=list)
    gradients: list[Array] | None = None
    """Derivative of the sum of the result's entries, for each sample; None where nothing flows back."""
    jacobians: list[Array] | None = None
    """(R, entries) for each sample."""
    names: list[str] = field(default_factory=list)
    """Names assigned to it."""
    statement: int = 0
    in_place: bool = False
    kept: list[Kept] = field(default_factory=list)

    @property
    def total(self) -> Array | None:
        """The gradient summed over the batch."""
        return None if self.gradients is None else np.sum(self.gradients, axis=0)


@dataclass
class Storage:
    """Memory that several names may share, with the statements that changed it in place."""

    changes: list[int] = field(default_factory=list)
    views: list[Tensor] = field(default_factory=list)
    """Detached tensors over the same memory."""


@dataclass(eq=False)
class Tensor:
    """What a name stands for: a node now, over a storage."""

    node: Node
    storage: Storage
    detached: bool = False


@dataclass
class Kept:
    """A value that an operation keeps for its gradient."""

    storage: Storage
    version: int
    text: str


@dataclass(frozen=True)
class Conflict:
    """A kept value that was changed in place."""

    node: Node
    text: str
    change: int
    """The statement that changed it."""


@dataclass
class Graph:
    """An expression's graph, nodes in the order in which they were computed."""

    statements: list[Statement]
    nodes: list[Node]
    result: Node
    samples: int
    notes: list[str]
    """What a reader should know of kinks that were met."""
    conflicts: list[Conflict] = field(default_factory=list)

    @property
    def edges(self) -> list[Edge]:
        """Every edge, by target."""
        return [edge for node in self.nodes for edge in node.inputs]

    def uses(self, node: Node) -> list[Edge]:
        """The edges that leave a node."""
        return [edge for edge in self.edges if edge.source is node]


def evaluate(statements: Sequence[Statement], given: Mapping[str, Sequence[Array]]) -> Graph:
    """Compute every value.

    Args:
        statements: from `parse`.
        given: for each name one array, or one for each sample; all batches have one length.

    Raises:
        UserError: an unknown name, a value that no name takes, shapes that do not fit, division by
            zero, a result that is too large, ...
    """
    wanted = names(statements)
    for name in given:
        if name not in wanted:
            raise UserError(
                f"{name}: the expression takes no value of this name{nearest(name, wanted)}"
            )
    missing = [name for name in wanted if name not in given]
    if missing:
        raise UserError(f"{missing[0]}: has no value; give it one: {missing[0]}=1")
    lengths = {name: len(samples) for name, samples in given.items() if len(samples) > 1}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {count}" for name, count in lengths.items())
        raise UserError(f"batches of different length: {told} samples")
    trace = _Trace(max(lengths.values(), default=1))
    for name in wanted:
        trace.give(name, given[name])
    for number, statement in enumerate(statements):
        result = trace.run(number, statement)
    return Graph(list(statements), trace.nodes, result.node, trace.samples, trace.notes)


class _Trace:
    """Runs statements and writes down what happens."""

    def __init__(self, samples: int) -> None:
        self.samples, self.statement = samples, 0
        self.nodes: list[Node] = []
        self.notes: list[str] = []
        self.variables: dict[str, Tensor] = {}

    def give(self, name: str, samples: Sequence[Array]) -> None:
        """A value from outside."""
        if len({a.shape for a in samples}) > 1:
            found = ", ".join(words(a) for a in samples[:4])
            raise UserError(f"{name}: expected samples of one shape, got {found}")
        every = list(samples) if len(samples) > 1 else [samples[0]] * self.samples
        node = Node(name, "given", every, True, len(samples) > 1, names=[name])
        self.variables[name] = self._new(node)

    def run(self, number: int, statement: Statement) -> Tensor:
        """One statement; the value it leaves."""
        self.statement = number
        if statement.change:
            return self._change(statement)
        value = self.value(statement.term)
        if statement.target:
            self.variables[statement.target] = value
            value.node.names.append(statement.target)
        return value

    def value(self, term: Term) -> Tensor:
        """The value of a term."""
        if isinstance(term, Name):
            return self.variables[term.text]
        if isinstance(term, Number):
            return self._number(term.text, np.array(term.value))
        if (array := constant(term)) is not None:
            return self._number(term.text, array)
        arguments = [self.value(argument) for argument in term.arguments]
        if term.function == "detach":
            return self._detach(arguments[0], term.text)
        return self._apply(term, arguments)

    def _number(self, text: str, array: Array) -> Tensor:
        return self._new(Node(text, "number", [array] * self.samples, False, False))

    def _new(self, node: Node) -> Tensor:
        self.nodes.append(node)
        node.statement = self.statement
        return Tensor(node, Storage())

    def _detach(self, origin: Tensor, text: str) -> Tensor:
        view = Tensor(self._cut(origin.node, text), origin.storage, detached=True)
        origin.storage.views.append(view)
        return view

    def _cut(self, origin: Node, text: str) -> Node:
        node = Node(text, "detach", origin.values, False, origin.varies, statement=self.statement)
        node.inputs = [Edge(origin, node, None, cut=True)]
        self.nodes.append(node)
        return node

    def _apply(self, call: Call, arguments: Sequence[Tensor], in_place: bool = False) -> Tensor:
        two = call.function in ("max", "min") and len(arguments) == 2
        function = f"{call.function}imum" if two else call.function
        labels = [a.text for a in call.arguments]
        rows = list(zip(*(a.node.values for a in arguments), strict=True))
        values = [self._compute(function, labels, row, call.text, i) for i, row in enumerate(rows)]
        if TABLE[function].elementwise:
            arguments = [self._spread(a, values[0].shape) for a in arguments]
        needs = any(a.node.needs for a in arguments)
        varies = any(a.node.varies for a in arguments)
        node = Node(call.text, function, values, needs, varies, in_place=in_place)
        made = self._new(node)
        self._connect(node, arguments)
        self._keep(made, arguments, labels, in_place)
        return made

    def _compute(
        self, function: str, labels: Sequence[str], row: Sequence[Array], text: str, sample: int
    ) -> Array:
        where = f" (sample {sample + 1})" if self.samples > 1 else ""
        try:
            check(function, labels, row, text)
        except UserError as error:
            raise UserError(f"{error}{where}") from None
        with np.errstate(all="ignore"):
            value = np.asarray(TABLE[function].value(*row), dtype=np.float64)
        if not np.isfinite(value).all():
            raise UserError(f"{text}: the result is too large for a float64{where}")
        if value.size > ENTRIES:
            raise UserError(f"{text}: {words(value)} is too large to be shown; at most {ENTRIES}")
        self._note(function, labels, row, text)
        return value

    def _note(self, function: str, labels: Sequence[str], row: Sequence[Array], text: str) -> None:
        """Say where a derivative is a convention."""
        note = ""
        if function in ("maximum", "minimum") and (row[0] == row[1]).any():
            note = f"{text}: {labels[0]} and {labels[1]} are equal; the gradient goes to both in halves, as in torch."
        elif function in ("max", "min") and (row[0] == TABLE[function].value(row[0])).sum() > 1:
            note = f"{text}: several entries are equal; the gradient goes to them in equal shares, as in torch."
        elif function in ("relu", "abs", "norm") and (row[0] == 0).any():
            if function != "norm" or not row[0].any():
                note = f"{text}: has a kink at 0; the gradient there is 0, as in torch."
        if note and note not in self.notes:
            self.notes.append(note)

    def _spread(self, argument: Tensor, shape: tuple[int, ...]) -> Tensor:
        """An argument in the result's shape; copies of what has a gradient are a node of their own."""
        node = argument.node
        if node.values[0].shape == shape or not node.needs:
            return argument
        values = [np.broadcast_to(v, shape) for v in node.values]
        copies = values[0].size // node.values[0].size
        text = f"{node.text} copied {copies} times"
        spread = Node(text, "broadcast", values, True, node.varies, statement=self.statement)
        places = np.broadcast_to(
            np.arange(node.values[0].size).reshape(node.values[0].shape), shape
        )
        local = np.eye(node.values[0].size)[places.ravel()]
        spread.inputs = [Edge(node, spread, [local] * self.samples, elementwise=False)]
        self.nodes.append(spread)
        return Tensor(spread, argument.storage)  # torch keeps the original, not the copies

    def _connect(self, node: Node, arguments: Sequence[Tensor]) -> None:
        function = TABLE[node.function]
        rows = list(zip(*(a.node.values for a in arguments), strict=True))
        locals_: list[Sequence[Array]] = []
        if node.needs:
            with np.errstate(all="ignore"):
                locals_ = [
                    function.local(*row, value)
                    for row, value in zip(rows, node.values, strict=True)
                ]
        for place, argument in enumerate(arguments):
            local = [row[place] for row in locals_] if argument.node.needs else None
            if local is not None and function.elementwise:
                # an operand without a gradient is not copied: beside it the local has its smaller shape
                local = [np.broadcast_to(part, node.values[0].shape) for part in local]
            node.inputs.append(Edge(argument.node, node, local, function.elementwise))

    def _keep(
        self, made: Tensor, arguments: Sequence[Tensor], labels: Sequence[str], in_place: bool
    ) -> None:
        """Note what torch keeps for the gradient, at its present version."""
        letters = {
            letter
            for argument, needed in zip(arguments, TABLE[made.node.function].keeps, strict=False)
            for letter in needed
            if argument.node.needs
        }
        power = made.node.function == "**" and arguments[1].node
        if power and power.function == "number" and not power.values[0].shape:
            letters.discard("r")  # with a plain number above, torch keeps the base only
        for letter in sorted(letters):
            if letter == "a" and in_place:
                continue  # torch copies what it is about to change
            origin = made if letter == "r" else arguments["ab".index(letter)]
            label = made.node.text if letter == "r" else labels["ab".index(letter)]
            made.node.kept.append(Kept(origin.storage, len(origin.storage.changes), label))

    def _change(self, statement: Statement) -> Tensor:
        """`name += term`: the same memory, one version later."""
        name = statement.target
        target = self.variables[name]
        if target.node.function == "given":
            raise UserError(
                f"{statement.text}: {target.node.text} is given from outside (a leaf), and torch refuses to change "
                f"a leaf in place; write {name} = {name} {statement.change} ..."
            )
        if target.detached:
            origin = target.node.inputs[0].source
            raise UserError(
                f"{statement.text}: {name} is detached and shares its memory with {(origin.names or [origin.text])[0]}, "
                "which would change without its gradient knowing"
            )
        call = Call(statement.change, (Name(name), statement.term), statement.text)
        made = self._apply(call, [target, self.value(statement.term)], in_place=True)
        if made.node.values[0].shape != target.node.values[0].shape:
            found = words(made.node.values[0])
            raise UserError(
                f"{statement.text}: {name} is {words(target.node.values[0])} and cannot hold {found}"
            )
        storage = target.storage
        storage.changes.append(self.statement)
        for kept in made.node.kept:
            if kept.storage is made.storage:  # the result, which is this memory from now on
                kept.storage, kept.version = storage, len(storage.changes)
        target.node = made.node
        made.node.names.append(name)
        for view in storage.views:  # they look into the same memory
            view.node = self._cut(target.node, view.node.text)
        return target


def constant(term: Term) -> Array | None:
    """The value of a term made of numbers and brackets only, if it is one."""
    if isinstance(term, Number):
        return np.array(term.value)
    if not isinstance(term, Call) or term.function not in ("neg", "stack"):
        return None
    parts = [constant(argument) for argument in term.arguments]
    found = [part for part in parts if part is not None]
    if len(found) < len(parts):
        return None
    if term.function == "neg":
        return -found[0]
    check("stack", [a.text for a in term.arguments], found, term.text)
    if sum(part.size for part in found) > ENTRIES:
        raise UserError(f"{term.text[:40]}…: expected at most {ENTRIES} entries")
    return np.stack(found)
