"""What `watch` saw, as tables and pictures: one row a layer, from input to output, legible at any depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fourfold.core.types import Picture, Table
from fourfold.look.figures import COLORS, picture, subplots
from fourfold.look.seen import Call, Watched, numbered

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LISTED = 200
"""Rows of a table at most."""
NAMED = 60
"""Layers whose names are all written; of more every second, third, ... is."""
TALLEST = 14.0
"""Inches."""
SHORT = 36
"""Characters of a layer's name in a picture; the end of a longer one tells it apart."""
LAYER_COLUMNS = (
    "layer", "kind", "output", "mean", "deviation", "spread", "1%", "median", "99%", "zero", "dead units",
    "saturated", "gradient", "not finite",
)  # fmt: skip


def tables(watched: Watched, player: str = "") -> tuple[Table, ...]:
    """Statistics of every layer's output, and of every parameter."""
    prefix = f"{player}: " if player else ""
    calls = list(zip(numbered(watched.calls), watched.calls, strict=True))
    layers = tuple((label, *_call_row(call)) for label, call in calls[:LISTED])
    weights = tuple(
        (
            w.name,
            " x ".join(map(str, w.shape)),
            _plain(w.norm),
            _plain(w.gradient) if w.trained else "frozen",
            _plain(w.ratio),
            w.broken + w.broken_gradient,
        )
        for w in watched.weights[:LISTED]
    )
    cut = [
        f" The first {LISTED} of {count:,}." if count > LISTED else ""
        for count in (len(watched.calls), len(watched.weights))
    ]
    return (
        Table(
            f"{prefix}layers",
            LAYER_COLUMNS,
            layers,
            "Of each layer's output; spread: deviation over the examples; dead: 0 for every example; "
            f"gradient: norm of the mean loss's gradient with respect to the output.{cut[0]}",
        ),
        Table(
            f"{prefix}parameters",
            ("parameter", "shape", "norm", "gradient", "gradient / norm", "not finite"),
            weights,
            f"Norms of each parameter and of the mean loss's gradient.{cut[1]}",
        ),
    )


def _call_row(call: Call) -> tuple[Any, ...]:
    quantiles = call.quantiles or (math.nan,) * 5
    dead = "" if call.dead is None else f"{int(call.dead.sum())} of {len(call.dead)}"
    return (
        call.kind,
        " x ".join(map(str, call.shape)),
        _plain(call.mean),
        _plain(call.deviation),
        _plain(call.spread),
        *(_plain(quantiles[i]) for i in (0, 2, 4)),
        f"{call.zeros:.1%}",
        dead,
        "" if math.isnan(call.saturated) else f"{call.saturated:.1%}",
        _plain(call.gradient),
        call.broken + call.broken_gradient,
    )


def _plain(value: float) -> float | str:
    return float(f"{value:.4g}") if math.isfinite(value) else "" if math.isnan(value) else "inf"


def activation_picture(watched: Watched, player: str = "") -> Picture:
    """Values, spread over the examples, and shares of zeros, dead units and saturation, layer by layer."""
    calls = watched.calls
    fig, (values, spread, shares) = _rows(calls, player, (2.0, 1.3, 1.1))
    _draw_values(values, calls)
    _logarithmic(spread, [c.spread for c in calls], calls, COLORS[0])
    spread.set_xlabel("spread over the examples")
    for share, color, label in (
        ([c.zeros for c in calls], "#cccccc", "zeros"),
        (
            [0.0 if c.dead is None else float(c.dead.double().mean()) for c in calls],
            COLORS[1],
            "dead units",
        ),
        (
            [0.0 if math.isnan(c.saturated) else c.saturated for c in calls],
            COLORS[4],
            "saturated",
        ),
    ):
        if any(share):
            shares.barh(range(len(calls)), share, color=color, label=label)
    shares.set(xlim=(0, 1), xlabel="share")
    shares.set_xticks([0, 0.5, 1])
    if shares.patches:
        fig.legend(loc="outside upper right", ncols=3, fontsize=8)
    caption = (
        "Each row is one layer's output, from the input above to the output below; squares are blocks of layers. "
        "The spread says how far apart the examples are; dead units are 0 for every one of them."
    )
    return picture(fig, f"Activations by layer{_of(player)}", caption)


def _draw_values(axis: Axes, calls: Sequence[Call]) -> None:
    """Quantiles of each layer's output: a line, a bar and a mark."""
    for at, call in enumerate(calls):
        if call.quantiles:
            low, first, middle, third, high = call.quantiles
            axis.plot([low, high], [at, at], color=COLORS[5], linewidth=1.2)
            axis.plot([first, third], [at, at], color=COLORS[0], linewidth=3.5)
            axis.plot(middle, at, "|", color="#222222", markersize=7)
    sizes = sorted(abs(q) for c in calls for q in c.quantiles if q)
    if sizes and sizes[-1] > 50 * sizes[len(sizes) // 2]:  # small and large are both to be seen
        axis.set_xscale("symlog", linthresh=sizes[len(sizes) // 4])
        axis.tick_params(axis="x", labelrotation=60)
    axis.set_xlabel("value (line 1 to 99%, bar 25 to 75%)")


def gradient_picture(watched: Watched, player: str = "") -> Picture:
    """Norms of gradients with respect to outputs, and of weights' gradients over weights, layer by layer."""
    calls = watched.calls
    fig, (slopes, ratios) = _rows(calls, player, (1.0, 1.0))
    _logarithmic(slopes, [c.gradient for c in calls], calls, COLORS[1])
    slopes.set_xlabel("norm of the gradient\nwith respect to the output")
    places: dict[str, int] = {}
    for at, call in enumerate(calls):
        places.setdefault(call.name, at)
    for w in watched.weights:
        row = _place(w.layer, places)
        if row is not None and w.ratio > 0 and math.isfinite(w.ratio):
            marker = "o" if len(w.shape) > 1 else "."
            size = 6 if marker == "o" else 3
            ratios.plot(w.ratio, row, marker, color=COLORS[2], markersize=size)
    if ratios.lines:
        _decades(ratios)
    ratios.set_xlabel("norm of the gradient over\nnorm of the parameter")
    caption = (
        "Of the mean loss, from the input above to the output below; squares are blocks of layers. Left: healthy "
        "gradients keep their size from layer to layer. Right: discs are matrices, points are biases and gains."
    )
    return picture(fig, f"Gradients by layer{_of(player)}", caption)


def _of(player: str) -> str:
    return f" of the {player}" if player else ""


def _place(layer: str, places: dict[str, int]) -> int | None:
    """The row of a parameter's layer, or of the nearest one that holds it."""
    while layer:
        if layer in places:
            return places[layer]
        layer = layer.rpartition(".")[0]
    return None


def _rows(calls: Sequence[Call], player: str, ratios: tuple[float, ...]) -> tuple[Any, Any]:
    """Axes side by side that share one row for each call, the first above."""
    height = min(1.5 + 0.22 * max(2, len(calls)), TALLEST)
    fig, axes = subplots(
        1, len(ratios), width=8.4, height=height, sharey=True, gridspec_kw={"width_ratios": ratios}
    )
    pairs = zip(numbered(calls), calls, strict=True)
    labels = [f"{label.removeprefix(f'{player}.')}  {call.kind}" for label, call in pairs]
    labels = [label if len(label) <= SHORT else "…" + label[1 - SHORT :] for label in labels]
    every = max(1, math.ceil(len(calls) / NAMED))
    shown = range(0, len(calls), every)
    size = 8 if len(shown) <= 40 else 7
    axes[0].set_yticks(list(shown), [labels[i] for i in shown], fontsize=size)
    axes[0].set_ylim(len(calls) - 0.5, -0.5)
    for axis in axes:
        axis.grid(axis="y", visible=False)
        axis.tick_params(axis="x", labelsize=8)
        axis.xaxis.label.set_size(9)
    return fig, axes


def _logarithmic(axis: Axes, values: Sequence[float], calls: Sequence[Call], color: str) -> None:
    """Layers as a line with dots, blocks as squares; what is 0 stands at the left edge as a cross."""
    for block, style, shade in ((False, "o-", color), (True, "s", COLORS[3])):
        chosen = [(v, i) for i, v in enumerate(values) if calls[i].block is block]
        found = [(v, i) for v, i in chosen if math.isfinite(v) and v > 0]
        if found:
            xs, ys = zip(*found, strict=True)
            axis.plot(xs, ys, style, color=shade, markersize=3.5, linewidth=1)
    if axis.lines:
        _decades(axis)
        zero = [i for i, v in enumerate(values) if v == 0]
        if zero:
            left = [axis.get_xlim()[0]] * len(zero)
            axis.plot(left, zero, "x", color="#222222", markersize=5, clip_on=False)


def _decades(axis: Axes) -> None:
    """A logarithmic axis of two decades at least, labelled at powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_xscale("log")
    low, high = axis.get_xlim()
    middle = math.sqrt(low) * math.sqrt(high)
    axis.set_xlim(min(low, middle / 10), max(high, middle * 10))
    axis.xaxis.set_major_locator(LogLocator(numticks=5))
    axis.xaxis.set_minor_formatter(NullFormatter())
