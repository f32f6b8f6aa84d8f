"""The perceptron, a hyperplane between two classes: Rosenblatt 1958, https://doi.org/10.1037/h0042519.

    fourfold fit perceptron two-classes.csv --target side
    fourfold fit perceptron breast_cancer --epochs 1000

Result: with --epochs 1000 the training rows of scikit-learn's breast_cancer at seed 0 are separated after 5,696
mistakes in 814 epochs, of at most 909,600 by Novikoff's bound; accuracy 0.965 on the 57 test rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np
import torch
from torch import nn

from fourfold.core.errors import UserError
from fourfold.core.parts import Data
from fourfold.core.run import Run
from fourfold.core.system import system
from fourfold.core.types import Picture
from fourfold.data.table import TableData, Tabular
from fourfold.models.linear import Linear
from fourfold.objectives.classification import Perceptron as Criterion
from fourfold.optimizers.mistakes import Mistakes
from fourfold.tasks import coefficients
from fourfold.tasks.coefficients import LinearPredictor

if TYPE_CHECKING:
    import polars as pl


@system("perceptron", reads="table")
class Perceptron(LinearPredictor):
    """A hyperplane between two classes of a table's rows, found by learning from mistakes."""

    data: Tabular = Tabular(dtype="float64", target_kind="category")
    objective: Criterion = Criterion()
    optimizer: Mistakes = Mistakes()

    table_title: ClassVar[str] = "Hyperplane"
    table_caption: ClassVar[str] = (
        "In the original units of the columns; the sum is positive for the second class."
    )

    def build(self, data: Data) -> nn.Module:
        """A map from the prepared columns to a decision value, positive for the second class."""
        table = cast(TableData, data)
        target = table.target
        if target.kind != "category":
            raise UserError(
                f"--target {target.name}: the perceptron needs two classes, this is a {target.kind}"
            )
        outputs = self.objective.chosen(target).outputs(target)
        return Linear(len(table.columns), outputs, dtype=getattr(torch, self.data.dtype))

    def pictures(self, run: Run) -> Iterator[Picture]:
        """The hyperplane, and what every classifier shows."""
        data = cast(TableData, run.data)
        yield coefficients.draw(
            [c.name for c in data.columns],
            coefficients.effects(data, _plane(run)[None, :-1]),
            "Hyperplane",
            f"towards {data.target.classes[1]}",
            "Change of the distance from the hyperplane for one standard deviation of a number, or from 0 to 1 in "
            "a category's column.",
        )
        yield from super().pictures(run)

    def _coefficients(self, run: Run) -> pl.DataFrame:
        """The hyperplane in the original units of the columns, scaled so that its decision value is the
        distance from it in prepared columns."""
        import polars as pl

        data = cast(TableData, run.data)
        return pl.DataFrame(
            {
                "coefficient_of": [*(c.name for c in data.columns), "(intercept)"],
                "column": [*(c.source for c in data.columns), None],
                "coefficient": _plane(run),
            }
        )

    @classmethod
    def toy(cls) -> tuple[Self, Any]:
        """Points on two sides of a line, with a gap between."""
        random = np.random.default_rng(0)
        x, y = random.normal(size=(2, 300))
        far = np.abs(x + 2 * y - 0.5) > 0.3
        side = np.where(x + 2 * y > 0.5, "right", "left")
        options = Tabular(target="side", dtype="float64", batch=32, target_kind="category")
        return cls(data=options), {"x": x[far], "y": y[far], "side": side[far]}


def _plane(run: Run) -> np.ndarray:
    """(D + 1,) in original units, of length 1 in prepared columns."""
    model = cast(Linear, run.model)
    weight, bias = (p.detach().double().cpu().numpy() for p in (model.weight, model.bias))
    length = float(np.linalg.norm(weight)) or 1.0
    return coefficients.original(cast(TableData, run.data), weight / length, bias / length)[0]
