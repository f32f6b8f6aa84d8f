"""What learning without labels first is worth where labels are few: tiles, brain scans, chest X-rays.

    python -m benchmarks.few_labels tiles
    python -m benchmarks.few_labels tiles mri xray --seeds 3

Of each set a share is held out; all other images are seen without labels (mae, simclr), 50, 100 and 500 of them, drawn
by lot from every class, or as many as there are, with labels: by vit and cnn from drawn weights, by both from mae, by
cnn from simclr. Kept is the area under the ROC curve on the held-out images (of six classes the mean of each against
the rest) and the processor seconds. The weights are the last, as no label is left to choose by.
"""

from __future__ import annotations

import argparse
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.side_by_side import data_file, keep
from fourfold import api
from fourfold.data.labelled_images import LabelledImages

BUDGETS = (50, 100, 500)
HELD = 0.35
"""Share that is held out of a set that comes unsplit."""
SHAPES: dict[str, dict[str, Any]] = {
    "vit": {"width": 64, "layers": 4, "heads": 4},
    "cnn": {"width": 8, "stages": 3},
}
PRETRAINING = {"vit": ("mae",), "cnn": ("mae", "simclr")}
STEPS = {"mae": 3, "simclr": 1}
"""A step of mae costs a fraction of one of simclr, whose batch is twice as large and of two views each."""


class Pictures(NamedTuple):
    """Grey images of one size: those to learn from and those held out."""

    images: np.ndarray
    """(N, 1, H, W) uint8."""
    labels: np.ndarray
    """(N,) int64."""
    test_images: np.ndarray
    test_labels: np.ndarray

    @classmethod
    def of(cls, source: Any, size: int, seed: int) -> Pictures:
        """Images by folder of class, cut by lot; those that are pixel by pixel the same stay on one side."""
        options = LabelledImages(size=size, channels="grey", split=(1 - HELD, 0.0, HELD))
        data = options.open(source, seed=seed)
        train, test = data.pixels("train").numpy(), data.pixels("test").numpy()
        seen = {image.tobytes() for image in train}
        new = np.array([image.tobytes() not in seen for image in test])
        labels = data.labels("train").numpy(), data.labels("test").numpy()[new]
        return cls(train, labels[0], test[new], labels[1])

    def some(self, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """So many with labels, of each class in proportion, at least one."""
        random = np.random.default_rng([seed, count])
        order = random.permutation(len(self.labels))
        firsts = [order[self.labels[order] == c][0] for c in np.unique(self.labels)]
        rest = order[~np.isin(order, firsts)][: max(0, count - len(firsts))]
        taken = np.concatenate([firsts, rest])
        return self.images[taken], self.labels[taken]


def tiles(folder: Path, seed: int) -> Pictures:
    """Magnetic tiles: five defects, and none."""
    with tarfile.open(data_file("magnetic-tile/magnetic_tile.tar.gz")) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None and member.name.endswith(".jpg"):  # the masks are PNG
                name = Path(member.name)
                place = folder / "tiles" / name.parts[0].lower() / name.name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(file.read())
    return Pictures.of(str(folder / "tiles"), 64, seed)


def mri(folder: Path, seed: int) -> Pictures:
    """Slices of brains with and without a tumour."""
    return Pictures.of(str(data_file("brain-mri-tumor/brain_mri.tar.gz")), 64, seed)


def xray(folder: Path, seed: int) -> Pictures:
    """Chests with and without pneumonia, 28 x 28; the set's own test images."""
    with np.load(data_file("pneumonia-mnist/pneumoniamnist.npz")) as kept:
        parts = [
            kept[f"{split}_{what}"].astype(np.uint8 if what == "images" else np.int64)
            for split in ("train", "test")
            for what in ("images", "labels")
        ]
    images, labels, test_images, test_labels = parts
    return Pictures(images[:, None], labels.ravel(), test_images[:, None], test_labels.ravel())


SETS = {"tiles": tiles, "mri": mri, "xray": xray}


def measured(
    system: str, pictures: Pictures, count: int, seed: int, steps: int, begun: str | None
) -> dict[str, float]:
    """Area under the curve of a network that saw so many labels."""
    began = time.process_time()
    options = {"data.split": (1.0, 0.0, 0.0), "data.batch": 32, "steps": steps}
    shape = {} if begun else SHAPES[system]
    some = pictures.some(count, seed)
    run = api.fit(system, some, out=False, seed=seed, from_=begun, **options, **shape)
    values = run.evaluate((pictures.test_images, pictures.test_labels)).values
    spent = round(time.process_time() - began, 1)
    return {"auroc": round(values["auroc"], 4), "processor seconds": spent}


def pretrained(
    system: str, before: str, pictures: Pictures, folder: Path, seed: int, steps: int
) -> str:
    """A run that has seen all images to learn from, without labels."""
    options: dict[str, Any] = {"data.split": (0.95, 0.05, 0.0), "steps": steps * STEPS[before]}
    shape = dict(SHAPES[system])
    if before == "mae":
        options["encoder"] = system
    if before == "mae" and system == "cnn":
        options["channels"] = shape.pop("width")
    place = folder / f"{system}-{before}-{seed}"
    api.fit(before, pictures.images, out=place, seed=seed, **options, **shape)
    return str(place)


def main() -> None:
    """Measure the sets that are named, and keep a row of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="+", choices=list(SETS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=200, help="of a fit with labels")
    parser.add_argument(
        "--before", type=int, default=500, help="of simclr; mae makes three times as many"
    )
    given = parser.parse_args()
    for name in given.sets:
        rows: dict[str, Any] = {}
        for seed in range(given.seeds):
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary)
                pictures = SETS[name](folder, seed)
                budgets = sorted({min(count, len(pictures.labels)) for count in BUDGETS})
                for system, learned in PRETRAINING.items():
                    begun: dict[str, str | None] = {"scratch": None}
                    for before in learned:
                        began = time.process_time()
                        begun[before] = pretrained(
                            system, before, pictures, folder, seed, given.before
                        )
                        spent = {"processor seconds": round(time.process_time() - began, 1)}
                        rows.setdefault(f"{before} of {system}", []).append(spent)
                    for origin, place in begun.items():
                        for count in budgets:
                            found = measured(system, pictures, count, seed, given.steps, place)
                            told = f"{system} from {origin}, {count} labels"
                            rows.setdefault(told, []).append(found)
        images = (
            f"{len(pictures.labels):,} images to learn from, {len(pictures.test_labels):,} held out"
        )
        keep("few_labels", {f"{name}: {images}": rows})


if __name__ == "__main__":
    main()
