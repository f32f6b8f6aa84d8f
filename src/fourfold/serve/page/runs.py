"""The list of runs: a page of them at a time, found by name or system, live while something trains."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import Request
from nicegui import run as threads
from nicegui import ui

from fourfold.core.words import number
from fourfold.serve.page.charts import sparkline
from fourfold.serve.page.history import History, Series
from fourfold.serve.page.house import House
from fourfold.serve.page.shell import button, drawing, element, escaped, frame, link, text
from fourfold.serve.page.words import Words
from fourfold.serve.shelf import NoSuchRun, RunInfo

SHOWN = 20  # runs on a page of the list
EVERY = 2.0  # seconds between looks at the shown runs
READING = 0.5  # seconds of one look that go into reading logs


def address(name: str, **query: str) -> str:
    """Where a run's page is."""
    return f"/run/{quote(name, safe='')}" + (f"?{urlencode(query)}" if query else "")


def measure(history: History, last: dict[str, float]) -> str:
    """What a run has come to: its first validation measure, or its loss; the newest value.

    Args:
        history: its log.
        last: the newest value of each number at the log's end, for measures beyond those kept.
    """
    series = history.series
    known = {**last, **{name: s.points()[2][-1] for name, s in series.items() if s.count}}
    names = [n for n in known if n.startswith("valid.")] or [n for n in known if n.endswith("loss")]
    if not names:
        return ""
    first = next((name for name in series if name in names), names[0])
    return f"{first.replace('_', ' ').replace('.', ' ')} {number(known[first])}"


def curve_of(series: dict[str, Series]) -> Series | None:
    """The measure that stands for a run in the list: its loss, else its first validation measure."""
    losses = [n for n in series if n.endswith("loss") and not n.startswith("valid.")]
    names = [*(["loss"] if "loss" in series else []), *losses]
    names += [n for n in series if n.startswith("valid.")]
    return series[names[0]] if names else None


def show(house: House, request: Request) -> None:
    """Build the page `/`."""
    with frame(request, "Runs", "/") as words:
        Listing(house, words)


class Listing:
    """The list as one reader sees it."""

    def __init__(self, house: House, words: Words) -> None:
        self.house, self.words = house, words
        self.first, self.wanted = 0, ""
        self.chosen: list[str] = []
        self.rows: dict[str, Row] = {}
        self.names = house.newest_first()
        with element("div", "head"):
            with element("div"):
                text(words("runs"), "h1")
                text(words("runs about"), "p", "about")
            self._tools()
        self.place = element("div", "stack")
        self._build()
        ui.timer(0.05, self._look, once=True)
        ui.timer(EVERY, self._look)

    def _tools(self) -> None:
        words = self.words
        with element("div", "bar", role="search"):
            field = element(
                "input", "input", type="search", placeholder=words("find hint"),
                aria_label=words("find"), autocomplete="off",
            )  # fmt: skip
            field.on("input", self._find, js_handler="(e) => emit(e.target.value)", throttle=0.2)
            self.compare = button(words("compare"), aria_disabled="true")
            self.compare.on("click", self._compare)
            if self.house.may_fit:
                link(words("new fit"), "/fit", "button first")

    async def _find(self, event: Any) -> None:
        self.wanted, self.first = str(event.args).strip().lower(), 0
        self.names = await threads.io_bound(self._found) or []
        self._build()
        await self._look()

    def _found(self) -> list[str]:
        wanted, names = self.wanted, self.house.newest_first()
        if not wanted:
            return names
        return [n for n in names if wanted in n.lower() or wanted in self._system(n)]

    def _system(self, name: str) -> str:
        try:
            return self.house.shelf.status(name).system.lower()
        except NoSuchRun:
            return ""

    def _build(self) -> None:
        words, shown = self.words, self.names[self.first : self.first + SHOWN]
        self.place.clear()
        self.rows = {}
        with self.place:
            if not self.names:
                self._empty()
                return
            with element("ul", "runs"):
                for name in shown:
                    self.rows[name] = Row(self, name)
            if len(self.names) > SHOWN:
                self._pages(words, len(shown))

    def _empty(self) -> None:
        words = self.words
        with element("div", "card empty"):
            if self.wanted:
                text(words("none found", text=self.wanted), "strong")
            else:
                text(words("no runs"), "strong")
                text(words("no runs why"))

    def _pages(self, words: Words, count: int) -> None:
        with element("nav", "bar pages", aria_label=words("pages")):
            back = button(words("previous"), aria_disabled="true" if self.first == 0 else None)
            back.on("click", lambda: self._turn(-SHOWN))
            place = words(
                "shown", first=self.first + 1, last=self.first + count, count=len(self.names)
            )
            text(place, "span", "quiet", role="status")
            last = self.first + SHOWN >= len(self.names)
            onward = button(words("next"), aria_disabled="true" if last else None)
            onward.on("click", lambda: self._turn(SHOWN))

    async def _turn(self, by: int) -> None:
        if 0 <= self.first + by < len(self.names):
            self.first += by
            self._build()
            await self._look()

    def choose(self, name: str, on: bool) -> None:
        """Tick a run for the comparison, or take the tick away."""
        self.chosen = [n for n in self.chosen if n != name] + ([name] if on else [])
        enough = len(self.chosen) > 1
        self.compare.props["aria-disabled"] = "false" if enough else "true"
        some = self.words("compare some", count=len(self.chosen))
        self.compare.say(some if enough else self.words("compare"))

    def _compare(self) -> None:
        if len(self.chosen) > 1:
            ui.navigate.to("/compare?" + urlencode([("run", name) for name in self.chosen]))

    async def _look(self) -> None:
        """Read what changed of the shown runs, in a thread, and show it."""
        names = await threads.io_bound(self._found)
        if names is not None and names != self.names:
            self.names = names
            self._build()
        for name, seen in (await threads.io_bound(self._read) or {}).items():
            if name in self.rows:
                self.rows[name].show(*seen)

    def _read(self) -> dict[str, tuple[RunInfo, History]]:
        found = {}
        until = time.monotonic() + READING
        for name, row in list(self.rows.items()):
            try:
                info = self.house.shelf.status(name)
            except NoSuchRun:
                continue  # moved away: the next look at the names takes it off the list
            history = self.house.histories.of(info.folder)
            # long logs are read one after the other: every row has its state at once, its curve when it comes
            version = history.update() if time.monotonic() < until else history.version
            mark = (version, info.state, info.reason)
            if mark != row.mark:
                row.mark = mark
                found[name] = (info, history)
        return found


class Row:
    """One run of the list."""

    def __init__(self, listing: Listing, name: str) -> None:
        self.words, self.name = listing.words, name
        self.mark: tuple[Any, ...] = ()
        """What was seen of it last."""
        words = listing.words
        with element("li", "card run"):
            with element("label", "tick"):
                box = element("input", type="checkbox", aria_label=words("compare this", name=name))
                if name in listing.chosen:
                    box.props["checked"] = True
                box.on(
                    "change",
                    lambda e: listing.choose(name, bool(e.args)),
                    js_handler="(e) => emit(e.target.checked)",
                )
            with element("div", "name"):
                link(name, address(name))
                self.system = text("", "span", "quiet small")
            self.state = text("", "span", "pill")
            with element("div", "far"):
                self.step = text("", "span", "number")
                self.made = text("", "span", "quiet small")
            self.result = text("", "span", "result number")
            self.curve = drawing("", classes="curve")

    def show(self, info: RunInfo, history: History) -> None:
        """Take over what is known of the run now."""
        words = self.words
        self.system.say(info.system)
        self.state.say(words(info.state))
        self.state.classes(replace=f"pill {info.state}")
        self.step.say(words("of steps", count=f"{info.steps:,}") if info.steps else "")
        self.made.say(info.created[:16].replace("T", " "))
        self.result.say(info.reason if info.state == "damaged" else measure(history, info.last))
        self.result.classes(replace="result bad" if info.state == "damaged" else "result number")
        series = curve_of(history.series)
        markup = sparkline(series) if series is not None else ""
        if series is not None and markup:
            last = number(series.points()[2][-1])
            said = words("curve of", name=self.name, count=series.count, last=last)
            markup += f'<span class="unseen">{escaped(said)}</span>'
        self.curve.set_content(markup)
