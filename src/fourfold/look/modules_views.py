"""What is inside what: a step's graph as views that open, the whole first, then each module and group.

A view shows the calls and operations directly inside one call, and what flows between them. Operations
without a module between them that hang together are one group, which opens like a module. Operations
that only change a tensor's shape or layout are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from fourfold.look.modules import Atom, Call, Flow, Shape, Step

LAYOUT = {
    "view", "unsafe view", "t", "transpose", "permute", "expand", "clone", "unsqueeze", "squeeze", "alias",
    "to copy", "reshape alias", "contiguous", "as strided",
}  # fmt: skip
"""Operations that compute nothing new."""
NAMED = 3  # operations of a group that its title names

Kind = Literal["call", "operation", "group", "input", "loss", "outside"]


@dataclass(eq=False)
class Item:
    """A box of a view."""

    kind: Kind
    title: str
    call: Call | None = None
    uses: list[str] = field(default_factory=list)
    """Parameters that an operation reads itself, with their shapes."""
    view: View | None = None
    """What it shows when it is opened."""


@dataclass(eq=False)
class View:
    """The inside of a call or group; the whole step where `path` is empty."""

    path: str
    items: list[Item]
    edges: list[tuple[Item, Item, list[str]]]
    """With the shapes of what flows."""

    def all(self) -> list[View]:
        """This view and those that open from it, outer ones first."""
        return [self, *(v for item in self.items if item.view for v in item.view.all())]


def views(step: Step) -> View:
    """The view of a whole step, with those inside it.

    Where the step calls one module only, as a rule the model itself, that one is open already.
    """
    return _Views(step).view(None)


class _Views:
    """Builds views from atoms and flows."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.atoms, self.flows, self.uses = _simplified(step)
        self.busy = {owner for atom in self.atoms for owner in _chain(atom.owner)}
        tops = [c for c in step.calls if c.parent is None and c in self.busy]
        parts = [c for c in step.calls if tops and c.parent is tops[0] and c in self.busy]
        self.clear = tops[0] if len(tops) == 1 and parts else None
        """A call that is open from the start."""
        self.found: dict[Call | None, tuple[list[Item], dict[Atom, Item]]] = {}

    def view(self, at: Call | None) -> View:
        """The view of a call; of the whole where it is None."""
        items, places = self._items(at)
        edges: dict[tuple[Item, Item], dict[str, None]] = defaultdict(dict)
        outside: dict[Item, Item] = {}
        for flow in self.flows:
            source, target = places.get(flow.source), places.get(flow.target)
            if source is None and target is not None:
                source = self._outside(flow.source, at, outside, "from ")
            elif target is None and source is not None:
                target = self._outside(flow.target, at, outside, "to ")
            if source is not None and target is not None and source is not target:
                edges[source, target][_label(flow)] = None
        linked = [(a, b, list(shapes)) for (a, b), shapes in edges.items()]
        path = "" if at is None else at.name + (f", call {at.repeat}" if at.repeat > 1 else "")
        return View(path, [*items, *outside.values()], linked)

    def _outside(
        self, atom: Atom, at: Call | None, known: dict[Item, Item], direction: str
    ) -> Item | None:
        """A stand-in for what lies outside of a view."""
        outer = at
        while outer is not None:
            outer = self._parent(outer)
            _, places = self._items(outer)
            if atom in places:
                item = places[atom]
                if item not in known:
                    known[item] = Item("outside", direction + item.title)
                return known[item]
        return None

    def _parent(self, call: Call) -> Call | None:
        return None if call.parent is self.clear else call.parent

    def _owner(self, atom: Atom) -> Call | None:
        return None if atom.owner is self.clear else atom.owner

    def _items(self, at: Call | None) -> tuple[list[Item], dict[Atom, Item]]:
        """The boxes directly inside a call, and the box in which each atom within it is."""
        if at in self.found:
            return self.found[at]
        children = [
            c for c in self.step.calls
            if c in self.busy and c is not self.clear and self._parent(c) is at
        ]  # fmt: skip
        places: dict[Atom, Item] = {}
        items: list[tuple[float, Item]] = []
        first: list[float] = []
        for child in children:
            atoms = [a for a in self.atoms if a.owner is not None and a.owner.within(child)]
            item = Item("call", self._title(child, at), child)
            places.update(dict.fromkeys(atoms, item))
            first.append(min(a.order for a in atoms))
            items.append((first[-1], item))
        own = [a for a in self.atoms if self._owner(a) is at and a not in places]
        for group in self._groups(own, first):
            item = self._group(group)
            places.update(dict.fromkeys(group, item))
            items.append((min(a.order for a in group), item))
        self.found[at] = [item for _, item in sorted(items, key=lambda pair: pair[0])], places
        for child in children:  # after this level is known: what is inside refers to it
            inside, _ = self._items(child)
            box = next(i for _, i in items if i.call is child)
            if len(inside) > 1:
                box.view = self.view(child)
            elif inside:  # a module that does nothing but call another
                box.view = inside[0].view
        return self.found[at]

    def _title(self, call: Call, at: Call | None) -> str:
        prefix = f"{at.name}." if at is not None else ""
        times = f" (call {call.repeat})" if call.repeat > 1 else ""
        return call.name.removeprefix(prefix) + times

    def _groups(self, own: Sequence[Atom], first: Sequence[float]) -> Iterable[list[Atom]]:
        """Operations between the same two calls that hang together; inputs and the loss stand alone."""
        gap = {a: sum(order < a.order for order in first) for a in own}
        joined: dict[Atom, Atom] = {a: a for a in own}

        def root(atom: Atom) -> Atom:
            while joined[atom] is not atom:
                atom = joined[atom]
            return atom

        for flow in self.flows:
            a, b = flow.source, flow.target
            if a in gap and b in gap and gap[a] == gap[b] and {a.kind, b.kind} == {"operation"}:
                joined[root(a)] = root(b)
        groups: dict[Atom, list[Atom]] = defaultdict(list)
        for atom in sorted(own, key=lambda a: a.order):
            groups[root(atom)].append(atom)
        return groups.values()

    def _group(self, atoms: list[Atom]) -> Item:
        """A box for one atom, or for several operations, which opens."""
        if len(atoms) == 1:
            return self._single(atoms[0])
        names = list(dict.fromkeys(a.name for a in atoms))
        more = ", …" if len(names) > NAMED else ""
        title = f"{len(atoms)} operations: {', '.join(names[:NAMED])}{more}"
        singles = {a: self._single(a) for a in atoms}
        edges: dict[tuple[Item, Item], dict[str, None]] = defaultdict(dict)
        outside: dict[str, Item] = {}
        for flow in self.flows:
            source, target = singles.get(flow.source), singles.get(flow.target)
            if source is None and target is not None:
                named = f"from {self._far(flow.source, atoms[0])}"
                source = outside.setdefault(named, Item("outside", named))
            elif target is None and source is not None:
                named = f"to {self._far(flow.target, atoms[0])}"
                target = outside.setdefault(named, Item("outside", named))
            if source is not None and target is not None and source is not target:
                edges[source, target][_label(flow)] = None
        owner = self._owner(atoms[0])
        path = f"{owner.name}, {title}" if owner is not None else title
        linked = [(a, b, list(shapes)) for (a, b), shapes in edges.items()]
        return Item("group", title, view=View(path, [*singles.values(), *outside.values()], linked))

    def _far(self, atom: Atom, near: Atom) -> str:
        """How an atom is called in a group beside it."""
        chain = list(_chain(atom.owner))
        beside = [c for c in chain if c.parent is near.owner or c.parent is self._owner(near)]
        return beside[0].name if beside else (chain[-1].name if chain else atom.name)

    def _single(self, atom: Atom) -> Item:
        kind: Kind = (
            "input" if atom.kind == "input" else "loss" if atom.kind == "loss" else "operation"
        )
        return Item(kind, atom.name, uses=self.uses.get(atom, []))


def _chain(call: Call | None) -> Iterable[Call]:
    """A call and those around it, innermost first."""
    while call is not None:
        yield call
        call = call.parent


def _simplified(step: Step) -> tuple[list[Atom], list[Flow], dict[Atom, list[str]]]:
    """Without changes of layout and without parameters, which become notes of what reads them."""
    entering: dict[Atom, list[Flow]] = defaultdict(list)
    for flow in step.flows:
        entering[flow.target].append(flow)
    computing = {
        owner
        for a in step.atoms
        if a.kind == "call" or (a.kind == "operation" and a.name not in LAYOUT)
        for owner in _chain(a.owner)
    }
    gone = {
        a
        for a in step.atoms
        if a.kind == "operation"
        and a.name in LAYOUT
        and len(entering[a]) == 1
        and (a.owner is None or a.owner in computing)  # a module that only flattens is kept
    }
    uses: dict[Atom, list[str]] = defaultdict(list)
    flows = []
    for flow in step.flows:
        if flow.target in gone:
            continue
        passed = [flow]  # from the target back to what is kept
        while passed[-1].source in gone:
            passed.append(entering[passed[-1].source][0])
        source = passed[-1].source
        if source.kind == "parameter":
            uses[flow.target].append(f"{source.name} {in_words(passed[-1].shape)}")
        else:
            flows.append(_joined(passed[::-1]))
    atoms = [a for a in step.atoms if a not in gone and a.kind != "parameter"]
    return atoms, flows, uses


def _joined(passed: Sequence[Flow]) -> Flow:
    """One flow for several through changes of layout; those inside source and target are their own affair."""
    source, target = passed[0].source, passed[-1].target
    first, last = 0, len(passed) - 1
    while first < last and passed[first].target.owner is source.owner and source.owner:
        first += 1
    while last > first and passed[last].source.owner is target.owner:
        last -= 1
    shape, arrives = passed[first].shape, passed[last].shape
    return Flow(source, target, shape, arrives if arrives != shape else None)


def _label(flow: Flow) -> str:
    arrives = f" → {in_words(flow.arrives)}" if flow.arrives is not None else ""
    return in_words(flow.shape) + arrives


def in_words(shape: Shape) -> str:
    """A shape as 8×128×256; a single number as 1."""
    return "×".join(map(str, shape)) or "1"
