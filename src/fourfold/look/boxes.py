"""Pictures of boxes: images with boxes drawn over them, and precision against recall of each class."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from fourfold.core.types import Picture
from fourfold.look.figures import COLORS, font, picture, short_name, subplots

LEAST_SIDE = 320  # pixels of an image's longer side in the picture
MOST_SIDE = 1280
SHEET = 1400  # pixels of a sheet of several
GAP = 6


class HasCurve(Protocol):
    """Precision against recall, as `objectives.average_precision.Curve`."""

    @property
    def recall(self) -> np.ndarray: ...  # noqa: D102
    @property
    def precision(self) -> np.ndarray: ...  # noqa: D102
    @property
    def truths(self) -> int: ...  # noqa: D102
    def average(self) -> float: ...  # noqa: D102


def boxed_images(
    images: Sequence[np.ndarray],
    boxes: Sequence[np.ndarray],
    captions: Sequence[Sequence[str]],
    labels: Sequence[np.ndarray],
    title: str,
    *,
    caption: str = "",
    truths: Sequence[np.ndarray] | None = None,
) -> Picture:
    """Images with boxes drawn over them, one by itself or several on a sheet.

    Args:
        images: each (H, W) or (H, W, 3) uint8.
        boxes: of each image (n, 4), left, top, right, bottom in its pixels.
        captions: of each box.
        labels: of each box a number, which chooses the colour.
        title: for the report; it is not drawn.
        caption: for the report.
        truths: of each image further boxes, in thin white lines.

    Raises:
        ValueError: no images.
    """
    if not images:
        raise ValueError("boxed_images expects at least one image")
    from PIL import Image

    columns = 1 if len(images) == 1 else min(4, math.ceil(math.sqrt(len(images))))
    most = MOST_SIDE if columns == 1 else SHEET // columns
    drawn = []
    for i, image in enumerate(images):
        real = truths[i] if truths is not None else np.empty((0, 4))
        drawn.append(_boxed(image, boxes[i], captions[i], labels[i], real, most))
    wide, tall = max(d.width for d in drawn) + GAP, max(d.height for d in drawn) + GAP
    rows = math.ceil(len(drawn) / columns)
    sheet = Image.new("RGB", (columns * wide - GAP, rows * tall - GAP), "white")
    for i, one in enumerate(drawn):
        sheet.paste(one, ((i % columns) * wide, (i // columns) * tall))
    buffer = io.BytesIO()
    sheet.save(buffer, format="png", optimize=True)
    return Picture(title, buffer.getvalue(), caption)


def _boxed(
    image: np.ndarray,
    boxes: np.ndarray,
    captions: Sequence[str],
    labels: np.ndarray,
    truths: np.ndarray,
    most: int,
) -> Any:
    from PIL import Image, ImageDraw

    side = max(image.shape[:2])
    scale = min(most, max(side, LEAST_SIDE)) / side
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    method = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.BICUBIC
    canvas = Image.fromarray(image).convert("RGB").resize(size, method)
    draw = ImageDraw.Draw(canvas)
    for box in truths * scale:
        draw.rectangle([float(v) for v in box], outline="white", width=1)
    # the best are first and are drawn last, over the others
    for i in reversed(range(len(boxes))):
        left, top, right, bottom = (float(v) * scale for v in boxes[i])
        color = COLORS[int(labels[i]) % len(COLORS)]
        draw.rectangle([left, top, right, bottom], outline=color, width=2)
        name = captions[i]
        letters = font(name, 12)
        length = draw.textlength(name, font=letters)
        x = min(max(0.0, left), max(0.0, size[0] - length - 4))
        y = top - 15 if top >= 15 else min(top + 1, size[1] - 15)
        draw.rectangle([x, y, x + length + 4, y + 15], fill=color)
        draw.text((x + 2, y), name, fill="white", font=letters)
    return canvas


def precision_recall_of_boxes(
    found: Sequence[HasCurve], classes: Sequence[str], caption: str = ""
) -> Picture:
    """Precision against recall, a line for each class with boxes to find; of many the best and the worst."""
    known = [(name, curve) for name, curve in zip(classes, found, strict=True) if curve.truths]
    known.sort(key=lambda pair: -pair[1].average())
    if len(known) > len(COLORS):
        half = len(COLORS) // 2
        caption = f"{caption} The {half} best and the {half} worst of {len(known)} classes.".strip()
        known = known[:half] + known[-half:]
    fig, axes = subplots(width=6.8, height=4.2)
    for (name, curve), color in zip(known, COLORS, strict=False):
        label = f"{short_name(name, 24)}: {curve.average():.3f} of {curve.truths:,}"
        axes.plot(curve.recall, curve.precision, label=label, color=color)
    axes.set(xlabel="recall", ylabel="precision", xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
    if known:
        fig.legend(loc="outside lower center", ncols=2, title="average precision, boxes")
    return picture(fig, "Precision and recall of each class", caption)
