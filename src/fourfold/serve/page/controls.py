"""Form controls made from fields: of a verb's signature, or of a system's options.

A control that is left alone has no value, and what it stands for keeps its default.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from nicegui import ui
from nicegui.element import Element

from fourfold.serve.page.shell import button, element, text
from fourfold.serve.page.words import Words
from fourfold.serve.schema import CONTENT, Field, Upload

ACCEPTED = {
    "image": "image/*",
    "audio": "audio/*",
    "table": ".csv,.tsv,.parquet,.json,.jsonl,.arrow,.feather,text/csv",
    "text": ".txt,.md,text/plain",
    "images": "image/*,.zip",
    "boxes": "image/*,.zip",
}
LONG = ("document", "source")
VALUE = "(e) => emit(e.target.value)"


class Control:
    """One field of a form, with its label, its help and what was entered."""

    def __init__(
        self, field: Field, words: Words, changed: Callable[[], Any], *, title: str = "", lines: int = 2,
        slider: bool = False, reads: str = "", most: int = 32 << 20, typed: bool = True,
    ) -> None:  # fmt: skip
        """Build the control into the present place.

        Args:
            field: what it stands for.
            words: the page's language.
            changed: called after each change.
            title: the label; by default the field's name.
            lines: of a text's place; 1 is a line.
            slider: draw bounded numbers as sliders.
            reads: what the system reads, which says what a source is.
            most: bytes of a file.
            typed: whether content may be typed in too.
        """
        self.field, self.words, self.changed = field, words, changed
        self.typed: Any = None
        """Text, a truth value, or None where nothing was entered."""
        self.files: list[Upload] = []
        self.reads, self.most, self.typing = reads, most, typed
        self.lines = lines
        self.title = title or field.name.replace("_", " ")
        with element("div", "field") as self.place:
            self._build(slider)

    def _build(self, slider: bool) -> None:
        field = self.field
        name = self.title
        if field.kind == "boolean" and not field.optional:
            self._checkbox(name)
        elif field.kind in ("choice", "boolean") and not field.many:
            self._labelled(name, self._select)
        elif slider and self._bounded():
            self._labelled(name, self._slider)
        elif field.kind in ("integer", "number") and not field.many:
            self._labelled(name, self._number)
        elif field.kind in ("document", "source", "path", "image", "audio"):
            self._labelled(name, self._content)
        else:
            self._labelled(name, self._text)
        if field.help:
            text(field.help, "p", "help", id=f"help-{self.place.id}")

    def _labelled(self, name: str, build: Callable[[], Element]) -> None:
        label = text(name, "label")
        made = build()
        label.props["for"] = made.html_id
        if self.field.help:
            made.props["aria-describedby"] = f"help-{self.place.id}"
        if self.field.required:
            made.props["aria-required"] = "true"

    def _bounded(self) -> bool:
        low, high = self.field.minimum, self.field.maximum
        return low is not None and high is not None and high - low <= 1e6 and not self.field.many

    # --- kinds ------------------------------------------------------------------------------------

    def _took(self, event: Any) -> Any:
        value = event.args
        self.typed = value if isinstance(value, bool) or str(value).strip() else None
        return self.changed()

    def _placeholder(self) -> str:
        default = self.field.default
        if default is None or default == "" or default == () or self.field.required:
            return ""
        if isinstance(default, (list, tuple)):
            return ", ".join(map(str, default))
        return json.dumps(default) if isinstance(default, dict) else str(default)

    def _text(self) -> Element:
        long = self.lines > 1 and self.field.kind in ("text", "json", "array")
        made = element(
            "textarea" if long else "input", "input", rows=self.lines if long else None, spellcheck="false",
            placeholder=self._placeholder(),
        )  # fmt: skip
        made.on("change", self._took, js_handler=VALUE)
        return made

    def _number(self) -> Element:
        field = self.field
        bounded = {
            key: value
            for key, value in (("min", field.minimum), ("max", field.maximum))
            if value is not None and abs(value) < 1e15
        }
        made = element(
            "input", "input", type="number", placeholder=self._placeholder(), autocomplete="off",
            step=1 if field.kind == "integer" else "any", **bounded,
        )  # fmt: skip
        made.on("change", self._took, js_handler=VALUE)
        return made

    def _slider(self) -> Element:
        field = self.field
        low, high = float(field.minimum or 0), float(field.maximum or 0)
        now = field.default if isinstance(field.default, (int, float)) else (low + high) / 2
        whole = field.kind == "integer"
        with element("div", "slide"):
            made = element(
                "input", type="range", min=low, max=high, step=1 if whole else (high - low) / 200, defaultValue=now
            )  # fmt: skip
            shown = text(f"{now:g}", "output", "number")
        if field.required:
            self.typed = now

        def took(event: Any) -> Any:
            shown.say(f"{float(event.args):g}")
            return self._took(event)

        # the last place of a drag is always told, those between at most every 150 ms
        made.on("input", took, js_handler=VALUE, throttle=0.15)
        return made

    def _select(self) -> Element:
        field, words = self.field, self.words
        choices = [(str(c), str(c)) for c in field.choices]
        if field.kind == "boolean":
            choices = [("true", words("yes")), ("false", words("no"))]
        with element("select", "input") as made:
            if not field.required:
                default = self._placeholder()
                shown = f"{words('default')} ({default})" if default else words("default")
                text(shown, "option", value="")
            for value, shown in choices:
                text(shown, "option", value=value)
        if field.required and choices:
            self.typed = choices[0][0]
        made.on("change", self._took, js_handler=VALUE)
        return made

    def _checkbox(self, name: str) -> None:
        with element("label", "check"):
            made = element("input", type="checkbox", checked=True if self.field.default else None)
            text(name, "span")
        made.on("change", self._took, js_handler="(e) => emit(e.target.checked)")

    # --- files ------------------------------------------------------------------------------------

    def _content(self) -> Element:
        words, field = self.words, self.field
        self.several = field.many or (field.kind == "source" and self.reads != "table")
        accepted = ACCEPTED.get(field.kind) or ACCEPTED.get(self.reads, "")
        loader = ui.upload(
            multiple=self.several, auto_upload=True, max_file_size=self.most, on_upload=self._came,
            on_rejected=self._refused,
        ).classes("unseen-loader")  # fmt: skip
        with element("label", "drop") as place:
            # the loader's own field has no label: ours stands for it, and hands it the files
            chosen = element(
                "input",
                "unseen",
                type="file",
                accept=accepted or None,
                multiple=self.several or None,
            )
            text(words("upload many") if self.several else words("upload"), "span", "button")
            text(words("upload hint"), "span", "quiet small")
        hand = f"getElement({loader.id}).$refs.qRef.addFiles"
        chosen.on("change", js_handler=f"(e) => {{ {hand}(e.target.files); e.target.value = ''; }}")
        place.on("dragover", js_handler="(e) => e.preventDefault()")
        place.on(
            "drop", js_handler=f"(e) => {{ e.preventDefault(); {hand}(e.dataTransfer.files); }}"
        )
        self.loader = loader
        self.listed = element("ul", "files")
        self.none = text(words("no file"), "p", "small quiet")
        self.own = self.typing and field.kind == "source" and not field.required
        self.none.set_visibility(self.own)
        self.problem = text("", "p", "small bad", role="alert")
        if self.typing and field.kind in LONG and self.reads in ("text", "table", ""):
            made = element(
                "textarea", "input", rows=5, spellcheck="false", placeholder=words("or text")
            )
            made.props["aria-label"] = f"{field.name.replace('_', ' ')}, {words('or text')}"
            made.on("change", self._took, js_handler=VALUE)
        return chosen

    async def _came(self, event: Any) -> None:
        content = await event.file.read()
        upload = Upload(event.file.name, content, event.file.content_type or "")
        if not self.several:
            self.files = []
        self.files.append(upload)
        self.problem.say("")
        self.loader.reset()
        self._list()
        result = self.changed()
        if hasattr(result, "__await__"):
            await result

    def _refused(self) -> None:
        self.problem.say(self.words("too large", size=size(self.most)))

    def _list(self) -> None:
        self.none.set_visibility(self.own and not self.given)
        self.listed.clear()
        with self.listed:
            for upload in self.files:
                with element("li"):
                    shown = self.words("uploaded", name=upload.name, size=size(len(upload.content)))
                    text(shown, "span")
                    remove = button("×", "slim", aria_label=self.words("remove", name=upload.name))
                    remove.on("click", lambda u=upload: self._remove(u))

    def _remove(self, upload: Upload) -> Any:
        self.files = [u for u in self.files if u is not upload]
        self._list()
        return self.changed()

    # --- what was entered -----------------------------------------------------------------------------

    @property
    def given(self) -> bool:
        """Whether anything was entered."""
        return bool(self.files) or self.typed is not None

    def value(self) -> Any:
        """What was entered: files, or words as the command line reads them."""
        field = self.field
        if self.files:
            single = len(self.files) == 1 and (field.single or field.kind == "source")
            return self.files[0] if single else list(self.files)
        if not field.many or field.single or not isinstance(self.typed, str):
            return self.typed
        if field.kind in CONTENT:
            return [self.typed]
        # several lines are several values; of one line the commas part them, as on the command line
        return self.typed.splitlines() if "\n" in self.typed.strip() else self.typed


def size(count: int) -> str:
    """Bytes in words."""
    for unit, bytes_ in (("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)):
        if count >= bytes_:
            return f"{count / bytes_:.3g} {unit}"
    return f"{count} B"
