"""The embedded scenes: 8 x 8 digits of several sizes laid on a grey canvas, with boxes that are known exactly.

Digits: Alpaydin and Kaynak 1998, UCI Optical Recognition of Handwritten Digits, as in scikit-learn.
"""

from __future__ import annotations

import functools

import numpy as np

from fourfold.core.parts import Split
from fourfold.data.box_reader import Scene

SIDE = 64  # pixels of a canvas
COUNTS: dict[Split, int] = {"train": 400, "valid": 50, "test": 50}
SIZES = (10, 26)  # pixels of a digit, least and most
MOST = 5


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images * (255 / 16), digits.target


def digit_scenes() -> list[Scene]:
    """500 canvases with one to five digits; no digit is in two splits. The same at every call."""
    images, targets = _digits()
    draw = np.random.default_rng(8)
    order = draw.permutation(len(images))
    shares = np.split(order, [int(0.8 * len(order)), int(0.9 * len(order))])
    scenes = []
    for (split, count), pool in zip(COUNTS.items(), shares, strict=True):
        for number in range(count):
            scenes.append(_scene(f"{split}-{number}", split, images, targets, pool, draw))
    return scenes


def _scene(
    name: str,
    split: Split,
    images: np.ndarray,
    targets: np.ndarray,
    pool: np.ndarray,
    draw: np.random.Generator,
) -> Scene:
    from PIL import Image

    canvas = draw.normal(40, 8, (SIDE, SIDE))
    boxes: list[tuple[int, int, int, int]] = []
    names = []
    for _ in range(int(draw.integers(1, MOST + 1))):
        size = int(draw.integers(SIZES[0], SIZES[1] + 1))
        left, top = (int(value) for value in draw.integers(0, SIDE - size + 1, 2))
        box = (left, top, left + size, top + size)
        if any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in boxes):
            continue  # digits do not overlap
        which = int(draw.choice(pool))
        small = Image.fromarray(images[which].astype(np.uint8))
        large = np.asarray(small.resize((size, size), Image.Resampling.BICUBIC), np.float64)
        part = canvas[top : top + size, left : left + size]
        np.maximum(part, large, out=part)
        boxes.append(box)
        names.append(str(targets[which]))
    image = np.rint(canvas.clip(0, 255)).astype(np.uint8)
    return Scene(
        name, image, np.array(boxes, np.float64).reshape(-1, 4), names, [False] * len(names), split
    )
