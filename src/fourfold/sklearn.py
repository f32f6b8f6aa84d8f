"""Table systems as scikit-learn estimators: they fit in memory, clone, and work in pipelines and searches.

    from fourfold.sklearn import MLPClassifier
    cross_val_score(MLPClassifier(epochs=50), X, y, cv=5)

X is an array of numbers or a frame with named columns (pandas, polars), whose text columns are
categories; missing cells are filled as `fourfold fit` fills them. Nothing is written to disk unless
`save` is called, which writes an ordinary run folder; `load` opens one.
Shapes: N rows, D columns, C classes or labels.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import (
    _check_feature_names,
    _check_n_features,
    _check_sample_weight,
    check_array,
    check_is_fitted,
    validate_data,
)

from fourfold import api
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.data.table import TableData
from fourfold.tasks.prediction import predictions

if TYPE_CHECKING:
    import polars as pl

TARGET, WEIGHT = "__target__", "__weight__"
"""Columns of the frame that is fitted; a feature of the same name is refused."""


def _is_frame(X: Any) -> bool:
    return type(X).__module__.split(".")[0] in ("pandas", "polars") and hasattr(X, "columns")


def _column(y: Any, rows: int) -> np.ndarray:
    """(N,) targets."""
    values = column_or_1d(y, warn=True)
    if len(values) != rows:
        raise ValueError(f"X has {rows} rows and y {len(values)}: inconsistent numbers of samples")
    return values


def _names(classes: np.ndarray) -> list[str]:
    """Classes as text: as they are called, or by number where two are called alike."""
    names = [str(c) for c in classes]
    return names if len(set(names)) == len(names) else [str(i) for i in range(len(names))]


def _plain(classes: np.ndarray) -> list[Any]:
    """Classes as a configuration file holds them."""
    return [c if isinstance(c, bool | int | float | str) else str(c) for c in classes.tolist()]


def _stored(parameters: dict[str, Any]) -> dict[str, Any]:
    """Parameters as a configuration file holds them: those that are None by name; a generator is not kept."""
    kept = {n: v for n, v in parameters.items() if v is not None and n != "random_state"}
    if isinstance(seed := parameters.get("random_state"), int | np.integer):
        kept["random_state"] = int(seed)
    plain = {n: v.item() if isinstance(v, np.generic) else v for n, v in kept.items()}
    return {"parameters": plain, "without": sorted(n for n, v in parameters.items() if v is None)}


def _restored(told: dict[str, Any]) -> dict[str, Any]:
    """Parameters from what `_stored` gave."""
    return {**told.get("parameters", {}), **dict.fromkeys(told.get("without", ()))}


class TableEstimator(BaseEstimator):
    """What all of them share: X and y as one table, a run in memory, predictions back as arrays.

    Attributes set by `fit`: `run_` (the run, with all its verbs), `n_features_in_`,
    `feature_names_in_` where the columns have names, `n_iter_`.
    """

    system: ClassVar[str]
    """The system that is fitted."""

    options: dict[str, Any] | None
    random_state: Any

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit.

        Args:
            X: (N, D) array of numbers, or a frame with named columns.
            y: (N,) targets; (N, C) of 0 and 1 for several labels.
            sample_weight: (N,) how much each row counts; None is once each.

        Raises:
            ValueError: X, y or an option is wrong.
        """
        import polars as pl

        frame = self._frame(X, reset=True)
        columns, options = self._targets(y, frame.height)
        options = {**self._options(), **options, **(self.options or {})}
        arrays = all(dtype.is_numeric() for dtype in frame.dtypes) and not _is_frame(X)
        if arrays:  # an array's columns are numbers, however few their values
            options["data.kinds"] = dict.fromkeys(frame.columns, "number")
        frame = frame.with_columns(columns)
        if sample_weight is not None:
            weight = _check_sample_weight(
                sample_weight, X, dtype=np.float64, ensure_non_negative=True
            )
            frame = frame.with_columns(pl.Series(WEIGHT, weight)).filter(pl.col(WEIGHT) > 0)
            options["data.weights"] = WEIGHT
        if frame.height < 2:
            raise ValueError(f"learning takes at least 2 rows, got n_samples = {frame.height}")
        self._check_rows(frame)
        self.run_ = self._fitted(frame, options)
        self.run_.about["estimator"] = {**self._told(), **_stored(self.get_params(deep=False))}
        self.n_iter_ = (
            max(1, int(self.run_.metrics.lines[-1]["step"])) if self.run_.metrics.lines else 1
        )
        return self

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the run folder, which `fourfold predict`, `serve` and `load` open.

        Raises:
            UserError: the folder holds a run already, or cannot be written.
        """
        check_is_fitted(self, "run_")
        return api.save(self.run_, folder)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """An estimator from a run folder, fitted, with the parameters it was fitted with.

        Those of a run that `fourfold fit` made are a new one's: its options are in `run_.system`.

        Raises:
            UserError: no such run, or one of another system.
        """
        run = Run.open(os.fspath(folder))
        if run.system.name != cls.system:
            raise UserError(
                f"{folder}: is a run of {run.system.name}, {cls.__name__} opens {cls.system}"
            )
        made = cls(**_restored(run.about.get("estimator", {})))
        made.run_ = run
        made._opened(run)
        return made

    # --- what subclasses say ------------------------------------------------------------------------

    def _options(self) -> dict[str, Any]:
        """The parameters as options of the system."""
        raise NotImplementedError

    def _targets(self, y: Any, rows: int) -> tuple[list[pl.Series], dict[str, Any]]:
        """The target's columns and the options that name them."""
        raise NotImplementedError

    def _check_rows(self, frame: pl.DataFrame) -> None:
        """Refuse rows that nothing can be learned from."""

    def _told(self) -> dict[str, Any]:
        """What a run does not know of itself, kept with it."""
        return {}

    def _opened(self, run: Run) -> None:
        data = cast(TableData, run.data)
        names = [e.name for e in data.schema.encodings]
        self.n_features_in_ = len(names)
        if names != [f"x{i}" for i in range(len(names))]:
            self.feature_names_in_ = np.array(names, dtype=object)

    # --- shared -------------------------------------------------------------------------------------

    def _frame(self, X: Any, *, reset: bool) -> pl.DataFrame:
        """X as a polars frame, checked against what was fitted."""
        import polars as pl

        from fourfold.data.table_frames import to_frame

        if _is_frame(X):
            _check_feature_names(self, X, reset=reset)
            _check_n_features(self, X, reset=reset)
            frame = to_frame(X)
            if not frame.height:
                raise ValueError("Found array with 0 sample(s) while a minimum of 1 is required.")
            clash = {TARGET, WEIGHT} & set(frame.columns)
            if clash:
                raise ValueError(f"a column may not be named {clash.pop()}")
            return frame
        array = validate_data(self, X, reset=reset, dtype=np.float64, ensure_all_finite="allow-nan")
        if np.isinf(array).any():
            raise ValueError("Input X contains infinity.")
        names = getattr(self, "feature_names_in_", [f"x{i}" for i in range(array.shape[1])])
        return pl.DataFrame({str(n): array[:, i] for i, n in enumerate(names)}, nan_to_null=True)

    def _fitted(self, frame: pl.DataFrame, options: dict[str, Any]) -> Run:
        import torch

        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = int(check_random_state(seed).randint(2**31 - 1))
        with torch.random.fork_rng():  # a fit leaves its caller's generators alone
            try:
                run = api.fit(
                    self.system, frame, out=False, seed=int(seed), device="cpu", **options
                )
            except UserError as error:
                raise ValueError(str(error)) from error
        run.release(cast(TableData, run.data).without_rows())
        return run

    def _predicted(self, X: Any) -> np.ndarray:
        check_is_fitted(self, "run_")
        run = self.run_
        try:
            data = cast(TableData, run.data).reopen(
                self._frame(X, reset=False), whole=True, targets=False
            )
        except UserError as error:
            raise ValueError(str(error)) from error
        return predictions(run, data, "test")[0]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


class Regressor(RegressorMixin, TableEstimator):
    """Estimators of a number."""

    def predict(self, X: Any) -> np.ndarray:
        """(N,) predictions in y's units."""
        return self._predicted(X)

    def _targets(self, y: Any, rows: int) -> tuple[list[pl.Series], dict[str, Any]]:
        import polars as pl

        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        values = _column(y, rows).astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError("Input y contains NaN or infinity.")
        return [pl.Series(TARGET, values)], {"target": TARGET, f"data.kinds.{TARGET}": "number"}


class Classifier(ClassifierMixin, TableEstimator):
    """Estimators of a class; `classes_` are sorted as scikit-learn sorts them."""

    def predict_proba(self, X: Any) -> np.ndarray:
        """(N, C) probabilities in the order of `classes_`."""
        check_is_fitted(self, "run_")
        found = self._predicted(X)
        told = list(cast(TableData, self.run_.data).target.classes)
        return found[:, [told.index(name) for name in _names(self.classes_)]]

    def predict(self, X: Any) -> np.ndarray:
        """(N,) the most probable class."""
        check_is_fitted(self, "run_")
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def _targets(self, y: Any, rows: int) -> tuple[list[pl.Series], dict[str, Any]]:
        import polars as pl

        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        check_classification_targets(y)
        values = _column(y, rows)
        self.classes_, codes = np.unique(values, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"needs at least 2 classes, y has one class: {self.classes_[0]}")
        # as text: what a class is called is nothing to learn from
        series = pl.Series(TARGET, np.array(_names(self.classes_))[codes])
        return [series], {"target": TARGET, f"data.kinds.{TARGET}": "category"}

    def _check_rows(self, frame: pl.DataFrame) -> None:
        if frame[TARGET].n_unique() < 2:
            raise ValueError("the rows that count are all of one class: needs at least 2 classes")

    def _told(self) -> dict[str, Any]:
        return {"classes": _plain(self.classes_)}

    def _opened(self, run: Run) -> None:
        super()._opened(run)
        told = run.about.get(
            "estimator", {}
        )  # of a run that the command line fitted, there is none
        self.classes_ = np.array(told.get("classes", cast(TableData, run.data).target.classes))


class LinearRegressor(Regressor):
    """Linear regression: `fourfold fit linear`."""

    system = "linear"

    def __init__(
        self, ridge: float = 0.0, random_state: Any = None, options: dict[str, Any] | None = None
    ) -> None:
        """What to fit.

        Args:
            ridge: weight of the penalty on the prepared columns' coefficients.
            random_state: fixes what is drawn.
            options: further options of the system by full or short name.
        """
        self.ridge, self.random_state, self.options = ridge, random_state, options

    def _options(self) -> dict[str, Any]:
        return {"data.split": (1.0, 0.0, 0.0), "optimizer.ridge": self.ridge}


class SoftmaxClassifier(Classifier):
    """Logistic regression of any number of classes: `fourfold fit softmax`."""

    system = "softmax"

    def __init__(
        self, ridge: float = 1.0, random_state: Any = None, options: dict[str, Any] | None = None
    ) -> None:
        """What to fit.

        Args:
            ridge: weight of the penalty ridge/2 |w|^2 beside the sum of losses, on the prepared columns' coefficients.
            random_state: fixes what is drawn.
            options: further options of the system by full or short name.
        """
        self.ridge, self.random_state, self.options = ridge, random_state, options

    def _options(self) -> dict[str, Any]:
        return {"data.split": (1.0, 0.0, 0.0), "optimizer.ridge": self.ridge}


class PerceptronClassifier(Classifier):
    """Rosenblatt's perceptron between two classes: `fourfold fit perceptron`."""

    system = "perceptron"

    def __init__(self, random_state: Any = None, options: dict[str, Any] | None = None) -> None:
        """What to fit.

        Args:
            random_state: fixes what is drawn.
            options: further options of the system by full or short name.
        """
        self.random_state, self.options = random_state, options

    def _options(self) -> dict[str, Any]:
        return {"data.split": (1.0, 0.0, 0.0)}

    def _targets(self, y: Any, rows: int) -> tuple[list[pl.Series], dict[str, Any]]:
        found = super()._targets(y, rows)
        if len(self.classes_) > 2:
            raise ValueError(
                f"Only binary classification is supported. y has {len(self.classes_)} classes: SoftmaxClassifier takes them"
            )
        return found

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


class Network(TableEstimator):
    """Parameters of the estimators that are multi-layer perceptrons."""

    def __init__(
        self,
        width: int = 128,
        layers: int = 2,
        activation: str = "relu",
        norm: str = "batch",
        dropout: float = 0.2,
        members: int | None = None,
        lr: float | None = None,
        decay: float | None = None,
        epochs: int = 40,
        batch: int | None = None,
        patience: int | None = 15,
        validation_fraction: float = 0.1,
        random_state: Any = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        """What to fit.

        Args:
            width: units of each hidden layer.
            layers: hidden layers.
            activation: any of torch's by name.
            norm: batch, layer or none.
            dropout: chance of a hidden unit to be left out while learning.
            members: networks that share their hidden layers and are averaged; None chooses by the number of rows.
            lr: peak learning rate; None chooses by the number of rows.
            decay: decoupled weight decay per unit of learning rate; None chooses by the number of rows.
            epochs: passes over the training rows at most.
            batch: rows in a batch; None chooses by their number.
            patience: evaluations (50 in all) without a better one before it stops early; None never stops.
            validation_fraction: share of the rows that is held out to choose the best weights; 0 holds none out.
            random_state: fixes split, order, initial weights and noise.
            options: further options of the system by full or short name.
        """
        self.width, self.layers, self.activation, self.norm = width, layers, activation, norm
        self.dropout, self.members, self.lr, self.decay = dropout, members, lr, decay
        self.epochs, self.batch, self.patience = epochs, batch, patience
        self.validation_fraction = validation_fraction
        self.random_state, self.options = random_state, options

    def _options(self) -> dict[str, Any]:
        held = self.validation_fraction
        return {
            "width": self.width,
            "layers": self.layers,
            "activation": self.activation,
            "norm": self.norm,
            "dropout": self.dropout,
            "members": self.members,
            "optimizer.lr": self.lr,
            "optimizer.decay": self.decay,
            "optimizer.epochs": self.epochs,
            "optimizer.patience": self.patience,
            "data.batch": self.batch,
            "data.split": (1.0 - held, held, 0.0),
        }


class MLPRegressor(Regressor, Network):
    """A number by a multi-layer perceptron: `fourfold fit mlp`."""

    system = "mlp"


class MLPClassifier(Classifier, Network):
    """A class by a multi-layer perceptron: `fourfold fit mlp`."""

    system = "mlp"


class MultilabelClassifier(Classifier, Network):
    """Labels, each there or not, by one network: `fourfold fit multilabel`.

    y is (N, K) of 0 and 1; of a single column of classes each is a label against the rest.
    """

    system = "multilabel"

    def predict_proba(self, X: Any) -> np.ndarray:
        """(N, K) probability of each label; of one column of classes normalized over them."""
        check_is_fitted(self, "run_")
        found = self._predicted(X)
        if self.multilabel_:
            return found
        found = np.maximum(found, np.finfo(found.dtype).tiny)
        return found / found.sum(axis=1, keepdims=True)

    def predict(self, X: Any) -> np.ndarray:
        """(N, K) of 0 and 1; of one column of classes (N,) the most probable."""
        found = self.predict_proba(X)
        return (
            (found > 0.5).astype(int) if self.multilabel_ else self.classes_[found.argmax(axis=1)]
        )

    def _targets(self, y: Any, rows: int) -> tuple[list[pl.Series], dict[str, Any]]:
        import polars as pl

        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        check_classification_targets(y)
        self.multilabel_ = type_of_target(y) == "multilabel-indicator"
        if self.multilabel_:
            there = check_array(y, dtype=int)
            if len(there) != rows:
                raise ValueError(
                    f"X has {rows} rows and y {len(there)}: inconsistent numbers of samples"
                )
            self.classes_ = np.arange(there.shape[1])
        else:
            values = _column(y, rows)
            self.classes_, codes = np.unique(values, return_inverse=True)
            if len(self.classes_) < 2:
                raise ValueError(f"needs at least 2 classes, y has one class: {self.classes_[0]}")
            there = np.eye(len(self.classes_), dtype=int)[codes]
        names = [f"{TARGET}{i:05d}" for i in range(there.shape[1])]
        columns = [pl.Series(name, there[:, i]) for i, name in enumerate(names)]
        return columns, {"target": f"{TARGET}*"}

    def _check_rows(self, frame: pl.DataFrame) -> None:
        constant = [n for n in frame.columns if n.startswith(TARGET) and frame[n].n_unique() < 2]
        if constant:
            raise ValueError(
                "the rows that count all have, or all lack, one label (or are of one class): needs both"
            )

    def _told(self) -> dict[str, Any]:
        return {**super()._told(), "multilabel": self.multilabel_}

    def _opened(self, run: Run) -> None:
        super()._opened(run)
        self.multilabel_ = bool(run.about.get("estimator", {}).get("multilabel", True))
