"""Coefficients of a linear model of a table's columns: in original units, as tables and pictures.

Shapes: D prepared columns, K outputs, S strengths of a penalty.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge
from pydantic import PositiveInt

from fourfold.core.run import Run
from fourfold.core.types import Explanation, Picture, Table
from fourfold.data.table import TableData
from fourfold.tasks.prediction import Predictor

if TYPE_CHECKING:
    import polars as pl

SHOWN = 30
"""Columns in a picture of one output; of more outputs fewer."""
SIDE_BY_SIDE = 10
"""Outputs whose coefficients are drawn side by side; of more only their length is."""
LINES = 7
"""Named lines of a path, as many as there are colours."""
NAMED = 12
"""Columns named in a sentence."""


class LinearPredictor(Predictor):
    """A predictor whose model is linear in a table's columns: what it has learned is its coefficients."""

    table_title: ClassVar[str] = "Coefficients"
    table_caption: ClassVar[str] = ""

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
        """The coefficients in the original units of the columns; or, with an option, the verdict on its learning.

        Args:
            rows: fit on 10, 20, 40, 80 and 100% of the training rows, which takes five fits.
            spread: options that are numbers, or rows, over which bias and variance are measured, as rows.
            fits: bootstrap samples for each of their five values.
            examples: rows of the batch on which the model is looked at.
            depths: draw plain against residual networks of 4 to 64 layers too.
        """
        if rows or spread or depths:
            return super().inspect(
                run, rows=rows, spread=spread, fits=fits, examples=examples, depths=depths
            )
        return self._coefficients(run)

    def tables(self, run: Run) -> Iterator[Table]:
        """Measures of the held-out rows, and the coefficients."""
        yield from super().tables(run)
        frame = self._coefficients(run)
        rows = tuple(frame.iter_rows())
        yield Table(self.table_title, tuple(frame.columns), rows, self.table_caption)

    @abstractmethod
    def _coefficients(self, run: Run) -> pl.DataFrame:
        """One row for each column of the prepared table and each output, the intercept last."""


def units(data: TableData) -> np.ndarray:
    """(D + 1, D + 1): takes coefficients of prepared columns, intercept last, to original units but for the
    target's mean."""
    scales = np.array([c.scale for c in data.columns])
    shifts = np.array([c.mean for c in data.columns]) / scales
    # numbers are rescaled, and their means move into the intercept
    found = np.diag(np.append(1 / scales, 1.0)) * data.target.scale
    found[-1, :-1] = -shifts * data.target.scale
    return found


def original(data: TableData, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """(K, D + 1) coefficients in the original units of columns and target, intercept last.

    Args:
        data: the preparation.
        weight: (K, D) of the prepared columns.
        bias: (K,).
    """
    found = np.column_stack([weight, bias]) @ units(data).T
    found[:, -1] += data.target.mean
    return found


def effects(data: TableData, coefficients: np.ndarray) -> np.ndarray:
    """(..., D) change for one standard deviation of a number, or from 0 to 1 in a category's column."""
    return coefficients * np.array([c.scale for c in data.columns])


def draw(
    names: Sequence[str],
    values: np.ndarray,
    title: str,
    label: str,
    caption: str,
    errors: np.ndarray | None = None,
    series: Sequence[str] = (),
) -> Picture:
    """Bars of the largest coefficients.

    Args:
        names: of the D columns.
        values: (K, D).
        title, caption: of the picture.
        label: of the axis.
        errors: (K, D) half widths of intervals.
        series: names of the K outputs, where there are several.
    """
    from fourfold.look.figures import picture, plain_ticks, short_name, subplots

    if len(values) > SIDE_BY_SIDE:
        values, errors = np.linalg.norm(values, axis=0, keepdims=True), None
        label, series = f"{label}: length over {len(series)} classes", ()
    count = len(values)
    shown = SHOWN if count == 1 else max(8, 60 // count)
    order = np.argsort(np.abs(values).max(axis=0), kind="stable")[-shown:]
    fig, axes = subplots(height=1.2 + (0.16 + 0.08 * count) * len(order))
    places, thick = np.arange(len(order)), 0.8 / count
    for k in range(count):
        offset = (k - (count - 1) / 2) * -thick  # the first output on top
        bars = None if errors is None else errors[k, order]
        label_k = series[k] if series else None
        axes.barh(places + offset, values[k, order], thick, xerr=bars, label=label_k)
    axes.set_yticks(places, [short_name(names[i], 32) for i in order])
    axes.locator_params(axis="x", nbins=5)  # long numbers must not run into one another
    plain_ticks(axes.xaxis)
    axes.set_xlabel(label)
    if series:
        fig.legend(loc="outside upper center", ncols=min(4, count), frameon=False)
    cut = f" The {shown} largest of {len(names)}." if len(names) > shown else ""
    return picture(fig, title, caption + cut)


def survivors(data: TableData, weight: np.ndarray) -> tuple[list[str], list[str]]:
    """The table's columns that a sparse model (K, D) uses, strongest first, and those that it does not."""
    strength: dict[str, float] = {}
    for column, size in zip(data.columns, np.abs(weight).max(axis=0), strict=True):
        strength[column.source] = max(strength.get(column.source, 0.0), float(size))
    order = sorted(strength, key=lambda name: -strength[name])
    return [n for n in order if strength[n] > 0], [n for n in order if strength[n] == 0]


def verdict(data: TableData, weight: np.ndarray) -> str:
    """Which columns survive, in words."""
    kept, gone = survivors(data, weight)
    count = len(kept) + len(gone)
    if not kept:
        return f"None of {count} columns survives: the prediction is the same for every row."
    if not gone:
        return f"All {count} columns survive; the strongest is {kept[0]}."
    return f"{len(kept)} of {count} columns survive: {_few(kept)}. Dropped: {_few(gone)}."


def draw_path(
    data: TableData, strengths: np.ndarray, path: np.ndarray, chosen: float, sentence: str
) -> Picture:
    """How coefficients leave zero as a penalty becomes weaker.

    Args:
        data: the preparation.
        strengths: (S,), falling.
        path: (S, K, D) coefficients of prepared columns.
        chosen: the strength whose coefficients are kept.
        sentence: the verdict.
    """
    from fourfold.look.figures import picture, short_name, subplots

    outputs = path.shape[1]
    lines = path[:, 0] if outputs == 1 else np.linalg.norm(path, axis=1)  # (S, D)
    at = int(np.abs(strengths - chosen).argmin())
    order = np.lexsort(
        (-np.abs(lines).max(axis=0), -np.abs(lines[at]))
    )  # by what is kept, then by what comes
    fig, axes = subplots(height=4.2)
    for rank, d in enumerate(order):
        named = rank < LINES and np.abs(lines[:, d]).max() > 0
        label = short_name(data.columns[d].name, 24) if named else None
        style: dict[str, Any] = {} if named else {"color": "#bbbbbb", "linewidth": 0.8, "zorder": 1}
        axes.plot(strengths, lines[:, d], label=label, **style)
    axes.axvline(chosen, color="#888888", linestyle="--", linewidth=1)
    axes.set_xscale("log")
    axes.invert_xaxis()
    size = "coefficient" if outputs == 1 else "length of the coefficients over the classes"
    axes.set(xlabel="strength of the lasso, from strong to weak", ylabel=size)
    if any(label is not None for label in (line.get_label() for line in axes.lines)):
        fig.legend(loc="outside right upper", frameon=False)
    caption = (
        f"Columns leave zero as the penalty becomes weaker; dashed, the strength that is kept, {chosen:.4g}. "
        f"{sentence}"
    )
    return picture(fig, "Selection of columns", caption)


def _few(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
