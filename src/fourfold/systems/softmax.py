"""Multinomial logistic regression, p(class) = softmax(W x + b): Cox 1958, Theil 1969; lasso: Tibshirani 1996.

    fourfold fit softmax iris.csv --target species
    fourfold fit softmax digits --seeds 5
    fourfold fit softmax breast_cancer --optimizer proximal

Result: accuracy 0.968 and log loss 0.117 nats on the 180 test rows of scikit-learn's digits, mean of seeds 0 to 4,
equal to scikit-learn's LogisticRegression on the same rows. On breast_cancer at seed 0 a lasso keeps 12 of 30
columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, cast

import numpy as np
import torch
from pydantic import Field
from torch import nn

from fourfold.core.errors import UserError
from fourfold.core.parts import Data
from fourfold.core.run import Run
from fourfold.core.system import system
from fourfold.core.types import Picture
from fourfold.data.table import TableData, Tabular
from fourfold.models.linear import PathLinear
from fourfold.objectives.automatic import Automatic, in_words
from fourfold.objectives.classification import CrossEntropy, Focal, Hinge
from fourfold.objectives.supervised import Supervised
from fourfold.optimizers.descent import Descent
from fourfold.optimizers.newton import Newton
from fourfold.optimizers.proximal import Proximal
from fourfold.tasks import coefficients
from fourfold.tasks.coefficients import LinearPredictor

if TYPE_CHECKING:
    import polars as pl


@system("softmax", reads="table")
class SoftmaxRegression(LinearPredictor):
    """Multinomial logistic regression of a class on a table's columns."""

    data: Tabular = Tabular(dtype="float64", target_kind="category")
    objective: Annotated[Automatic | CrossEntropy | Focal | Hinge, Field(discriminator="kind")] = (
        CrossEntropy()
    )
    """cross-entropy is logistic regression; hinge a linear support vector machine, by gradient."""
    optimizer: Annotated[Newton | Proximal | Descent, Field(discriminator="kind")] = Newton()
    """newton: the exact optimum with an L2 penalty; proximal: with an L1 (or elastic) penalty, which selects
    columns; gradient: stochastic gradient descent."""

    search_space: ClassVar[dict[str, str]] = {"optimizer.ridge": "1e-3..1e3:log"}
    table_caption: ClassVar[str] = (
        "In the original units of the columns, with the factors by which the odds change for a unit and for a "
        "standard deviation; one-hot columns count from the intercept."
    )

    def build(self, data: Data) -> nn.Module:
        """A map from the prepared columns to log-odds: one for two classes, otherwise one a class."""
        table = cast(TableData, data)
        target = table.target
        if target.kind != "category":
            raise UserError(
                f"--target {target.name}: softmax needs classes, this is a {target.kind}"
            )
        loss = self.objective.chosen(target)
        if not loss.smooth and not isinstance(self.optimizer, Descent):
            raise UserError(
                f"--objective {getattr(loss, 'kind', '')} has a corner, where {self.optimizer.kind} "
                "finds no curvature: --optimizer gradient, or --objective.squared"
            )
        dtype = getattr(torch, self.data.dtype)
        return PathLinear(len(table.columns), loss.outputs(target), dtype=dtype)

    def begin(self, run: Run) -> None:
        """See `System.begin`: which output layer the classes ask for."""
        super().begin(run)
        if isinstance(self.objective, CrossEntropy):
            run.note(f"Objective: {in_words(cast(TableData, run.data).target)}.")

    def finish(self, run: Run) -> None:
        """See `System.finish`; and which columns a penalty has left."""
        super().finish(run)
        if isinstance(self.optimizer, Proximal):
            weight = _plain(cast(PathLinear, run.model).weight)
            run.note(coefficients.verdict(cast(TableData, run.data), weight))

    def pictures(self, run: Run) -> Iterator[Picture]:
        """Coefficients, the path of a lasso, and what every classifier shows."""
        data, model = cast(TableData, run.data), cast(PathLinear, run.model)
        names = _outputs(run)
        what = "log-odds" if cast(Supervised, run.objective).probabilistic else "decision value"
        yield coefficients.draw(
            [c.name for c in data.columns],
            coefficients.effects(data, _original(run)[:, :-1]),
            "Coefficients",
            f"change of the {what}",
            f"Change of the {what} for one standard deviation of a number, or from 0 to 1 in a category's column.",
            series=names if len(names) > 1 else (),
        )
        if len(model.strengths):
            path, weight = _plain(model.path), _plain(model.weight)
            nearest = int(np.abs(path - weight).max(axis=(1, 2)).argmin())
            strengths = _plain(model.strengths)
            sentence = coefficients.verdict(data, weight)
            yield coefficients.draw_path(data, strengths, path, strengths[nearest], sentence)
        yield from super().pictures(run)

    def _coefficients(self, run: Run) -> pl.DataFrame:
        """Coefficients as changes of the log-odds for one unit of a column, and as factors of the odds.

        Of two classes they are those of the second against the first. Of more, the difference of two classes'
        coefficients is the change of their log-odds, and the quotient of their factors that of the odds.
        `odds_ratio` is the factor for one unit, `odds_ratio_deviation` that for one standard deviation of a
        number. A hinge has decision values and no odds.
        """
        import polars as pl

        data = cast(TableData, run.data)
        found = _original(run)
        names = [c.name for c in data.columns] + ["(intercept)"]
        scales = np.append([c.scale for c in data.columns], 1.0)
        frames = []
        for name, row in zip(_outputs(run), found, strict=True):
            with np.errstate(over="ignore"):
                ratios, steps = np.exp(row), np.exp(row * scales)
            columns = {
                "class": [name] * len(names),
                "coefficient_of": names,
                "column": [*(c.source for c in data.columns), None],
                "coefficient": row,
            }
            if cast(Supervised, run.objective).probabilistic:
                columns |= {"odds_ratio": ratios, "odds_ratio_deviation": [*steps[:-1], None]}
            frames.append(pl.DataFrame(columns))
        return pl.concat(frames)

    @classmethod
    def toy(cls) -> tuple[Self, Any]:
        """Three kinds of leaf by length, width and the soil they grew on, with gaps."""
        random = np.random.default_rng(0)
        kind = random.integers(0, 3, 180)
        length = random.normal(3 + kind, 0.7)
        width = random.normal(2 - 0.5 * kind, 0.4)
        soil = np.where(random.random(180) < 0.2 + 0.3 * kind, "clay", "sand")
        length[::17] = np.nan
        columns = {"length": length, "width": width, "soil": soil}
        leaf = np.array(["ash", "beech", "oak"])[kind]
        return cls(data=Tabular(target="leaf", dtype="float64", batch=32)), {
            **columns,
            "leaf": leaf,
        }


def _original(run: Run) -> np.ndarray:
    """(K, D + 1) coefficients in original units, intercepts last."""
    data, model = cast(TableData, run.data), cast(PathLinear, run.model)
    return coefficients.original(data, _plain(model.weight), _plain(model.bias))


def _outputs(run: Run) -> tuple[str, ...]:
    """Names of the outputs: of two classes the second, of more each, of pairs "first, not second"."""
    classes = cast(TableData, run.data).target.classes
    if len(classes) == 2:
        return classes[1:]
    if getattr(run.objective, "multiclass", "") == "one-vs-one":
        return tuple(f"{a}, not {b}" for i, a in enumerate(classes) for b in classes[i + 1 :])
    return classes


def _plain(values: torch.Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()
