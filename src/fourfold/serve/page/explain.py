"""Explain an expression or a joint probability table: the answers of `fourfold explain`, drawn on a page."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastapi import Request
from nicegui import run as threads
from nicegui import ui

from fourfold.core.errors import UserError
from fourfold.core.types import Explanation
from fourfold.look.expression import names, parse
from fourfold.serve.page import results
from fourfold.serve.page.controls import VALUE, Control
from fourfold.serve.page.house import House
from fourfold.serve.page.shell import button, element, frame, said, text
from fourfold.serve.page.words import Words
from fourfold.serve.schema import Upload, field_of

EXAMPLE = ("(x + y) * max(y, z)", {"x": "1", "y": "2", "z": "0"})


def show(house: House, request: Request) -> None:
    """Build the page `/explain`."""
    with frame(request, "Explain", "/explain") as words:
        with element("div", "head"), element("div"):
            text(words("explain"), "h1")
            text(words("explain about"), "p", "about")
        Expression(house, words)


class Expression:
    """An expression with a value for each of its names, or a table; what follows from them beside it."""

    def __init__(self, house: House, words: Words) -> None:
        self.house, self.words = house, words
        self.text, self.values = EXAMPLE[0], dict(EXAMPLE[1])
        with element("div", "pair"):
            with element("div", "stack"):
                self._form()
                self._table_form()
            with element("div", "card stack", role="region", aria_label=words("answered")):
                self.said = said()
                self.place = element("div", "stack")
        ui.timer(0.02, self._explain, once=True)

    def _form(self) -> None:
        words = self.words
        with element("div", "card form"):
            with element("div", "field"):
                label = text(words("expression"), "label")
                entry = element("textarea", "input mono", rows=2, spellcheck="false")
                entry.props["defaultValue"] = self.text
                label.props["for"] = entry.html_id
                text(words("expression hint"), "p", "help")
            self.wanted: list[str] | None = None
            self.names = element("div", "form grid")
            self._fields()
            button(words("explain"), "first").on("click", self._explain)
        entry.on("change", self._typed, js_handler=VALUE)

    def _table_form(self) -> None:
        with element("details", "card"):
            text(self.words("joint"), "summary")
            with element("div", "form"):
                field = field_of("table", Path, help=self.words("joint hint"))
                self.table = Control(
                    field,
                    self.words,
                    self._came,
                    title=self.words("joint file"),
                    reads="table",
                    most=1 << 20,
                )

    def _typed(self, event: Any) -> None:
        self.text = str(event.args)
        self._fields()

    def _fields(self) -> None:
        """A field for each name that the expression needs."""
        try:
            wanted = names(parse(self.text))
        except UserError as error:
            if hasattr(self, "said"):
                self.said(str(error), "bad")
            return
        if wanted == self.wanted:
            return  # what stands in the fields stays
        self.wanted = wanted
        self.names.clear()
        with self.names:
            for name in wanted:
                with element("div", "field"):
                    label = text(name, "label", "mono")
                    entry = element("input", "input mono", defaultValue=self.values.get(name, ""))
                    label.props["for"] = entry.html_id
                entry.on(
                    "change",
                    lambda e, n=name: self.values.update({n: str(e.args)}),
                    js_handler=VALUE,
                )

    async def _explain(self) -> None:
        await self._show(self._explained)

    def _explained(self) -> Explanation:
        from fourfold.look.expression_words import explain

        wanted = names(parse(self.text))
        given = {name: self.values[name] for name in wanted if self.values.get(name, "").strip()}
        return explain(self.text, given)

    async def _came(self) -> None:
        if self.table.files:
            await self._show(lambda: _joint(self.table.files[0]))

    async def _show(self, explained: Any) -> None:
        try:
            explanation = await threads.io_bound(explained)
        except Exception as error:
            self.place.clear()  # an old answer must not stand under a new question
            self.said(str(error), "bad")
            if not isinstance(error, UserError):
                raise  # with its trace into the log
            return
        self.said("")
        self.place.clear()
        with self.place:
            results.show(explanation, self.words, verb="explain")


def _joint(upload: Upload) -> Explanation:
    """A joint table explained under the name that its sender gave it.

    Raises:
        UserError: it is no such table.
    """
    from fourfold.look.joint import read
    from fourfold.look.joint_words import describe

    with TemporaryDirectory(prefix="fourfold-") as folder:
        path = Path(folder) / "table.csv"
        path.write_bytes(upload.content)
        try:
            joint = read(path)
        except UserError as error:
            raise UserError(str(error).replace(str(path), upload.name)) from None
    return describe(joint, upload.name)
