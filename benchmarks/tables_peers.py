"""What scikit-learn's users would take for a table: its MLP, gradient boosting, linear models; tuned on validation rows.

Each peer is fitted on the training rows with a few sensible settings; the validation rows stop the MLP
and choose the settings, as they do for ours.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, r2_score, root_mean_squared_error
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler, TargetEncoder

PATIENCE = 20  # epochs
EPOCHS = 300


@dataclass
class Rows:
    """A fold's rows as peers take them; numbers are predicted standardized."""

    x: Any  # pandas frame: scikit-learn's transformers name columns
    y: np.ndarray
    splits: dict[str, np.ndarray]
    classes: bool
    categories: list[str]
    many: list[str]

    @classmethod
    def of(
        cls,
        frame: pl.DataFrame,
        target: str,
        splits: dict[str, np.ndarray],
        classes: bool,
        categories: tuple[str, ...],
        many: tuple[str, ...],
    ) -> Rows:
        if classes:
            y = np.unique(frame[target].cast(pl.String).to_numpy(), return_inverse=True)[1]
        else:
            y = frame[target].cast(pl.Float64).to_numpy()
            y = (y - y[splits["train"]].mean()) / y[splits["train"]].std()
        text = [*categories, *many]
        x = frame.drop(target).with_columns(pl.col(text).cast(pl.String)).to_pandas()
        return cls(x, y, splits, classes, list(categories), list(many))

    @property
    def numbers(self) -> list[str]:
        """Columns that are no category."""
        return [c for c in self.x.columns if c not in (*self.categories, *self.many)]

    def prepared(self, transformer: Any) -> dict[str, Any]:
        """Features of each split under a transformer fitted on the training rows."""
        train = self.splits["train"]
        transformer.fit(self.x.iloc[train], self.y[train])
        return {name: transformer.transform(self.x.iloc[i]) for name, i in self.splits.items()}

    def targets(self, split: str) -> np.ndarray:
        """The targets of a split."""
        return self.y[self.splits[split]]

    def error(self, split: str, found: np.ndarray) -> float:
        """Log loss, or root mean squared error in deviations of the training rows' target."""
        true = self.targets(split)
        if not self.classes:
            return float(root_mean_squared_error(true, found))
        found = np.clip(found, 1e-15, 1)
        found = found / found.sum(axis=1, keepdims=True)
        return float(log_loss(true, found, labels=range(found.shape[1])))

    def score(self, split: str, found: np.ndarray) -> float:
        """Accuracy or R2, as scikit-learn's `score`."""
        true = self.targets(split)
        if self.classes:
            return float((found.argmax(axis=1) == true).mean())
        return float(r2_score(true, found))

    def answer(self, model: Any, features: Any) -> np.ndarray:
        """Predicted numbers or probabilities."""
        return np.asarray(
            model.predict_proba(features) if self.classes else model.predict(features)
        )


@dataclass
class Result:
    """What a peer reached."""

    test: float
    valid: float
    seconds: float
    score: float = 0.0
    """Of the MLP: its best validation score, accuracy or R2, at any epoch."""
    best_after: float = 0.0
    """Seconds until it had that."""


def plain(rows: Rows) -> Any:
    """Medians with indicators, standardized numbers, one-hot categories."""
    return make_column_transformer(
        (
            make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler()),
            rows.numbers,
        ),
        (OneHotEncoder(handle_unknown="ignore"), [*rows.categories, *rows.many]),
    )


def best(rows: Rows, settings: Iterator[Callable[[], Result]]) -> Result:
    """The result of the setting that does best on the validation rows; its own time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convergence: stopping early is the point
        return min((fit() for fit in settings), key=lambda result: result.valid)


def network(rows: Rows, seed: int) -> Result:
    """scikit-learn's MLP with one or two hidden layers, stopped at its best validation epoch."""

    def fit(layers: tuple[int, ...], alpha: float) -> Result:
        kind = MLPClassifier if rows.classes else MLPRegressor
        model = kind(hidden_layer_sizes=layers, alpha=alpha, random_state=seed)
        began = time.perf_counter()
        x, y = rows.prepared(plain(rows)), rows.targets("train")
        known = {"classes": np.unique(rows.y)} if rows.classes else {}
        lowest, highest, best_after, kept, waited = np.inf, -np.inf, 0.0, model, 0
        for _ in range(EPOCHS):
            model.partial_fit(x["train"], y, **known)
            answer = rows.answer(model, x["valid"])
            found, score = rows.error("valid", answer), rows.score("valid", answer)
            waited += 1
            if score > highest:
                highest, best_after, waited = score, time.perf_counter() - began, 0
            if found < lowest:
                lowest, waited, kept = found, 0, copy.deepcopy(model)
            if waited == PATIENCE:
                break
        seconds = time.perf_counter() - began
        test = rows.error("test", rows.answer(kept, x["test"]))
        return Result(test, lowest, seconds, highest, best_after)

    settings = [((100,), 1e-4), ((256, 256), 1e-3)]
    return best(rows, (lambda s=s: fit(*s) for s in settings))  # type: ignore[misc]


def boosting(rows: Rows, seed: int) -> Result:
    """Histogram gradient boosting with its defaults, or slower and stopped early."""
    text = [*rows.categories]
    transformer = make_column_transformer(
        (
            OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan),
            text,
        ),
        (TargetEncoder(random_state=seed), rows.many),
        remainder="passthrough",
    )

    def fit(**setting: Any) -> Result:
        kind = HistGradientBoostingClassifier if rows.classes else HistGradientBoostingRegressor
        model = kind(categorical_features=list(range(len(text))), random_state=seed, **setting)
        began = time.perf_counter()
        train = rows.splits["train"]
        # fitted and transformed at once: a target encoder then leaves each row's own target out
        x = transformer.fit_transform(rows.x.iloc[train], rows.y[train])
        model.fit(x, rows.targets("train"))
        seconds = time.perf_counter() - began
        found = {
            split: rows.error(
                split, rows.answer(model, transformer.transform(rows.x.iloc[rows.splits[split]]))
            )
            for split in ("valid", "test")
        }
        return Result(found["test"], found["valid"], seconds)

    slow = {"learning_rate": 0.05, "max_iter": 500, "early_stopping": True}
    return best(rows, (lambda s=s: fit(**s) for s in ({}, slow)))  # type: ignore[misc]


def linear(rows: Rows, seed: int) -> Result:
    """Ridge or logistic regression."""

    def fit(penalty: float) -> Result:
        model = LogisticRegression(C=1 / penalty, max_iter=1000) if rows.classes else Ridge(penalty)
        began = time.perf_counter()
        x = rows.prepared(plain(rows))
        model.fit(x["train"], rows.targets("train"))
        seconds = time.perf_counter() - began
        found = {s: rows.error(s, rows.answer(model, x[s])) for s in ("valid", "test")}
        return Result(found["test"], found["valid"], seconds)

    return best(rows, (lambda p=p: fit(p) for p in (0.01, 0.1, 1.0, 10.0, 100.0)))  # type: ignore[misc]


PEERS: dict[str, Callable[[Rows, int], Result]] = {
    "scikit-learn MLP": network,
    "gradient boosting": boosting,
    "linear": linear,
}
