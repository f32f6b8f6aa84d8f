"""The curves of one run or of several: over steps or training time, in a grid of charts."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import ui

from fourfold.serve.page import charts
from fourfold.serve.page.history import History
from fourfold.serve.page.shell import element, text
from fourfold.serve.page.words import Words


class AxisSwitch:
    """Whether curves are drawn over steps or over training time."""

    def __init__(self, words: Words, changed: Callable[[], None]) -> None:
        self.by_time = False

        def turn(by_time: bool) -> None:
            self.by_time = by_time
            changed()

        with element("fieldset", "switch") as self.place:
            text(words("axis"), "legend", "unseen")
            for key, by_time in (("axis step", False), ("axis seconds", True)):
                with element("label"):
                    first = None if by_time else True
                    choice = element("input", type="radio", name="axis", checked=first)
                    text(words(key), "span")
                choice.on("change", lambda t=by_time: turn(t))


class ChartGrid:
    """Charts side by side; those that are there are only told their new points."""

    def __init__(self, words: Words) -> None:
        self.words = words
        self.drawn: dict[str, ui.echart] = {}
        self.place = element("div", "charts")

    def show(self, found: list[charts.Chart]) -> None:
        """Draw these charts."""
        if [c.title for c in found] != list(self.drawn):
            self.place.clear()
            self.drawn = {}
        for chart in found:
            if chart.title in self.drawn:
                made = self.drawn[chart.title]
                made.options.update(charts.options(chart))
                charts.describe(made, chart, self.words)
                continue
            with self.place, element("section", "card"):
                text(chart.title, "h2")
                self.drawn[chart.title] = charts.draw(chart, self.words)


class Curves:
    """Every measure of a run."""

    def __init__(self, history: History, words: Words) -> None:
        self.history, self.words = history, words
        self.live = False
        """Whether the run is being written."""
        self.axis = AxisSwitch(words, self.show)
        self.grid = ChartGrid(self.words)
        self.empty = text("", "p", "hidden")
        self.missing = text("", "p", "quiet small")

    def show(self) -> None:
        """Draw what is new."""
        found = charts.of_run(self.history, self.words, self.axis.by_time)
        none = self.words("no curves yet") if self.live else self.words("no curves")
        self.empty.say("" if found else none)
        self.empty.classes(replace="hidden" if found else "card quiet")
        count = sum(series.missing for series in self.history.series.values())
        self.missing.say(self.words("missing", count=f"{count:,}") if count else "")
        self.grid.show(found)
