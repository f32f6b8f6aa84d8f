"""Where images lie: folders, archives, lists, IDX and NumPy files, arrays in memory. Nothing is decoded here but
recordings, where there are no images: they become spectrograms.

IDX is the format of MNIST (LeCun et al. 1998, http://yann.lecun.com/exdb/mnist/). Shapes: N images,
C channels, H and W pixels.
"""

from __future__ import annotations

import glob
import gzip
import os
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from fourfold.core.errors import UserError, nearest
from fourfold.core.parts import Split
from fourfold.data import sprites
from fourfold.data.catalog import CATALOG, find

IMAGE_SUFFIXES = frozenset(
    ".bmp .gif .jfif .jpeg .jpg .pbm .pgm .png .ppm .tga .tif .tiff .webp".split()
)
SOUND_SUFFIXES = frozenset(".wav .flac .ogg .oga .opus .mp3 .aif .aiff .au .caf".split())
ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
SPLITS: dict[str, Split] = {
    "train": "train", "training": "train", "valid": "valid", "val": "valid",
    "validation": "valid", "test": "test", "testing": "test", "t10k": "test",
}  # fmt: skip
"""Names of folders, files and array keys that say which split they are."""


@dataclass(frozen=True)
class ImageFile:
    """An image that is not decoded yet."""

    name: str
    content: Path | bytes
    label: str | None = None
    split: Split | None = None
    archive: Path | None = None
    """The archive whose member it is."""

    def read(self) -> bytes:
        """The file's bytes."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


@dataclass(frozen=True)
class Stack:
    """An array of images, (N, H, W), (N, H, W, C) or (N, C, H, W), with labels (N,) or None."""

    name: str
    images: np.ndarray
    labels: np.ndarray | None = None
    split: Split | None = None


Found = list[ImageFile | Stack]


def find_images(sources: Any) -> tuple[Found, list[str]]:
    """List the images that sources name.

    Args:
        sources: one or several paths, globs and catalog names; or an array or tensor of images; or
            (images, labels).

    Returns:
        Image files and stacks in a fixed order, and sentences that the user should be told.

    Raises:
        UserError: no such path, nothing in it, a damaged archive or array file.
    """
    many = list(sources) if isinstance(sources, (list, tuple)) else [sources]
    if not many:
        raise UserError("no images given: expected a folder, files, a catalog name or an array")
    if not all(isinstance(s, (str, os.PathLike)) for s in many):
        return [_in_memory(sources)], []
    found: Found = []
    notes: list[str] = []
    for source in many:
        if str(source) in sprites.NAMES and not Path(source).exists():
            found += _sprites(str(source))
            continue
        for path in paths_named(str(source), "images", "sound"):
            found += _read_path(path, notes)
    return found, notes


def _sprites(name: str) -> Found:
    if name == "shapes":
        return [Stack(name, sprites.rendered())]
    return _numpy(sprites.dsprites())


def _in_memory(sources: Any) -> Stack:
    images, labels = (
        sources if isinstance(sources, tuple) and len(sources) == 2 else (sources, None)
    )
    if isinstance(images, (list, tuple)):
        shapes = Counter(np.shape(image) for image in images)
        if len(shapes) > 1:
            sizes = " and ".join(str(shape) for shape in list(shapes)[:2])
            raise UserError(f"images in memory: expected equal shapes, got {sizes}")
    labels = None if labels is None else _array(labels)
    return Stack("images in memory", _array(images), labels)


def _array(values: Any) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    array = np.asarray(values)
    if array.dtype == object:
        raise UserError("images in memory: expected numbers, got Python objects")
    return array


def paths_named(source: str, *kinds: str) -> list[Path]:
    """The files and folders that one word of a user means: a path, a pattern, or a catalog name of these kinds.

    Raises:
        UserError: there is no such thing; the nearest name is offered.
    """
    path = Path(source).expanduser()
    if path.exists():
        return [path]
    if glob.has_magic(source):
        matches = sorted(Path(p) for p in glob.glob(str(path), recursive=True))
        if not matches:
            raise UserError(f"{source}: no file matches this pattern")
        return matches
    # before it is fetched
    if (entry := CATALOG.get(source)) is not None and entry.kind not in kinds:
        raise UserError(f"{source}: in the catalog as {entry.kind}, expected {' or '.join(kinds)}")
    if (listed := find(source)) is not None:
        return listed
    beside = [str(p) for p in path.parent.iterdir()] if path.parent.is_dir() else []
    named = [name for name, entry in CATALOG.items() if entry.kind in kinds]
    named += sprites.NAMES if "images" in kinds else ()
    hint = nearest(source, [*beside, *named])
    hint = hint if hint.startswith("; did") else ""  # not a list of every file that is there
    raise UserError(f"{source}: no such file, folder or catalog name{hint}")


def _read_path(path: Path, notes: list[str]) -> Found:
    name = path.name.lower()
    if path.is_dir():
        return _folder(path, notes)
    if name.endswith(ARCHIVE_SUFFIXES):
        found = _labelled(list(archive_members(path)), str(path), notes)
        return [replace(f, archive=path) if isinstance(f, ImageFile) else f for f in found]
    if "-ubyte" in name:
        return _idx_pair(path)
    if name.endswith((".npy", ".npz")):
        return _numpy(path)
    if name.endswith((".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")):
        from fourfold.data.image_lists import listed

        return list(listed(path))
    if path.suffix.lower() in SOUND_SUFFIXES:
        from fourfold.data.sound_images import clips_as_images

        ((_, png),) = clips_as_images([(PurePosixPath(path), path)], "", notes)
        return [ImageFile(str(path), png)]
    # any other file was named by the user: it is tried as an image, whatever its suffix
    return [ImageFile(str(path), path)]


def _folder(root: Path, notes: list[str]) -> Found:
    try:
        files = sorted(p for p in root.rglob("*") if p.is_file())
    except OSError as error:
        raise UserError(f"{root}: cannot be read ({error.strerror})") from error
    members = [(PurePosixPath(p.relative_to(root).as_posix()), p) for p in files]
    if empty := _without_images(root, files):
        few = ", ".join(empty[:3]) + (f" and {len(empty) - 3} more" if len(empty) > 3 else "")
        notes.append(f"{root}: no images in {few}; an empty folder makes no class")
    if not any(p.suffix.lower() in IMAGE_SUFFIXES for p in files):
        stacks = [p for p in files if "-ubyte" in p.name or p.suffix in (".npy", ".npz")]
        stacks += [p for p in files if p.name.lower().endswith(ARCHIVE_SUFFIXES)]
        found = [item for p in stacks for item in _read_path(p, notes)]
        if found:
            return found
        if any(p.suffix.lower() in SOUND_SUFFIXES for p in files):
            return _labelled(members, str(root), notes)
        kinds = Counter(p.suffix or p.name for p in files).most_common(3)
        inside = ", ".join(f"{n} {kind}" for kind, n in kinds) or "nothing"
        raise UserError(
            f"{root}: no images in this folder (found {inside}; expected "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}, IDX, .npy, .npz, an archive or recordings)"
        )
    return _labelled(members, str(root), notes)


def _without_images(root: Path, files: list[Path]) -> list[str]:
    """Folders below root in which no image lies, not even deeper; of those within one another the outermost."""
    filled = {above for p in files if _may_be_images(p) for above in p.parents}
    empty = [d for d in sorted(root.rglob("*")) if d.is_dir() and d not in filled]
    outer = [d for d in empty if d.parent == root or d.parent in filled]
    return [str(d.relative_to(root)) for d in outer if not d.name.startswith((".", "__MACOSX"))]


def _may_be_images(path: Path) -> bool:
    name = path.name.lower()
    return (
        path.suffix.lower() in IMAGE_SUFFIXES
        or "-ubyte" in name
        or name.endswith((".npy", ".npz", *ARCHIVE_SUFFIXES))
    )


def archive_members(path: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Every file of a tar or zip archive, with its content.

    Raises:
        UserError: the archive is damaged.
    """
    try:
        if path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    if not info.is_dir():
                        yield PurePosixPath(info.filename), archive.read(info)
        else:
            with tarfile.open(path) as archive:
                for member in archive:
                    file = archive.extractfile(member) if member.isfile() else None
                    if file is not None:
                        yield PurePosixPath(member.name), file.read()
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise UserError(f"{path}: damaged archive ({error})") from error


def _labelled(members: Iterable[tuple[PurePosixPath, Any]], root: str, notes: list[str]) -> Found:
    """Image files with the label and split that their folders say."""
    kept: list[tuple[PurePosixPath, Any]] = []
    heard: list[tuple[PurePosixPath, Any]] = []
    others = Counter[str]()
    for path, content in sorted(members, key=lambda member: member[0]):
        if any(part.startswith((".", "__MACOSX")) for part in path.parts):
            continue
        if path.suffix.lower() in IMAGE_SUFFIXES:
            kept.append((path, content))
        elif path.suffix.lower() in SOUND_SUFFIXES:
            heard.append((path, content))
        else:
            others[path.suffix or path.name] += 1
    if heard and not kept:
        from fourfold.data.sound_images import clips_as_images

        kept = list(clips_as_images(heard, root, notes))
    elif heard:
        others.update(path.suffix for path, _ in heard)
    if not kept:
        raise UserError(f"{root}: no images in it")
    if others:
        kinds = ", ".join(sorted(others))
        notes.append(f"{root}: {others.total()} files that are no images ({kinds}) were left out")
    folders, outer = _without_common([path.parts[:-1] for path, _ in kept])
    outer = (PurePosixPath(root).name, *outer)
    common = [SPLITS[part.lower()] for part in outer if part.lower() in SPLITS]
    splits: list[Split | None] = [common[-1] if common else None] * len(kept)
    if all(parts and parts[0].lower() in SPLITS for parts in folders):
        splits = [SPLITS[parts[0].lower()] for parts in folders]
        folders, _ = _without_common([parts[1:] for parts in folders])
    labels: list[str | None] = [parts[0] if parts else None for parts in folders]
    if None in labels and any(labels):
        loose = labels.count(None)
        notes.append(f"{root}: no labels, as {loose} images lie outside the class folders")
        labels = [None] * len(labels)
    return [
        ImageFile(f"{root}/{path}", content, label, split)
        for (path, content), label, split in zip(kept, labels, splits, strict=True)
    ]


def _without_common(
    folders: list[tuple[str, ...]],
) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Folder parts with the outer folders that all share taken off, and those."""
    outer: tuple[str, ...] = ()
    while len({parts[:1] for parts in folders}) == 1 and folders[0]:
        outer = (*outer, folders[0][0])
        folders = [parts[1:] for parts in folders]
    return folders, outer


def _idx_pair(path: Path) -> Found:
    if "labels-idx1" in path.name:  # read with its images
        if path.with_name(path.name.replace("labels-idx1", "images-idx3")).exists():
            return []
        raise UserError(f"{path}: labels without their images (expected images-idx3 beside it)")
    images = _idx(path)
    beside = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    labels = _idx(beside) if beside != path and beside.exists() else None
    first = path.name.split("-")[0].lower()
    return [Stack(str(path), images, labels, SPLITS.get(first))]


def _idx(path: Path) -> np.ndarray:
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: damaged gzip file ({error})") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise UserError(f"{path}: not an IDX file of bytes (its magic number is not 00 00 08)")
    rank = content[3]
    header = 4 + 4 * rank
    if len(content) < header:
        raise UserError(f"{path}: truncated: it ends within its header")
    shape = struct.unpack(f">{rank}I", content[4:header])
    expected = int(np.prod(shape, dtype=np.int64))
    if len(content) - header != expected:
        raise UserError(
            f"{path}: its header promises {expected:,} bytes {shape}, it has {len(content) - header:,}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _numpy(path: Path) -> Found:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return [Stack(str(path), loaded)]
        with loaded:
            arrays = {key: loaded[key] for key in loaded.files}
            if "latents_classes" in arrays and "imgs" in arrays:  # dSprites keeps white as 1
                arrays["imgs"] = arrays["imgs"] * np.uint8(255)
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a NumPy file of numbers ({error})") from error
    stacks = [_stack_of(f"{path}[{key}]", key, arrays) for key in arrays if arrays[key].ndim >= 3]
    if not stacks:
        raise UserError(
            f"{path}: expected an array of rank 3 or 4 in it, found "
            + (", ".join(f"{key} {array.shape}" for key, array in arrays.items()) or "none")
        )
    if len(stacks) > 1 and len({stack.split for stack in stacks}) < len(stacks):
        stacks = [replace(stack, split=None) for stack in stacks]
    return list(stacks)


def _stack_of(name: str, key: str, arrays: dict[str, np.ndarray]) -> Stack:
    """A key of an .npz with the labels that belong to it: train_images / train_labels, x / y, ..."""
    words = key.lower().split("_")
    split = next((SPLITS[word] for word in words if word in SPLITS), None)
    labels = None
    for images_word, labels_word in (("images", "labels"), ("image", "label"), ("x", "y")):
        beside = "_".join(labels_word if word == images_word else word for word in words)
        labels = next((arrays[k] for k in arrays if k.lower() == beside and k != key), labels)
    return Stack(name, arrays[key], labels, split)
