"""Plain against residual networks, from 4 to 64 layers: how far do signal and gradient reach?

He et al. 2016, https://arxiv.org/abs/1512.03385; normalized first: Xiong et al. 2020, https://arxiv.org/abs/2002.04745.
Shapes: B rows, W units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from fourfold.core.parts import Batch, Move, Objective
from fourfold.core.types import Picture, Table
from fourfold.look.figures import COLORS, picture, subplots
from fourfold.look.watch import watch

DEPTHS = (4, 8, 16, 32, 64)
Family = Literal["plain", "residual", "residual, normalized"]
FAMILIES: tuple[Family, ...] = get_args(Family)


@dataclass(frozen=True)
class Reach:
    """One network at its start: what each of its blocks gives and gets."""

    spread: tuple[float, ...]
    """How far apart the examples are after each block (see `watch.Call.spread`)."""
    gradient: tuple[float, ...]
    """Norm of the loss's gradient with respect to each block's output."""

    def ends(self) -> tuple[float, float]:
        """Spread after the last block over that after the first; gradient at the first over that at the last."""
        return self.spread[-1] / self.spread[0], self.gradient[0] / self.gradient[-1]


class Block(nn.Module):
    """f(x) = activation(W x + b) where plain, x + f(x) where residual, x + f(norm(x)) where normalized too."""

    def __init__(self, width: int, activation: Callable[[], nn.Module], family: Family) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if family == "residual, normalized" else nn.Identity()
        self.linear, self.activation = nn.Linear(width, width), activation()
        self.residual = family != "plain"

    def forward(self, x: Tensor) -> Tensor:
        """(B, W) to (B, W)."""
        change: Tensor = self.activation(self.linear(self.norm(x)))
        return x + change if self.residual else change


class _Sum(Objective):
    """A loss whose gradient with respect to the output is of the same size whatever the output is."""

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        y = model(batch["features"])
        yield Move("model", (y * batch["directions"]).sum(), len(y))


def reach(
    depth: int,
    family: Family,
    *,
    width: int = 64,
    rows: int = 64,
    activation: Callable[[], nn.Module] = nn.ReLU,
    initialize: Callable[[nn.Module], None] | None = None,
    seed: int = 0,
) -> Reach:
    """One batch of normal rows through a fresh network, in float64: nothing ends for want of digits.

    Args:
        depth: blocks.
        family: of blocks.
        width: units of a block.
        rows: in the batch.
        activation: makes the activation.
        initialize: given to `Module.apply`; None leaves torch's own initialization.
        seed: of weights and rows.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(*(Block(width, activation, family) for _ in range(depth)))
        if initialize is not None:
            model.apply(initialize)
        batch = {n: torch.randn(rows, width).double() for n in ("features", "directions")}
    (seen,) = watch(model.double(), _Sum(), batch, seed=seed)
    blocks = [c for c in seen.calls if c.block]
    return Reach(tuple(c.spread for c in blocks), tuple(c.gradient for c in blocks))


def depth_picture(
    depths: Sequence[int] = DEPTHS,
    *,
    width: int = 64,
    activation: Callable[[], nn.Module] = nn.ReLU,
    initialize: Callable[[nn.Module], None] | None = None,
    seed: int = 0,
) -> tuple[Picture, Table]:
    """Signal and gradient by layer, of every family at several depths; and the numbers of their ends.

    Args:
        depths: of the networks.
        width, activation, initialize, seed: as for `reach`.
    """
    options: dict[str, Any] = {"width": width, "activation": activation, "initialize": initialize}
    found = {(d, f): reach(d, f, seed=seed, **options) for d in depths for f in FAMILIES}
    fig, axes = subplots(2, len(FAMILIES), width=8.4, height=5.2, sharex=True, sharey="row")
    for (depth, family), one in found.items():
        color = COLORS[list(depths).index(depth) % len(COLORS)]
        column = FAMILIES.index(family)
        for row, values in enumerate((one.spread, one.gradient)):
            drawn = [v if v > 0 else math.nan for v in values]  # a logarithm has no place for 0
            axes[row][column].plot(range(1, depth + 1), drawn, color=color, label=f"{depth} layers")
    for column, family in enumerate(FAMILIES):
        axes[0][column].set(title=family, yscale="log")
        axes[1][column].set(yscale="log", xlabel="layer")
        axes[1][column].set_xticks([1, *depths[-3:]])
    axes[0][0].set_ylabel("spread over the rows")
    axes[1][0].set_ylabel("norm of the gradient")
    axes[0][0].legend(fontsize=8)
    name = getattr(activation, "__name__", str(activation))
    about = f"Fresh networks of {name}, {width} units wide, on normal numbers (seed {seed})"
    deepest = max(depths)
    ends = [f"{found[deepest, f].ends()[1]:.2g} ({f})" for f in FAMILIES]
    caption = (
        f"{about}. Above: how far apart the rows are after each layer. Below: the gradient that arrives there. With "
        f"{deepest} layers the first one gets that of the last times {', '.join(ends)}."
    )
    rows = tuple(
        (d, *(float(f"{v:.3g}") for f in FAMILIES for v in found[d, f].ends())) for d in depths
    )
    columns = tuple(f"{f}: {what}" for f in FAMILIES for what in ("spread", "gradient"))
    title = "Plain and residual by depth"
    told = (
        f"{about}. Spread: of the last layer over the first; gradient: of the first over the last."
    )
    return picture(fig, title, caption), Table(title, ("layers", *columns), rows, told)
