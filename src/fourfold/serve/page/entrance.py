"""The form that asks a reader for the server's token, in the page's words and style; needs no NiceGUI."""

from __future__ import annotations

import html
from pathlib import Path

from fourfold.serve.page.words import Words

STYLE = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
FORM = """<!doctype html><html lang="{language}"><head><meta charset="utf-8"><title>fourfold</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<style>{style}</style></head><body><main class="entrance"><h1>fourfold</h1>
<form method="post" action="{action}" class="card form"><p class="quiet" id="why">{why}</p>
<div class="field"><label for="token">{token}</label><input class="input" id="token" name="token" type="password"
autocomplete="current-password" aria-describedby="why" required autofocus></div>{said}
<button class="button first">{enter}</button></form></main></body></html>"""


def form(action: str, language: str, *, wrong: bool = False) -> str:
    """The form as HTML.

    Args:
        action: where it is sent.
        language: one of `words.LANGUAGES`.
        wrong: whether another token was entered just now.
    """
    words = Words(language)
    said = f'<p class="say bad" role="alert">{words("wrong token")}</p>' if wrong else ""
    return FORM.format(
        language=language, style=STYLE, action=html.escape(action, quote=True),
        why=words("token why"), token=words("token"), said=said, enter=words("enter"),
    )  # fmt: skip
