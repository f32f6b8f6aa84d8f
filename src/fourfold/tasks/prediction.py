"""Predicting a target from a table's columns: the verbs that every such system has.

Shapes: N rows, C classes or labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast

import numpy as np
from annotated_types import Ge, Gt, Lt
from pydantic import PositiveInt

from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out, measure
from fourfold.core.opening import opened
from fourfold.core.parts import Split
from fourfold.core.run import Run
from fourfold.core.system import System, batchable
from fourfold.core.targets import Target
from fourfold.core.types import Explanation, Picture, Score, Source, Table
from fourfold.data.splits import TEST
from fourfold.data.table import TableData, Tabular
from fourfold.objectives.metrics import decided
from fourfold.objectives.supervised import Supervised
from fourfold.tasks.calibration import chosen
from fourfold.tasks.gathering import Predictions, gather
from fourfold.tasks.held import Bounds, bounds, held, keep
from fourfold.tasks.scores import scores, units

if TYPE_CHECKING:
    import polars as pl

Decision = Literal["soft", "hard"]
Calibration = Literal["none", "temperature", "isotonic"]
Level = Annotated[float, Gt(0), Lt(1)]
BETWEEN = " | "
"""Between the classes of a set in one cell."""


class Predictor(System):
    """A system whose data is a table and whose objective is `Supervised`."""

    data: Tabular = Tabular()

    def suited(self, run: Run) -> Self:
        """Keeps the place of the run whose features it takes, wherever it is opened later."""
        folder = None if self.data.features is None else opened(self.data.features).folder
        if folder is None:
            return self
        place = {"features": str(folder.absolute())}
        return self.model_copy(update={"data": self.data.model_copy(update=place)})

    @batchable("source", when=lambda system, _: system.data.missing != "interpolate")
    def predict(
        self,
        run: Run,
        source: Source,
        *,
        decision: Decision = "soft",
        interval: Level | None = None,
        calibration: Calibration = "none",
    ) -> pl.DataFrame:
        """The rows with what is predicted of them as further columns.

        A number is told as `prediction` in the target's units; a class as `prediction` with the
        probability of every class as `p(class)`; labels as `prediction(label)`, 0 or 1, and `p(label)`.
        Scores of losses that know no probabilities are called `score(class)`. Rows that --missing drop
        leaves out have none. Where a column has such a name already, the target's name goes before it.

        Args:
            source: the rows; they need no target.
            decision: soft, with probabilities; hard, the decisions alone.
            interval: a probability, as 0.9: adds `lower` and `upper`, or the `set` of classes, that hold the truth so often.
            calibration: probabilities as the model gives them, or by temperature or isotonic as fitted on the validation rows.
        """
        data = cast(TableData, run.data).reopen(source, seed=run.seed, whole=True, targets=False)
        if decision == "hard" and data.target.kind == "number":
            raise UserError(
                f"--decision hard is for classes and labels; {data.target.name} is a number"
            )
        found = gather(run, data, "test")
        made = columns(run, data.target, calibrated(run, found, calibration), decision, calibration)
        if interval is not None:
            edges = bounds(run, data, found, interval)
            run.console.say(edges.sentence)
            made |= _columns_of(edges, data.target)
        for sentence in data.summary()["notes"]:
            run.console.say(sentence)
        return with_columns(data, made)

    def evaluate(
        self, run: Run, source: Source = None, *, calibration: Calibration = "none"
    ) -> Score:
        """The field's usual measures, on its own test split or on other data, each row as much as it weighs.

        The objective's metric comes first. Numbers are measured in the target's units.

        Args:
            source: rows with their target; none takes the run's own held-out rows.
            calibration: probabilities as the model gives them, or by temperature or isotonic as fitted on the validation rows.
        """
        examples, split, sentence = held_out(run, source)
        data = cast(TableData, examples)
        found = calibrated(run, gather(run, data, split), calibration)
        if found.true is None or not len(found.true):
            raise UserError(f"no row with a target to measure {sentence}")
        objective = cast(Supervised, run.objective)
        usual, undefined = scores(
            data.target,
            found.values,
            found.true,
            found.weight,
            probabilistic=objective.probabilistic or calibration != "none",
        )
        own: dict[str, float] = {}
        if calibration == "none":  # the loss is of what the model gives, not of what is made of it
            own = measure(objective, run.model, data, split, run.device, run.seed)
        first = [objective.metric] if objective.metric in {**own, **usual} else []
        names = dict.fromkeys([*first, *usual, *own])
        values = {name: usual[name] if name in usual else own[name] for name in names}
        notes = () if source is None else data.summary()["notes"]
        said = (f"{len(found.true):,} rows {sentence}", *undefined, *notes)
        return Score(values, units(data.target, values, objective.unit), said)

    def explain(
        self,
        run: Run,
        source: Source = None,
        *,
        of: str | None = None,
        permutations: PositiveInt = 200,
        background: Source = None,
        graph: bool = False,
    ) -> Explanation:
        """Why rows are predicted as they are; without rows, which columns the predictions rest on over all.

        Each original column's part in the difference from the mean prediction is its Shapley value, exact
        for linear regression, otherwise from drawn orders of the columns, with standard errors. Without
        rows columns are shuffled, and the most important ones are set to each of their values.

        Args:
            source: rows to explain; they need no target. None explains the predictions over all.
            of: the class or label to explain, by default the one that is predicted.
            permutations: orders of the columns drawn for each row.
            background: rows to compare with, by default a hundred training rows.
            graph: show what the model computes on the rows instead, module by module; rows then need their target.
        """
        if graph:
            from fourfold.tasks.looking import Explaining

            return Explaining.explain(cast(Any, self), run, source)
        if source is None:
            if of is not None or background is not None:
                option = "of" if of is not None else "background"
                raise UserError(f"--{option} goes with rows to explain: fourfold explain RUN FILE")
            from fourfold.tasks.effects import explain_columns

            return explain_columns(run)
        from fourfold.tasks.explaining import explain_rows

        return explain_rows(run, source, of, permutations, background)

    def inspect(
        self,
        run: Run,
        *,
        rows: bool = False,
        spread: tuple[str, ...] = (),
        fits: Annotated[int, Ge(2)] = 5,
        examples: PositiveInt = 32,
        depths: bool = False,
    ) -> Explanation | pl.DataFrame:
        """Whether it has learned what there is to learn, and whether the network is numerically healthy, in words.

        The learning verdict is under-fitting, over-fitting, fine or not enough data, from errors on
        training and held-out rows beside those of a constant and of gradient boosting on the same rows.

        Args:
            rows: also fit on 10, 20, 40, 80 and 100% of the training rows, which takes five fits.
            spread: options that are numbers, or rows, over which bias and variance are measured, as width,rows.
            fits: bootstrap samples for each of their five values.
            examples: rows of the batch on which activations and gradients are looked at.
            depths: draw plain against residual networks of 4 to 64 layers too, for comparison.
        """
        from fourfold.look.health import inspect_batch
        from fourfold.tasks.judging import verdict
        from fourfold.tasks.looking import batch_of

        learned = verdict(run, rows=rows, spread=spread, fits=fits)
        batch, said = batch_of(run, None, examples)
        health = inspect_batch(run.model, run.objective, batch, seed=run.seed, title="health")
        tables, pictures = learned.tables + health.tables, learned.pictures + health.pictures
        if depths:
            picture, table = self._depths(run.seed)
            tables, pictures = (*tables, table), (*pictures, picture)
        return Explanation(
            learned.title,
            (*learned.sentences, *health.sentences, f"Seen: {said}."),
            tables,
            pictures,
        )

    def _depths(self, seed: int) -> tuple[Picture, Table]:
        """Plain against residual networks by depth."""
        from fourfold.look.depth import depth_picture

        return depth_picture(seed=seed)

    def pictures(self, run: Run) -> Iterator[Picture]:
        """Predictions of the held-out rows, what they rest on, and how they were learned."""
        from fourfold.tasks.showing import pictures

        yield from pictures(run)

    def tables(self, run: Run) -> Iterator[Table]:
        """Measures of the held-out rows."""
        from fourfold.tasks.showing import tables

        yield from tables(run)

    def finish(self, run: Run) -> None:
        """See `System.finish`: how far off the validation rows were, and calibrations fitted on them."""
        keep(run)

    def export(self, run: Run, *, to: Literal["onnx"] = "onnx", out: Path | None = None) -> Path:
        """Write the model with its preprocessing inside, as one ONNX file that onnxruntime runs.

        Args:
            to: the format.
            out: the file; by default model.onnx in the run's folder.
        """
        from fourfold.tasks.onnx_export import export

        return export(run, out)


def predictions(run: Run, data: TableData, split: Split) -> tuple[np.ndarray, np.ndarray | None]:
    """Predictions of a split's rows in stored order, and the targets where there are any.

    Returns:
        Numbers (N,) in the target's own units, or probabilities (N, C); targets as they are batched,
        numbers in the target's own units.
    """
    found = gather(run, data, split)
    return found.values, found.true


def calibrated(run: Run, found: Predictions, method: Calibration) -> Predictions:
    """Predictions with calibrated probabilities.

    Raises:
        UserError: the target is a number, or there are no validation rows.
    """
    if method == "none":
        return found
    target = cast(TableData, run.data).target
    if target.kind == "number":
        raise UserError(
            f"--calibration is for classes and labels; {target.name} is a number (see --interval)"
        )
    calibrator = chosen(held(run).calibrators, method)
    return replace(found, values=calibrator(found.values))


def columns(
    run: Run, target: Target, found: Predictions, decision: Decision, calibration: Calibration
) -> dict[str, np.ndarray]:
    """What is predicted as columns by name, (N,) each."""
    values = found.values
    if target.kind == "number":
        return {"prediction": values, **found.further}
    probable = cast(Supervised, run.objective).probabilistic or calibration != "none"
    word = "p" if probable else "score"
    soft = {f"{word}({name})": values[:, i] for i, name in enumerate(target.classes)}
    if target.kind == "category":
        hard = {"prediction": np.array(target.classes, dtype=object)[values.argmax(axis=1)]}
    else:
        there = decided(values, values)
        hard = {f"prediction({name})": there[:, i] for i, name in enumerate(target.classes)}
    return hard if decision == "hard" else {**hard, **soft}


def _columns_of(edges: Bounds, target: Target) -> dict[str, np.ndarray]:
    if edges.chosen is None:
        assert edges.low is not None and edges.high is not None  # noqa: S101
        return {"lower": edges.low, "upper": edges.high}
    names = np.array(target.classes, dtype=object)
    return {"set": np.array([BETWEEN.join(names[row]) for row in edges.chosen], dtype=object)}


def with_columns(data: TableData, made: dict[str, np.ndarray]) -> pl.DataFrame:
    """The source's rows, as they were given, with further columns; rows that were left out have null there."""
    import polars as pl

    assert data.rows is not None and data.parts is not None  # noqa: S101  # reopened with a source
    frame, used = (data.rows.given or data.rows).frame(), np.flatnonzero(data.parts == TEST)
    taken = set(frame.columns)
    added = []
    for name, values in made.items():
        if name in taken:
            name = f"{data.target.name}_{name}"
        while name in taken:
            name += "_"
        taken.add(name)
        series = pl.Series(name, values.tolist() if values.dtype == object else values)
        if len(used) < frame.height:
            places = np.full(frame.height, None, dtype=object)
            places[used] = range(len(used))
            series = series.gather(pl.Series(places.tolist(), dtype=pl.UInt32))
        added.append(series)
    return frame.with_columns(added)
