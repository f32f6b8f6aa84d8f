"""What the report of a table's run shows of its predictions: tables and pictures of the held-out rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np

from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out
from fourfold.core.parts import Split
from fourfold.core.run import Run
from fourfold.core.targets import Target
from fourfold.core.types import Picture, Table
from fourfold.data.table import TableData
from fourfold.look import classification, regression
from fourfold.look.attribution import importance as draw_importance
from fourfold.look.calibration import reliability_diagram
from fourfold.objectives.metrics import decided
from fourfold.objectives.supervised import Supervised
from fourfold.tasks.effects import DRAWN, dependence, importance
from fourfold.tasks.gathering import Predictions, gather
from fourfold.tasks.held import bounds, held
from fourfold.tasks.judging import drawn
from fourfold.tasks.learning import gathered, judge
from fourfold.tasks.scores import calibration_error, reliability, scores, units

LEVEL = 0.9
"""Of the intervals whose coverage is measured."""
CLASSES = 50
"""Classes in a table."""


def pictures(run: Run) -> Iterator[Picture]:
    """Predictions of the held-out rows, what they rest on, and how they were learned."""
    try:
        examples, split, sentence = held_out(run)
    except UserError:
        return  # the rows are gone or none were held out
    data = cast(TableData, examples)
    found = gather(run, data, split)
    if found.true is None or not len(found.true):
        return
    caption = f"{len(found.true):,} rows {sentence}."
    if data.target.kind == "number":
        yield from regression.predictions(found.values, found.true, data.target.name, sentence)
    else:
        yield from _of_classes(run, data.target, found, caption)
    if data.options.fold is not None:
        return  # the run that the folds belong to shows the rest
    names, means, deviations, measure, where = importance(run)
    yield draw_importance(names, means, deviations, measure, f"{where}, each shuffled five times.")
    order = np.argsort(-means, kind="stable")[:DRAWN]
    yield from dependence(run, [names[i] for i in order])
    seen = gathered(run)
    first, *rest = drawn(run, seen)
    yield Picture(first.title, first.png, " ".join([judge(seen)[1][0], first.caption]))
    yield from rest


def tables(run: Run) -> Iterator[Table]:
    """Measures of the held-out rows; of classes each by itself."""
    try:
        examples, split, sentence = held_out(run)
    except UserError:
        return
    data = cast(TableData, examples)
    found = gather(run, data, split)
    if found.true is None or not len(found.true):
        return
    probable = cast(Supervised, run.objective).probabilistic
    values, undefined = scores(
        data.target, found.values, found.true, found.weight, probabilistic=probable
    )
    unit = units(data.target, values)
    rows: list[tuple[object, ...]] = [(n, v, unit.get(n, "")) for n, v in values.items()]
    rows += _coverage(run, data, split, found)
    for name, calibrator in held(run).calibrators.items():
        better = calibrator(found.values)
        error = calibration_error(better, found.true, found.weight)
        rows.append((f"ece after {name}", error, "predict --calibration applies it"))
    caption = " ".join([f"{len(found.true):,} rows {sentence}.", *undefined])
    yield Table("Measures of held-out rows", ("measure", "value", "unit"), tuple(rows), caption)
    if data.target.kind != "number" and len(data.target.classes) <= CLASSES:
        yield by_class(data.target, found.values, found.true, found.weight)


def _of_classes(run: Run, target: Target, found: Predictions, caption: str) -> Iterator[Picture]:
    true, weight = found.true, found.weight
    assert true is not None  # noqa: S101
    if target.kind == "category":
        hard = decided(found.values, true)
        yield classification.confusion(true, hard, target.classes, weight, caption)
    for draw in (classification.roc, classification.precision_recall):
        picture = draw(found.values, true, target.classes, weight, caption)
        if picture is not None:
            yield picture
    probable = cast(Supervised, run.objective).probabilistic
    curves = {"as predicted" if probable else "scores as they are": found.values}
    curves |= {name: c(found.values) for name, c in held(run).calibrators.items()}
    what = "of the predicted class"
    if target.kind == "labels":
        what = "of each label"
    elif len(target.classes) == 2:
        what = f"of {target.classes[1]}"
    yield reliability_diagram(
        {
            name: (reliability(v, true, weight), calibration_error(v, true, weight))
            for name, v in curves.items()
        },
        what,
        caption,
    )


def _coverage(
    run: Run, data: TableData, split: Split, found: Predictions
) -> Iterator[tuple[object, ...]]:
    """How often intervals or sets of the test rows hold the truth; the validation rows they were made from say nothing."""
    if split != "test" or data.target.kind == "labels" or found.true is None:
        return
    try:
        edges = bounds(run, data, found, LEVEL, folds=False)
    except UserError:
        return
    if edges.chosen is not None:
        inside = edges.chosen[np.arange(len(found.true)), found.true]
        yield f"coverage of {LEVEL:.0%} sets", float(inside.mean()), "of rows"
        yield "classes in a set", float(edges.chosen.sum(axis=1).mean()), "mean"
        return
    assert edges.low is not None and edges.high is not None  # noqa: S101
    inside = (edges.low <= found.true) & (found.true <= edges.high)
    yield f"coverage of {LEVEL:.0%} intervals", float(inside.mean()), "of rows"
    yield "width of an interval", float((edges.high - edges.low).mean()), f"of {data.target.name}"


def by_class(
    target: Target, predicted: np.ndarray, true: np.ndarray, weight: np.ndarray | None = None
) -> Table:
    """Precision, recall and F1 of each class or label, and how many rows have it.

    Args:
        target: what was predicted.
        predicted: (N, C) probabilities.
        true: (N,) numbers of classes, or (N, C) of 0 and 1.
        weight: (N,) how much each row counts.
    """
    from sklearn.metrics import precision_recall_fscore_support

    labels = None if true.ndim == 2 else range(len(target.classes))
    told = precision_recall_fscore_support(
        true, decided(predicted, true), labels=labels, sample_weight=weight, zero_division=0.0,
    )  # fmt: skip
    rows = [
        (name, *(float(part[i]) for part in told[:3]), float(told[3][i]))
        for i, name in enumerate(target.classes)
    ]
    what = "label" if target.kind == "labels" else "class"
    columns = (what, "precision", "recall", "f1", "rows")
    return Table(f"By {what}", columns, tuple(rows), "")
