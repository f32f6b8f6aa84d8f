"""Pictures from matplotlib figures, in one plain style, and grids of images.

    fig, axes = subplots()
    axes.plot(seconds, loss)
    axes.set(xlabel="time (s)", ylabel="loss (nats per token)")
    picture(fig, "Loss against time")

pyplot is never used: figures belong to whoever made them, in any thread, and need no display.
Shapes: N images, C channels (1 or 3), H and W pixels.
"""

from __future__ import annotations

import functools
import io
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fourfold.core.types import Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
"""Lines in the order in which they are drawn; told apart by colour-blind readers too (Okabe and Ito 2008)."""

CHINESE_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "SimHei",
    "Arial Unicode MS",
)
BACKGROUND = "#ffffff"
TEXT = "#222222"
GAP = 2  # pixels between the images of a grid, before scaling


@functools.cache
def families() -> tuple[str, ...]:
    """Font families to draw with: DejaVu Sans, then an installed one that has Chinese glyphs."""
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ("DejaVu Sans", *[name for name in CHINESE_FONTS if name in installed][:1])


def drawable(text: str) -> bool:
    """Whether there is a font here for a text: one with Chinese glyphs where it has wide characters."""
    import unicodedata

    return len(families()) > 1 or not any(unicodedata.east_asian_width(c) in "WF" for c in text)


def stand_ins(names: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Names as they can be drawn here, and a sentence that says what stands for which; empty where all can be.

    Where no font has its characters a name is its number among the names, from #1 on: boxes would all look alike.
    """
    if all(drawable(name) for name in names):
        return tuple(names), ""
    drawn = tuple(n if drawable(n) else f"#{i}" for i, n in enumerate(names, 1))
    pairs = [f"{short} {n}" for short, n in zip(drawn, names, strict=True) if short != n]
    return drawn, f"No font of this machine has these names: {', '.join(pairs)}."


def style() -> dict[Any, Any]:
    """The style as matplotlib's rcParams: light background, labels of a readable size, a faint grid."""
    from cycler import cycler

    return {
        "font.family": list(families()),
        "font.size": 11,
        "axes.titlesize": 12,
        "axes.labelsize": 11,
        "xtick.labelsize": 10,
        "ytick.labelsize": 10,
        "legend.fontsize": 10,
        "legend.frameon": False,
        "figure.facecolor": BACKGROUND,
        "axes.facecolor": BACKGROUND,
        "savefig.facecolor": BACKGROUND,
        "text.color": TEXT,
        "axes.labelcolor": TEXT,
        "axes.edgecolor": "#888888",
        "xtick.color": TEXT,
        "ytick.color": TEXT,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e6e6e6",
        "lines.linewidth": 1.8,
        "image.cmap": "viridis",
        "axes.prop_cycle": cycler(color=COLORS),
    }


def subplots(
    rows: int = 1, columns: int = 1, *, width: float = 6.4, height: float = 3.6, **options: Any
) -> tuple[Figure, Any]:
    """A figure in the shared style, with its axes.

    Args:
        rows, columns: of axes.
        width, height: of the figure, in inches; a report shows 100 pixels an inch.
        options: for `matplotlib.figure.Figure.subplots` (sharex, squeeze, subplot_kw, ...).

    Returns:
        The figure and one Axes, or an array of them as matplotlib's `subplots` does.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(style()):
        fig = Figure(figsize=(width, height), layout="constrained")
        return fig, fig.subplots(rows, columns, **options)


def picture(fig: Figure, title: str, caption: str = "", *, dpi: int = 150) -> Picture:
    """Draw a matplotlib figure as a PNG.

    Args:
        fig: any Figure; text without a font of its own gets the shared one.
        title: for the report; it is not drawn into the picture.
        caption: a sentence or two below it: what is seen, in which units.
        dpi: pixels an inch.
    """
    import matplotlib
    from matplotlib.text import Text

    with matplotlib.rc_context(style()), warnings.catch_warnings():
        # a machine without a Chinese font draws boxes, which needs no warning a glyph
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        for text in fig.findobj(Text):
            if text.get_fontfamily() in (["sans-serif"], "sans-serif"):
                text.set_fontfamily(list(families()))
        buffer = io.BytesIO()
        # no software or date in the file: equal figures are equal bytes
        fig.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return Picture(title, buffer.getvalue(), caption)


def plain_ticks(*axes: Any) -> None:
    """Numbers at axes (`axes.xaxis`) written out, large ones as 250k and 1.5M, instead of 0.25 with 1e6 far away."""
    from matplotlib.ticker import FuncFormatter

    def written(value: float, _: int) -> str:
        for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if abs(value) >= max(size, 1e4) * 0.9995:
                return f"{value / size:g}{letter}"
        return f"{value:g}"

    for axis in axes:
        axis.set_major_formatter(FuncFormatter(written))


def short_name(name: str, most: int) -> str:
    """A name that fits beside an axis; wide (Chinese) characters count twice, a dollar sign starts no formula."""
    wide = [2 if ord(c) >= 0x2E80 else 1 for c in name]
    if sum(wide) > most:
        end = next(i for i in range(len(name)) if sum(wide[: i + 1]) > most - 1)
        name = f"{name[:end]}…"
    return name.replace("$", r"\$")


def grid(
    images: Any,
    title: str,
    *,
    columns: int | None = None,
    rows: int | None = None,
    caption: str = "",
    labels: Sequence[str] | None = None,
    width: int = 640,
) -> Picture:
    """Images side by side, row by row, each pixel a whole number of screen pixels.

    Args:
        images: (N, C, H, W) or (N, H, W) array or tensor in [0, 1] (values outside are clipped,
            NaN is drawn as magenta), C = 1 or 3; or uint8 in [0, 255].
        title: for the report; it is not drawn.
        columns: images a row; None means as square as it goes.
        rows: of equal length, in place of columns.
        caption: for the report.
        labels: one for each image, written below it.
        width: the least width of the picture in pixels; small images are enlarged towards it.

    Raises:
        ValueError: no images, another shape, or not one label for each image.
    """
    pixels = _as_uint8(images)  # (N, H, W, 3)
    count, height, wide, _ = pixels.shape
    if labels is not None and len(labels) != count:
        raise ValueError(f"grid expects one label for each image, got {len(labels)} for {count}")
    columns = count // rows if rows else columns
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    scale = max(1, round(width / (columns * (wide + GAP))))
    gap, below = GAP * scale, 0 if labels is None else 18
    cell = (height * scale + gap + below, wide * scale + gap)
    sheet = np.full((rows * cell[0] + gap, columns * cell[1] + gap, 3), 255, np.uint8)
    for i, image in enumerate(pixels):
        top, left = (i // columns) * cell[0] + gap, (i % columns) * cell[1] + gap
        large = image.repeat(scale, axis=0).repeat(scale, axis=1)
        sheet[top : top + large.shape[0], left : left + large.shape[1]] = large
    from PIL import Image

    drawn = Image.fromarray(sheet)
    if labels is not None:
        _write_labels(drawn, labels, columns, cell, gap, height * scale)
    buffer = io.BytesIO()
    drawn.save(buffer, format="png", optimize=True)
    return Picture(title, buffer.getvalue(), caption)


def _as_uint8(images: Any) -> np.ndarray:
    if hasattr(images, "detach"):
        images = images.detach().cpu().numpy()
    array = np.asarray(images)
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim != 4 or array.shape[1] not in (1, 3) or 0 in array.shape:
        raise ValueError(f"grid expects images of shape (N >= 1, 1 or 3, H, W), got {array.shape}")
    array = np.broadcast_to(array, (len(array), 3, *array.shape[2:])).transpose(0, 2, 3, 1)
    if array.dtype == np.uint8:
        return array
    broken = np.isnan(array).any(axis=-1)
    result = np.rint(np.nan_to_num(array).clip(0, 1) * 255).astype(np.uint8)
    result[broken] = (255, 0, 255)
    return result


def font(text: str, size: int) -> FreeTypeFont:
    """A font that has a text's characters, where one is installed; size in pixels."""
    from matplotlib import font_manager
    from PIL import ImageFont

    family = families()[-1] if any(ord(c) >= 0x2E80 for c in text) else families()[0]
    return ImageFont.truetype(font_manager.findfont(family), size)


def _write_labels(
    sheet: Image, labels: Sequence[str], columns: int, cell: tuple[int, int], gap: int, below: int
) -> None:
    from PIL import ImageDraw

    draw = ImageDraw.Draw(sheet)
    for i, label in enumerate(labels):
        letters = font(label, 13)
        while label and draw.textlength(label, font=letters) > cell[1]:
            label = label[:-2] + "…" if len(label) > 2 else ""
        middle = (i % columns) * cell[1] + gap + (cell[1] - gap) / 2
        top = (i // columns) * cell[0] + gap + below + 1
        draw.text((middle, top), label, fill=TEXT, font=letters, anchor="ma")
