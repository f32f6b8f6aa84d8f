"""What flows between the calls and operations of a move, from autograd's graph and from tensors' identity."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from fourfold.core.parts import Move
from fourfold.look.modules import Atom, Call, Flow, Shape
from fourfold.look.modules_record import Recorder


def _operation(name: str) -> str:
    """An autograd node's name as the operation's: LogSoftmaxBackward0 is log softmax."""
    plain = re.sub(r"Backward\d*$", "", name.split("::")[-1]).strip("_")
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", plain).lower()


class Builder:
    """Atoms and flows of one move, from autograd's graph and from the identity of tensors."""

    def __init__(self, model: nn.Module, move: Move, recorder: Recorder) -> None:
        self.move, self.recorder, self.inputs = move, recorder, recorder.inputs
        self.parameters = {id(p): n for n, p in model.named_parameters()}
        self.atoms: list[Atom] = []
        self.flows: list[Flow] = []
        self.by_node: dict[Any, Atom] = {}
        self.batch: dict[str, Atom] = {}
        self.notes: list[str] = []

    def build(self) -> tuple[list[Atom], list[Flow], list[str]]:
        """The graph."""
        self.loss = self._add(Atom("loss", "loss", None, math.inf))
        if self.move.loss.grad_fn is None:
            self.notes.append(
                "The loss has no gradient, so operations between modules are not seen; modules are."
            )
        else:
            self._walk(self.move.loss.grad_fn)
        self._identities()
        self._unseen()
        linked = {atom for flow in self.flows for atom in (flow.source, flow.target)}
        # dropout, which evaluation passes by, is a call that does nothing
        return [a for a in self.atoms if a in linked], self.flows, self.notes

    def _add(self, atom: Atom) -> Atom:
        self.atoms.append(atom)
        return atom

    def _input(self, name: str) -> Atom:
        if name not in self.batch:
            self.batch[name] = self._add(Atom("input", name, None, -1))
        return self.batch[name]

    def _walk(self, root: Any) -> None:
        """Every autograd node behind the loss, inputs before what they go into."""
        leaves = {id(leaf): name for name, leaf in self.inputs.leaves.items()}
        order, stack, seen = [], [(root, False)], set()
        while stack:  # depth first, without recursion: a graph may be thousands of nodes deep
            node, done = stack.pop()
            if done:
                order.append(node)
                continue
            if node in seen:
                continue
            seen.add(node)
            stack.append((node, True))
            stack += [(n, False) for n, _ in node.next_functions if n is not None]
        breaks = self.recorder.breaks
        starts = [start for start, _ in breaks]
        for node in order:
            self.by_node[node] = self._atom(node, leaves, starts)
        for node in order:
            self._connect(node)
        shape = tuple(self.move.loss.shape)
        self.flows.append(Flow(self.by_node[root], self.loss, shape))

    def _atom(self, node: Any, leaves: Mapping[int, str], starts: Sequence[int]) -> Atom:
        variable = getattr(node, "variable", None)
        if variable is not None:
            if id(variable) in leaves:
                return self._input(leaves[id(variable)])
            return self._add(
                Atom("parameter", self.parameters.get(id(variable), "a tensor"), None, -1)
            )
        # double backward may number its nodes on another thread: never before what they are made of
        before = [self.by_node[n].order for n, _ in node.next_functions if n is not None]
        order = max([float(node._sequence_nr()), *before])
        owner = self.recorder.breaks[bisect_right(starts, order) - 1][1]
        return self._add(Atom("operation", _operation(node.name()), owner, order))

    def _connect(self, node: Any) -> None:
        target = self.by_node[node]
        for source, number in node.next_functions:
            if source is None:
                continue
            found = self.by_node[source]
            if found.kind == "parameter" or hasattr(source, "variable"):
                shape = tuple(source.variable.shape)
            else:
                shape = tuple(int(n) for n in source._input_metadata[number].shape)
            self.flows.append(Flow(found, target, shape))

    def _identities(self) -> None:
        """Tensors without a graph: from the batch or from a call into the innermost call that takes them."""
        recorder = self.recorder
        busy = {atom.owner for atom in self.atoms}
        entries = {call: self._entry(call, busy) for call in recorder.calls}
        names, places = self._places()
        origins: list[tuple[Call, Atom, Shape]] = []
        for call, value in recorder.takes:
            made = recorder.gives.get(id(value))
            place = value.untyped_storage().data_ptr() if value.numel() else 0
            if made is not None:
                source: Atom | None = self._exit(made[1], entries)
            else:
                name = names.get(id(value), places.get(place, ""))
                source = self._input(name) if name else None
            if source is not None:
                origins.append((call, source, tuple(value.shape)))
        for call, source, shape in origins:
            deeper = any(
                other is not call and other.within(call) and s is source for other, s, _ in origins
            )
            target = entries[call]
            if not deeper and target is not None and target is not source:
                self.flows.append(Flow(source, target, shape))

    def _places(self) -> tuple[dict[int, str], dict[int, str]]:
        """Names of the batch's entries by their identity, and by the memory of those that share it with no other."""
        names: dict[int, str] = {}
        owners: dict[int, set[str]] = {}
        for source in (self.inputs.batch, self.inputs.given):
            for name, value in source.items():
                if isinstance(value, Tensor) and value.numel():
                    names[id(value)] = name
                    owners.setdefault(value.untyped_storage().data_ptr(), set()).add(name)
        return names, {place: min(found) for place, found in owners.items() if len(found) == 1}

    def _unseen(self) -> None:
        """What autograd and hooks cannot follow: targets that an objective reads, noise that is drawn."""
        reached = {flow.source for flow in self.flows}
        for name in self.inputs.given.read:
            value = self.inputs.batch[name]
            followed = (
                name in self.inputs.leaves
            )  # read for its shape only, if nothing flows from it
            if isinstance(value, Tensor) and not followed and self._input(name) not in reached:
                self.flows.append(Flow(self._input(name), self.loss, tuple(value.shape)))
        for call in self.recorder.calls:
            inside = {a for a in self.atoms if a.owner is not None and a.owner.within(call)}
            fed = any(
                f.target in inside and f.source.kind != "parameter" and f.source not in inside
                for f in self.flows
            )
            taken = [value for taker, value in self.recorder.takes if taker is call]
            if call.parent is None and inside and taken and not fed:
                made = self._add(Atom("input", "drawn or made before", None, -1))
                first = min(inside, key=lambda atom: atom.order)
                self.flows.append(Flow(made, first, tuple(taken[0].shape)))

    def _entry(self, call: Call, busy: set[Call | None]) -> Atom | None:
        """The first operation of a call, or the call itself where autograd has seen nothing of it."""
        inside = [a for a in self.atoms if a.owner is not None and a.owner.within(call)]
        if inside:
            return min(inside, key=lambda atom: atom.order)
        if any(other.parent is call for other in self.recorder.calls):
            return None  # its parts are there
        busy.add(call)
        at = next(start for start, running in self.recorder.breaks if running is call)
        atom = Atom("call", call.kind, call, at + call.place / (1 + len(self.recorder.calls)))
        return self._add(atom)

    def _exit(self, call: Call, entries: Mapping[Call, Atom | None]) -> Atom | None:
        """What a call's output came from: itself, or the last of its parts."""
        inside = [c for c in self.recorder.calls if c.within(call) and entries[c] is not None]
        found = [atom for c in inside if (atom := entries[c]) is not None and atom.kind == "call"]
        return max(found, key=lambda atom: atom.order, default=None)
