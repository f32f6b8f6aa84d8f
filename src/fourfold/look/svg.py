"""Drawings of boxes, text and lines: written as SVG, and drawn as PNG from the same list of shapes.

    drawing = Drawing(320, 120)
    with drawing.group(title="a value"):
        drawing.box(10, 10, 120, 40, fill="given")
        drawing.text(70, 34, "x = 1", anchor="middle")
    picture = drawing.picture("A box")

Colours are roles (`LIGHT`, `DARK`): the SVG follows the reader's dark mode, the PNG is light. Sizes are
pixels, y runs down. An SVG may carry one script of ours, which makes it playable where it is opened as a
file or in a page; without it the drawing shows its end state.
"""

from __future__ import annotations

import contextlib
import functools
import html
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from fourfold.core.types import Picture

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

LIGHT = {
    "page": "#ffffff", "card": "#ffffff", "ink": "#1d1d1f", "soft": "#5f6368", "rule": "#c4c9ce", "line": "#7d858c",
    "given": "#e6f2f3", "result": "#fdf1df", "tint": "#f3f2ee", "value": "#0a6c74", "gradient": "#a8430d", "warn": "#b3261e",
    "c0": "#0072b2", "c1": "#d55e00", "c2": "#009e73", "c3": "#cc79a7", "c4": "#e69f00", "c5": "#56b4e9",
}  # fmt: skip
DARK = {
    "page": "#1d1f22", "card": "#26292d", "ink": "#e9e8e4", "soft": "#a9adb3", "rule": "#474c52", "line": "#8b9299",
    "given": "#1c3335", "result": "#382c1a", "tint": "#2b2e32", "value": "#6cc5cc", "gradient": "#f2a26b", "warn": "#ff8f87",
    "c0": "#5aaee3", "c1": "#f0894a", "c2": "#3cc79c", "c3": "#e0a0c4", "c4": "#e0b44c", "c5": "#9ad4f5",
}  # fmt: skip
FONTS = "'DejaVu Sans', Verdana, 'Noto Sans', 'Noto Sans CJK SC', 'PingFang SC', 'Microsoft YaHei', sans-serif"
Point = tuple[float, float]


@functools.cache
def _font(bold: bool) -> FreeTypeFont:
    from matplotlib import font_manager
    from PIL import ImageFont

    weight = "bold" if bold else "normal"
    found = font_manager.findfont(font_manager.FontProperties(family="DejaVu Sans", weight=weight))
    # the plain engine: the other one refuses control characters and shapes nothing that matters here
    return ImageFont.truetype(found, 100, layout_engine=ImageFont.Layout.BASIC)


def text_width(text: str, size: float, bold: bool = False) -> float:
    """Pixels that a text takes; wide (Chinese, Japanese, Korean) characters count one size each."""
    wide = [c for c in text if unicodedata.east_asian_width(c) in "WF"]
    narrow = "".join(c for c in text if unicodedata.east_asian_width(c) not in "WF")
    return _font(bold).getlength(narrow) * size / 100 + len(wide) * size


def elide(text: str, width: float, size: float, bold: bool = False) -> str:
    """A text cut to a width, with an ellipsis where something is missing."""
    if text_width(text, size, bold) <= width:
        return text
    low, high = 0, len(text)  # the longest beginning that fits, by halving
    while low < high:
        middle = (low + high + 1) // 2
        fits = text_width(text[:middle] + "…", size, bold) <= width
        low, high = (middle, high) if fits else (low, middle - 1)
    return text[:low] + "…"


@dataclass(frozen=True)
class Box:
    """A rectangle with round corners."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    stroke: str
    radius: float
    dashed: bool


@dataclass(frozen=True)
class Text:
    """One line of text; y is its baseline."""

    x: float
    y: float
    content: str
    size: float
    fill: str
    anchor: str
    bold: bool


@dataclass(frozen=True)
class Line:
    """A smooth line through points, level with neither end: it leaves and arrives vertically."""

    points: tuple[Point, ...]
    stroke: str
    width: float
    dashed: bool
    arrow: bool
    straight: bool


@dataclass(frozen=True)
class Dot:
    """A filled circle."""

    x: float
    y: float
    radius: float
    fill: str


Shape = Box | Text | Line | Dot


class Drawing:
    """Shapes in the order in which they are drawn."""

    def __init__(self, width: float, height: float, margin: float = 14.0) -> None:
        """A drawing of a size, with a margin around it."""
        self.width, self.height, self.margin = width, height, margin
        self._shapes: list[Shape] = []
        self._markup: list[str] = []

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        fill: str = "card",
        stroke: str = "rule",
        radius: float = 7.0,
        dashed: bool = False,
    ) -> None:
        """A rectangle; `stroke` "none" leaves its edge away."""
        self._add(Box(x, y, width, height, fill, stroke, radius, dashed))

    def text(
        self,
        x: float,
        y: float,
        content: str,
        *,
        size: float = 12.0,
        fill: str = "ink",
        anchor: str = "start",
        bold: bool = False,
    ) -> None:
        """One line of text on the baseline y; `anchor` is "start", "middle" or "end"."""
        self._add(Text(x, y, content, size, fill, anchor, bold))

    def line(
        self,
        points: Sequence[Point],
        *,
        stroke: str = "line",
        width: float = 1.4,
        dashed: bool = False,
        arrow: bool = False,
        straight: bool = False,
    ) -> None:
        """A line through points: in smooth curves that leave and arrive vertically, or `straight`."""
        self._add(Line(tuple(points), stroke, width, dashed, arrow, straight))

    def dot(self, x: float, y: float, radius: float = 3.0, fill: str = "c0") -> None:
        """A filled circle."""
        self._add(Dot(x, y, radius, fill))

    @contextlib.contextmanager
    def group(self, title: str = "", **attributes: Any) -> Iterator[None]:
        """Shapes that belong together; the title shows on hovering, `data_step=1` becomes data-step="1"."""
        pairs = {k.rstrip("_").replace("_", "-"): str(v) for k, v in attributes.items()}
        written = "".join(f' {k}="{html.escape(v)}"' for k, v in pairs.items())
        self._markup.append(f"<g{written}>")
        if title:
            self._markup.append(f"<title>{_escape(title)}</title>")
        yield
        self._markup.append("</g>")

    def _add(self, shape: Shape) -> None:
        self._shapes.append(shape)
        self._markup.append(_MARKUP[type(shape)](shape))

    def svg(self, title: str, script: str = "", hidden: Sequence[Drawing] = ()) -> str:
        """The drawing as SVG.

        Args:
            title: what a screen reader says.
            script: name of a script of ours in `templates/`, without its extension.
            hidden: drawings that the script may bring forth; without it they are not seen.
        """
        m, width, height = self.margin, self.width, self.height
        view = f"{-m:g} {-m:g} {width + 2 * m:.5g} {height + 2 * m:.5g}"
        size = f'width="{width + 2 * m:.5g}" height="{height + 2 * m:.5g}"'
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="drawing" viewBox="{view}" {size} '
            f'role="img" aria-label="{_escape(title)}" style="max-width:100%;height:auto">',
            f"<style>{_style()}</style>",
            f'<rect class="f-page" x="{-m:g}" y="{-m:g}" width="100%" height="100%"/>',
            *(self._markup if not hidden else [_part(0, self, "")]),
            *(_part(i, drawing, ' style="display:none"') for i, drawing in enumerate(hidden, 1)),
        ]
        if script:
            source = resources.files("fourfold.look") / "templates" / f"{script}.js"
            text = source.read_text(encoding="utf-8")
            # as character data, so that the same file is right as XML and inside of HTML
            parts.append(f"<script><![CDATA[{text}]]></script>")
        return "".join([*parts, "</svg>"])

    def png(self) -> bytes:
        """The drawing as PNG, light, at twice its size (less where that would be very large)."""
        from fourfold.look.patches import draw

        return draw(self._shapes, self.width, self.height, self.margin)

    def picture(
        self, title: str, caption: str = "", script: str = "", hidden: Sequence[Drawing] = ()
    ) -> Picture:
        """Both, as a picture for reports, pages and files; see `svg`."""
        return Picture(title, self.png(), caption, self.svg(title, script, hidden))


def _part(number: int, drawing: Drawing, style: str) -> str:
    """One of several drawings in an SVG, with its size for the script that arranges them."""
    size = f'data-width="{drawing.width:.5g}" data-height="{drawing.height:.5g}"'
    return f'<g data-view="{number}" {size}{style}>{"".join(drawing._markup)}</g>'


def _escape(text: str) -> str:
    return html.escape("".join(c if c.isprintable() else " " for c in text))


@functools.cache
def _style() -> str:
    """Roles as classes: f- fills, s- strokes."""

    def rules(palette: dict[str, str]) -> str:
        return "".join(
            f".drawing .f-{role}{{fill:{color}}}.drawing .s-{role}{{stroke:{color}}}"
            for role, color in palette.items()
        )

    return (
        f".drawing text{{font-family:{FONTS}}}.drawing [data-opens]{{cursor:pointer}}"
        f".drawing .hidden{{visibility:hidden}}.drawing .now text{{font-weight:bold}}{rules(LIGHT)}"
        f"@media (prefers-color-scheme:dark){{{rules(DARK)}}}"
    )


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _box_markup(box: Any) -> str:
    dashes = ' stroke-dasharray="5 4"' if box.dashed else ""
    stroke = "" if box.stroke == "none" else f" s-{box.stroke}"
    return (
        f'<rect class="f-{box.fill}{stroke}" x="{_n(box.x)}" y="{_n(box.y)}" width="{_n(box.width)}" '
        f'height="{_n(box.height)}" rx="{_n(box.radius)}"{dashes}/>'
    )


def _text_markup(text: Any) -> str:
    anchor = "" if text.anchor == "start" else f' text-anchor="{text.anchor}"'
    weight = ' font-weight="bold"' if text.bold else ""
    return (
        f'<text class="f-{text.fill}" x="{_n(text.x)}" y="{_n(text.y)}" font-size="{_n(text.size)}"{anchor}{weight}>'
        f"{_escape(text.content)}</text>"
    )


def _line_markup(line: Any) -> str:
    points = shortened(line)
    parts = [f"M{_n(points[0][0])} {_n(points[0][1])}"]
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        middle = (y0 + y1) / 2
        curve = f"C{_n(x0)} {_n(middle)} {_n(x1)} {_n(middle)} " if not level(line, x0, x1) else "L"
        parts.append(f"{curve}{_n(x1)} {_n(y1)}")
    dashes = ' stroke-dasharray="5 4"' if line.dashed else ""
    drawn = (
        f'<path class="s-{line.stroke}" fill="none" stroke-width="{line.width:g}"{dashes} '
        f'd="{"".join(parts)}"/>'
    )
    if line.arrow:
        corners = " ".join(f"{_n(x)},{_n(y)}" for x, y in head(line))
        drawn += f'<polygon class="f-{line.stroke}" points="{corners}"/>'
    return drawn


def _dot_markup(dot: Any) -> str:
    return f'<circle class="f-{dot.fill}" cx="{_n(dot.x)}" cy="{_n(dot.y)}" r="{_n(dot.radius)}"/>'


def level(line: Line, x0: float, x1: float) -> bool:
    """Whether a piece of a line is drawn straight."""
    return line.straight or abs(x0 - x1) < 0.05


def head(line: Line) -> list[Point]:
    """The three corners of an arrow's head, which points down."""
    x, y = line.points[-1]
    return [(x - 3.6, y - 7.5), (x + 3.6, y - 7.5), (x, y)]


def shortened(line: Line) -> list[Point]:
    """The line ends inside its arrow's head."""
    points = list(line.points)
    if line.arrow:
        points[-1] = (points[-1][0], points[-1][1] - 6)
    return points


_MARKUP = {Box: _box_markup, Text: _text_markup, Line: _line_markup, Dot: _dot_markup}
