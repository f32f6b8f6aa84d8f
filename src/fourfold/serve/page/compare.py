"""Several runs beside each other: curves over each other, what differs in the options, samples."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from nicegui import run as threads
from nicegui import ui

from fourfold.core.errors import UserError
from fourfold.core.words import duration
from fourfold.look.facts import plain
from fourfold.serve.page import charts
from fourfold.serve.page.curves import AxisSwitch, ChartGrid
from fourfold.serve.page.history import History
from fourfold.serve.page.house import House
from fourfold.serve.page.run import EVERY, flat
from fourfold.serve.page.runs import address
from fourfold.serve.page.samples import sample_shown
from fourfold.serve.page.shell import button, element, frame, link, table, text
from fourfold.serve.page.words import Words
from fourfold.serve.shelf import RunInfo

MOST = 7  # runs at once: as many as there are colours


def differences(options: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """Rows of the options in which runs differ: the option's name, then each run's value."""
    trees = {run: dict(flat(tree)) for run, tree in options.items()}
    names = dict.fromkeys(name for tree in trees.values() for name in tree)
    rows = []
    for name in names:
        values = [plain(tree[name]) if name in tree else "–" for tree in trees.values()]
        if len(set(values)) > 1:
            rows.append((name, *values))
    return rows


def show(house: House, request: Request) -> None:
    """Build the page `/compare?run=a&run=b`."""
    known = set(house.shelf.names())
    chosen = list(dict.fromkeys(n for n in request.query_params.getlist("run") if n in known))[
        :MOST
    ]
    with frame(request, "Compare", "/compare") as words:
        Comparison(house, words, chosen)


class Comparison:
    """The comparison as one reader sees it."""

    def __init__(self, house: House, words: Words, chosen: list[str]) -> None:
        self.house, self.words, self.chosen = house, words, chosen
        self.infos: dict[str, RunInfo] = {}
        self.seen: Any = None
        with element("div", "head"), element("div"):
            text(words("compare"), "h1")
            text(words("compare about"), "p", "about")
        self._picker()
        self.note = text("", "p", "hidden")
        with element("div", "stack"):
            self.axis = AxisSwitch(words, self._draw)
            self.grid = ChartGrid(words)
            self.below = element("div", "stack")
        ui.timer(0.05, self._look, once=True)
        if chosen:
            ui.timer(EVERY, self._look)

    def _picker(self) -> None:
        words = self.words
        with element("div", "bar picker"):
            for color, name in enumerate(self.chosen):
                with element("span", "chip"):
                    element("i", "key").style(f"background: var(--c{color})")
                    link(name, address(name))
                    rest = [n for n in self.chosen if n != name]
                    away = button("×", "slim", aria_label=words("remove", name=name))
                    away.on("click", lambda r=rest: self._go(r))
            others = [n for n in self.house.newest_first() if n not in self.chosen]
            if others and len(self.chosen) < MOST:
                with element("select", "input", aria_label=words("pick")) as pick:
                    text(words("add run"), "option", value="")
                    for name in others:
                        text(name, "option", value=name)
                pick.on(
                    "change",
                    lambda e: self._go([*self.chosen, str(e.args)]) if e.args else None,
                    js_handler="(e) => emit(e.target.value)",
                )

    def _go(self, names: list[str]) -> None:
        ui.navigate.to("/compare?" + urlencode([("run", name) for name in names]))

    async def _look(self) -> None:
        seen = await threads.io_bound(self._read)
        if seen is None or seen == self.seen:
            return
        self.seen = seen
        good = [i for i in self.infos.values() if i.state != "damaged"]
        if len(good) < 2:
            words = self.words("too few" if len(self.chosen) < 2 else "only damaged")
            bad = [f"{i.name}: {i.reason}" for i in self.infos.values() if i.state == "damaged"]
            self.note.say(" ".join([words, *bad]))
            self.note.classes(replace="card quiet")
        else:
            self.note.classes(replace="hidden")
        self._draw()
        self._beside()

    def _read(self) -> Any:
        marks = []
        for name in self.chosen:
            try:
                info = self.house.shelf.status(name)
            except UserError:
                continue  # moved away since
            self.infos[name] = info
            marks.append((name, self.house.histories.of(info.folder).update(), info.state))
        return marks

    def _histories(self) -> dict[str, History]:
        return {name: self.house.histories.of(info.folder) for name, info in self.infos.items()}

    def _draw(self) -> None:
        several = len(self.infos) > 1
        self.axis.place.set_visibility(several)
        if several:
            found = charts.over_each_other(self._histories(), self.words, self.axis.by_time)
            self.grid.show(found)

    def _beside(self) -> None:
        self.below.clear()
        if len(self.infos) < 2:
            return
        words, infos = self.words, self.infos
        with self.below:
            with element("section", "card"):
                text(words("results"), "h2")
                columns, rows = self._results()
                table(columns, rows, label=words("results"), wide=True, named=True)
            with element("section", "card"):
                text(words("differences"), "h2")
                trees = {
                    n: {"system": i.system, **i.about.get("fit", {}), **i.options}
                    for n, i in infos.items()
                }
                rows = differences(trees)
                if rows:
                    table((words("option"), *infos), rows, label=words("differences"), named=True)
                else:
                    text(words("no differences"), "p", "quiet")
            self._samples()

    def _results(self) -> tuple[list[str], list[tuple[Any, ...]]]:
        words, histories = self.words, self._histories()
        names = [
            n for h in histories.values() for n in h.series if n == "loss" or n.startswith("valid.")
        ]
        names = list(dict.fromkeys(names))
        columns = [words("run"), words("state"), words("step"), words("trained for")]
        columns += [n.replace("valid.", f"{words('validation')} ").replace("_", " ") for n in names]
        rows: list[tuple[Any, ...]] = []
        for name, info in self.infos.items():
            series = histories[name].series
            last = [
                series[n].points()[2][-1] if n in series and series[n].count else None
                for n in names
            ]
            rows.append((name, words(info.state), info.steps, duration(info.seconds), *last))
        return columns, rows

    def _samples(self) -> None:
        words, histories = self.words, self._histories()
        if not any(h.samples for h in histories.values()):
            return
        with element("section", "card"):
            text(words("samples"), "h2")
            slider = element(
                "input",
                type="range",
                min=0,
                max=100,
                step=1,
                defaultValue=100,
                aria_label=words("sample number"),
            )
            place = element("div", "side")

            def draw(share: float) -> None:
                place.clear()
                with place:
                    for name, history in histories.items():
                        with element("div"):
                            self._sample(name, history, share)

            slider.on(
                "input", lambda e: draw(float(e.args) / 100),
                js_handler="(e) => emit(e.target.value)", throttle=0.15,
            )  # fmt: skip
            draw(1.0)

    def _sample(self, name: str, history: History, share: float) -> None:
        words = self.words
        if not history.samples:
            text(name, "h3")
            text(words("no samples"), "p", "quiet")
            return
        sample = history.samples[round(share * (len(history.samples) - 1))]
        text(f"{name}, {words('step')} {sample.step:,}", "h3")
        sample_shown(sample, name, words)
