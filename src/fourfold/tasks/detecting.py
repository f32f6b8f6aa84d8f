"""What a detector does with a run: find things in images, draw them, and measure how well it finds them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out, to_device
from fourfold.core.parts import Batch, Split
from fourfold.core.run import Run
from fourfold.core.types import Drawn, Picture, Score, Source, Table
from fourfold.data.boxes import BoxData
from fourfold.look.boxes import boxed_images, precision_recall_of_boxes
from fourfold.look.figures import stand_ins
from fourfold.objectives.average_precision import THRESHOLDS, Detected, Truth, curves
from fourfold.objectives.detection import LEAST, Detection, decode
from fourfold.tasks.looking import Looking

if TYPE_CHECKING:
    import polars as pl

DRAWN = 12  # images in a picture at most
SHOWN = 0.5  # least score of a detection that is drawn in the report


class Looked(NamedTuple):
    """A split's images with what was found and what is there."""

    found: list[Detected]
    truths: list[Truth]


def look(run: Run, data: BoxData, split: Split, *, threshold: float, most: int = 100) -> Looked:
    """Detect in a whole split, boxes in pixels of the canvas."""
    objective = run.objective
    if not isinstance(objective, Detection):
        raise TypeError(f"look expects a run with Detection, got {type(objective).__name__}")
    found, truths = [], []
    for batch in data.batches(split):
        answer = _answer(run, batch)
        told = decode(
            answer,
            threshold=threshold,
            overlap=objective.suppression,
            most=most,
            size=data.shape[1:],
        )
        found += [Detected(*(t.cpu().double().numpy() for t in one)) for one in told]
        for boxes, labels, ignored in zip(
            batch["boxes"], batch["label"], batch["ignored"], strict=True
        ):
            real = labels >= 0
            parts = boxes[real].double(), labels[real], ignored[real]
            truths.append(Truth(*(part.numpy() for part in parts)))
    return Looked(found, truths)


class Detecting(Looking):
    """Verbs, pictures and tables of a detector."""

    def detect(self, run: Run, images: Source, *, threshold: float = 0.5, most: int = 100) -> Drawn:
        """Find things: a table of boxes, or, written as a picture, the images with the boxes drawn.

        Args:
            images: files, folders or archives; annotations beside them are not looked at.
            threshold: least score of a box, from 0 to 1.
            most: boxes of an image at most, the best first.
        """
        import polars as pl

        if not 0 <= threshold <= 1:
            raise UserError(f"--threshold: expected a score from 0 to 1, got {threshold:g}")
        if most < 1:
            raise UserError(f"--most: expected at least 1, got {most}")
        if images is None:
            raise UserError("detect needs images: fourfold detect RUN IMAGE")
        data = _boxes(run.data).look_at(images)
        for note in data.summary()["notes"]:
            run.note(note)
        found = look(run, data, "test", threshold=threshold, most=most).found
        scenes = data.scenes("test")
        rows = []
        for scene, one in zip(scenes, found, strict=True):
            limits = [scene.image.shape[1], scene.image.shape[0]] * 2
            inside = np.minimum(one.boxes / scene.scale, limits)
            for box, score, label in zip(inside, one.scores, one.labels, strict=True):
                sides = (round(float(v), 1) for v in box)
                rows.append((scene.name, data.classes[int(label)], round(float(score), 4), *sides))
        if not rows:
            run.note(f"no box scores {threshold:g} or more, in {len(scenes):,} images")
        names = ("image", "class", "score", "left", "top", "right", "bottom")
        kinds = [pl.String, pl.String, *[pl.Float64] * 5]
        table: pl.DataFrame = pl.DataFrame(
            rows, schema=dict(zip(names, kinds, strict=True)), orient="row"
        )
        return Drawn(table, lambda: _overlay(run, data, found))

    def evaluate(self, run: Run, source: Source = None) -> Score:
        """Mean average precision on the run's own held-out split or on other images with boxes."""
        data, split, sentence = held_out(run, source)
        data = _boxes(data)
        looked = look(run, data, split, threshold=LEAST)
        values = {"map50": float("nan"), "map": float("nan")}
        table = np.array(
            [[c.average() for c in curves(*looked, len(data.classes), t)] for t in THRESHOLDS]
        )
        known = ~np.isnan(table).all(axis=0)
        if not known.any():
            raise UserError(f"{sentence}: there is no box to find")
        values = {"map50": float(table[0, known].mean()), "map": float(table[:, known].mean())}
        for label in np.flatnonzero(known):
            values[f"ap50_{data.classes[label]}"] = float(table[0, label])
        units = {name: "(1 is best)" for name in values}
        count = f"{data.size(split):,} images, {sum(len(t.labels) for t in looked.truths):,} boxes"
        notes = (
            f"{count} {sentence}; map50 at an overlap of 0.5, map over 0.5 to 0.95, both as COCO has them",
            *data.summary()["notes"],
        )
        return Score(values, units, notes)

    def preview(self, run: Run) -> Picture | None:
        """Detections in the first validation images, so that one sees them change."""
        data = run.examples()
        if not isinstance(data, BoxData) or not data.size("valid"):
            return None
        return _examples(run, data, "valid", 4)

    def pictures(self, run: Run) -> Iterator[Picture]:
        """Detections beside the truth, precision and recall of each class, augmented batches."""
        data, split, sentence = held_out(run)
        data = _boxes(data)
        yield _examples(run, data, split, DRAWN)
        looked = look(run, data, split, threshold=LEAST)
        found = curves(*looked, len(data.classes))
        names, key = stand_ins(data.classes)
        said = f"Overlap 0.5, measured {sentence}. {key}".strip()
        yield precision_recall_of_boxes(found, names, said)
        if data.size("train"):
            yield _augmented(data)

    def tables(self, run: Run) -> Iterator[Table]:
        """Average precision of each class."""
        data, split, sentence = held_out(run)
        data = _boxes(data)
        looked = look(run, data, split, threshold=LEAST)
        rows = []
        at = {t: curves(*looked, len(data.classes), t) for t in THRESHOLDS}
        for label, name in enumerate(data.classes):
            every = [at[t][label].average() for t in THRESHOLDS]
            curve = at[0.5][label]
            best = _best(curve.recall, curve.precision, curve.scores)
            rows.append(
                (
                    name,
                    curve.truths,
                    f"{every[0]:.3f}",
                    f"{every[5]:.3f}",
                    f"{np.mean(every):.3f}",
                    best,
                )
            )
        columns = ("class", "boxes", "AP at 0.5", "AP at 0.75", "AP", "best threshold")
        caption = f"Average precision as COCO has it, measured {sentence}; the threshold with the best F1 at 0.5."
        yield Table("Average precision by class", columns, tuple(rows), caption)


def _best(recall: np.ndarray, precision: np.ndarray, scores: np.ndarray) -> str:
    """The score above which precision and recall have the largest harmonic mean."""
    if not len(scores) or not recall.any():
        return "-"
    f1 = 2 * recall * precision / np.maximum(recall + precision, 1e-12)
    return f"{scores[int(f1.argmax())]:.2f} (F1 {f1.max():.3f})"


@torch.no_grad()
def _answer(run: Run, batch: Batch) -> Any:
    return run.model(to_device(batch, run.device)["image"])


def _boxes(data: Any) -> BoxData:
    if not isinstance(data, BoxData):
        raise TypeError(f"a detector expects BoxData, got {type(data).__name__}")
    return data


def _captions(one: Detected, classes: tuple[str, ...]) -> list[str]:
    pairs = zip(one.labels, one.scores, strict=True)
    return [f"{classes[int(label)]} {score:.2f}" for label, score in pairs]


def _overlay(run: Run, data: BoxData, found: list[Detected]) -> Picture:
    """The images in their own size where there is one, side by side where there are several."""
    scenes = data.scenes("test")[:DRAWN]
    boxes = [one.boxes / scene.scale for scene, one in zip(scenes, found, strict=False)]
    left = len(found) - len(scenes)
    caption = f"The first {len(scenes)} of {len(found):,} images." if left else ""
    names, key = stand_ins(data.classes)
    if key:
        run.note(key)
    return boxed_images(
        [scene.image for scene in scenes],
        boxes,
        [_captions(one, names) for one in found[: len(scenes)]],
        [one.labels for one in found[: len(scenes)]],
        "Detections",
        caption=f"{caption} {key}".strip(),
    )


def _examples(run: Run, data: BoxData, split: Split, count: int) -> Picture:
    """Detections (full lines) and the truth (thin white ones) in the first images of a split."""
    rows = torch.arange(min(count, data.size(split)))
    batch = data.take(split, slice(0, len(rows)), None)
    objective: Any = run.objective
    answer = _answer(run, batch)
    told = decode(
        answer, threshold=SHOWN, overlap=objective.suppression, most=100, size=data.shape[1:]
    )
    found = [Detected(*(t.cpu().double().numpy() for t in one)) for one in told]
    images = ((batch["image"] + 1) * 127.5).round().byte().permute(0, 2, 3, 1).squeeze(-1).numpy()
    truths = [b[k >= 0].numpy() for b, k in zip(batch["boxes"], batch["label"], strict=True)]
    names, key = stand_ins(data.classes)
    caption = f"Boxes with a score of {SHOWN:g} and more; white: what is there. {key}".strip()
    return boxed_images(
        list(images),
        [one.boxes for one in found],
        [_captions(one, names) for one in found],
        [one.labels for one in found],
        "Detections",
        caption=caption,
        truths=truths,
    )


def _augmented(data: BoxData) -> Picture:
    """What augmentation makes of the first training images."""
    batch = data.take("train", np.arange(min(8, data.size("train"))), 0)
    images = ((batch["image"] + 1) * 127.5).round().byte().permute(0, 2, 3, 1).squeeze(-1).numpy()
    kept = [label >= 0 for label in batch["label"]]
    labels = [label[k].numpy() for label, k in zip(batch["label"], kept, strict=True)]
    names, key = stand_ins(data.classes)
    caption = "Training images of the first epoch with the boxes that follow them."
    return boxed_images(
        list(images),
        [b[k].numpy() for b, k in zip(batch["boxes"], kept, strict=True)],
        [[names[i] for i in one] for one in labels],
        labels,
        "What augmentation does to a batch",
        caption=f"{caption} {key}".strip(),
    )
