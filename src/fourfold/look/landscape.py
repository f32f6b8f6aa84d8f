"""The loss around a model's weights, along two random directions: Li et al. 2018, https://arxiv.org/abs/1712.09913.

Directions are drawn normal and filter-normalized: each filter (a row of a weight) is scaled to the norm of
the model's own, so that a step means the same in every layer; weights of one dimension (biases, norms) stay.
Shapes: S points along each direction.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fourfold.core.errors import UserError
from fourfold.core.types import Picture
from fourfold.look.figures import picture, subplots


def direction(model: nn.Module, generator: torch.Generator) -> list[Tensor]:
    """A random direction, a tensor for each parameter; zero for those of fewer than two dimensions.

    Args:
        model: on any device.
        generator: on the CPU, so that devices agree.
    """
    found = []
    for parameter in model.parameters():
        if parameter.ndim < 2 or not parameter.is_floating_point():
            found.append(torch.zeros_like(parameter))
            continue
        drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        wanted = parameter.detach().double().cpu().flatten(1).norm(dim=1)
        scale = wanted / drawn.flatten(1).norm(dim=1).clamp_min(1e-30)
        drawn = drawn * scale.view(-1, *[1] * (parameter.ndim - 1))
        found.append(drawn.to(parameter))
    return found


def surface(
    model: nn.Module,
    loss: Callable[[], float],
    directions: tuple[Sequence[Tensor], Sequence[Tensor]],
    *,
    steps: int = 21,
    span: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """The loss on a square of weights around the model's own; these are put back exactly.

    Args:
        model: whose weights are moved.
        loss: of the model as it is when called; the same each time for the same weights.
        directions: from `direction`.
        steps: S, odd, so that the model's own weights are among them.
        span: how far to go, in the directions' lengths.

    Returns:
        The places along a direction, (S,), and the losses, (S, S), the first direction down the rows.

    Raises:
        ValueError: S is even or below 3.
    """
    if steps < 3 or steps % 2 == 0:
        raise ValueError(f"surface expects an odd number of steps of at least 3, got {steps}")
    places = np.linspace(-span, span, steps)
    places[steps // 2] = 0.0
    losses = np.empty((steps, steps))
    with _put_back(model) as own, torch.no_grad():
        for i, a in enumerate(places):
            for j, b in enumerate(places):
                moved = zip(model.parameters(), own, *directions, strict=True)
                for parameter, value, first, second in moved:
                    parameter.copy_(value + a * first + b * second)
                losses[i, j] = loss()
    return places, losses


@contextlib.contextmanager
def _put_back(model: nn.Module) -> Iterator[list[Tensor]]:
    own = [parameter.detach().clone() for parameter in model.parameters()]
    try:
        yield own
    finally:
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), own, strict=True):
                parameter.copy_(value)


def landscape(places: np.ndarray, losses: np.ndarray, unit: str = "loss") -> Picture:
    """Contours of a surface, the model's own weights in the middle.

    Args:
        places: (S,), from `surface`.
        losses: (S, S); what is not finite is left blank.
        unit: of the loss.

    Raises:
        UserError: no loss is finite.
    """
    if not np.isfinite(losses).any():
        raise UserError("the loss is nowhere finite around these weights: there is nothing to draw")
    fig, axes = subplots(width=6.4, height=5.2)
    finite = np.where(np.isfinite(losses), losses, np.nan)
    low, high = float(np.nanmin(finite)), float(np.nanmax(finite))
    positive = low > 0 and high > 30 * low
    levels = np.geomspace(low, high, 18) if positive else np.linspace(low, high, 18)
    axes.set(xlabel="second direction", ylabel="first direction")
    if high > low:
        from matplotlib.colors import LogNorm

        norm = LogNorm(low, high) if positive else None
        drawn = axes.contourf(places, places, finite, levels=levels, norm=norm, cmap="viridis")
        axes.contour(places, places, finite, levels=levels, colors="#ffffff", linewidths=0.5)
        fig.colorbar(drawn, ax=axes, label=unit, format="%.3g")
    axes.plot([0], [0], marker="+", color="#d55e00", markersize=12, markeredgewidth=2)
    middle = losses[len(places) // 2, len(places) // 2]
    caption = (
        "The loss around the model's weights (the cross) along two random filter-normalized directions; 1 is as far as the "
        f"weights are long. It is {middle:.4g} at the weights, {low:.4g} at the lowest point seen and {high:.4g} at the highest."
    )
    return picture(fig, "Loss landscape", caption)
