"""An explanation as text for a terminal, and as one HTML page that needs nothing else.

    path.write_text(render(explanation), encoding="utf-8")

The page holds its pictures itself: as SVG with their own inline scripts where they can be played or
opened, otherwise as PNG. It asks no network.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from fourfold.core.types import Explanation, Picture, Table
from fourfold.core.words import encodable, printable

LONGEST = 90  # characters of a cell on the terminal


def cell(value: Any) -> str:
    """A plain value of a table as a reader sees it: numbers to six figures, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(cell(v) for v in value)}]"
    if isinstance(value, float):
        return f"{value + 0.0:.6g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def numeric(table: Table, column: int) -> bool:
    """Whether a column holds numbers, which are set to the right."""
    kinds = {type(row[column]) for row in table.rows if row[column] is not None}
    return bool(kinds) and kinds <= {int, float}


def as_text(explanation: Explanation) -> Iterator[str]:
    """Lines for a terminal: the sentences, then each table with aligned columns."""
    yield from explanation.sentences
    for table in explanation.tables:
        yield from ("", f"{table.title}")
        yield from _aligned(table)


def _aligned(table: Table) -> Iterator[str]:
    rows = [list(table.columns), *([_cut(cell(v)) for v in row] for row in table.rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.columns))]
    right = [numeric(table, i) for i in range(len(table.columns))]
    for row in rows:
        cells = [
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(row, widths, right, strict=True)
        ]
        yield "  " + "  ".join(cells).rstrip()


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def source(picture: Picture) -> str:
    """A picture's pixels as a data address."""
    return f"data:image/png;base64,{base64.b64encode(picture.png).decode('ascii')}"


def render(explanation: Explanation) -> str:
    """The page as HTML; every text is escaped, only our own SVG is taken as it is."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fourfold.look"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else printable(str(value)),
    )
    pictures = [(p, Markup(p.svg)) for p in explanation.pictures]  # noqa: S704  our own drawing
    page = environment.get_template("explanation.html.j2").render(
        explanation=explanation, pictures=pictures, cell=cell, numeric=numeric, source=source
    )
    return encodable(page, "utf-8")
