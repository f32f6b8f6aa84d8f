"""What is known of a model at work on a batch: its calls, its operations, what flows between them.

`look.modules_trace` fills these in, `look.modules_views` says what is inside what, `look.modules_draw`
draws it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import nn

Shape = tuple[int, ...]


@dataclass(eq=False)
class Call:
    """One call of a module."""

    name: str
    """Its path in the model; the class where it is the model itself."""
    module: nn.Module
    parent: Call | None
    place: int
    """Its number among all calls of the step."""
    repeat: int = 1
    """The how manieth call of this module it is."""
    shapes: list[Shape] = field(default_factory=list)
    """Of the tensors that it returns."""
    seconds: float = math.nan
    """Of its forward pass, with the calls inside it."""
    kept: int = 0
    """Bytes that are kept in it for the gradient, those of the calls inside it included."""
    mean: float = math.nan
    deviation: float = math.nan
    """Of its output's entries."""
    gradient: float = math.nan
    """Root mean square of the loss's gradient with respect to its output's entries."""
    weight_gradient: float = math.nan
    """Norm of the gradient with respect to its own parameters and those inside it."""

    @property
    def kind(self) -> str:
        """The module's class."""
        return type(self.module).__name__.removeprefix("Parametrized")

    def within(self, other: Call | None) -> bool:
        """Whether it is, or runs inside, another call; everything runs inside None."""
        at: Call | None = self
        while at is not None and at is not other:
            at = at.parent
        return at is other


@dataclass(eq=False)
class Atom:
    """The smallest thing on the graph: an operation, a call that autograd has not seen, an input, the loss."""

    kind: str
    """"operation", "call", "input", "parameter" or "loss"."""
    name: str
    owner: Call | None
    """The call it belongs to; None is outside of the model."""
    order: float
    """When it was computed: what it is computed from has a lower one."""


@dataclass(frozen=True)
class Flow:
    """A tensor that goes from one atom to another."""

    source: Atom
    target: Atom
    shape: Shape
    arrives: Shape | None = None
    """Its shape where the target takes it, if it is another by then."""


@dataclass
class Step:
    """One player's move: the calls it made, and the graph of its loss."""

    player: str
    loss: float
    """Mean over what counts."""
    weight: float
    """How much counts in this batch."""
    calls: list[Call]
    atoms: list[Atom]
    flows: list[Flow]
    notes: list[str]


def own_parameters(model: nn.Module) -> dict[str, int]:
    """Parameters of each module itself, by path; shared ones count where they are met first."""
    seen: set[int] = set()
    found = {}
    for name, module in model.named_modules():
        fresh = {id(p): p.numel() for p in module.parameters(recurse=False) if id(p) not in seen}
        seen |= fresh.keys()
        found[name or type(model).__name__] = sum(fresh.values())
    return found


def parameters_within(model: nn.Module) -> dict[str, int]:
    """Parameters of each module with those of the modules inside it, by path; shared ones count once."""
    own = own_parameters(model)
    root = type(model).__name__
    found = {name: 0 for name in own}
    for name, count in own.items():
        found[root] += count
        words = [] if name == root else name.split(".")
        for length in range(1, len(words) + 1):
            found[".".join(words[:length])] += count
    return found
