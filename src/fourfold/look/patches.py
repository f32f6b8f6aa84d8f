"""The shapes of a drawing as matplotlib patches, to make a PNG of them."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path

from fourfold.look.figures import families, picture
from fourfold.look.svg import LIGHT, Box, Dot, Line, Shape, Text, head, level, shortened

SCALE = 2  # pixels of the PNG for one of the drawing
LARGEST = 8_000  # pixels of its longer side, at most


def draw(shapes: Sequence[Shape], width: float, height: float, margin: float) -> bytes:
    """Shapes on a page of width x height pixels with a margin around it, as PNG."""
    across, down = width + 2 * margin, height + 2 * margin
    scale = min(SCALE, LARGEST / max(across, down))
    with matplotlib.rc_context({"font.family": list(families())}):
        fig = Figure(figsize=(across / 72, down / 72), facecolor=LIGHT["page"])
        axes = fig.add_axes((0, 0, 1, 1))
        axes.set(xlim=(-margin, across - margin), ylim=(down - margin, -margin))
        axes.set_axis_off()
        for shape in shapes:
            if isinstance(shape, Box):
                _draw_box(axes, shape)
            elif isinstance(shape, Text):
                _draw_text(axes, shape)
            elif isinstance(shape, Line):
                _draw_line(axes, shape)
            else:
                _draw_dot(axes, shape)
        return picture(fig, "", dpi=round(72 * scale)).png


def _draw_box(axes: Axes, box: Box) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (box.x, box.y),
            box.width,
            box.height,
            boxstyle=f"round,pad=0,rounding_size={min(box.radius, box.width / 2, box.height / 2)}",
            facecolor=LIGHT[box.fill],
            edgecolor="none" if box.stroke == "none" else LIGHT[box.stroke],
            linestyle=(0, (5, 4)) if box.dashed else "solid",
            linewidth=1,
        )
    )


def _draw_text(axes: Axes, text: Text) -> None:
    axes.text(
        text.x,
        text.y,
        text.content.replace("$", r"\$"),  # no formulas
        fontsize=text.size,
        color=LIGHT[text.fill],
        ha={"start": "left", "middle": "center", "end": "right"}[text.anchor],
        va="baseline",
        fontweight="bold" if text.bold else "normal",
    )


def _draw_line(axes: Axes, line: Line) -> None:
    points = shortened(line)
    vertices, codes = [points[0]], [Path.MOVETO]
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        middle = (y0 + y1) / 2
        if level(line, x0, x1):
            vertices, codes = [*vertices, (x1, y1)], [*codes, Path.LINETO]
        else:
            vertices += [(x0, middle), (x1, middle), (x1, y1)]
            codes += [Path.CURVE4] * 3
    style = (0, (4, 3)) if line.dashed else "solid"
    axes.add_patch(
        PathPatch(
            Path(vertices, codes),
            fill=False,
            edgecolor=LIGHT[line.stroke],
            linewidth=line.width,
            linestyle=style,
        )
    )
    if line.arrow:
        axes.add_patch(Polygon(head(line), closed=True, facecolor=LIGHT[line.stroke], linewidth=0))


def _draw_dot(axes: Axes, dot: Dot) -> None:
    axes.add_patch(Circle((dot.x, dot.y), dot.radius, facecolor=LIGHT[dot.fill], linewidth=0))
