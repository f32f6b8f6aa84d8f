"""Sprites whose factors of variation are known: `shapes`, which the project renders, and dSprites' file.

Shapes: 10,368 pictures of 32 x 32 pixels, every combination of 3 shapes, 4 scales, 8 rotations, 6 places across, 6 down,
and 3 colours, in that order, the last changing fastest. Edges are smooth: a pixel is as bright as it is covered.
dSprites: Matthey et al. 2017, https://github.com/google-deepmind/dsprites-dataset, whose file the user has.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np

from fourfold.core.errors import UserError

SIZE = 32  # pixels
SHAPES = ("square", "ellipse", "triangle")
COLORS = {"red": (230, 70, 60), "green": (80, 200, 90), "blue": (80, 120, 240)}
FACTORS: dict[str, np.ndarray] = {
    "shape": np.arange(len(SHAPES)),
    "scale": np.linspace(3.5, 7.0, 4),  # pixels from the middle
    "rotation": np.arange(8)
    * (np.pi / 16),  # radians: an eighth of what turns a square into itself
    "x": np.linspace(9.5, SIZE - 10.5, 6),
    "y": np.linspace(9.5, SIZE - 10.5, 6),
    "color": np.arange(len(COLORS)),
}
"""Values of each factor, in the order in which they are combined."""
NAMES = ("shapes", "dsprites")
DSPRITES = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"


@functools.cache
def rendered() -> np.ndarray:
    """All pictures, (10368, 3, 32, 32) uint8."""
    grey = np.stack([_drawn(*values) for values in _combined(list(FACTORS.values())[:-1])])
    colors = np.array(list(COLORS.values()))  # (colours, 3)
    found = grey[:, None, None] * colors[None, :, :, None, None]
    return np.rint(found).astype(np.uint8).reshape(-1, 3, SIZE, SIZE)


def _combined(values: list[np.ndarray]) -> np.ndarray:
    """Every combination, the last factor changing fastest."""
    return np.stack(np.meshgrid(*values, indexing="ij"), axis=-1).reshape(-1, len(values))


def _drawn(shape: float, scale: float, angle: float, x: float, y: float) -> np.ndarray:
    """How much of each pixel is covered, (32, 32) in [0, 1]."""
    rows, columns = np.mgrid[0:SIZE, 0:SIZE]
    across, down = columns - x, rows - y
    u = np.cos(angle) * across + np.sin(angle) * down
    v = -np.sin(angle) * across + np.cos(angle) * down
    kind = SHAPES[int(shape)]
    if kind == "square":
        outside = np.maximum(np.abs(u), np.abs(v)) - 0.85 * scale
    elif kind == "ellipse":
        outside = (np.hypot(u / 1.0, v / 0.5) - scale) * 0.6
    else:
        outside = np.maximum(v - 0.5 * scale, np.abs(u) * np.sqrt(0.75) - 0.5 * v - 0.5 * scale)
    return np.clip(0.5 - outside, 0, 1)


def factors_of(name: str) -> dict[str, np.ndarray]:
    """The factors of a named set's pictures, whole numbers (N,) that count the values of each.

    Raises:
        UserError: the set has none, or its file is not here.
    """
    if name == "shapes":
        numbers = _combined([np.arange(len(v)) for v in FACTORS.values()])
        return {n: numbers[:, i] for i, n in enumerate(FACTORS)}
    if name != "dsprites":
        raise UserError(f"{name}: expected a set with known factors, {' or '.join(NAMES)}")
    with np.load(dsprites(), allow_pickle=False) as file:
        classes = file["latents_classes"][:, 1:]  # the first, colour, has one value
    named = ("shape", "scale", "rotation", "x", "y")
    return {n: classes[:, i] for i, n in enumerate(named)}


def dsprites() -> Path:
    """Where the user has dSprites' file: FOURFOLD_DATA/dsprites, or FOURFOLD_CACHE/dsprites.

    Raises:
        UserError: in neither.
    """
    from fourfold.core.registry import cache_folder

    root = os.environ.get("FOURFOLD_DATA")
    places = [Path(root) / "dsprites"] if root else []
    places.append(cache_folder() / "dsprites")
    for place in places:
        if (place / DSPRITES).is_file():
            return place / DSPRITES
    raise UserError(
        f"dsprites: expected its file {DSPRITES} in {' or '.join(map(str, places))}; "
        "it is at https://github.com/google-deepmind/dsprites-dataset"
    )
