"""Linear regression, y = w x + b; ridge: Hoerl and Kennard 1970, https://doi.org/10.1080/00401706.1970.10488634.

    fourfold fit linear housing.csv --target median_house_value

Result: root mean squared error 70,502 dollars (R2 0.633) on the 2,064 test rows of housing.csv at seed 0,
equal to scikit-learn's LinearRegression on the same rows; fitted in 0.5 s on two CPU cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, cast

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat
from torch import nn

from fourfold.core.errors import UserError
from fourfold.core.parts import Data
from fourfold.core.run import Run
from fourfold.core.system import system
from fourfold.core.types import Picture
from fourfold.data.table import TableData, Tabular
from fourfold.models.linear import Linear
from fourfold.objectives.regression import SquaredError
from fourfold.optimizers.closed_form import ClosedForm
from fourfold.optimizers.descent import Descent
from fourfold.tasks import coefficients
from fourfold.tasks.coefficients import LinearPredictor

if TYPE_CHECKING:
    import polars as pl


@system("linear", reads="table")
class LinearRegression(LinearPredictor):
    """Linear regression of a number on a table's columns, in closed form or by gradient."""

    data: Tabular = Tabular(dtype="float64", target_kind="number")
    objective: SquaredError = SquaredError()
    optimizer: Annotated[ClosedForm | Descent, Field(discriminator="kind")] = ClosedForm()
    """closed-form: one pass over the rows; gradient: stochastic gradient descent."""
    input_noise: NonNegativeFloat = 0.0
    """Deviation s of Gaussian noise on the prepared columns while learning by gradient; over n rows it acts as a
    ridge of n s^2 (Bishop 1995)."""

    search_space: ClassVar[dict[str, str]] = {"optimizer.ridge": "1e-3..1e4:log"}
    table_caption: ClassVar[str] = (
        "In the original units of column and target; one-hot columns count from the intercept."
    )

    def build(self, data: Data) -> nn.Module:
        """A map from the prepared columns to the prepared target."""
        table = cast(TableData, data)
        if table.target.kind != "number":
            raise UserError(
                f"--target {table.target.name}: linear regression needs numbers, this column holds text; "
                f"--data.kinds.{table.target.name} number reads it as numbers"
            )
        if self.input_noise and isinstance(self.optimizer, ClosedForm):
            ridge = table.target.rows * self.input_noise**2
            raise UserError(
                f"--input-noise goes with --optimizer gradient; in closed form it is --ridge {ridge:.6g}"
            )
        dtype = getattr(torch, self.data.dtype)
        return Linear(len(table.columns), dtype=dtype, input_noise=self.input_noise)

    def pictures(self, run: Run) -> Iterator[Picture]:
        """Coefficients with error bars, and what every regression shows."""
        data = cast(TableData, run.data)
        found, errors = (part[None, :-1] for part in _original(run))
        yield coefficients.draw(
            [c.name for c in data.columns],
            coefficients.effects(data, found),
            "Coefficients",
            f"change of {data.target.name}",
            "Change of the prediction for one standard deviation of a number, or from 0 to 1 in a category's "
            "column; bars are 95% intervals.",
            errors=1.96 * np.nan_to_num(coefficients.effects(data, errors)),
        )
        yield from super().pictures(run)

    def _coefficients(self, run: Run) -> pl.DataFrame:
        """Coefficients in the original units of column and target, with standard errors.

        Standard errors are those of ordinary least squares, sigma^2 (X'X)^-1; under a ridge penalty
        alpha sigma^2 A X'X A with A = (X'X + alpha)^-1, which tells the spread and not the bias.
        Where columns follow from one another they are those of the solution of least norm. A gradient
        search knows none.
        """
        import polars as pl

        found, errors = _original(run)
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


def _original(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients and then the intercept, (D + 1,), in original units; their standard errors, NaN if unknown."""
    data, model = cast(TableData, run.data), cast(Linear, run.model)
    weight, bias = (p.detach().double().cpu().numpy() for p in (model.weight, model.bias))
    found = coefficients.original(data, weight, bias)[0]
    if not model.covariance.numel():
        return found, np.full(len(found), np.nan)
    units = coefficients.units(data)
    spread = units @ model.covariance.double().cpu().numpy() @ units.T * float(model.noise[0])
    return found, np.sqrt(np.maximum(np.diag(spread), 0))
