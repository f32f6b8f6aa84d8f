"""Linear regression, y = w x + b; ridge: Hoerl and Kennard 1970, https://doi.org/10.1080/00401706.1970.10488634.

    fourfold fit linear housing.csv --target median_house_value

Result: root mean squared error 70,502 dollars (R2 0.633) on the 2,064 test rows of housing.csv at seed 0,
equal to scikit-learn's LinearRegression on the same rows; fitted in 0.5 s on two CPU cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Self, cast

import numpy as np
import torch
from pydantic import Field, PositiveFloat
from torch import nn

from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out, to_device
from fourfold.core.parts import Batch, Data, Split
from fourfold.core.run import Run
from fourfold.core.system import System, system
from fourfold.core.types import Picture, Score, Source, Table
from fourfold.data.table import TableData, Tabular
from fourfold.models.linear import Linear
from fourfold.objectives.regression import SquaredError
from fourfold.optimizers.closed_form import ClosedForm
from fourfold.optimizers.gradient import Gradient

if TYPE_CHECKING:
    import polars as pl

SHOWN = 30
"""Coefficients in a picture."""
POINTS = 5_000
"""Rows in a picture."""


class Descent(Gradient):
    """Stochastic gradient descent at a rate that suits standardized columns."""

    algorithm: str = "sgd"
    """A torch optimizer by name: sgd, adamw, adam, rmsprop, adagrad, ..."""
    lr: PositiveFloat = 0.03
    """Peak learning rate."""


@system("linear", reads="table")
class LinearRegression(System):
    """Linear regression of a number on a table's columns, in closed form or by gradient."""

    data: Tabular = Tabular(dtype="float64")
    objective: SquaredError = SquaredError()
    optimizer: Annotated[ClosedForm | Descent, Field(discriminator="kind")] = ClosedForm()
    """closed-form: one pass over the rows; gradient: stochastic gradient descent."""

    def build(self, data: Data) -> nn.Module:
        """A map from the prepared columns to the prepared target."""
        table = cast(TableData, data)
        if table.target.kind != "number":
            raise UserError(
                f"--target {table.target.name}: linear regression needs numbers, this column holds text; "
                f"--data.kinds.{table.target.name} number reads it as numbers"
            )
        return Linear(len(table.columns), dtype=getattr(torch, self.data.dtype))

    def predict(self, run: Run, source: Source) -> pl.DataFrame:
        """The rows with their prediction, in the target's units, as a further column `prediction`.

        Rows that --missing drop leaves out have none.
        """
        import polars as pl

        table = cast(TableData, run.data)
        data = table.reopen(source, seed=run.seed, whole=True, targets=False)
        assert data.rows is not None and data.parts is not None  # noqa: S101
        values = np.full(data.rows.count, np.nan)
        values[data.parts == 2] = _predicted(run, data, "test")[0]
        for sentence in data.summary()["notes"]:
            run.console.say(sentence)
        frame = data.rows.frame()
        name = (
            "prediction" if "prediction" not in frame.columns else f"{table.target.name}_prediction"
        )
        return frame.with_columns(pl.Series(name, values, nan_to_null=True))

    def evaluate(self, run: Run, source: Source = None) -> Score:
        """Errors on its own test split or on other data, in the target's units, and the share of variance explained."""
        examples, split, sentence = held_out(run, source)
        data = cast(TableData, examples)
        predicted, true = _predicted(run, data, split)
        if not len(predicted):
            raise UserError(f"no row with a target to measure {sentence}")
        error = predicted - true
        mse, variance = float(np.mean(error**2)), float(np.var(true))
        r2 = 1 - mse / variance if variance else float("nan")
        values = {"mse": mse, "rmse": mse**0.5, "mae": float(np.mean(np.abs(error))), "r2": r2}
        unit = f"of {data.target.name}"
        units = {
            "mse": f"{unit}, squared",
            "rmse": unit,
            "mae": unit,
            "r2": "of the variance explained",
        }
        notes = () if source is None else data.summary()["notes"]
        return Score(values, units, (f"{len(error):,} rows {sentence}", *notes))

    def inspect(self, run: Run) -> pl.DataFrame:
        """Coefficients in the original units of column and target, with standard errors.

        Standard errors are those of ordinary least squares, sigma^2 (X'X)^-1; under a ridge penalty
        alpha sigma^2 A X'X A with A = (X'X + alpha)^-1, which tells the spread and not the bias.
        Where columns follow from one another they are those of the solution of least norm. A gradient
        search knows none.
        """
        import polars as pl

        found, errors = _coefficients(run)
        columns = [*cast(TableData, run.data).columns, None]
        return pl.DataFrame(
            {
                "coefficient_of": [c.name if c else "(intercept)" for c in columns],
                "column": [c.source if c else None for c in columns],
                "coefficient": found,
                "standard_error": errors,
                "t": found / errors,
            },
            nan_to_null=True,
        )

    def tables(self, run: Run) -> Iterator[Table]:
        """The coefficients."""
        frame = self.inspect(run)
        caption = (
            "In the original units of column and target; one-hot columns count from the intercept."
        )
        yield Table("Coefficients", tuple(frame.columns), tuple(frame.iter_rows()), caption)

    def pictures(self, run: Run) -> Iterator[Picture]:
        """Coefficients with error bars; predicted against true values; residuals."""
        yield _draw_coefficients(run)
        try:
            data, split, sentence = held_out(run)
        except UserError:
            return  # the rows are gone or none were held out: the coefficients are all there is to see
        yield from _draw_predictions(run, cast(TableData, data), split, sentence)

    @classmethod
    def toy(cls) -> tuple[Self, Any]:
        """Rents that follow from size and town, with gaps."""
        random = np.random.default_rng(0)
        size = random.normal(80, 20, 240)
        town = random.choice(["Bern", "Lyon", "Turin"], 240)
        rent = 12 * size + 200 * (town == "Bern") + random.normal(0, 30, 240)
        size[::17] = np.nan
        columns = {"size": size, "town": town, "rooms": random.integers(1, 6, 240), "rent": rent}
        return cls(data=Tabular(target="rent", dtype="float64", batch=32)), columns


def _predicted(run: Run, data: TableData, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and, where there are targets, true values of a split's rows in stored order, in the target's units."""
    model, found, true = run.model.eval(), [np.empty(0)], [np.empty(0)]
    with torch.no_grad():
        for batch in data.batches(split):
            moved: Batch = to_device(batch, run.device)
            found.append(model(moved["features"])[:, 0].double().cpu().numpy())
            if "targets" in batch:
                true.append(batch["targets"].double().numpy())
    return data.original(np.concatenate(found)), data.original(np.concatenate(true))


def _coefficients(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients and then the intercept, (D + 1,), in original units; their standard errors, NaN if unknown."""
    data, model = cast(TableData, run.data), cast(Linear, run.model)
    scales = np.array([c.scale for c in data.columns])
    shifts = np.array([c.mean for c in data.columns]) / scales
    # original = units @ prepared: numbers are rescaled, and their means move into the intercept
    units = np.diag(np.append(1 / scales, 1.0)) * data.target.scale
    units[-1, :-1] = -shifts * data.target.scale
    prepared = torch.cat([model.weight[0], model.bias]).detach().double().cpu().numpy()
    found = units @ prepared
    found[-1] += data.target.mean
    if not model.covariance.numel():
        return found, np.full(len(found), np.nan)
    spread = units @ model.covariance.double().cpu().numpy() @ units.T * float(model.noise[0])
    return found, np.sqrt(np.maximum(np.diag(spread), 0))


def _draw_coefficients(run: Run) -> Picture:
    from fourfold.look.figures import picture, subplots

    data = cast(TableData, run.data)
    found, errors = (part[:-1] for part in _coefficients(run))
    scales = np.array([c.scale for c in data.columns])
    effects, bars = found * scales, 1.96 * np.nan_to_num(errors) * scales
    order = np.argsort(np.abs(effects))[-SHOWN:]
    fig, axes = subplots(height=1.2 + 0.24 * len(order))
    axes.barh(range(len(order)), effects[order], xerr=bars[order])
    axes.set_yticks(range(len(order)), [data.columns[i].name for i in order])
    axes.locator_params(axis="x", nbins=5)  # long numbers must not run into one another
    axes.set_xlabel(f"change of {data.target.name}")
    cut = f" The {SHOWN} largest of {len(effects)}." if len(effects) > SHOWN else ""
    caption = (
        "Change of the prediction for one standard deviation of a number, or from 0 to 1 in a category's column; "
        f"bars are 95% intervals.{cut}"
    )
    return picture(fig, "Coefficients", caption)


def _draw_predictions(run: Run, data: TableData, split: Split, sentence: str) -> Iterator[Picture]:
    from fourfold.look.figures import picture, subplots

    predicted, true = _predicted(run, data, split)
    if not len(true):
        return
    some = np.linspace(0, len(true) - 1, min(POINTS, len(true))).astype(int)
    predicted, true, name = predicted[some], true[some], data.target.name
    rows = f"{len(some):,} rows {sentence}."
    fig, axes = subplots()
    axes.scatter(true, predicted, s=6, alpha=0.4)
    ends = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
    axes.plot(ends, ends, color="#888888", linewidth=1)
    axes.set(xlabel=f"true {name}", ylabel=f"predicted {name}")
    yield picture(fig, "Predicted against true", f"{rows} Perfect predictions lie on the line.")
    fig, axes = subplots()
    axes.scatter(predicted, true - predicted, s=6, alpha=0.4)
    axes.axhline(0, color="#888888", linewidth=1)
    axes.set(xlabel=f"predicted {name}", ylabel="true - predicted")
    yield picture(
        fig,
        "Residuals",
        f"{rows} A pattern here is something the columns' weighted sum cannot express.",
    )
