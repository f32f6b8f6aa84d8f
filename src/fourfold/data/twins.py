"""Images that lie in two splits, told by their pixels: what was trained on measures nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fourfold.core.parts import Split

PRINTS = "train-images.npy"


def print_of(image: np.ndarray) -> int:
    """A number of 64 bits, equal for equal pixels."""
    digest = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).digest()
    return int.from_bytes(digest, "big")


def prints_of(images: Iterable[np.ndarray]) -> frozenset[int]:
    """The numbers of images, each (C, H, W) uint8."""
    return frozenset(map(print_of, images))


def twins_note(
    split: Split, images: Iterable[np.ndarray], names: Sequence[str], trained: frozenset[int]
) -> str | None:
    """A sentence that counts those of a split's images that were trained on and names the first; None without any.

    Args:
        split: which they are of.
        images: each (C, H, W) uint8.
        names: of each.
        trained: numbers of the training images.
    """
    if not trained:
        return None
    twins = [i for i, image in enumerate(images) if print_of(image) in trained]
    if not twins:
        return None
    return (
        f"{len(twins)} of {len(names):,} images of the {split} split were trained on, "
        f"pixel by pixel the same (first {names[twins[0]]}): its measures are too good"
    )


def save_prints(folder: Path, prints: frozenset[int]) -> None:
    """Write numbers of images."""
    np.save(folder / PRINTS, np.array(sorted(prints), dtype=np.uint64))


def load_prints(folder: Path) -> frozenset[int]:
    """The numbers that were written; none where there are none."""
    if not (folder / PRINTS).exists():
        return frozenset()
    return frozenset(np.load(folder / PRINTS, allow_pickle=False).tolist())
