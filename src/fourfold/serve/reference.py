"""`/docs`: the document as one page, with a command for each verb; nothing is loaded from elsewhere."""

from __future__ import annotations

import json
import shlex
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

STYLE = """
:root{color-scheme:light dark;--line:#8884}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h2{margin-top:2.5rem;border-bottom:1px solid var(--line)}
details{border:1px solid var(--line);border-radius:.4rem;margin:.5rem 0;padding:.4rem .8rem}
summary{cursor:pointer}code,pre{font:14px/1.5 ui-monospace,monospace}
pre{overflow-x:auto;background:#8881;padding:.6rem;border-radius:.3rem}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.2rem .6rem .2rem 0;vertical-align:top}
div{overflow-x:auto}
"""
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>fourfold: API</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{{ style }}</style></head><body>
<h1>API</h1><p>The verbs of the runs served here. For programs: <a href="openapi.json">openapi.json</a>.</p>
{% if secured %}<p>Every request needs <code>Authorization: Bearer TOKEN</code>.</p>{% endif %}
{% for tag, operations in groups %}<h2>{{ tag }}</h2>
{% for op in operations %}<details><summary><code>{{ op.method }} {{ op.path }}</code> {{ op.summary }}</summary>
{% if op.description %}<p>{{ op.description }}</p>{% endif %}
{% if op.fields %}<div><table><tr><th>Field</th><th>Type</th><th>Default</th><th></th></tr>
{% for f in op.fields %}<tr><td><code>{{ f.name }}</code></td><td>{{ f.type }}</td><td>{{ f.default }}</td>
<td>{{ f.help }}</td></tr>{% endfor %}</table></div>{% endif %}
<pre>{{ op.command }}</pre>{% if op.answers %}<p>Answers: {{ op.answers }}.</p>{% endif %}</details>{% endfor %}{% endfor %}
</body></html>"""


def page(document: dict[str, Any], base: str) -> str:
    """The page.

    Args:
        document: the OpenAPI document.
        base: the server's address, for the commands.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            shown = _operation(document, path, method, operation, base)
            groups.setdefault((operation.get("tags") or ["server"])[0], []).append(shown)
    template = Environment(autoescape=True).from_string(PAGE)
    return template.render(
        style=Markup(STYLE),  # noqa: S704  # our own text
        groups=groups.items(),
        secured="security" in document,
    )


def _operation(
    document: dict[str, Any], path: str, method: str, operation: dict[str, Any], base: str
) -> dict[str, Any]:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    words = ["curl", "-s", f"{base}{path}"]
    if "security" in document:
        words += ["-H", "Authorization: Bearer $TOKEN"]
    if body:
        words += ["-d", json.dumps(body.get("example", {}), ensure_ascii=False)]
    elif method != "get":
        words += ["-X", method.upper()]
    answers = operation.get("responses", {}).get("200", {}).get("content", {})
    return {
        "method": method.upper(),
        "path": path,
        "summary": operation.get("summary", ""),
        "description": operation.get("description", ""),
        "fields": _fields(document, body.get("schema", {})),
        "command": shlex.join(words).replace("'Authorization: Bearer $TOKEN'", '"Authorization: Bearer $TOKEN"'),
        "answers": ", ".join(answers),
    }  # fmt: skip


def _fields(document: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, Any]]:
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    needed = schema.get("required", ())
    return [
        {
            "name": name,
            "type": _type(item),
            "default": "required" if name in needed else json.dumps(item.get("default")),
            "help": item.get("description", ""),
        }
        for name, item in schema.get("properties", {}).items()
    ]


def _type(schema: dict[str, Any]) -> str:
    """A schema in a few words."""
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(s) for s in schema["anyOf"]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    word = str(schema.get("type", "any"))
    low, high = schema.get("minimum"), schema.get("maximum")
    if high is not None and high < 2**53 - 1:
        return f"{word} {low} to {high}"
    return word
