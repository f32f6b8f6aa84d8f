"""Decoded images kept in the cache folder, so that many files are decoded once and not in every fit.

The key follows the path, size and time of change of every file, or of the archive that it lies in, and what
prepares the images; nothing is kept of arrays, which are read quickly, nor of few files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fourfold.data.catalog import cache_folder
from fourfold.data.image_files import ImageFile, Stack

FROM = 1_000
"""Files from which decoding takes long enough to be kept."""
MOST = 8 << 30
"""Bytes of one set that are kept at most."""


def key_of(items: Sequence[ImageFile | Stack], how: str) -> str | None:
    """The name under which these decoded images are kept; None where they are not."""
    if len(items) < FROM:
        return None
    digest = hashlib.sha256(how.encode())
    archives: dict[Path, str] = {}
    for item in items:
        if isinstance(item, Stack):
            return None
        path = item.archive or (item.content if isinstance(item.content, Path) else None)
        if path is None:
            return None
        try:
            told = archives.get(path) or _told(path)
        except OSError:
            return None
        if item.archive:
            archives[path] = told
        digest.update(f"\0{item.name}\0{told}".encode())
    return digest.hexdigest()


def _told(path: Path) -> str:
    told = path.stat()
    return f"{told.st_size} {told.st_mtime_ns}"


def load(key: str) -> tuple[np.ndarray, dict[str, Any]] | None:
    """Images (N, C, H, W) uint8, mapped from the disk, and what was said of them; None if they are not kept."""
    folder = _place(key)
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        pixels = np.load(folder / "pixels.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return (pixels, about) if len(pixels) == len(about["kept"]) else None


def keep(key: str, pixels: np.ndarray, about: dict[str, Any]) -> None:
    """Write decoded images under their key; where that is not possible they are decoded again next time."""
    folder = _place(key)
    if pixels.nbytes > MOST or folder.exists():
        return
    part = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        part.mkdir(parents=True)
        np.save(part / "pixels.npy", pixels)
        (part / "about.json").write_text(json.dumps(about), encoding="utf-8")
        os.replace(part, folder)
    except OSError:  # no room, or another process was faster
        with contextlib.suppress(OSError):
            shutil.rmtree(part)


def _place(key: str) -> Path:
    return cache_folder() / "images" / key[:32]
