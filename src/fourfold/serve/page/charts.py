"""Curves as ECharts options: the measures of one run, or one measure of several runs.

Colours are CSS variables, which the SVG renderer hands to the browser: light and dark need no
second drawing. ECharts draws text as text; names of runs and measures never become keys of the
options, since NiceGUI takes a key that begins with a colon as JavaScript.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nicegui import ui

from fourfold.core.words import number
from fourfold.look.curves import WIDE, smooth_both_ways
from fourfold.look.facts import COUNTED, PLAIN
from fourfold.serve.page.history import History, Series
from fourfold.serve.page.words import Words

COLORS = 7
FONT = 13  # pixels
FAMILY = "system-ui, sans-serif"  # one that a canvas can measure: "inherit" lets texts overlap
SMOOTHED = 30  # points from which a training curve is smoothed


@dataclass
class Line:
    """One curve of a chart."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: int = 0
    faint: bool = False
    dashed: bool = False
    dots: bool = False


@dataclass
class Chart:
    """What one chart shows."""

    title: str
    lines: list[Line] = field(default_factory=list)
    x_label: str = ""
    y_label: str = ""
    """The unit, where it says more than the title above."""
    log: bool | None = None
    """None chooses a logarithmic axis where values are positive and lie far apart."""


def groups(names: Sequence[str]) -> dict[str, list[str]]:
    """Logged names by the chart they belong to: a measure with its validation; losses come first."""
    found: dict[str, list[str]] = {}
    for name in names:
        base = name.removeprefix("valid.")
        if base not in COUNTED and not base.startswith("test."):
            group = "losses" if base.endswith("_loss") else base
            found.setdefault(group, []).append(name)
    ordered = sorted(found, key=lambda g: (g != "loss", g != "losses"))
    rest = {name: [name] for name in PLAIN if name in names}
    return {**{group: found[group] for group in ordered}, **rest}


def of_run(history: History, words: Words, by_time: bool) -> list[Chart]:
    """Every measure of a run that was logged more than once."""
    charts = []
    for group, names in groups(list(history.series)).items():
        lines = []
        for color, name in enumerate(names):
            lines += _lines(name, group, history.series[name], words, color, by_time)
        title = PLAIN.get(group, group.replace("_", " ").replace(".", " "))
        axis = words("seconds") if by_time else words("step")
        label = "per second" if group == "rate" else ""
        chart = Chart(title, lines, axis, label, log=False if group in ("lr", "rate") else None)
        if any(len(line.x) > 1 for line in lines):
            charts.append(chart)
    return charts


def _lines(
    name: str, group: str, series: Series, words: Words, color: int, by_time: bool
) -> list[Line]:
    steps, seconds, values = series.points()
    x = seconds if by_time else steps
    valid = name.startswith("valid.")
    if valid and not by_time:  # the kept weights may be measured once more, under their own step
        told = sorted(dict(zip(x, values, strict=True)).items())
        x, values = [step for step, _ in told], [value for _, value in told]
    base = name.removeprefix("valid.")
    where = words("validation") if valid else words("training")
    label = where if base == group else f"{base.replace('_', ' ')}, {where}"
    if group in PLAIN:
        label = PLAIN[group]
    if valid or group in PLAIN or len(values) < SMOOTHED:
        return [Line(label, x, values, color, dots=valid and len(values) <= 60)]
    smooth = smooth_both_ways(values)
    raw = f"{label}, {words('as measured')}"
    return [
        Line(raw, x, values, color, faint=True),
        Line(words("smoothed", name=label), x, smooth, color),
    ]


def over_each_other(histories: Mapping[str, History], words: Words, by_time: bool) -> list[Chart]:
    """Each measure that two of the runs have, one curve a run; validation is dashed."""
    shared: dict[str, list[str]] = {}
    for run, history in histories.items():
        for group, names in groups(list(history.series)).items():
            for name in names:
                shared.setdefault(name if group == "losses" else group, []).append(run)
    charts = []
    for group in shared:
        lines = []
        for color, (run, history) in enumerate(histories.items()):
            for name in (group, f"valid.{group}"):
                if name in history.series:
                    lines.append(_one(run, name, history.series[name], words, color, by_time))
        if len({line.color for line in lines}) > 1 and any(len(line.x) > 1 for line in lines):
            title = PLAIN.get(group, group.replace("_", " ").replace(".", " "))
            axis = words("seconds") if by_time else words("step")
            label = "per second" if group == "rate" else ""
            charts.append(
                Chart(title, lines, axis, label, False if group in ("lr", "rate") else None)
            )
    return charts


def _one(run: str, name: str, series: Series, words: Words, color: int, by_time: bool) -> Line:
    steps, seconds, values = series.points()
    valid = name.startswith("valid.")
    if not valid and name not in PLAIN and len(values) >= SMOOTHED:
        values = smooth_both_ways(values)
    label = f"{run}, {words('validation')}" if valid else run
    return Line(
        label,
        seconds if by_time else steps,
        values,
        color,
        dashed=valid,
        dots=len(values) <= 60 and valid,
    )


def options(chart: Chart) -> dict[str, Any]:
    """The chart in ECharts' terms."""
    values = [y for line in chart.lines for y in line.y]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    log = chart.log if chart.log is not None else low > 0 and high / low >= WIDE
    axis: dict[str, Any] = {
        "axisLabel": {"color": "var(--soft)", "fontSize": FONT, "hideOverlap": True},
        "axisLine": {"show": False},
        "axisTick": {"show": False},
        "splitLine": {"lineStyle": {"color": "var(--rule)"}},
        "nameTextStyle": {"color": "var(--ink)", "fontSize": FONT},
    }
    unit = " ".join(filter(None, [chart.y_label, "(log)" if log else ""]))
    several = sum(not line.faint for line in chart.lines) > 1
    return {
        "animation": False,
        "textStyle": {"fontFamily": FAMILY, "fontSize": FONT},
        "grid": {"left": 6, "right": 18, "top": 34 if unit else 14, "bottom": 60 if several else 30, "containLabel": True},
        "legend": {
            "show": several, "bottom": 0, "left": "center", "type": "scroll", "itemWidth": 18, "itemHeight": 4, "icon": "roundRect",
            "textStyle": {"color": "var(--ink)", "fontSize": FONT}, "inactiveColor": "var(--faint)",
            "pageTextStyle": {"color": "var(--ink)"}, "pageIconColor": "var(--accent)",
            "data": [line.name for line in chart.lines if not line.faint],
        },
        "tooltip": {
            "trigger": "axis", "confine": True, "backgroundColor": "var(--card)",
            "borderColor": "var(--rule)", "textStyle": {"color": "var(--ink)", "fontSize": FONT},
            "axisPointer": {"lineStyle": {"color": "var(--edge)"}},
        },
        "xAxis": {
            **axis, "type": "value", "name": chart.x_label, "nameLocation": "middle", "nameGap": 28, "min": "dataMin", "max": "dataMax",
            "splitLine": {"show": False},
        },
        "yAxis": {
            **axis, "type": "log" if log else "value", "name": unit,
            "nameLocation": "end", "nameGap": 14, "scale": True,
            "nameTextStyle": {"color": "var(--ink)", "fontSize": FONT, "align": "left"},
        },
        "series": [_series(line) for line in chart.lines],
    }  # fmt: skip


def _series(line: Line) -> dict[str, Any]:
    color = f"var(--c{line.color % COLORS})"
    return {
        "type": "line",
        "name": line.name,
        # tuples: NiceGUI watches every list in a chart's options for changes, which costs more than all else
        "data": tuple(zip(line.x, map(_short, line.y), strict=True)),
        "showSymbol": line.dots,
        "symbolSize": 6,
        "symbol": "circle",
        "silent": line.faint,
        "itemStyle": {"color": color, "opacity": 0.35 if line.faint else 1},
        "lineStyle": {
            "color": color,
            "width": 1 if line.faint else 2.2,
            "opacity": 0.35 if line.faint else 1,
            "type": "dashed" if line.dashed else "solid",
        },
        "emphasis": {"disabled": True},
    }


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def draw(chart: Chart, words: Words, classes: str = "") -> ui.echart:
    """The chart as an element of the page."""
    made = ui.echart(options(chart), renderer="svg").classes(f"chart {classes}".strip())
    describe(made, chart, words)
    return made


def describe(made: ui.echart, chart: Chart, words: Words) -> None:
    """Say the chart for readers who do not see it: what by what, and the last value of each curve."""
    last = [
        f"{line.name} {number(line.y[-1])}"
        for line in chart.lines
        if len(line.y) and not line.faint
    ]
    made.props["role"] = "img"
    made.props["aria-label"] = (
        f"{words('by', name=chart.title, axis=chart.x_label)}: {', '.join(last)}"
    )


def sparkline(series: Series) -> str:
    """A curve of a few square centimetres as SVG markup; empty where there are not two points."""
    _, _, values = series.points()
    if len(values) < 2:
        return ""
    every = max(1, len(values) // 60)
    values = [*values[:-1:every], values[-1]]
    low, high = min(values), max(values)
    scale = 26 / ((high - low) or 1.0)
    wide = 116 / (len(values) - 1)
    points = " ".join(
        f"{2 + i * wide:.1f},{29 - (v - low) * scale:.1f}" for i, v in enumerate(values)
    )
    return (
        '<svg viewBox="0 0 120 32" width="120" height="32" aria-hidden="true">'
        f'<polyline points="{points}" fill="none" stroke="var(--c0)" stroke-width="1.8" '
        'stroke-linejoin="round" stroke-linecap="round"/></svg>'
    )
