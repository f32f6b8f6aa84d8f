"""Images with boxes decoded, their boxes checked, and both laid on a canvas of one size.

Shapes: N images, C channels, H and W pixels, n boxes of one image.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fourfold.core.errors import UserError
from fourfold.core.parts import Split
from fourfold.data.box_files import Boxed
from fourfold.data.box_formats import Marked
from fourfold.data.pixels import allocate, broken_note, fault_of, in_threads, probe, upright

STRIDE = 32
"""The sides of a canvas are multiples of it, as a detector halves them five times."""
USUAL = 320
"""Pixels of a canvas's longer side where nothing is said and the images are as large."""
FILL = 114
"""What a canvas is filled with beside its image."""


@dataclass
class Scene:
    """One decoded image and its boxes, in its own pixels."""

    name: str
    image: np.ndarray
    """(H, W) or (H, W, 3) uint8."""
    boxes: np.ndarray
    """(n, 4) float64, left, top, right, bottom."""
    names: list[str]
    ignored: list[bool]
    split: Split | None = None
    scale: float = field(default=1.0)
    """What its pixels are multiplied by on the canvas."""


@dataclass(frozen=True)
class Canvas:
    """What images of different sizes are laid on."""

    shape: tuple[int, int, int]
    """(C, H, W)."""

    @staticmethod
    def suited(scenes: list[Scene], size: int | None, channels: str | None) -> tuple[int, int, int]:
        """The smallest (C, H, W) that holds every image once its longer side is scaled to `size`."""
        size = size or min(USUAL, max(max(s.image.shape[:2]) for s in scenes))
        height = max(s.image.shape[0] / max(s.image.shape[:2]) for s in scenes) * size
        width = max(s.image.shape[1] / max(s.image.shape[:2]) for s in scenes) * size
        grey = channels == "grey" or (not channels and all(s.image.ndim == 2 for s in scenes))
        sides = [-(-int(round(side)) // STRIDE) * STRIDE for side in (height, width)]
        return (1 if grey else 3, sides[0], sides[1])

    def lay(self, scenes: list[Scene]) -> Tensor:
        """Scale each image to fit, into the upper left corner: (N, C, H, W) uint8. Their scales are set."""
        images = allocate(len(scenes), self.shape)
        images.fill_(FILL)
        for row, laid in zip(images, in_threads(self._fitted, scenes), strict=True):
            row[:, : laid.shape[0], : laid.shape[1]] = torch.from_numpy(laid).permute(2, 0, 1)
        return images

    def _fitted(self, scene: Scene) -> np.ndarray:
        from PIL import Image

        channels, height, width = self.shape
        tall, wide = scene.image.shape[:2]
        scene.scale = min(height / tall, width / wide)
        size = max(1, round(wide * scene.scale)), max(1, round(tall * scene.scale))
        image = Image.fromarray(scene.image).convert("L" if channels == 1 else "RGB")
        if image.size != size:
            image = image.resize(size, Image.Resampling.BICUBIC)
        pixels = np.array(image)
        return pixels[:, :, None] if channels == 1 else pixels


def read_scenes(
    found: list[Boxed], notes: list[str], *, channels: str | None, strict: bool
) -> list[Scene]:
    """Decode images and check their boxes.

    Args:
        found: images and annotations.
        notes: what was left out or changed is added to it.
        channels: "grey", "rgb", or None: rgb unless every image is grey.
        strict: what would be left out is an error.

    Raises:
        UserError: nothing opens; or under `strict` something does not, or a box is empty, inverted or outside.
    """
    headers = list(in_threads(probe, [b.file for b in found]))
    grey = channels == "grey" or (not channels and all(h.grey for h in headers if not h.fault))
    scenes, broken = [], []
    checks = _Checks(strict)
    decoded = in_threads(lambda b: _decoded(b, 1 if grey else 3), found)
    for boxed, image in zip(found, decoded, strict=True):
        if isinstance(image, str):
            if strict:
                raise UserError(f"{boxed.file.name}: does not open ({image})")
            broken.append((boxed.file.name, image))
            continue
        boxes, kept = checks.boxes(boxed.marked, (image.shape[1], image.shape[0]))
        names = [boxed.marked.names[i] for i in kept]
        ignored = [boxed.marked.ignored[i] for i in kept]
        scenes.append(Scene(boxed.file.name, image, boxes, names, ignored, boxed.split))
    if not scenes:
        first = broken[0] if broken else ("", "there is none")
        raise UserError(f"{first[0]}: no image opens ({first[1]})")
    if broken:
        notes.append(broken_note(broken, len(found)))
    notes += checks.notes()
    return scenes


def _decoded(boxed: Boxed, channels: int) -> np.ndarray | str:
    """(H, W) or (H, W, 3) uint8, or why it does not open."""
    try:
        pixels = upright(boxed.file.read(), channels)
    except Exception as error:  # Pillow's plugins raise almost anything on broken files
        return fault_of(error)
    return np.ascontiguousarray(pixels[0] if channels == 1 else pixels.transpose(1, 2, 0))


class _Checks:
    """Counts what is wrong with boxes, and leaves out those that are none."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def boxes(self, marked: Marked, size: tuple[int, int]) -> tuple[np.ndarray, list[int]]:
        """Boxes in pixels, cut at the image's edges, and their numbers among those of the annotation."""
        width, height = size
        told = np.array(marked.boxes, np.float64).reshape(-1, 4)
        if marked.shares:
            middle, half = told[:, :2], told[:, 2:] / 2
            told = np.concatenate([middle - half, middle + half], axis=1) * [*size, *size]
        if marked.size and marked.size != size:
            self._count(
                "size",
                marked,
                f"states {marked.size[0]} x {marked.size[1]} pixels, the image has {width} x {height}",
            )
        kept = []
        for number, (left, top, right, bottom) in enumerate(told):
            shown = f"box {number + 1} ({left:g}, {top:g}, {right:g}, {bottom:g})"
            if right < left or bottom < top:
                self._refuse("inverted", marked, f"{shown} is inverted")
            elif right <= left or bottom <= top:
                self._refuse("empty", marked, f"{shown} is empty")
            elif left >= width or top >= height or right <= 0 or bottom <= 0:
                self._refuse(
                    "outside", marked, f"{shown} lies outside its image of {width} x {height}"
                )
            else:
                if min(left, top) < -1 or right > width + 1 or bottom > height + 1:
                    self._count(
                        "cut", marked, f"{shown} stands out of its image of {width} x {height}"
                    )
                kept.append(number)
        inside = told[kept].clip(0, [width, height, width, height])
        return inside, kept

    def _refuse(self, kind: str, marked: Marked, what: str) -> None:
        if self.strict:
            raise UserError(f"{marked.source} ({marked.image}): {what}")
        self._count(kind, marked, what)

    def _count(self, kind: str, marked: Marked, what: str) -> None:
        self.counts[kind] += 1
        self.first.setdefault(kind, f"{marked.source} ({marked.image}): {what}")

    def notes(self) -> list[str]:
        """A sentence for each kind of fault."""
        said = {
            "inverted": "{} inverted boxes left out",
            "empty": "{} empty boxes left out",
            "outside": "{} boxes outside their image left out",
            "cut": "{} boxes that stand out of their image cut at its edge",
            "size": "{} annotations state another size than their image has, whose pixels were taken",
        }
        return [
            f"{text.format(self.counts[k])}, the first: {self.first[k]}"
            for k, text in said.items()
            if self.counts[k]
        ]
