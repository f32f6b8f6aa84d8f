"""Images with boxes as data: VOC, COCO and YOLO folders and archives; digits on a canvas when nothing is given.

Images are decoded once into one uint8 tensor, scaled to fit a common canvas and laid into its upper left corner
(letterboxed). A batch is {"image": (B, C, H, W) float32 in [-1, 1], "boxes": (B, M, 4) float32, left, top, right,
bottom in pixels of the canvas, "label": (B, M) int64, -1 where there is no box, "ignored": (B, M) bool}.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, DataOptions, Split
from fourfold.core.state import write_text
from fourfold.data.box_augment import BoxAugment, augment
from fourfold.data.box_digits import digit_scenes
from fourfold.data.box_files import find_boxes
from fourfold.data.box_reader import Canvas, Scene, read_scenes
from fourfold.data.images import SPLIT_NAMES, split_rows
from fourfold.data.loading import Indexed
from fourfold.data.twins import load_prints, prints_of, save_prints, twins_note


class BoxPreparation(NamedTuple):
    """What a later detection needs to treat other images alike."""

    shape: tuple[int, int, int]
    """(C, H, W) of the canvas."""
    classes: tuple[str, ...]
    most: int
    """M, boxes of one image at most."""
    fingerprint: str = ""


class BoxExamples(NamedTuple):
    """Images on their canvas with what is known of each."""

    images: Tensor
    """(N, C, H, W) uint8."""
    boxes: Tensor
    """(N, M, 4) float32, pixels of the canvas."""
    labels: Tensor
    """(N, M) int64, -1 where there is no box."""
    ignored: Tensor
    """(N, M) bool."""
    rows: dict[Split, Tensor]
    scenes: list[Scene]
    """Names, scales and sizes before they were laid on the canvas."""


class Boxes(DataOptions):
    """Images with boxes."""

    size: PositiveInt | None = None
    """The longer side of the canvas in pixels, rounded up to a multiple of 32; None is the longest of the images, 320
    at most."""
    channels: Literal["grey", "rgb"] | None = None
    """Colours; None means grey if every image is grey, else rgb."""
    batch: PositiveInt = 8
    """Images in a batch."""
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of training, validation and test, where the source does not say which image belongs where."""
    augment: BoxAugment = BoxAugment()
    """What happens to training images."""
    strict: bool = False
    """Unreadable images, missing ones, and boxes that are empty, inverted or outside are errors instead of being left
    out and counted."""

    def open(self, sources: Any, *, seed: int = 0, valid: Any = None) -> BoxData:
        """Read and decode images and their boxes.

        Args:
            sources: None (8 x 8 digits laid on a canvas), or one or several folders, archives, COCO files and catalog
                names.
            seed: fixes the split, the order and the augmentation.
            valid: sources of the validation split, if they are apart.

        Raises:
            UserError: no such path, no annotations, several formats in one folder, an unknown category; under
                `strict` whatever else is wrong with an image or a box.
        """
        data = _open(self, None, sources, seed=seed, valid=valid, whole=False)
        data.note_twins()
        return data

    def restore(self, folder: Path) -> BoxData:
        """See `DataOptions.restore`."""
        tree = json.loads((folder / "boxes.json").read_text(encoding="utf-8"))
        about = tree.pop("summary")
        known = BoxPreparation(
            tuple(tree["shape"]), tuple(tree["classes"]), tree["most"], tree["fingerprint"]
        )
        data = BoxData(self, known, None, about, seed=0)
        data.known = load_prints(folder)
        return data


class BoxData(Indexed):
    """Images on their canvas with boxes, or after `restore` only their preparation."""

    unit = "places"
    apart = True
    known: frozenset[int] = frozenset()
    """Prints of the training images, and of those of the run that this one begins from."""

    def __init__(
        self,
        options: Boxes,
        preparation: BoxPreparation,
        examples: BoxExamples | None,
        about: dict[str, Any],
        *,
        seed: int,
    ) -> None:
        super().__init__(batch=options.batch, seed=seed)
        self.options, self.preparation = options, preparation
        self.shape, self.classes = preparation.shape, preparation.classes
        self.fingerprint = preparation.fingerprint
        self._examples, self._about = examples, about

    @property
    def examples(self) -> BoxExamples:
        """The images themselves.

        Raises:
            ValueError: this data was restored without them.
        """
        if self._examples is None:
            raise ValueError("this data was restored without examples; reopen brings them")
        return self._examples

    def size(self, split: Split) -> int:
        """Images in the split."""
        return 0 if self._examples is None else len(self._examples.rows[split])

    def take(self, split: Split, index: np.ndarray | slice, epoch: int | None) -> Batch:
        """See `Indexed.take`; training images of an epoch are augmented."""
        some = self.examples
        chosen = some.rows[split][index if isinstance(index, slice) else torch.from_numpy(index)]
        images = some.images[chosen].float().mul_(2 / 255).sub_(1)
        boxes, labels, ignored = some.boxes[chosen], some.labels[chosen], some.ignored[chosen]
        if epoch is not None and split == "train":
            keys = [[self.seed, epoch, int(row)] for row in chosen]
            images, boxes, labels = augment(images, boxes, labels, self.options.augment, keys)
            ignored = ignored & (labels >= 0)
        return {"image": images, "boxes": boxes, "label": labels, "ignored": ignored}

    def scenes(self, split: Split) -> list[Scene]:
        """Names and sizes of a split's images before they were laid on the canvas."""
        return [self.examples.scenes[row] for row in self.examples.rows[split].tolist()]

    def reopen(
        self, sources: Any, *, seed: int = 0, valid: Any = None, whole: bool = False
    ) -> BoxData:
        """See `Data.reopen`; boxes of classes that training did not have are an error."""
        data = _open(self.options, self.preparation, sources, seed=seed, valid=valid, whole=whole)
        data.note_twins(self.known or self.prints("train"))
        return data

    def prints(self, split: Split) -> frozenset[int]:
        """A number for each image of a split, equal for equal pixels."""
        return prints_of(self._images_of(split))

    def _images_of(self, split: Split) -> Iterator[np.ndarray]:
        """Each (C, H, W) uint8; none where there are no examples."""
        if self.size(split):
            some = self.examples
            yield from (some.images[row].numpy() for row in some.rows[split].tolist())

    def note_twins(self, earlier: frozenset[int] = frozenset()) -> None:
        """Say which held-out images are, pixel by pixel, training images, of this run or of an earlier one."""
        self.known = earlier | self.prints("train")
        held: tuple[Split, ...] = ("valid", "test")
        for split in held:
            names = [scene.name for scene in self.scenes(split)] if self.size(split) else []
            if said := twins_note(split, self._images_of(split), names, self.known):
                self._about = {**self._about, "notes": [*self._about["notes"], said]}

    def look_at(self, sources: Any) -> BoxData:
        """Images to detect in: files, folders or archives, with annotations or without."""
        return _open(self.options, self.preparation, sources, whole=True, plain=True)

    def save(self, folder: Path) -> None:
        """See `Data.save`."""
        tree = {**self.preparation._asdict(), "summary": self._about}
        write_text(folder / "boxes.json", json.dumps(tree, ensure_ascii=False, indent=1))
        save_prints(folder, self.known or self.prints("train"))

    def summary(self) -> dict[str, Any]:
        """See `Data.summary`."""
        return dict(self._about)


def _open(
    options: Boxes,
    known: BoxPreparation | None,
    sources: Any,
    *,
    seed: int = 0,
    valid: Any = None,
    whole: bool = False,
    plain: bool = False,
) -> BoxData:
    notes: list[str] = []
    if sources is None:
        scenes = digit_scenes()
    else:
        told = {"strict": options.strict, "plain": plain}
        found = find_boxes(sources, notes, **told)
        if valid is not None:
            found += [b._replace(split="valid") for b in find_boxes(valid, notes, **told)]
        scenes = read_scenes(found, notes, channels=options.channels, strict=options.strict)
    shape = known.shape if known else Canvas.suited(scenes, options.size, options.channels)
    canvas = Canvas(shape)
    images = canvas.lay(scenes)
    classes = known.classes if known else _classes(scenes, notes)
    most = max([len(scene.boxes) for scene in scenes] + ([known.most] if known else [1]))
    boxes, labels, ignored = _padded(scenes, classes, most, plain)
    rows = split_rows(options.split, [s.split for s in scenes], len(scenes), seed, whole, notes)
    if known is None and not (labels[rows["train"]] >= 0).any():
        raise UserError("none of the training images has a box")
    preparation = BoxPreparation(shape, classes, most, _digest(options, scenes))
    about: dict[str, Any] = {
        "images": len(scenes),
        **{split: len(rows[split]) for split in SPLIT_NAMES},
        "size": f"{shape[1]} x {shape[2]} pixels",
        "channels": "grey" if shape[0] == 1 else "rgb",
        "boxes": {c: int((labels == i).sum()) for i, c in enumerate(classes)},
        "without boxes": int((labels < 0).all(dim=1).sum()),
        "notes": notes,
    }
    examples = BoxExamples(images, boxes, labels, ignored, rows, scenes)
    return BoxData(options, preparation, examples, about, seed=seed)


def _classes(scenes: list[Scene], notes: list[str]) -> tuple[str, ...]:
    names = {name for scene in scenes for name in scene.names}
    if not names:
        why = f" ({'; '.join(notes)})" if notes else ""
        raise UserError(f"none of the images has a box: nothing can be learned from them{why}")
    # not isdigit, which circled digits are too
    return tuple(
        sorted(names, key=lambda n: (not n.isdecimal(), int(n) if n.isdecimal() else 0, n))
    )


def _padded(
    scenes: list[Scene], classes: tuple[str, ...], most: int, plain: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (N, M, 4), labels (N, M) and whether they are ignored (N, M)."""
    boxes = torch.zeros(len(scenes), most, 4)
    labels = torch.full((len(scenes), most), -1, dtype=torch.int64)
    ignored = torch.zeros(len(scenes), most, dtype=torch.bool)
    number = {name: i for i, name in enumerate(classes)}
    for row, scene in enumerate(scenes):
        unknown = next((name for name in scene.names if name not in number), None)
        if unknown is not None and not plain:
            raise UserError(
                f"{scene.name}: a box of the class {unknown}, which training did not have (it had {', '.join(classes)})"
            )
        count = len(scene.boxes)
        if count and unknown is None:
            boxes[row, :count] = torch.from_numpy(scene.boxes * scene.scale).float()
            labels[row, :count] = torch.tensor([number[name] for name in scene.names])
            ignored[row, :count] = torch.tensor(scene.ignored)
    return boxes, labels, ignored


def _digest(options: Boxes, scenes: list[Scene]) -> str:
    """SHA-256 of what was read and of what prepares it."""
    whole = hashlib.sha256(options.model_dump_json(exclude={"batch", "strict"}).encode())
    for scene in scenes:
        whole.update(Path(scene.name).name.encode() + np.ascontiguousarray(scene.image).tobytes())
        whole.update(scene.boxes.tobytes() + "\0".join(scene.names).encode())
    return whole.hexdigest()
