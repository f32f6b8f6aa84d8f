"""A small network on a table, and tables with planted properties, for tests of what predictors share."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self, cast

import numpy as np
import polars as pl
from pydantic import Field, PositiveInt
from torch import nn

from fourfold.core.parts import Data
from fourfold.core.system import system
from fourfold.data.table import TableData, Tabular
from fourfold.objectives.automatic import Automatic
from fourfold.objectives.classification import Hinge
from fourfold.objectives.labels import MultiLabelMargin
from fourfold.objectives.regression import Quantile
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.prediction import Predictor


@system("net", reads="table")
class Net(Predictor):
    """One hidden layer."""

    data: Tabular = Tabular(batch=64)
    width: PositiveInt = 16
    """Hidden units."""
    objective: Annotated[
        Automatic | Quantile | Hinge | MultiLabelMargin, Field(discriminator="kind")
    ] = Automatic()
    optimizer: Gradient = Gradient(lr=3e-2, steps=250, compile=False, precision="float32")

    search_space: ClassVar[dict[str, str]] = {
        "optimizer.lr": "1e-3..1e-1:log",
        "width": "2..32:log",
    }

    def build(self, data: Data) -> nn.Module:
        table = cast(TableData, data)
        objective = self.objective.chosen(table.target)
        first = nn.Linear(len(table.columns), self.width)
        return nn.Sequential(
            first, nn.Tanh(), nn.Linear(self.width, objective.outputs(table.target))
        )

    @classmethod
    def toy(cls) -> tuple[Self, Any]:
        return cls(data=Tabular(target="y")), numbers().to_dict(as_series=False)


def numbers(rows: int = 400, noise: float = 0.5, seed: int = 0) -> pl.DataFrame:
    """A number that follows from two columns and a town; a third column says nothing."""
    random = np.random.default_rng(seed)
    a, b, c = random.normal(size=(3, rows))
    town = random.choice(["Bern", "Lyon", "Turin"], rows)
    y = 30 * a + 20 * np.sin(2 * b) + 10 * (town == "Bern") + 10 * noise * random.normal(size=rows)
    return pl.DataFrame({"a": a, "b": b, "c": c, "town": town, "y": 100 + y})


def classes(rows: int = 400, count: int = 3, seed: int = 0, heat: float = 1.5) -> pl.DataFrame:
    """One of several classes, drawn from log-odds that are linear in three columns."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 3))
    weights = np.random.default_rng(7).normal(size=(3, count))
    drawn = (heat * x @ weights + random.gumbel(size=(rows, count))).argmax(axis=1)
    names = np.array(["red", "green", "blue", "white", "black"])[drawn]
    return pl.DataFrame({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "colour": names})


def labels(rows: int = 400, seed: int = 0) -> pl.DataFrame:
    """Three labels, each drawn by the logistic function of a column."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 3))
    there = random.uniform(size=x.shape) < 1 / (1 + np.exp(-2 * x))
    columns = {f"tag_{n}": there[:, i].astype(int) for i, n in enumerate(("x", "y", "z"))}
    return pl.DataFrame({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], **columns})
