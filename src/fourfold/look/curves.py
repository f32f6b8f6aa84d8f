"""Curves as inline SVG: sharp at any size, in the page's own colours, readable by hovering, no script.

    svg = chart([Curve("training", steps, losses, faint=True), Curve("smoothed", steps, smooth(losses))],
                x_label="step", y_label="loss")

Colours are CSS variables (`--c0`, `--c1`, ...; `--faint`), so that a page's dark mode reaches the curves.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from fourfold.core.words import number

WIDTH, HEIGHT = 520.0, 300.0  # of the view box: text stays readable on a phone
LEFT, RIGHT, TOP, BOTTOM = 64.0, 14.0, 12.0, 46.0
EDGE = 4.0  # between the first and last point and the frame, for their dots
POINTS = 400  # drawn in a curve; more are averaged
HOVER = 48  # points that say their values
OUTLYING = 0.01  # share of points at each end that may lie beyond the axis
LARGEST = 1e100  # what lies beyond counts as infinite, so that no range overflows
WIDE = 40.0  # ratio of largest to smallest from which an axis is logarithmic


@dataclass(frozen=True)
class Curve:
    """A named series; points whose value is not finite are left out."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    faint: bool = False
    """Drawn thin behind the others: a raw series under its smoothed one."""
    dots: bool = False
    """Points are marked: a series of few measurements."""


def smooth(values: Sequence[float], span: float | None = None) -> list[float]:
    """Exponential moving average, corrected for its start; not finite values are passed over.

    Args:
        values: the series.
        span: of so many points, by default a thirtieth of the series.
    """
    keep = 1 - 1 / max(1.0, span if span is not None else len(values) / 30)
    total = weight = 0.0
    result = []
    for value in values:
        if math.isfinite(value):
            total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        result.append(total / weight if weight else math.nan)
    return result


def smooth_both_ways(values: Sequence[float], span: float | None = None) -> list[float]:
    """The mean of `smooth` forwards and backwards: it does not lag behind a fall."""
    back = smooth(values[::-1], span)[::-1]
    pairs = zip(smooth(values, span), back, strict=True)
    return [
        (a + b) / 2 if math.isfinite(a + b) else (b if math.isfinite(b) else a) for a, b in pairs
    ]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers within [low, high], 1, 2 or 5 times a power of ten apart, about `count` of them."""
    if high - low < 1 / LARGEST:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((m * power for m in (1, 2, 5) if m * power >= raw), 10 * power)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Numbers within [low, high] for a logarithmic axis: powers of ten, with 2 and 5 where there is room."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    each = max(1, (last - first) // 6)
    mantissas = (1, 2, 5) if last - first <= 2 else (1,)
    found = [m * 10.0**e for e in range(first, last + 1, each) for m in mantissas]
    return [t for t in found if low * (1 - 1e-9) <= t <= high * (1 + 1e-9)]


def chart(
    curves: Sequence[Curve],
    *,
    x_label: str = "step",
    y_label: str = "",
    log: bool | None = None,
    from_zero: bool = False,
) -> str:
    """A line chart as SVG markup; empty where no curve has two finite points.

    Args:
        curves: what to draw, the last on top.
        x_label: what the horizontal axis shows, with its unit.
        y_label: what the vertical axis shows, with its unit.
        log: a logarithmic vertical axis; None chooses one where values are positive and lie far apart.
        from_zero: a vertical axis that begins at 0, where values are positive and it is not logarithmic.
    """
    finite = [(c, _finite(c)) for c in curves]
    if not any(len(points) > 1 for _, points in finite):
        return ""
    axes = _Axes([p for _, points in finite for p in points], log, from_zero)
    named = [c.name for c in curves if c.name]
    label = html.escape(f"{y_label or ', '.join(named)} by {x_label}", quote=True)
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{label}">',
        axes.draw(x_label, y_label),
        # an inner svg cuts off what lies beyond the axes
        f'<svg x="{LEFT:g}" y="{TOP:g}" width="{axes.width:g}" height="{axes.height:g}">',
    ]
    color = 0
    for curve, points in finite:
        parts.append(_line(curve, points, axes, color))
        color += not curve.faint
    parts.append("</svg></svg>")
    missing = sum(len(c.x) - len(points) for c, points in finite)
    return "".join(parts) + _legend(curves, axes.beyond, missing)


def _finite(curve: Curve) -> list[tuple[float, float]]:
    pairs = zip(curve.x, curve.y, strict=True)
    return [(_flushed(x), _flushed(y)) for x, y in pairs if abs(x) <= LARGEST and abs(y) <= LARGEST]


def _flushed(value: float) -> float:
    return float(value) if abs(value) >= 1 / LARGEST else 0.0


class _Axes:
    """From values to places in the inner drawing."""

    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def __init__(self, points: list[tuple[float, float]], log: bool | None, zero: bool) -> None:
        xs = [x for x, _ in points]
        ys = sorted(y for _, y in points)
        cut = int(len(ys) * OUTLYING) if len(ys) >= 50 else 0
        low, high = ys[cut], ys[-1 - cut]
        if ys[-1] - ys[0] <= 2 * (high - low):  # nothing lies far out
            low, high = ys[0], ys[-1]
        if log is None:
            log = low > 0 and high / low >= WIDE
        self.log = log and low > 0
        self.x_low, self.x_high = min(xs), max(xs)
        low, high = self._place(low), self._place(high)
        margin = (high - low) * 0.04 or abs(high) * 0.05 or 1.0
        self.low, self.high = low - margin, high + margin
        if not self.log and ys[0] >= 0:
            self.low = 0.0 if zero else max(self.low, 0.0)
        self.beyond = sum(not self.low <= self._place(y) <= self.high for y in ys)

    def _place(self, y: float) -> float:
        return (math.log10(y) if y > 0 else -math.inf) if self.log else y

    def x(self, value: float) -> float:
        share = (value - self.x_low) / ((self.x_high - self.x_low) or 1.0)
        return EDGE + share * (self.width - 2 * EDGE)

    def y(self, value: float) -> float:
        share = (self._place(value) - self.low) / (self.high - self.low)
        return (1 - min(max(share, -1.0), 2.0)) * self.height

    def draw(self, x_label: str, y_label: str) -> str:
        """Grid, numbers and labels."""
        if self.log:
            rows = log_ticks(10**self.low, 10**self.high)
        if not self.log or len(rows) < 2:
            rows = ticks(10**self.low, 10**self.high) if self.log else ticks(self.low, self.high)
        parts = []
        for tick in rows:
            y = TOP + self.y(tick)
            parts.append(
                f'<line class="rule" x1="{LEFT:g}" x2="{WIDTH - RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
                f'<text x="{LEFT - 8:g}" y="{y + 4:.1f}" text-anchor="end">{_tick(tick, rows)}</text>'
            )
        columns = ticks(self.x_low, self.x_high, 4)
        for tick in columns:
            x = LEFT + self.x(tick)
            anchor = "end" if x > WIDTH - RIGHT - 20 else "middle"
            parts.append(
                f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18:g}" text-anchor="{anchor}">'
                f"{_tick(tick, columns)}</text>"
            )
        middle = TOP + self.height / 2
        parts.append(
            f'<text class="label" x="{LEFT + self.width / 2:g}" y="{HEIGHT - 8:g}" '
            f'text-anchor="middle">{html.escape(x_label)}</text>'
            f'<text class="label" x="14" y="{middle:g}" text-anchor="middle" '
            f'transform="rotate(-90 14 {middle:g})">{html.escape(y_label)}'
            f"{' (log scale)' if self.log else ''}</text>"
        )
        return "".join(parts)


def _tick(value: float, among: Sequence[float]) -> str:
    largest = max(abs(t) for t in among)
    if value == 0:
        return "0"
    if largest >= 1e15 or largest < 1e-3 or abs(value) < 1e-4:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{mantissa.rstrip('0').removesuffix('.')}e{int(exponent)}"
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if largest >= max(size, 1e4):
            return f"{value / size:,.6g}{letter}"
    return f"{value:,.6g}"


def _thin(points: list[tuple[float, float]], count: int) -> list[tuple[float, float]]:
    """At most `count` points: means of neighbours; the first and the last stay as they are."""
    if len(points) <= count:
        return points
    edges = [1 + i * (len(points) - 2) // (count - 2) for i in range(count - 1)]
    bins = [points[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    means = [
        (math.fsum(x / len(b) for x, _ in b), math.fsum(y / len(b) for _, y in b)) for b in bins
    ]
    return [points[0], *means, points[-1]]


def _line(curve: Curve, points: list[tuple[float, float]], axes: _Axes, color: int) -> str:
    style = "raw" if curve.faint else f"line c{color % 6}"
    # a raw series keeps its scatter: every so many points, not their means
    every = max(1, math.ceil(len(points) / (4 * POINTS)))
    drawn = points[::every] if curve.faint else _thin(points, POINTS)
    path = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in drawn)
    parts = [f'<polyline class="{style}" points="{path}"/>']
    if not curve.faint:
        parts += [_hover(curve, p, axes, color, len(points)) for p in _thin(drawn, HOVER)]
    return "".join(parts)


def _hover(curve: Curve, point: tuple[float, float], axes: _Axes, color: int, count: int) -> str:
    x, y = axes.x(point[0]), axes.y(point[1])
    words = html.escape(f"{curve.name} at {point[0]:,.6g}: {number(point[1])}".strip())
    dot = ""
    if curve.dots and count <= HOVER:
        dot = f'<circle class="dot c{color % 6}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
    return f'{dot}<circle class="hover" cx="{x:.1f}" cy="{y:.1f}" r="9"><title>{words}</title></circle>'


def _legend(curves: Sequence[Curve], beyond: int, missing: int) -> str:
    parts, color = [], 0
    for curve in curves:
        key = "raw" if curve.faint else f"c{color % 6}"
        color += not curve.faint
        if len(curves) > 1 and curve.name:
            parts.append(f'<span><i class="key {key}"></i>{html.escape(curve.name)}</span>')
    if beyond:
        points = "point lies" if beyond == 1 else "points lie"
        parts.append(f"<span>{beyond:,} outlying {points} beyond the axis</span>")
    if missing:
        points = "point is" if missing == 1 else "points are"
        parts.append(f"<span>{missing:,} {points} not finite</span>")
    return f'<p class="legend">{"".join(parts)}</p>' if parts else ""
