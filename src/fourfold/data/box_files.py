"""Images with boxes: where they and their annotations lie, put together. No image is decoded here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from fourfold.core.errors import UserError, nearest
from fourfold.core.parts import Split
from fourfold.data.box_formats import (
    Marked,
    is_coco,
    is_voc,
    load_json,
    read_coco,
    read_voc,
    read_yolo,
    text_of,
    yolo_classes,
)
from fourfold.data.catalog import CATALOG, find
from fourfold.data.image_files import (
    ARCHIVE_SUFFIXES,
    IMAGE_SUFFIXES,
    SPLITS,
    ImageFile,
    archive_members,
)

LISTS = ("classes.txt", "obj.names", "data.yaml", "data.yml", "dataset.yaml")
"""Names of files that name YOLO's classes."""


class Boxed(NamedTuple):
    """An image that is not decoded yet, and what its annotation says of it."""

    file: ImageFile
    marked: Marked
    split: Split | None


def find_boxes(sources: Any, notes: list[str], *, strict: bool, plain: bool = False) -> list[Boxed]:
    """Images and their boxes.

    Args:
        sources: one or several folders, archives, COCO files and catalog names.
        notes: sentences for the user are added to it.
        strict: an annotation without its image is an error.
        plain: all images are taken and annotations are not looked at (to detect in them).

    Raises:
        UserError: no such path; no annotations; several formats in one folder; a damaged annotation.
    """
    many = sources if isinstance(sources, (list, tuple)) else [sources]
    return [b for source in many for b in _read(str(source), notes, strict, plain)]


def _read(source: str, notes: list[str], strict: bool, plain: bool) -> list[Boxed]:
    path = Path(source).expanduser()
    if not path.exists():
        listed = find(source)
        if listed is None:
            names = [name for name, entry in CATALOG.items() if entry.kind == "boxes"]
            raise UserError(
                f"{source}: no such file, folder or catalog name{nearest(source, names)}"
            )
        if CATALOG[source].kind != "boxes":
            raise UserError(f"{source}: a {CATALOG[source].kind} in the catalog, expected boxes")
        return [b for one in listed for b in _read(str(one), notes, strict, plain)]
    if path.is_dir():
        files = {p.relative_to(path).as_posix(): p for p in sorted(path.rglob("*")) if p.is_file()}
        return _folder(source, dict(files), notes, strict, plain)
    if path.name.lower().endswith(ARCHIVE_SUFFIXES):
        inside = {str(name): content for name, content in archive_members(path)}
        return _folder(source, dict(inside), notes, strict, plain)
    if path.suffix.lower() == ".json":
        beside = {
            p.relative_to(path.parent).as_posix(): p
            for p in sorted(path.parent.rglob("*"))
            if p.suffix.lower() in IMAGE_SUFFIXES or p == path
        }
        return _folder(source, dict(beside), notes, strict, plain)
    if plain or path.suffix.lower() in IMAGE_SUFFIXES:
        if not plain:
            raise UserError(
                f"{source}: an image by itself has no boxes; give the folder that holds its annotation too"
            )
        return [Boxed(ImageFile(source, path), Marked(source, path.name), None)]
    raise UserError(
        f"{source}: expected a folder, an archive or a COCO file (.json) of images with boxes"
    )


def _content(value: Path | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.read_bytes()


def _folder(
    root: str, files: dict[str, Path | bytes], notes: list[str], strict: bool, plain: bool
) -> list[Boxed]:
    """Put together what lies in one folder or archive, by paths within it."""
    files = {
        name: content
        for name, content in files.items()
        if not any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)
    }
    images = {n: c for n, c in files.items() if PurePosixPath(n).suffix.lower() in IMAGE_SUFFIXES}
    if plain:
        if not images:
            raise UserError(_without_images(root))
        empty = [Marked(f"{root}/{n}", n) for n in images]
        return [Boxed(ImageFile(m.source, images[m.image]), m, None) for m in empty]
    voc = [n for n, c in _of(files, ".xml") if is_voc(_content(c))]
    coco = [
        (n, tree)
        for n, c in _of(files, ".json")
        if is_coco(tree := load_json(_content(c), f"{root}/{n}"))
    ]
    yolo = _yolo_files(files, images)
    found = [
        name
        for name, some in (("VOC (.xml)", voc), ("COCO (.json)", coco), ("YOLO (.txt)", yolo))
        if some
    ]
    if len(found) > 1:
        raise UserError(
            f"{root}: holds annotations in several formats, {' and '.join(found)}; give a folder with one of them"
        )
    if not images:
        raise UserError(_without_images(root))
    if not found:
        raise UserError(
            f"{root}: {len(images):,} images without annotations; expected VOC's .xml, COCO's .json or YOLO's .txt"
        )
    if voc:
        marked = [(n, read_voc(_content(files[n]), f"{root}/{n}")) for n in voc]
    elif coco:
        marked = [(n, m) for n, tree in coco for m in read_coco(tree, f"{root}/{n}")]
    else:
        classes = _classes(root, files)
        marked = [(n, read_yolo(_content(files[n]), f"{root}/{n}", classes)) for n in yolo]
    return _joined(
        root, images, marked, _listed(files) if voc else {}, notes, strict, with_rest=bool(yolo)
    )


def _without_images(root: str) -> str:
    return f"{root}: no images in it (expected {', '.join(sorted(IMAGE_SUFFIXES))})"


def _of(files: dict[str, Path | bytes], suffix: str) -> Iterator[tuple[str, Path | bytes]]:
    return ((n, c) for n, c in files.items() if n.lower().endswith(suffix))


def _yolo_files(files: dict[str, Path | bytes], images: dict[str, Path | bytes]) -> list[str]:
    """Text files named as an image is, or that lie in a folder of labels."""
    stems = {PurePosixPath(name).stem for name in images}
    found = []
    for name, _ in _of(files, ".txt"):
        path = PurePosixPath(name)
        if path.name.lower() in LISTS or "ImageSets" in path.parts:
            continue
        if path.stem in stems or "labels" in path.parts:
            found.append(name)
    return found


def _classes(root: str, files: dict[str, Path | bytes]) -> list[str] | None:
    for name in sorted(files, key=lambda n: (n.count("/"), n)):
        if PurePosixPath(name).name.lower() in LISTS:
            return yolo_classes(text_of(_content(files[name]), f"{root}/{name}"), f"{root}/{name}")
    return None


def _listed(files: dict[str, Path | bytes]) -> dict[str, Split]:
    """Stems of images by the split lists of VOC, ImageSets/Main/train.txt and its like."""
    found: dict[str, Split] = {}
    for name, content in _of(files, ".txt"):
        path = PurePosixPath(name)
        if "ImageSets" in path.parts and path.stem.lower() in SPLITS:
            for line in text_of(_content(content), name).splitlines():
                if words := line.split():
                    found[words[0]] = SPLITS[path.stem.lower()]
    return found


def _split_of(path: str) -> Split | None:
    """The split that a folder or a file's name says, as in images/val/1.jpg or instances_val2017.json."""
    for part in PurePosixPath(path).parts:
        for word in re.split(r"[^a-z]+", PurePosixPath(part).stem.lower()):
            if word in SPLITS:
                return SPLITS[word]
    return None


def _joined(
    root: str,
    images: dict[str, Path | bytes],
    marked: list[tuple[str, Marked]],
    listed: dict[str, Split],
    notes: list[str],
    strict: bool,
    *,
    with_rest: bool,
) -> list[Boxed]:
    """Annotations with their images; of YOLO also images without a file of labels, which have no boxes."""
    by_name: dict[str, list[str]] = {}
    for name in images:
        path = PurePosixPath(name)
        for key in {name, path.name, path.stem}:
            by_name.setdefault(key, []).append(name)
    claims: dict[str, list[_Claim]] = {}
    missing = []
    for place, one in marked:
        wanted = one.image.replace("\\", "/")
        path = PurePosixPath(wanted)
        choices = next(
            (by_name[key] for key in (wanted, path.name, path.stem) if key in by_name), []
        )
        if not choices:
            missing.append(one)
            continue
        name = max(choices, key=lambda choice: _nearness(choice, place))
        claims.setdefault(name, []).append(_Claim(_nearness(name, place), place, one))
    found = []
    for name, some in claims.items():
        first, *others = sorted(some, key=lambda claim: claim.nearness, reverse=True)
        if others and others[0].nearness == first.nearness:
            both = f"{first.marked.source} and in {others[0].marked.source}"
            raise UserError(f"{root}/{name}: annotated more than once, in {both}; give one of them")
        missing += [claim.marked for claim in others]  # of images of this name in other folders
        split = listed.get(PurePosixPath(name).stem) or _split_of(first.place) or _split_of(name)
        found.append(Boxed(ImageFile(f"{root}/{name}", images[name]), first.marked, split))
    if missing:
        named = f"{missing[0].source}: an annotation for {missing[0].image}, which is not there"
        if strict or not found:
            raise UserError(
                f"{named}{nearest(missing[0].image, [PurePosixPath(n).name for n in images])}"
            )
        notes.append(
            f"{len(missing):,} of {len(marked):,} annotations left out as their image is missing, the first: {named}"
        )
    rest = [name for name in images if name not in claims]
    if with_rest:
        found += [
            Boxed(ImageFile(f"{root}/{n}", images[n]), Marked(f"{root}/{n}", n), _split_of(n))
            for n in rest
        ]
        if rest:
            notes.append(
                f"{root}: {len(rest):,} images without a file of labels were taken as images without boxes"
            )
    elif rest:
        notes.append(
            f"{root}: {len(rest):,} images without an annotation were left out, the first: {rest[0]}"
        )
    return found


class _Claim(NamedTuple):
    """An annotation, and how well it goes with the image that it was found to name."""

    nearness: tuple[int, int]
    place: str
    marked: Marked


def _nearness(name: str, place: str) -> tuple[int, int]:
    """How well an image goes with an annotation that names it: by their splits, then by the folders that they share."""
    splits = _split_of(name), _split_of(place)
    shared = set(PurePosixPath(place).parts) & set(PurePosixPath(name).parts)
    told = 0 if None in splits else 1 if splits[0] == splits[1] else -1
    return told, len(shared)
