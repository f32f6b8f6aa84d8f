"""One run: its curves live, its samples, its verbs to try, its report and its options."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

from fastapi import Request
from nicegui import run as threads
from nicegui import ui

from fourfold.core.errors import UserError
from fourfold.core.words import duration, number
from fourfold.look.facts import plain
from fourfold.serve.page.curves import Curves
from fourfold.serve.page.house import House
from fourfold.serve.page.playground import Playground
from fourfold.serve.page.runs import address
from fourfold.serve.page.samples import Samples
from fourfold.serve.page.shell import Text, button, element, frame, link, missing, said, table, text
from fourfold.serve.page.words import Words
from fourfold.serve.shelf import NoSuchRun, RunInfo

EVERY = 2.0  # seconds between looks at a run that is written
SLOWLY = 5.0  # ... that is not


async def show(house: House, request: Request, name: str) -> None:
    """Build the page of a run, or say that there is none."""
    try:
        # in a thread: the first look at a run imports its system
        info = await threads.io_bound(house.shelf.status, name)
    except NoSuchRun as error:
        return missing(request, str(error))
    if info is None:
        return  # the server is being stopped
    with frame(request, name, "/") as words:
        RunPage(house, words, info, request.query_params.get("part", ""), request.query_params)


class RunPage:
    """A run as one reader sees it."""

    def __init__(self, house: House, words: Words, info: RunInfo, part: str, query: Any) -> None:
        self.house, self.words, self.info, self.query = house, words, info, query
        self.history = house.histories.of(info.folder)
        self.seen: Any = None
        self.live: Callable[[], None] = lambda: None
        """Brings the part that is shown up to date."""
        self.parts = self._parts()
        chosen = part if part in self.parts else next(iter(self.parts))
        self._head("facts" if chosen == "curves" else "facts roomy")
        with element("nav", "parts", aria_label=words("parts of a run")):
            for key in self.parts:
                shown = link(words(key), address(info.name, part=key), "part")
                if key == chosen:
                    shown.props["aria-current"] = "page"
        with element("section", "stack", aria_label=words(chosen)):
            self.parts[chosen]()
        ui.timer(0.05, self._look, once=True)
        self.timer = ui.timer(self._pace(), self._look)

    def _pace(self) -> float:
        return EVERY if self.written or self.under_way else SLOWLY

    def _parts(self) -> dict[str, Callable[[], None]]:
        parts: dict[str, Callable[[], None]] = {}
        if self.info.state != "damaged" or self.history.path.exists():
            parts = {"curves": self._curves, "samples": self._samples}
        if self.info.state != "damaged":
            parts["playground"] = self._playground
        parts |= {"report": self._report, "options": self._options}
        return parts

    # --- the head -----------------------------------------------------------------------------------

    def _head(self, facts: str) -> None:
        words, info = self.words, self.info
        with element("div", "head tight"):
            with element("div"):
                with element("div", "bar"):
                    text(info.name, "h1")
                    self.state = text(
                        words(info.state), "span", f"pill {info.state}", role="status"
                    )
                text(
                    " · ".join(filter(None, [info.system, info.created[:16].replace("T", " ")])),
                    "p",
                    "about",
                )
            self.tools = element("div", "bar")
        self.said = said()
        self.reason = text("", "p", "say bad")
        self.facts = element("dl", facts)
        self.shown: dict[str, Text] = {}
        self._actions()
        self._say()

    def _actions(self) -> None:
        words, info = self.words, self.info
        self.tools.clear()
        with self.tools:
            if self.house.may_fit and (self.written or self.under_way):
                stop = button(
                    words("stop"), "danger", aria_label=words("stop this", name=info.name)
                )
                stop.on("click", self._stop)
            elif self.house.may_fit and info.state == "stopped":
                resume = button(words("resume"), "first")
                resume.on("click", self._resume)
            if info.state != "damaged":
                link(words("compare"), f"/compare?run={quote(info.name, safe='')}", "button")

    def _say(self) -> None:
        """Take over the run's state and newest numbers."""
        words, info = self.words, self.info
        self.state.say(words(info.state))
        self.state.classes(replace=f"pill {info.state}")
        bad = info.state == "damaged"
        reason = words("damaged why", reason=info.reason) if bad else info.reason or self._failure()
        self.reason.say(reason)
        self.reason.classes(replace=f"say {'bad' if bad else 'warn'}" if reason else "hidden")
        found = self._numbers()
        if [label for label, _ in found] != list(self.shown):
            self.facts.clear()
            with self.facts:
                self.shown = {label: _fact(label) for label, _ in found}
        for label, value in found:
            self.shown[label].say(value)

    @property
    def written(self) -> bool:
        """Whether a fit writes to it now."""
        return self.info.state in ("running", "waiting")

    @property
    def under_way(self) -> bool:
        """Whether a process started here still works at this run, if only at its last checkpoint."""
        return self.house.may_fit and self.info.name in self.house.jobs.running

    def _failure(self) -> str:
        """What a fit said that was started here and failed."""
        if not self.house.may_fit:
            return ""
        try:
            fit = self.house.jobs.fit(self.info.name)
        except NoSuchRun:
            return ""  # started elsewhere
        return self.words("fit failed", error=fit.error) if fit.state == "failed" else ""

    def _numbers(self) -> list[tuple[str, str]]:
        words, info, series = self.words, self.info, self.history.series
        found = []
        if info.steps:
            found.append((words("step"), f"{info.steps:,}"))
        shown = ["loss", *(n for n in series if n.startswith("valid."))][:3]
        for name in shown:
            if name in series and series[name].count:
                label = name.replace("valid.", f"{words('validation')}: ").replace("_", " ")
                found.append((label, number(series[name].points()[2][-1])))
        if info.seconds:
            found.append((words("trained for"), duration(info.seconds)))
        return found

    async def _look(self) -> None:
        """Read what was added to the run's folder since the last look, and show it."""
        seen = await threads.io_bound(self._read)
        if seen is None or seen == self.seen:
            return
        before, self.seen = self.seen, seen
        if before is None or before[1:] != seen[1:]:
            self._actions()
            self.timer.interval = self._pace()
        self._say()
        self.live()

    def _read(self) -> Any:
        try:
            self.info = self.house.shelf.status(self.info.name)
        except NoSuchRun:
            return None  # moved away: what was shown last stays
        version = self.history.update()
        return version, self.info.state, self.info.reason, self.under_way

    async def _stop(self) -> None:
        await self._ask(self.house.jobs.stop, "stopping")

    async def _resume(self) -> None:
        await self._ask(self.house.jobs.resume, "resuming")

    async def _ask(self, action: Callable[[str], Awaitable[None]], done: str) -> None:
        try:
            await action(self.info.name)
        except UserError as error:
            self.said(str(error), "bad")
        else:
            self.said(self.words(done))
            await self._look()

    # --- the parts ----------------------------------------------------------------------------------

    def _curves(self) -> None:
        curves = Curves(self.history, self.words)

        def show() -> None:
            curves.live = self.written
            curves.show()

        self.live = show

    def _samples(self) -> None:
        self.live = Samples(self.info.name, self.history, self.words).show

    def _playground(self) -> None:
        Playground(self.house, self.words, self.info, str(self.query.get("verb", "")))

    def _report(self) -> None:
        words, name = self.words, self.info.name
        if not (self.info.folder / "report.html").is_file():
            text(words("no report"), "p", "card quiet")
            return
        where = f"/runs/{quote(name, safe='')}/report"
        element("iframe", "report", src=where, title=words("report of", name=name), sandbox="")
        with element("p"):
            link(words("open report"), where, target="_blank", rel="noopener")

    def _options(self) -> None:
        words, info = self.words, self.info
        rows = [(words("folder"), str(info.folder))]
        rows += [
            (key.replace("_", " "), plain(value))
            for key, value in info.about.items()
            if key != "fit"
        ]
        rows += [(key, plain(value)) for key, value in flat(info.about.get("fit", {}))]
        rows += [(key, plain(value)) for key, value in flat(info.options)]
        with element("div", "card"):
            table((words("option"), words("value")), rows, label=words("options"), named=True)


def _fact(label: str) -> Text:
    with element("div", "fact"):
        text(label, "dt")
        return text("", "dd")


def flat(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """A tree of options as dotted names and values."""
    found: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            found += flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found
