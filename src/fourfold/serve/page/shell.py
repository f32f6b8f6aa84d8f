"""The frame of every page: skip link, menu, language, theme, and small pieces that pages are made of.

Text from a run enters the page as the text of an element or through `escaped`; never through
`.props("...")`, whose syntax it could leave, and never as a key of a chart's options.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import html
import json
import logging
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from nicegui import ui
from nicegui.element import Element

from fourfold.core.version import __version__
from fourfold.core.words import printable
from fourfold.look.page import cell
from fourfold.serve.page.entrance import STYLE
from fourfold.serve.page.words import LANGUAGE_COOKIE, Words, chosen

STYLE_PATH = f"/page/{hashlib.sha256(STYLE.encode()).hexdigest()[:12]}.css"
log = logging.getLogger("fourfold.serve")
THEMES = {"light": False, "dark": True}
MENU = (("/", "runs"), ("/compare", "compare"), ("/fit", "new fit"), ("/explain", "explain"))
THEME_COOKIE = "fourfold-theme"
LOGO = (
    '<svg viewBox="0 0 22 22" aria-hidden="true"><rect x="1" y="1" width="9" height="9" rx="2" fill="var(--c0)"/>'
    '<rect x="12" y="1" width="9" height="9" rx="2" fill="var(--c1)"/><rect x="1" y="12" width="9" height="9" rx="2" '
    'fill="var(--c2)"/><rect x="12" y="12" width="9" height="9" rx="2" fill="var(--c3)"/></svg>'
)
FAVICON = LOGO.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ')
for _number, _color in enumerate(("#0072b2", "#d55e00", "#009e73", "#cc79a7")):
    FAVICON = FAVICON.replace(f"var(--c{_number})", _color)
# a drawing in a frame of its own says how high it is; nothing else is taken from it
HEIGHTS = """<script>addEventListener("message", (event) => {
    for (const frame of document.querySelectorAll("iframe.drawing")) {
        const height = Number(event.data && event.data.height);
        if (frame.contentWindow === event.source && height > 0) frame.style.height = Math.min(height + 2, 4000) + "px";
    }
})</script>"""
ICONS = {
    "auto": '<svg viewBox="0 0 20 20" aria-hidden="true"><circle cx="10" cy="10" r="7"/><path d="M10 3a7 7 0 0 1 0 14z" fill="currentColor"/></svg>',
    "light": '<svg viewBox="0 0 20 20" aria-hidden="true"><circle cx="10" cy="10" r="3.6"/><path d="M10 1.8v2M10 16.2v2M1.8 10h2M16.2 10h2'
    'M4.2 4.2l1.4 1.4M14.4 14.4l1.4 1.4M4.2 15.8l1.4-1.4M14.4 5.6l1.4-1.4"/></svg>',
    "dark": '<svg viewBox="0 0 20 20" aria-hidden="true"><path d="M16.5 12.2A7 7 0 0 1 7.8 3.5a7 7 0 1 0 8.7 8.7z"/></svg>',
}


@contextlib.contextmanager
def frame(request: Request, title: str, here: str = "") -> Iterator[Words]:
    """A page with its menu; what is made inside is its content.

    Args:
        request: decides about language and theme.
        title: key of the words, or a text of its own.
        here: path of the menu's entry that this page belongs to.
    """
    language = chosen(request.cookies.get(LANGUAGE_COOKIE), request.headers.get("accept-language"))
    words = Words(language)
    theme = request.cookies.get(THEME_COOKIE, "auto")
    client = ui.context.client
    client.page = copy.copy(client.page)  # language and theme of this visit, not of the route
    client.page.language = language  # type: ignore[assignment]
    client.page.dark = THEMES.get(theme)
    ui.page_title(f"{title} · fourfold")
    ui.add_head_html(f'<link rel="stylesheet" href="{STYLE_PATH}">')
    ui.add_head_html(HEIGHTS)
    if theme in THEMES:
        ui.add_head_html(f'<script>document.documentElement.className="chosen-{theme}"</script>')
    ui.skip_link(words("skip"), target=client.content)
    with element("header", "top") as top, element("div"):
        with element("a", "brand", href="/"):
            drawing(LOGO, tag="span")
            text("fourfold", "span")
        with element("nav", "menu", aria_label=words("main menu")):
            for path, key in MENU:
                link(words(key), path, aria_current="page" if path == here else None)
        with element("div", "tools"):
            _theme(words, theme if theme in THEMES else "auto")
            _language(words)
    top.move(client.layout, 1)  # after the skip link
    with client.layout, element("footer", "foot"):
        text(f"fourfold {__version__}", "span")
        link(words("api"), "/docs")
    yield words


def missing(request: Request, reason: str = "") -> None:
    """A page that says there is none at this address."""
    ui.context.client.status_code = 404
    with frame(request, "404") as words, element("div", "card empty"):
        text(words("no such page"), "h1")
        text(reason or words("no such page why"))
        link(words("to the runs"), "/", "button first")


def _theme(words: Words, now: str) -> None:
    order = ("auto", "light", "dark")
    names = {name: words(f"theme {name}") for name in order}
    with element("button", type="button", title=names[now], aria_label=names[now]) as button:
        drawing(ICONS[now], tag="span")
    # the browser alone knows the system's theme, so it turns the page over by itself
    button.on(
        "click",
        js_handler=f"""(event) => {{
            const order = {json.dumps(order)}, names = {json.dumps(names)}, icons = {json.dumps(ICONS)};
            const kept = document.cookie.match(/{THEME_COOKIE}=(\\w+)/);
            const theme = order[(order.indexOf(kept ? kept[1] : "auto") + 1) % 3];
            document.cookie = `{THEME_COOKIE}=${{theme}}; path=/; max-age=31536000; samesite=strict`;
            document.documentElement.className = theme === "auto" ? "" : `chosen-${{theme}}`;
            setDark(theme === "auto" ? null : theme === "dark");
            const button = event.currentTarget;
            button.title = names[theme];
            button.setAttribute("aria-label", names[theme]);
            button.firstElementChild.innerHTML = icons[theme];
        }}""",
    )


def _language(words: Words) -> None:
    with element("button", type="button", lang=words.other) as button:
        text(words("other language"), "span")
    button.on(
        "click",
        js_handler=f"""() => {{
            document.cookie = "{LANGUAGE_COOKIE}={words.other}; path=/; max-age=31536000; samesite=strict";
            location.reload();
        }}""",
    )


# --- pieces -------------------------------------------------------------------------------------


def element(tag: str, classes: str = "", **attributes: Any) -> Element:
    """An HTML element. Attributes are taken as they are (`aria_label` is `aria-label`); None leaves one out.

    An input begins with `defaultValue`: a `value` would be set again with every change of the page,
    over what the reader has entered meanwhile.
    """
    return _dressed(ui.element(tag), classes, attributes)


E = TypeVar("E", bound=Element)


def _dressed(made: E, classes: str, attributes: dict[str, Any]) -> E:
    if classes:
        made.classes(classes)
    for name, value in attributes.items():
        if value is not None:
            made.props[name.rstrip("_").replace("_", "-")] = value
    return made


class Text(Element):
    """An element that holds a text, which may change."""

    def __init__(self, content: str, tag: str) -> None:
        super().__init__(tag)
        self._text = content

    def say(self, content: str) -> None:
        """Show another text."""
        if content != self._text:
            self._text = content
            self.update()


def text(content: object, tag: str = "p", classes: str = "", **attributes: Any) -> Text:
    """An element that holds this text and nothing else."""
    return _dressed(Text(str(content), tag), classes, attributes)


def drawing(markup: str, tag: str = "div", classes: str = "") -> ui.html:
    """Markup of our own making: icons, sparklines, tables of escaped text."""
    return ui.html(markup, sanitize=False, tag=tag).classes(classes)


def escaped(content: object) -> str:
    """Any text as markup that shows it, what would reorder or recolour it spelt out."""
    return html.escape(printable(str(content)), quote=True)


def link(content: str, href: str, classes: str = "", **attributes: Any) -> Text:
    """A link with a text."""
    return text(content, "a", classes, href=href, **attributes)


def button(content: str, classes: str = "", **attributes: Any) -> Text:
    """A button with a text."""
    return text(content, "button", f"button {classes}".strip(), type="button", **attributes)


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    label: str = "",
    wide: bool = False,
    named: bool = False,
) -> ui.html:
    """A table of plain values; numbers are set flush right, everything is escaped.

    Args:
        columns: the names in the head.
        rows: the cells.
        label: what the table is, for readers who do not see it.
        wide: cells stay on one line and the table scrolls.
        named: the first cell of a row is its name.
    """
    numeric = {
        i for i in range(len(rows[0]) if rows else 0)
        if any(_is_number(row[i]) for row in rows) and all(_is_number(row[i]) or row[i] is None for row in rows)
    }  # fmt: skip

    def made_cell(value: Any, i: int, tag: str, more: str = "") -> str:
        flush = ' class="n"' if i in numeric else ""
        return f"<{tag}{more}{flush}>{escaped(cell(value))}</{tag}>"

    head = "".join(made_cell(name, i, "th", ' scope="col"') for i, name in enumerate(columns))
    body = "".join(
        "<tr>" + "".join(
            made_cell(v, i, "th", ' scope="row"') if named and i == 0 else made_cell(v, i, "td")
            for i, v in enumerate(row)
        ) + "</tr>"
        for row in rows
    )  # fmt: skip
    caption = f'<caption class="unseen">{escaped(label)}</caption>' if label else ""
    markup = f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    made = drawing(markup, classes="scroll wide" if wide else "scroll")
    made.props["tabindex"], made.props["role"] = 0, "region"  # the keyboard can scroll it
    made.props["aria-label"] = label or ", ".join(map(str, columns))
    return made


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass
class Said:
    """A place where the page answers an action; readers who do not see it hear it."""

    place: Element

    def __call__(self, sentence: str, kind: str = "") -> None:
        """Say a sentence: kind "" is a note, "done" a quiet one, "warn" a warning, "bad" an error; an empty one clears."""
        self.place.clear()
        if sentence:
            with self.place:
                text(sentence, "p", "small quiet" if kind == "done" else f"say {kind}".strip())


def unexpected(words: Words, what: str) -> str:
    """Write the exception being handled to the log under an id, and the sentence that a reader sees instead."""
    mark = uuid.uuid4().hex[:12]
    log.exception("failure %s: %s", mark, what)
    return words("went wrong", id=mark)


def said() -> Said:
    """A fresh place for answers."""
    return Said(element("div", "said", role="status", aria_live="polite"))
