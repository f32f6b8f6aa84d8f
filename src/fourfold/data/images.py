"""Images as data: folders, a folder per class, archives, IDX, NumPy files, arrays; the 8 x 8 digits when nothing is given.

Everything is decoded once into one uint8 tensor and sliced whole; a batch is
{"image": (B, C, H, W) float32 in [-1, 1], "label": (B,) int64 where there are labels}, with -1
black and 1 white. Shapes: B batch, N images, C channels (1 grey or 3 rgb), H and W pixels.
Digits: Alpaydin and Kaynak 1998, UCI Optical Recognition of Handwritten Digits, as in scikit-learn.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from pydantic import PositiveInt, field_validator
from torch import Tensor

from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, DataOptions, Split
from fourfold.core.state import write_text
from fourfold.data.image_files import Found, Stack, find_images
from fourfold.data.image_reader import Reader
from fourfold.data.loading import Indexed

SPLIT_NAMES: tuple[Split, ...] = get_args(Split)


class Preparation(NamedTuple):
    """What a later predict needs to treat other images alike."""

    shape: tuple[int, int, int]
    """(C, H, W)."""
    classes: tuple[str, ...] | None = ()
    """Names of the labels 0, 1, ...; empty where there are none; None where they are still to be found."""
    range: tuple[float, float] | None = None
    """Numbers that stood for black and white, where the source was not of 8 bits."""
    fingerprint: str = ""


class Examples(NamedTuple):
    """Decoded images with what is known of each."""

    images: Tensor
    """(N, C, H, W) uint8."""
    labels: Tensor | None
    """(N,) int64."""
    rows: dict[Split, Tensor]
    """Numbers of each split's images."""
    names: list[str]
    """Of each image the file, or the array and the place in it."""


class Images(DataOptions):
    """Images of one size, with labels where folders or arrays give them."""

    size: PositiveInt | None = None
    """Height and width in pixels; images are scaled to cover it and cut in the middle. None keeps
    the size that most images have."""
    channels: Literal["grey", "rgb"] | None = None
    """Colours; None means grey if every image is grey, else rgb."""
    batch: PositiveInt = 64
    """Images in a batch."""
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of training, validation and test; a source that comes split (MNIST, folders named
    train and test) keeps its own."""
    strict: bool = False
    """An image that does not open is an error instead of being skipped and counted."""

    @field_validator("split")
    @classmethod
    def _shares(cls, split: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(split) < 0 or split[0] == 0 or abs(sum(split) - 1) > 1e-6:
            raise ValueError(f"three shares that add up to 1, the first above 0, got {split}")
        return split

    def open(self, sources: Any, *, seed: int = 0, valid: Any = None) -> ImageData:
        """Read and decode images.

        Args:
            sources: None (8 x 8 digits), one or several paths, globs and catalog names, an array or
                tensor (N, H, W), (N, H, W, C) or (N, C, H, W) of 8 bits or real numbers in [0, 1],
                [-1, 1] or [0, 255], or a pair of such images and labels (N,).
            seed: fixes the split and the order.
            valid: sources of the validation split, if they are apart.

        Raises:
            UserError: no such path, no images, an unreadable one under `strict`, an array of
                another rank or with NaN, too few images to split.
        """
        return open_images(self, None, sources, seed=seed, valid=valid, whole=False)

    def restore(self, folder: Path) -> ImageData:
        """See `DataOptions.restore`."""
        tree = json.loads((folder / "images.json").read_text(encoding="utf-8"))
        about = tree.pop("summary")
        values_range = tuple(tree["range"]) if tree["range"] else None
        preparation = Preparation(
            tuple(tree["shape"]), tuple(tree["classes"]), values_range, tree["fingerprint"]
        )
        return self.makes(self, preparation, None, about, seed=0)

    @property
    def makes(self) -> type[ImageData]:
        """What these options make of what was read."""
        return ImageData


class ImageData(Indexed):
    """Decoded images, or after `restore` only their preparation."""

    unit = "images"
    apart = True

    def __init__(
        self,
        options: Images,
        preparation: Preparation,
        examples: Examples | None,
        about: dict[str, Any],
        *,
        seed: int,
    ) -> None:
        super().__init__(batch=options.batch, seed=seed)
        self.options, self.preparation = options, preparation
        self.shape, self.classes = preparation.shape, preparation.classes or ()
        self.fingerprint = preparation.fingerprint
        self.examples, self._about = examples, about

    def size(self, split: Split) -> int:
        """Images in the split."""
        return 0 if self.examples is None else len(self.examples.rows[split])

    def numbers(self, split: Split) -> Tensor:
        """Which images of the whole source, in the order in which it holds them, are the split's, (N,) int64."""
        if self.examples is None:
            raise ValueError("this data was restored without examples; reopen brings them")
        return self.examples.rows[split]

    def pixels(self, split: Split) -> Tensor:
        """All images of a split, (N, C, H, W) uint8, in stored order."""
        if self.examples is None:
            raise ValueError("this data was restored without examples; reopen brings them")
        return self.examples.images[self.examples.rows[split]]

    @property
    def names(self) -> dict[Split, list[str]]:
        """Of each split's images the file, or the array and the place in it, in stored order."""
        if self.examples is None:
            return {split: [] for split in SPLIT_NAMES}
        _, _, rows, names = self.examples
        return {split: [names[i] for i in rows[split].tolist()] for split in SPLIT_NAMES}

    @property
    def labelled(self) -> bool:
        """Whether the images have labels."""
        return self.examples is not None and self.examples.labels is not None

    def labels(self, split: Split) -> Tensor:
        """(N,) int64 labels of a split in stored order; empty where there are none."""
        if self.examples is None or self.examples.labels is None:
            return torch.empty(0, dtype=torch.int64)
        return self.examples.labels[self.examples.rows[split]]

    def some(self, split: Split, index: np.ndarray | slice) -> tuple[Tensor, Tensor | None]:
        """Some images of a split, (B, C, H, W) uint8, and their labels (B,) int64 where there are any."""
        if self.examples is None:
            raise ValueError("this data was restored without examples; reopen brings them")
        images, labels, rows, _ = self.examples
        chosen = rows[split][index if isinstance(index, slice) else torch.from_numpy(index)]
        return images[chosen], None if labels is None else labels[chosen]

    def note(self, sentence: str) -> None:
        """Add a sentence to what the user is told of the data."""
        self._about = {**self._about, "notes": [*self._about["notes"], sentence]}

    def take(self, split: Split, index: np.ndarray | slice, epoch: int | None) -> Batch:
        """See `Indexed.take`."""
        images, labels = self.some(split, index)
        batch = {"image": images.float().mul_(2 / 255).sub_(1)}
        if labels is not None:
            batch["label"] = labels
        return batch

    def reopen(
        self, sources: Any, *, seed: int = 0, valid: Any = None, whole: bool = False
    ) -> ImageData:
        """See `Data.reopen`; labels of classes that training did not have are left out, and said."""
        return open_images(
            self.options, self.preparation, sources, seed=seed, valid=valid, whole=whole
        )

    def save(self, folder: Path) -> None:
        """See `Data.save`."""
        tree = {**self.preparation._asdict(), "summary": self._about}
        write_text(folder / "images.json", json.dumps(tree, ensure_ascii=False, indent=1))

    def summary(self) -> dict[str, Any]:
        """See `Data.summary`."""
        return dict(self._about)


def _digits() -> Found:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # 17 levels, all kept apart
    return [Stack("the embedded digits", images, digits.target)]


def open_images(
    options: Images,
    known: Preparation | None,
    sources: Any,
    *,
    seed: int,
    valid: Any,
    whole: bool,
) -> ImageData:
    """Read images, under a known preparation where there is one; its classes hold, if it has any.

    Args:
        options, sources, seed, valid: as of `Images.open`.
        known: an earlier preparation.
        whole: as of `Data.reopen`.
    """
    found, notes = (_digits(), []) if sources is None else find_images(sources)
    apart: Found = []
    if valid is not None:
        apart, more = find_images(valid)
        notes += more
    reader = Reader(
        size=options.size,
        channels=options.channels,
        strict=options.strict,
        shape=known.shape if known else None,
        range_=known.range if known else None,
        notes=notes,
        # what changes no image is no part of it
        preparation=options.model_dump_json(include=set(Images.model_fields) - {"batch", "strict"}),
    )
    images, names, given = reader.read(found, apart)
    classes = _classes(names) if known is None or known.classes is None else known.classes
    labels = _labels(names, classes, notes)
    rows = split_rows(options.split, given, len(images), seed, whole, notes)
    preparation = Preparation(reader.shape, classes, reader.range, reader.fingerprint)
    about: dict[str, Any] = {
        "images": len(images),
        **{split: len(rows[split]) for split in SPLIT_NAMES},
        "size": f"{reader.shape[1]} x {reader.shape[2]} pixels",
        "channels": "grey" if reader.shape[0] == 1 else "rgb",
    }
    if labels is not None:
        counts = torch.bincount(labels, minlength=len(classes)).tolist()
        about["classes"] = dict(zip(classes, counts, strict=True))
    about |= {"skipped": reader.skipped, "resized": reader.resized, "notes": notes}
    examples = Examples(images, labels, rows, reader.names)
    return options.makes(options, preparation, examples, about, seed=seed)


def _classes(names: list[str] | None) -> tuple[str, ...]:
    found = set(names or ())
    # not isdigit, which circled digits are too
    if all(name.removeprefix("-").isdecimal() for name in found):
        return tuple(sorted(found, key=lambda name: (int(name), name)))
    return tuple(sorted(found))


def _labels(names: list[str] | None, classes: tuple[str, ...], notes: list[str]) -> Tensor | None:
    if names is None or not classes:
        return None
    number = {name: i for i, name in enumerate(classes)}
    if unknown := sorted(set(names) - set(number)):
        notes.append(
            f"no labels, as training had no class {unknown[0]} (it had {', '.join(classes)})"
        )
        return None
    return torch.tensor([number[name] for name in names], dtype=torch.int64)


def split_rows(
    wanted: tuple[float, float, float],
    given: list[Split | None],
    count: int,
    seed: int,
    whole: bool,
    notes: list[str],
) -> dict[Split, Tensor]:
    """Which images belong to which split: as given, the rest by lot.

    Args:
        wanted: shares of training, validation and test.
        given: the split that each image comes with.
        count: images.
        seed: of the lot.
        whole: all belong to the test split.
        notes: sentences for the user are added to it.

    Raises:
        UserError: too few images.
    """
    if whole:
        empty = torch.empty(0, dtype=torch.int64)
        return {"train": empty, "valid": empty, "test": torch.arange(count)}
    if "train" not in given and None not in given:
        notes.append("the source names itself a test or validation split; it was split anew")
        given = [None] * count
    shares: dict[Split, float] = dict(zip(SPLIT_NAMES, wanted, strict=True))
    held: tuple[Split, ...] = ("valid", "test")
    rows: dict[Split, list[int]] = {
        split: [i for i, g in enumerate(given) if g == split] for split in held
    }
    pool = np.array([i for i, g in enumerate(given) if g in (None, "train")])
    by_lot = [split for split in held if not rows[split] and shares[split] > 0]
    if len(pool) < 1 + len(by_lot):
        raise UserError(
            f"{count} image{'s' * (count != 1)}: too few to split into training, validation and "
            f"test; expected at least {1 + len(by_lot)}"
        )
    order = np.random.default_rng(seed).permutation(pool)
    total = shares["train"] + sum(shares[split] for split in by_lot)
    start = 0
    for split in by_lot:
        # at least one, and the training split keeps at least one
        left = len(pool) - start - (len(by_lot) - by_lot.index(split))
        part = min(max(1, round(len(pool) * shares[split] / total)), left)
        rows[split] = sorted(order[start : start + part].tolist())
        start += part
    rows["train"] = sorted(order[start:].tolist())
    return {split: torch.tensor(rows[split], dtype=torch.int64) for split in SPLIT_NAMES}
