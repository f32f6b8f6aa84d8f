"""Multi-layer perceptron: Rumelhart, Hinton and Williams 1986, https://doi.org/10.1038/323533a0.

    fourfold fit mlp housing.csv --target median_house_value
    fourfold fit mlp adult.csv --target income --class-weights balanced --metric auroc

Result: root mean squared error 46,640 dollars (R2 0.840) on the 2,064 test rows of housing.csv at seed 0, where linear
regression has 70,502 (fourfold fit mlp housing --target median_house_value; fourfold evaluate last). Beside
scikit-learn's MLP, gradient boosting and linear models on nine tables: benchmarks/results/tables.json.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field

from fourfold.core.system import system
from fourfold.data.table import Tabular
from fourfold.objectives.automatic import Automatic
from fourfold.objectives.classification import CrossEntropy, Focal, Hinge
from fourfold.objectives.labels import BinaryCrossEntropy, MultiLabelMargin
from fourfold.objectives.regression import AbsoluteError, Huber, Poisson, Quantile, SquaredError
from fourfold.tasks.network import NetworkPredictor, TableSearch


@system("mlp", reads="table")
class MultiLayerPerceptron(NetworkPredictor):
    """A number, a class or labels predicted from a table's columns by a multi-layer perceptron."""

    objective: Annotated[
        Automatic
        | SquaredError
        | AbsoluteError
        | Huber
        | Quantile
        | Poisson
        | CrossEntropy
        | Focal
        | Hinge
        | BinaryCrossEntropy
        | MultiLabelMargin,
        Field(discriminator="kind"),
    ] = Automatic()
    """auto follows the target: squared error of a number, cross-entropy of classes, binary cross-entropy per label."""

    exempt: ClassVar[dict[str, str]] = {}
    search_space: ClassVar[dict[str, str]] = {
        "optimizer.lr": "5e-4..2e-2:log",
        "width": "32..512:log",
        "layers": "1..4",
        "dropout": "0..0.5",
        "optimizer.decay": "1e-3..1:log",
        "norm": "none,batch,layer",
    }

    @classmethod
    def toy(cls) -> tuple[Self, Any]:
        """The sign of a product of two columns, which no weighted sum of them tells, and a town."""
        random = np.random.default_rng(0)
        x, y = random.normal(size=(2, 240))
        town = random.choice(["Bern", "Lyon", "Turin"], 240)
        side = np.where(x * y + 0.3 * (town == "Lyon") > 0, "left", "right")
        options = cls(
            data=Tabular(target="side", batch=32),
            width=16,
            norm="layer",
            dropout=0.0,
            members=2,
            optimizer=TableSearch(epochs=8, lr=1e-2),
        )
        return options, {"x": x, "y": y, "town": town, "side": side}
