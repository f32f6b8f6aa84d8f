"""From image files and arrays of any kind to one uint8 tensor (N, C, H, W). C is 1 (grey) or 3 (rgb).

Grey from rgb is ITU-R BT.601 luma, as Pillow's; what is transparent stands on white.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from fourfold.core.device import available_memory
from fourfold.core.errors import UserError
from fourfold.data.image_files import ImageFile, Stack

GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"})
NAMED = 5  # broken files named in a note; the rest are counted

T = TypeVar("T")
R = TypeVar("R")


class Header(NamedTuple):
    """What an image file says of itself; `fault` says why it does not open."""

    height: int = 0
    width: int = 0
    grey: bool = True
    frames: bool = False
    fault: str = ""


def in_threads(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Map over a thread pool, in order: Pillow's decoders let other threads run."""
    every, workers = list(items), min(16, os.cpu_count() or 1)
    # handing over one small image at a time costs as much as decoding it
    size = max(1, min(64, len(every) // (4 * workers)))
    pieces = [every[start : start + size] for start in range(0, len(every), size)]
    with ThreadPoolExecutor(workers) as pool:
        for piece in pool.map(lambda some: [function(item) for item in some], pieces):
            yield from piece


def fault_of(error: Exception) -> str:
    """Why an image does not open, in a few words."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow knows"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return str(error).rstrip(".") or type(error).__name__


def probe(file: ImageFile) -> Header:
    """Read size and kind of an image without decoding it."""
    from PIL import Image

    try:
        source = io.BytesIO(file.content) if isinstance(file.content, bytes) else file.content
        size = len(file.content) if isinstance(file.content, bytes) else file.content.stat().st_size
        if size == 0:
            return Header(fault="empty, 0 bytes")
        with Image.open(source) as image:
            width, height = image.size
            if image.getexif().get(0x0112, 1) in (5, 6, 7, 8):  # orientation: lies on its side
                width, height = height, width
            grey = image.mode in GREY_MODES or (image.mode == "P" and _grey_palette(image))
            return Header(height, width, grey, getattr(image, "is_animated", False))
    except Exception as error:  # Pillow's plugins raise almost anything on broken files
        return Header(fault=fault_of(error))


def _grey_palette(image: Any) -> bool:
    entries = np.asarray(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    return bool((entries == entries[:, :1]).all())


def decode(content: bytes, shape: tuple[int, int, int]) -> np.ndarray | str:
    """Decode an image, upright, and fit it to a shape.

    Args:
        content: the image file's bytes.
        shape: (C, H, W).

    Returns:
        (C, H, W) uint8, or why it does not open.
    """
    from PIL import Image

    try:
        pixels = upright(content, shape[0])
        return fit(
            Image.fromarray(pixels[0] if shape[0] == 1 else pixels.transpose(1, 2, 0)), shape
        )
    except Exception as error:  # as in probe
        return fault_of(error)


def upright(content: bytes, channels: int) -> np.ndarray:
    """An image as it is, upright, (channels, H, W) uint8; raises whatever Pillow does where it does not open."""
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(content)) as image:
        image.load()
        plain = _plain(ImageOps.exif_transpose(image), "L" if channels == 1 else "RGB")
        pixels = np.asarray(plain)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _plain(image: Any, mode: str) -> Any:
    """A Pillow image in mode L or RGB: deep ones scaled, transparent ones on white."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits, also where Pillow widens them to 32
        deep = np.asarray(image).astype(np.int64)
        if deep.min() < 0 or deep.max() > 65535:
            raise ValueError(f"values from {deep.min()} to {deep.max()}, expected 16 bits")
        image = Image.fromarray(((deep * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode == "F":
        low, high = float_range(np.asarray(image), "its pixels", None)
        image = Image.fromarray(_scaled(np.asarray(image), low, high))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert(mode) if image.mode != mode else image


def fit(image: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """Scale a Pillow image (mode L or RGB) to cover (C, H, W), cut what stands out, as uint8 (C, H, W)."""
    from PIL import Image, ImageOps

    channels, height, width = shape
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def float_range(
    array: np.ndarray, name: str, known: tuple[float, float] | None
) -> tuple[float, float]:
    """The values that stand for black and white in an array of real numbers.

    Raises:
        UserError: NaN, infinity, or values that fit none of [0, 1], [-1, 1] and [0, 255].
    """
    finite = np.isfinite(array)
    if not finite.all():
        where = np.argwhere(~finite)[0]
        value = array[tuple(where)]
        raise UserError(
            f"{name}, image {where[0]}: {value} at {tuple(where[1:].tolist())}, expected numbers"
        )
    low, high = float(array.min()), float(array.max())
    for black, white in [known] if known else [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)]:
        if black <= low and high <= white:
            return black, white
    expected = (
        f"[{known[0]:g}, {known[1]:g}] as in training" if known else "[0, 1], [-1, 1] or [0, 255]"
    )
    raise UserError(f"{name}: values from {low:g} to {high:g}, expected {expected}")


def _scaled(array: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint((array.astype(np.float32) - low) * (255.0 / (high - low))).astype(np.uint8)


def as_uint8(
    stack: Stack, known: tuple[float, float] | None
) -> tuple[np.ndarray, tuple[float, float] | None]:
    """A stack's images as uint8 (N, C, H, W), C = 1 or 3, and the range of its numbers if not 8 bits.

    Raises:
        UserError: another rank, no images, other channels, or values that no image has.
    """
    array, name = stack.images, stack.name
    if array.ndim not in (3, 4) or 0 in array.shape:
        one = "; one image is array[None]" if array.ndim == 2 else ""
        raise UserError(
            f"{name}: expected images (N, H, W), (N, H, W, C) or (N, C, H, W), got shape {array.shape}{one}"
        )
    if array.ndim == 3:
        array = array[:, None]
    elif array.shape[1] not in (1, 3, 4) and array.shape[3] in (1, 3, 4):
        array = array.transpose(0, 3, 1, 2)
    if array.shape[1] not in (1, 3, 4):
        raise UserError(f"{name}: expected 1, 3 or 4 channels, got shape {stack.images.shape}")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    if array.dtype == np.uint8:
        return _on_white(array), None
    if array.dtype.kind not in "fiu":
        raise UserError(f"{name}: expected numbers, got {array.dtype}")
    if known is None and array.dtype.kind in "iu":
        known = (0.0, 65535.0) if array.dtype == np.uint16 else (0.0, 255.0)
    low, high = float_range(array, name, known)
    return _on_white(_scaled(array, low, high)), (low, high)


def _on_white(array: np.ndarray) -> np.ndarray:
    if array.shape[1] != 4:
        return array
    alpha = array[:, 3:].astype(np.uint16)
    blended = array[:, :3] * alpha + 255 * (255 - alpha)
    return ((blended + 127) // 255).astype(np.uint8)


def fit_stack(array: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Images (N, C, H, W) uint8 with the channels and the size of another shape (C, H, W)."""
    from PIL import Image

    if array.shape[1] == 3 and shape[0] == 1:
        weights = np.array(
            [19595, 38470, 7471], np.uint32
        )  # BT.601 in 16 bits, as Pillow rounds it
        luma = np.einsum("nchw,c->nhw", array.astype(np.uint32), weights)
        array = ((luma + 0x8000) >> 16).astype(np.uint8)[:, None]
    if array.shape[2:] != shape[1:]:
        planes = array.reshape(-1, *array.shape[2:])
        one = (1, *shape[1:])
        fitted = np.concatenate(list(in_threads(lambda p: fit(Image.fromarray(p), one), planes)))
        array = fitted.reshape(*array.shape[:2], *shape[1:])
    return np.broadcast_to(array, (len(array), *shape))


def allocate(count: int, shape: tuple[int, int, int]) -> Tensor:
    """Room for the images.

    Raises:
        UserError: they do not fit into memory; a size that would is named.
    """
    need, free = count * int(np.prod(shape)), available_memory(torch.device("cpu"))
    if need > 0.8 * free:
        fitting = int((0.8 * free / (count * shape[0])) ** 0.5)
        raise UserError(
            f"{count:,} images of {shape[1]} x {shape[2]} need {need / 2**30:.1f} GiB, "
            f"{free / 2**30:.1f} GiB are free; --data.size {fitting} would fit"
        )
    return torch.empty((count, *shape), dtype=torch.uint8)


def broken_note(broken: list[tuple[str, str]], total: int) -> str:
    """A sentence that counts the images that do not open and names the first of them."""
    named = "; ".join(f"{name} ({fault})" for name, fault in broken[:NAMED])
    more = f"; and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
    return f"{len(broken)} of {total:,} images skipped as unreadable: {named}{more}"
