"""What annotation files say: Pascal VOC's XML, COCO's JSON, YOLO's text. Nothing is opened here but the annotations.

VOC: Everingham et al. 2010; COCO: Lin et al. 2014, https://cocodataset.org/#format-data; YOLO: Redmon et al. 2016.
Boxes are (left, top, right, bottom) in pixels from the image's upper left corner; VOC's numbers are taken as they
stand, COCO's are left, top, width and height, YOLO's middle and size as shares of the image.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from xml.etree import ElementTree

from fourfold.core.errors import UserError
from fourfold.data.documents.plain import decoded


@dataclass
class Marked:
    """One image's boxes as its annotation tells them."""

    source: str
    """The annotation, for messages."""
    image: str
    """Name of the image's file, with or without its folder and suffix."""
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    """Class of each box."""
    ignored: list[bool] = field(default_factory=list)
    """Boxes that are neither learned nor counted: VOC's difficult ones, COCO's crowds."""
    size: tuple[int, int] | None = None
    """Width and height that the annotation states."""
    shares: bool = False
    """Boxes are (middle x, middle y, width, height) as shares of the image."""

    def add(self, box: tuple[float, float, float, float], name: str, ignored: bool) -> None:
        """One more box."""
        self.boxes.append(box)
        self.names.append(name)
        self.ignored.append(ignored)


def text_of(content: bytes, name: str) -> str:
    """An annotation's text: UTF-8, or what XML declares, or the likeliest encoding, as GB 18030 of Chinese.

    Raises:
        UserError: it is binary, or in no encoding that is known.
    """
    declared = re.match(rb"""<\?xml[^>]*encoding=["']([\w.-]+)""", content)
    return decoded(content, name, declared and declared[1].decode()) if content.strip() else ""


def is_voc(content: bytes) -> bool:
    """Whether an XML file's outermost element is an annotation."""
    return re.search(rb"<annotation[\s>]", content[:4000]) is not None


def read_voc(content: bytes, name: str) -> Marked:
    """One VOC annotation.

    Raises:
        UserError: it is no XML, or an object lacks a name or a box of four numbers.
    """
    if b"<!ENTITY" in content:  # entities may grow without bound
        raise UserError(f"{name}: declares XML entities, which no annotation needs")
    try:
        root = ElementTree.fromstring(text_of(content, name))
    except ElementTree.ParseError as error:
        raise UserError(f"{name}: damaged XML ({error})") from error
    image = (root.findtext("filename") or "").strip() or PurePosixPath(name).stem
    marked = Marked(name, image)
    stated = [root.findtext(f"size/{side}") for side in ("width", "height")]
    if all(text and text.strip().isdecimal() and int(text) > 0 for text in stated):
        marked.size = (int(stated[0] or 0), int(stated[1] or 0))
    for number, thing in enumerate(root.iter("object"), 1):
        label = (thing.findtext("name") or "").strip()
        if not label:
            raise UserError(f"{name}, object {number}: has no name")
        corners = [thing.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
        box = _numbers(corners, f"{name}, object {number} ({label})", "xmin, ymin, xmax and ymax")
        difficult = (thing.findtext("difficult") or "0").strip() not in ("", "0")
        marked.add(box, label, difficult)
    return marked


def is_coco(tree: Any) -> bool:
    """Whether a JSON tree is a COCO annotation of boxes."""
    return isinstance(tree, dict) and isinstance(tree.get("images"), list) and "annotations" in tree


def read_coco(tree: dict[str, Any], name: str) -> list[Marked]:
    """Every image of a COCO annotation, also those without boxes.

    Raises:
        UserError: an annotation of an unknown category or image, or without a box of four numbers.
    """
    classes: dict[Any, str] = {}
    for number, entry in enumerate(tree.get("categories") or [], 1):
        if not isinstance(entry, dict) or "id" not in entry or "name" not in entry:
            raise UserError(f"{name}, category {number}: expected an id and a name, got {entry!r}")
        classes[entry["id"]] = str(entry["name"])
    images: dict[Any, Marked] = {}
    for number, entry in enumerate(tree["images"], 1):
        if not isinstance(entry, dict) or "id" not in entry or "file_name" not in entry:
            raise UserError(f"{name}, image {number}: expected an id and a file_name")
        width, height = entry.get("width"), entry.get("height")
        size = None
        if isinstance(width, int) and isinstance(height, int) and min(width, height) > 0:
            size = (width, height)
        images[entry["id"]] = Marked(name, str(entry["file_name"]), size=size)
    for number, entry in enumerate(tree["annotations"], 1):
        where = (
            f"{name}, annotation {entry.get('id', number) if isinstance(entry, dict) else number}"
        )
        if not isinstance(entry, dict):
            raise UserError(f"{where}: expected an object, got {entry!r}")
        category = entry.get("category_id")
        if category not in classes:
            known = (
                ", ".join(f"{key} {label}" for key, label in list(classes.items())[:8]) or "none"
            )
            raise UserError(f"{where}: unknown category id {category!r}; there are {known}")
        if entry.get("image_id") not in images:
            raise UserError(f"{where}: no image has the id {entry.get('image_id')!r}")
        told = entry.get("bbox")
        box = _numbers(
            told if isinstance(told, list) else [], where, "bbox [left, top, width, height]"
        )
        left, top, width, height = box
        crowd = bool(entry.get("iscrowd", 0))
        images[entry["image_id"]].add(
            (left, top, left + width, top + height), classes[category], crowd
        )
    return list(images.values())


def read_yolo(content: bytes, name: str, classes: list[str] | None) -> Marked:
    """One YOLO label file: a line for each box, the class's number and middle and size as shares.

    Args:
        content: the file.
        name: where it lies.
        classes: names by number; None takes the numbers as names.

    Raises:
        UserError: a line of another form, or a number that no class has.
    """
    marked = Marked(name, PurePosixPath(name).stem, shares=True)
    for number, line in enumerate(text_of(content, name).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        where = f"{name}, line {number}"
        if len(words) != 5 or not words[0].isdecimal():
            raise UserError(
                f'{where}: expected a class number and four shares (middle and size), got "{line.strip()[:60]}"'
            )
        label = int(words[0])
        if classes is not None and label >= len(classes):
            raise UserError(
                f"{where}: unknown category id {label}; there are {len(classes)}, from 0 {classes[0]} to "
                f"{len(classes) - 1} {classes[-1]}"
            )
        box = _numbers(words[1:], where, "middle x, middle y, width and height")
        if max(abs(value) for value in box) > 2:
            raise UserError(
                f"{where}: expected shares of the image from 0 to 1, got {max(box):g}; these look like pixels"
            )
        marked.add(box, classes[label] if classes else str(label), False)
    return marked


def yolo_classes(text: str, name: str) -> list[str]:
    """Class names from a data.yaml (`names:` as a list or by number) or from a list, one a line."""
    if not name.lower().endswith((".yaml", ".yml")):
        return [line.strip() for line in text.splitlines() if line.strip()]
    found = re.search(r"^names:[ \t]*(.*(?:\n(?:[ \t]+.*|-.*|[ \t]*))*)", text, re.M)
    if not found:
        raise UserError(f"{name}: names no classes (expected names: [...])")
    body = found[1].strip()
    if body.startswith(("[", "{")):
        body = body[1 : body.rfind("]" if body[0] == "[" else "}")]
        words = [word.strip() for word in body.replace("\n", " ").split(",")]
    else:
        words = [line.strip().removeprefix("-").strip() for line in body.splitlines()]
    numbered = [re.fullmatch(r"(\d+)\s*:\s*(.+)", word) for word in words if word]
    if numbered and all(numbered):
        pairs = sorted((int(match[1]), match[2]) for match in numbered if match)
        if [number for number, _ in pairs] != list(range(len(pairs))):
            raise UserError(f"{name}: class numbers are not 0 to {len(pairs) - 1}")
        words = [word for _, word in pairs]
    return [word.strip("'\" ") for word in words if word]


def load_json(content: bytes, name: str) -> Any:
    """A JSON file's tree.

    Raises:
        UserError: it is damaged.
    """
    try:
        return json.loads(text_of(content, name))
    except json.JSONDecodeError as error:
        raise UserError(f"{name}: damaged JSON ({error})") from error


def _numbers(values: list[Any], where: str, expected: str) -> tuple[float, float, float, float]:
    try:
        a, b, c, d = (float(value) for value in values)
    except (TypeError, ValueError):
        raise UserError(f"{where}: expected {expected}, got {values}") from None
    if not all(abs(value) < 1e7 for value in (a, b, c, d)):  # also NaN
        raise UserError(f"{where}: expected {expected}, got {values}")
    return a, b, c, d
