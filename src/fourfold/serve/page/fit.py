"""Start a fit: a system, its data, and every option as a form."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from fastapi import Request
from nicegui import run as threads
from nicegui import ui
from pydantic import NonNegativeInt

from fourfold.core.errors import UserError
from fourfold.core.options import Option, options
from fourfold.core.registry import index, load_system
from fourfold.core.system import System
from fourfold.core.types import Source
from fourfold.data.catalog import CATALOG
from fourfold.data.table_frames import BUNDLED
from fourfold.serve.page.controls import Control
from fourfold.serve.page.house import House
from fourfold.serve.page.runs import address
from fourfold.serve.page.shell import button, element, frame, said, text
from fourfold.serve.page.words import Words
from fourfold.serve.schema import Field, field_of

GROUPS = ("Model", "Data", "Objective", "Optimizer")


def show(house: House, request: Request) -> None:
    """Build the page `/fit`."""
    with frame(request, "New fit", "/fit") as words:
        with element("div", "head"), element("div"):
            text(words("new fit"), "h1")
            text(words("fit about"), "p", "about")
        if house.may_fit:
            NewFit(house, words, request.query_params.get("system", ""))
        else:
            text(words("no fits"), "p", "card quiet")


class NewFit:
    """The form of a fit."""

    def __init__(self, house: House, words: Words, system: str) -> None:
        self.house, self.words = house, words
        self.system = system if system in index() else ""
        self.asked: dict[str, Control] = {}
        """What every fit is asked."""
        self.controls: dict[str, Control] = {}
        """Options by their dotted names."""
        self.kinds: dict[str, tuple[str, ...]] = {}
        with element("div", "stack narrow"):
            with element("div", "card form"):
                self._systems()
                self.common = element("div", "form")
            self.place = element("div", "stack")
            self.said = said()
            self.bar = element("div", "bar")
        with self.bar:
            button(words("start"), "first").on("click", self._start)
        self.bar.set_visibility(False)
        if self.system:
            ui.timer(0.02, self._options, once=True)

    def _systems(self) -> None:
        words = self.words
        with element("div", "field"):
            label = text(words("choose system"), "label")
            with element("select", "input") as pick:
                text("", "option", value="", selected=None if self.system else True)
                for entry in index().values():
                    chosen = True if entry.name == self.system else None
                    text(
                        f"{entry.name}: {entry.summary}",
                        "option",
                        value=entry.name,
                        selected=chosen,
                    )
            label.props["for"] = pick.html_id
        pick.on("change", self._choose, js_handler="(e) => emit(e.target.value)")

    async def _choose(self, event: Any) -> None:
        self.system = str(event.args)
        await self._options()

    async def _options(self) -> None:
        self.common.clear()
        self.place.clear()
        self.asked, self.controls, self.kinds = {}, {}, {}
        self.bar.set_visibility(bool(self.system))
        if not self.system:
            return
        cls = await threads.io_bound(load_system, self.system)
        if cls is None:
            return  # the server is being stopped
        with self.common:
            self._about(cls)
        with self.place:
            for group in GROUPS:
                found = [o for o in options(cls).values() if group_of(o) == group]
                if found:
                    with element("details", "card", open=True if group == "Model" else None):
                        text(self.words(group), "summary")
                        with element("div", "form grid"):
                            self._group(found)
        self._changed()

    def _about(self, cls: type[System]) -> None:
        """What every fit is asked beside its options: data, name, seed, size."""
        words = self.words
        catalog = tuple(sorted(_catalog(cls.reads)))
        if catalog:
            self._add(
                field_of("catalog", Literal[catalog] | None, help=words("catalog hint")), "catalog"
            )
        field = field_of("source", Source, help=words("source hint"))
        most = self.house.calls.limits.body
        self.asked["source"] = Control(
            field,
            words,
            self._changed,
            title=words("source"),
            reads=cls.reads,
            most=most,
            typed=False,
        )
        self._add(field_of("name", str, help=words("name hint")), "name")
        self._add(field_of("seed", NonNegativeInt, 0, help=words("seed hint")), "seed")
        if cls.sizes:
            sizes = Literal[tuple(cls.sizes)]  # type: ignore[valid-type]
            self._add(field_of("size", sizes, help=words("size hint")), "size")

    def _add(self, field: Field, title: str) -> None:
        self.asked[field.name] = Control(
            field, self.words, self._changed, title=self.words(title), lines=1
        )

    def _group(self, found: list[Option]) -> None:
        for option in found:
            field = field_of(option.name, option.annotation, option.default, help=option.help)
            title = option.path[-1].removesuffix("_").replace("_", " ")
            self.controls[option.name] = Control(
                field, self.words, self._changed, title=title, lines=1
            )
            if option.kinds:
                self.kinds[option.name] = option.kinds

    def _changed(self) -> None:
        """Options that go with another variant of their part are put away."""
        for name, kinds in self.kinds.items():
            part = self.controls.get(name.rpartition(".")[0])
            if part is not None:
                chosen = part.value() if part.given else part.field.default
                self.controls[name].place.set_visibility(chosen in kinds)

    def _entered(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What goes to every fit, and the options."""
        common = {name: c.value() for name, c in self.asked.items() if c.given}
        if "catalog" in common:
            named = common.pop("catalog")
            common.setdefault("source", named)
        if "seed" in common:
            common["seed"] = parse_whole(common["seed"])
        shown = {name: c for name, c in self.controls.items() if c.given and c.place.visible}
        return common, {name: c.value() for name, c in shown.items()}

    async def _start(self) -> None:
        jobs = self.house.jobs
        try:
            common, given = self._entered()
            name = await jobs.start(self.system, options=given, **common)
        except UserError as error:
            self.said(str(error), "bad")
            return
        self.said(self.words("starting", name=name))
        while (fit := jobs.fit(name)).state == "starting":
            await asyncio.sleep(0.2)
        if fit.state == "failed":
            self.said(fit.error, "bad")
        else:
            ui.navigate.to(address(name))


def parse_whole(word: str) -> int:
    """A word as a whole number.

    Raises:
        UserError: it is none.
    """
    try:
        return int(word)
    except ValueError:
        raise UserError(f"seed: expected a whole number, got {word!r}") from None


def _catalog(reads: str) -> list[str]:
    """Named data sets that a system of this kind of input can read."""
    found = [name for name, entry in CATALOG.items() if entry.kind == reads]
    return [*found, *BUNDLED] if reads == "table" else found


def group_of(option: Option) -> str:
    """The part of a system that an option belongs to."""
    first = option.path[0]
    return first.capitalize() if first in ("data", "objective", "optimizer") else "Model"
