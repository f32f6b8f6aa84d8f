"""A run's verbs to try: a form from the verb's signature on one side, its answer on the other."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any

from nicegui import run as threads
from nicegui import ui

from fourfold.core.errors import UserError
from fourfold.serve.page import results
from fourfold.serve.page.controls import Control
from fourfold.serve.page.house import House
from fourfold.serve.page.shell import button, element, said, text, unexpected
from fourfold.serve.page.words import Words
from fourfold.serve.schema import Field, Upload, VerbForm
from fourfold.serve.shelf import RunInfo
from fourfold.serve.work import Failed

FIRST = (
    "chat",
    "ask",
    "generate",
    "predict",
    "traverse",
    "sample",
    "detect",
    "translate",
    "embed",
    "explain",
)
"""Verbs that are shown first where a run has them."""
PLAIN = 3  # fields shown at once; the others are under "more options"
PICTURES = ("picture", "pictures")
PIECE = 0.06  # seconds between two drawings of a text that is being made


class Playground:
    """The verbs of a run, one chosen."""

    def __init__(self, house: House, words: Words, info: RunInfo, verb: str) -> None:
        self.house, self.words, self.info = house, words, info
        self.verbs = sorted(info.verbs, key=lambda v: (FIRST.index(v) if v in FIRST else 99, v))
        self.chosen = verb if verb in self.verbs else self.verbs[0]
        self.panel: Panel | None = None
        with element("div", "verbs", role="group", aria_label=words("verb")):
            self.buttons = {v: button(v, aria_pressed="false") for v in self.verbs}
            for name, made in self.buttons.items():
                made.on("click", lambda n=name: self._choose(n))
        self.place = element("div")
        ui.context.client.on_delete(self._leave)
        ui.timer(0.02, lambda: self._choose(self.chosen), once=True)

    async def _choose(self, verb: str) -> None:
        self._leave()
        for name, made in self.buttons.items():
            made.props["aria-pressed"] = "true" if name == verb else "false"
        form = await self._form(verb)
        self.place.clear()
        with self.place:
            if form is not None:
                kind = Chat if talks(form) else Panel
                self.panel = kind(self.house, self.words, self.info, form)

    async def _form(self, verb: str) -> VerbForm | None:
        """The verb's form, read in a thread: it may have to import its system."""
        try:
            return await threads.io_bound(self.house.calls.form, self.info.name, verb)
        except UserError as error:
            sentence = str(error)
        except Exception:  # a bug in one verb's signature must not take the others away
            sentence = unexpected(self.words, f"the form of {verb} of {self.info.name}")
        self.place.clear()
        with self.place:
            text(sentence, "p", "say bad", role="alert")
        return None

    def _leave(self) -> None:
        if self.panel is not None:
            self.panel.cancel()


def talks(form: VerbForm) -> bool:
    """Whether a verb is a conversation: it answers a text in pieces, as they are made."""
    return form.streams and bool(form.fields) and form.fields[0].kind in ("text", "document")


class Panel:
    """One verb: its form, and below or beside it what it answered."""

    def __init__(self, house: House, words: Words, info: RunInfo, form: VerbForm) -> None:
        self.house, self.words, self.info, self.form = house, words, info, form
        self.task: asyncio.Task[None] | None = None
        self.again = False
        self.controls: dict[str, Control] = {}
        self.live = form.result in PICTURES and not any(f.required for f in form.fields)
        self._build()
        if self.live:
            self.changed()

    def _build(self) -> None:
        with element("div", "pair"):
            with element("div", "card form"):
                text(self.form.summary, "p", "quiet")
                self._fields(PLAIN, self.form.fields)
                self._buttons()
            with element(
                "div",
                "card stack results",
                aria_live="polite",
                role="region",
                aria_label=self.words("answered"),
            ):
                self.said = said()
                self.place = element("div", "stack")

    def _fields(self, plain: int, fields: Sequence[Field]) -> None:
        """What is required and the first of the others; the rest can be opened."""
        required = [f for f in fields if f.required]
        rest = [f for f in fields if not f.required]
        shown = [*required, *rest[: max(0, plain - len(required))]]
        hidden = [f for f in fields if f not in shown]
        self._some(shown)
        if hidden:
            with element("details"):
                text(self.words("more options"), "summary")
                with element("div", "form"):
                    self._some(hidden)

    def _some(self, fields: Sequence[Field]) -> None:
        sliders = self.form.result in PICTURES
        for field in fields:
            self.controls[field.name] = Control(
                field, self.words, self.changed, slider=sliders, reads=field.reads or self.form.reads,
                most=self.house.calls.limits.body,
            )  # fmt: skip

    def _buttons(self) -> None:
        with element("div", "bar"):
            self.go = button(self.words("call"), "first")
            self.go.on("click", self.start)
            self.stop = button(self.words("cancel"))
            self.stop.on("click", self.cancel)
            self.stop.set_visibility(False)
        if self.form.result in PICTURES:
            with element("label", "check"):
                box = element("input", type="checkbox", checked=True if self.live else None)
                text(self.words("live"), "span")
            box.on("change", self._live, js_handler="(e) => emit(e.target.checked)")

    def _live(self, event: Any) -> None:
        self.live = bool(event.args)
        self.changed()

    def changed(self) -> None:
        """Something was entered: pictures are drawn again, if the reader wants it."""
        missing = any(f.required and not self.controls[f.name].given for f in self.form.fields)
        if self.live and not missing:
            self.start()

    # --- calling ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Call the verb with what was entered; while one call works, the newest waits and the others are passed over."""
        if self.task is not None and not self.task.done():
            self.again = True
            return
        self.task = asyncio.create_task(self._call())

    def cancel(self) -> None:
        """End the call under way."""
        self.again = False
        if self.task is not None and not self.task.done():
            self.task.cancel()

    def arguments(self) -> dict[str, Any]:
        """What was entered, by the fields' names; what was left alone is left out."""
        return {name: c.value() for name, c in self.controls.items() if c.given}

    def uploads(self) -> list[Upload]:
        """The files that were entered."""
        return [upload for control in self.controls.values() for upload in control.files]

    async def _call(self) -> None:
        while True:
            self.again = False
            self._busy(True)
            try:
                with self.place:
                    await self._answer()
            except asyncio.CancelledError:
                self._end(self.words("cancelled"))
                raise
            except UserError as error:
                self._end(str(error), "bad")
            except Failed as failure:
                self._end(self.words("went wrong", id=failure.id), "bad")
            except (
                Exception
            ):  # a bug in drawing the answer: a task's own exceptions are seen by nobody
                self._end(unexpected(self.words, f"drawing {self.form.verb}"), "bad")
            finally:
                self._busy(False)
            if not self.again:
                return

    def _end(self, sentence: str, kind: str = "") -> None:
        if not self.place.client.is_deleted:
            self.said(sentence, kind)

    def _busy(self, busy: bool) -> None:
        if self.place.client.is_deleted:
            return
        self.stop.set_visibility(busy)
        self.place.props["aria-busy"] = "true" if busy else "false"
        self.place.classes(replace="stack busy" if busy else "stack")

    async def _answer(self) -> None:
        began = time.monotonic()
        if not self.live:
            self.said(self.words("working"))
        if self.form.streams:
            await self._stream(began)
            return
        result = await self.house.calls.run(self.info.name, self.form.verb, self.arguments())
        with contextlib.closing(result):
            value = await threads.io_bound(
                results.prepared, result.value, self.words, self._labels()
            )
        self.place.clear()
        results.show(value, self.words, verb=self.form.verb, uploads=self.uploads())
        for note in result.notes:
            text(note, "p", "quiet")
        self._end(self.words("took", seconds=f"{time.monotonic() - began:.2g}"), "done")

    async def _stream(self, began: float) -> None:
        self.place.clear()
        shown = text("", "pre", "answer", tabindex=0)
        await self.pour(shown)
        self._end(self.words("took", seconds=f"{time.monotonic() - began:.2g}"), "done")

    async def pour(self, shown: Any) -> None:
        """Show the pieces of an answer as they come."""
        pieces: list[str] = []
        last = 0.0
        stream = self.house.calls.stream(self.info.name, self.form.verb, self.arguments())
        async with contextlib.aclosing(stream) as flow:
            async for piece in flow:
                pieces.append(str(piece))
                if time.monotonic() - last >= PIECE:
                    last = time.monotonic()
                    shown.say("".join(pieces))
        shown.say("".join(pieces))

    def _labels(self) -> list[str]:
        """Names for the rows of an array: the lines that were sent."""
        for control in self.controls.values():
            if isinstance(control.typed, str) and control.field.kind in (
                "text",
                "document",
                "source",
            ):
                return control.typed.splitlines()
            for upload in control.files:
                with contextlib.suppress(UnicodeDecodeError):
                    return upload.content.decode("utf-8").splitlines()
        return []


class Chat(Panel):
    """A verb that answers a text in pieces, as a conversation: enter sends, the newest is below."""

    def _build(self) -> None:
        words, first = self.words, self.form.fields[0]
        self.typed: str | None = None
        with element("div", "pair talk"):
            with element("div", "card form"):
                text(self.form.summary, "p", "quiet")
                self._fields(PLAIN, self.form.fields[1:])
            with element("div", "card chat"):
                self.log = element(
                    "div",
                    "log",
                    role="log",
                    aria_label=words("conversation"),
                    tabindex=0,
                    aria_live="polite",
                )
                self.said = said()
                self.place = element("div")
                with element("div", "ask"):
                    self.entry = element(
                        "textarea", "input", rows=2, aria_label=first.name.replace("_", " "),
                        placeholder=first.help or first.name,
                    )  # fmt: skip
                    self.go = button(words("send"), "first")
                    self.stop = button(words("cancel"))
        self.stop.set_visibility(False)
        self.stop.on("click", self.cancel)
        ui.run_javascript(
            f"const log = getHtmlElement({self.log.id}); new MutationObserver(() => log.scrollTop = log.scrollHeight)"
            ".observe(log, {childList: true, subtree: true, characterData: true})"
        )
        # the text travels with the event: what was typed last is what is sent
        take = (
            f"() => {{ const e = getHtmlElement({self.entry.id}); emit(e.value); e.value = ''; }}"
        )
        self.go.on("click", self._send, js_handler=take)
        self.entry.on(
            "keydown", self._send,
            js_handler="(e) => { if (e.key === 'Enter' && !e.shiftKey && !e.isComposing)"
            " { e.preventDefault(); emit(e.target.value); e.target.value = ''; } }",
        )  # fmt: skip

    def _send(self, event: Any) -> None:
        if self.task is not None and not self.task.done():
            return
        self.typed = str(event.args)
        self.start()

    def changed(self) -> None:
        """Nothing: a message is sent when the reader says so."""

    def arguments(self) -> dict[str, Any]:
        """The message, and the options that were entered."""
        return {self.form.fields[0].name: self.typed or "", **super().arguments()}

    async def _answer(self) -> None:
        self.said("")
        with self.log:
            self._bubble("mine", self.words("you"), self.typed or "")
            answer = self._bubble("theirs", self.info.name, "")
        await self.pour(answer)

    def _bubble(self, kind: str, name: str, content: str) -> Any:
        with element("div", f"bubble {kind}"):
            text(name, "span", "small quiet")
            shown = text(content, "pre")
        return shown
