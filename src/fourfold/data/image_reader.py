"""Image files and arrays read into one tensor of one shape; what was done to them is counted and said.

Shapes: N images, C channels, H and W pixels.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import PurePath
from typing import Any

import numpy as np
from torch import Tensor

from fourfold.core.errors import UserError
from fourfold.core.parts import Split
from fourfold.data import image_cache
from fourfold.data.image_files import Found, ImageFile, Stack
from fourfold.data.pixels import (
    Header,
    allocate,
    as_uint8,
    broken_note,
    decode,
    fit_stack,
    in_threads,
    probe,
)

KEPT = ("shape", "range", "skipped", "resized", "fingerprint")
"""What a reader has found, beside the images themselves."""


class Reader:
    """Finds one shape for all images, decodes them, and counts what was done to them."""

    def __init__(
        self,
        *,
        size: int | None,
        channels: str | None,
        strict: bool,
        shape: tuple[int, int, int] | None,
        range_: tuple[float, float] | None,
        notes: list[str],
        preparation: str = "",
    ) -> None:
        """Set what is wanted; None is decided from the images.

        Args:
            size: height and width, pixels.
            channels: "grey" or "rgb".
            strict: an image that does not open is an error.
            shape: (C, H, W) that an earlier reading decided on; stands above size and channels.
            range_: numbers for black and white that an earlier reading decided on.
            notes: sentences for the user are added to this list.
            preparation: description of what prepares the images, a part of their fingerprint.
        """
        self.wanted_size, self.channels, self.strict, self.notes = size, channels, strict, notes
        self.fixed, self.range = shape, range_
        self.shape = shape or (1, 1, 1)
        self.skipped = self.resized = 0
        self.names: list[str] = []
        """Of every image that was read, the file or the array and the place in it."""
        self.fingerprint = ""
        """SHA-256 of what was read and of what prepared it."""
        self.preparation = preparation
        self._hash = hashlib.sha256()

    def read(
        self, found: Found, apart: Found
    ) -> tuple[Tensor, list[str] | None, list[Split | None]]:
        """Decode everything.

        Args:
            found: files and stacks.
            apart: more of them, which are the validation split.

        Returns:
            Images (N, C, H, W) uint8, their labels if all have one, and the split each came with.

        Raises:
            UserError: nothing opens, or under `strict` something does not; an array is no images;
                there is not enough memory.
        """
        items: list[tuple[ImageFile | Stack, Split | None]] = [(item, item.split) for item in found]
        items += [(item, "valid") for item in apart]
        files = [(item, split) for item, split in items if isinstance(item, ImageFile)]
        stacks = [(item, split) for item, split in items if isinstance(item, Stack)]
        key = image_cache.key_of([*found, *apart], f"{self.preparation} {self.fixed} {self.range}")
        known = image_cache.load(key) if key else None
        if known and not (self.strict and known[1]["skipped"]):
            pixels, kept = self._known(*known)
        else:
            told = len(self.notes)
            pixels, kept = self._read([f for f, _ in files], [s for s, _ in stacks])
            if key:
                about = {"notes": self.notes[told:], "kept": kept}
                about |= {name: getattr(self, name) for name in KEPT}
                image_cache.keep(key, pixels.numpy(), about)
        labels: list[str | None] = [files[i][0].label for i in kept]
        splits = [files[i][1] for i in kept]
        self.names = [files[i][0].name for i in kept]
        for stack, split in stacks:
            count = len(stack.images)
            labels += _names(stack, count)
            splits += [split] * count
            self.names += [f"{stack.name}[{i}]" for i in range(count)]
        return pixels, self._all_or_none(labels), splits

    def _read(self, files: list[ImageFile], stacks: list[Stack]) -> tuple[Tensor, list[int]]:
        """Pixels of the files that open, whose numbers are returned too, and of all stacks."""
        headers = list(in_threads(probe, files))
        arrays = [self._pixels(stack) for stack in stacks]
        self._refuse(files, {i: h.fault for i, h in enumerate(headers) if h.fault})
        sizes = Counter((h.height, h.width) for h in headers if not h.fault)
        for array in arrays:
            sizes[array.shape[2], array.shape[3]] += len(array)
        self.shape = self.fixed or self._choose(headers, arrays, sizes)
        pixels = allocate(len(files) + sum(len(a) for a in arrays), self.shape)
        kept = self._decode(files, headers, pixels)
        end = len(kept)
        for array in arrays:
            pixels[end : end + len(array)].numpy()[:] = fit_stack(array, self.shape)
            end += len(array)
        self._say(headers, sizes)
        self._hash.update(self.preparation.encode())
        self.fingerprint = self._hash.hexdigest()
        return pixels[:end], kept

    def _known(self, pixels: np.ndarray, about: dict[str, Any]) -> tuple[Tensor, list[int]]:
        """What an earlier reading of the same files found."""
        for name in KEPT:
            value = about[name]
            setattr(self, name, tuple(value) if isinstance(value, list) else value)
        self.notes += about["notes"]
        copied = allocate(len(pixels), self.shape)
        copied.numpy()[:] = pixels
        return copied, about["kept"]

    def _pixels(self, stack: Stack) -> np.ndarray:
        self._hash.update(f"{stack.name.rsplit('/', 1)[-1]} {stack.images.shape}".encode())
        self._hash.update(np.ascontiguousarray(stack.images).data)
        array, values = as_uint8(stack, self.range)
        if values is not None and stack.images.dtype.kind == "f":
            self.notes.append(
                f"{stack.name}: numbers from {values[0]:g} (black) to {values[1]:g} (white) kept as 8 bits"
            )
        self.range = values or self.range
        return array

    def _choose(
        self, headers: list[Header], arrays: list[np.ndarray], sizes: Counter[tuple[int, int]]
    ) -> tuple[int, int, int]:
        grey = all(h.grey for h in headers if not h.fault) and all(a.shape[1] == 1 for a in arrays)
        if self.channels:
            grey = self.channels == "grey"
        if self.wanted_size:
            height = width = self.wanted_size
        else:  # the most frequent size, of equally frequent ones the smallest
            height, width = min(sizes, key=lambda s: (-sizes[s], s[0] * s[1], s))
        return (1 if grey else 3, height, width)

    def _decode(self, files: list[ImageFile], headers: list[Header], pixels: Tensor) -> list[int]:
        """Write the files that open into the first rows of pixels; their numbers."""
        broken = {i: h.fault for i, h in enumerate(headers) if h.fault}
        whole = [i for i in range(len(files)) if i not in broken]
        kept: list[int] = []

        def work(i: int) -> tuple[np.ndarray | str, bytes]:
            content = files[i].read()
            return decode(content, self.shape), hashlib.sha256(content).digest()

        for i, (image, digest) in zip(whole, in_threads(work, whole), strict=True):
            self._hash.update(PurePath(files[i].name).name.encode() + digest)
            if isinstance(image, str):
                broken[i] = image
                continue
            pixels[len(kept)].numpy()[:] = image
            kept.append(i)
        self._refuse(files, broken)
        self.skipped = len(broken)
        if broken:
            named = [(files[i].name, broken[i]) for i in sorted(broken)]
            self.notes.append(broken_note(named, len(files)))
        return kept

    def _refuse(self, files: list[ImageFile], broken: dict[int, str]) -> None:
        if not broken:
            return
        first = min(broken)
        if self.strict:
            raise UserError(f"{files[first].name}: does not open ({broken[first]})")
        if len(broken) == len(files):
            raise UserError(
                f"{files[first].name}: does not open ({broken[first]})"
                + (f", nor do the other {len(files) - 1}" if len(files) > 1 else "")
            )

    def _say(self, headers: list[Header], sizes: Counter[tuple[int, int]]) -> None:
        height, width = self.shape[1:]
        self.resized = sizes.total() - sizes[height, width]
        if self.resized:
            small, large = min(sizes, key=np.prod), max(sizes, key=np.prod)
            self.notes.append(
                f"{self.resized:,} of {sizes.total():,} images scaled to {height} x {width} pixels and, "
                f"where need be, cut to the middle (sizes from {small[0]} x {small[1]} to "
                f"{large[0]} x {large[1]})"
            )
        if films := sum(h.frames for h in headers):
            self.notes.append(
                f"{films} of {len(headers):,} images have several frames; the first was taken"
            )

    def _all_or_none(self, labels: list[str | None]) -> list[str] | None:
        present = [label for label in labels if label is not None]
        if present and len(present) < len(labels):
            missing = len(labels) - len(present)
            self.notes.append(f"no labels, as {missing:,} of {len(labels):,} images have none")
        return present if labels and len(present) == len(labels) else None


def _names(stack: Stack, count: int) -> list[str | None]:
    """Labels of a stack as class names."""
    if stack.labels is None:
        return [None] * count
    labels = stack.labels.reshape(len(stack.labels), -1) if stack.labels.ndim else stack.labels
    if labels.ndim != 2 or labels.shape != (count, 1):
        raise UserError(
            f"{stack.name}: expected one label for each of {count:,} images, got shape {stack.labels.shape}"
        )
    if labels.dtype.kind == "f" and (labels == np.rint(labels)).all():
        labels = labels.astype(np.int64)
    return [str(label) for label in labels[:, 0].tolist()]
