"""Probabilities that mean what they say: fitted on held-out rows, applied to what the model predicts.

Temperature: Guo et al. 2017, https://arxiv.org/abs/1706.04599. Isotonic: Zadrozny and Elkan 2002, for
several classes each against the rest, then normalized. Both count one row in M + 2 as something else than
it was (Laplace's rule; Platt 1999): M rows that were all told right rule nothing out.
Shapes: M held-out rows, N rows, C classes or labels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, Self

import numpy as np

from fourfold.core.errors import UserError

Method = Literal["temperature", "isotonic"]
TINY = 1e-300
"""Probabilities below it have no logarithm that counts."""
COLDEST, HOTTEST = 1e-3, 1e3
MOST = 200
"""Classes up to which each gets a curve of its own."""


class Calibrator(ABC):
    """A map from probabilities to better ones. Labels are calibrated each by itself, classes together."""

    method: Method

    @classmethod
    @abstractmethod
    def fit(cls, predicted: np.ndarray, true: np.ndarray, weights: np.ndarray | None) -> Self:
        """Fit on held-out rows.

        Args:
            predicted: (M, C) probabilities.
            true: (M,) numbers of classes, or (M, C) of 0 and 1 for labels.
            weights: (M,) how much each row counts; None is once each.
        """

    @abstractmethod
    def __call__(self, predicted: np.ndarray) -> np.ndarray:
        """(N, C) calibrated probabilities of (N, C)."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Plain values and tensors to be stored."""

    @classmethod
    @abstractmethod
    def of_state(cls, state: dict[str, Any]) -> Self:
        """What `state` gave."""


class Temperature(Calibrator):
    """Log-odds divided by one number: order and decisions stay, only confidence changes."""

    method: Method = "temperature"

    def __init__(self, temperature: float, labels: bool) -> None:
        self.temperature, self.labels = temperature, labels

    @classmethod
    def fit(cls, predicted: np.ndarray, true: np.ndarray, weights: np.ndarray | None) -> Self:
        """See `Calibrator.fit`: least cross-entropy, which has one minimum in 1 / temperature."""
        from scipy.optimize import minimize_scalar

        labels = true.ndim == 2
        logs = _logs(predicted, labels)
        counts = np.ones(len(true)) if weights is None else weights
        soft = _softened(predicted, true)

        def loss(log_inverse: float) -> float:
            scaled = _log_normalized(np.exp(log_inverse) * logs)
            rows = (soft * scaled).reshape(len(true), -1).sum(axis=1)
            return -float(np.average(rows, weights=counts))

        bounds = (-np.log(HOTTEST), -np.log(COLDEST))
        best = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-8})
        return cls(float(np.exp(-best.x)), labels)

    def __call__(self, predicted: np.ndarray) -> np.ndarray:
        """See `Calibrator`."""
        scaled = np.exp(_log_normalized(_logs(predicted, self.labels) / self.temperature))
        return scaled[..., 1] if self.labels else scaled

    def state(self) -> dict[str, Any]:
        """See `Calibrator.state`."""
        return {"temperature": self.temperature, "labels": self.labels}

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> Self:
        """See `Calibrator.of_state`."""
        return cls(state["temperature"], state["labels"])


class Isotonic(Calibrator):
    """The rising step function that fits best, linear between its steps; it may change decisions."""

    method: Method = "isotonic"

    def __init__(self, curves: list[tuple[np.ndarray, np.ndarray]], labels: bool) -> None:
        self.curves, self.labels = curves, labels
        """Corners (x, y) of each curve: one of two classes, otherwise one a class or label."""

    @classmethod
    def fit(cls, predicted: np.ndarray, true: np.ndarray, weights: np.ndarray | None) -> Self:
        """See `Calibrator.fit`."""
        from sklearn.isotonic import IsotonicRegression

        labels = true.ndim == 2
        known = true if labels else true[:, None] == np.arange(predicted.shape[1])
        if not labels and predicted.shape[1] == 2:
            predicted, known = predicted[:, 1:], known[:, 1:]
        least = 1 / (len(predicted) + 2)
        curves = []
        for told, came in zip(predicted.T, known.T.astype(float), strict=True):
            fitted = IsotonicRegression(out_of_bounds="clip", y_min=least, y_max=1 - least)
            fitted.fit(told, came, sample_weight=weights)
            curves.append((fitted.X_thresholds_, fitted.y_thresholds_))
        return cls(curves, labels)

    def __call__(self, predicted: np.ndarray) -> np.ndarray:
        """See `Calibrator`."""
        if len(self.curves) == 1 and not self.labels:
            second = np.interp(predicted[:, 1], *self.curves[0])
            return np.stack([1 - second, second], axis=1)
        each = np.stack(
            [np.interp(p, x, y) for p, (x, y) in zip(predicted.T, self.curves, strict=True)], axis=1
        )
        if self.labels:
            return each
        return each / each.sum(axis=1, keepdims=True)

    def state(self) -> dict[str, Any]:
        """See `Calibrator.state`."""
        import torch

        pairs = [[torch.from_numpy(np.array(part)) for part in curve] for curve in self.curves]
        return {"curves": pairs, "labels": self.labels}

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> Self:
        """See `Calibrator.of_state`."""
        return cls([(x.numpy(), y.numpy()) for x, y in state["curves"]], state["labels"])


METHODS: dict[Method, type[Calibrator]] = {"temperature": Temperature, "isotonic": Isotonic}


def fit_all(
    predicted: np.ndarray, true: np.ndarray, weights: np.ndarray | None
) -> dict[str, Calibrator]:
    """Every method, fitted; none where the held-out rows have one class only."""
    counted = np.ones(len(true), bool) if weights is None else weights > 0
    predicted, true = predicted[counted], true[counted]
    weights = None if weights is None else weights[counted].astype(float)
    if not len(true) or (true.ndim == 1 and len(np.unique(true)) < 2):
        return {}
    return {
        name: kind.fit(predicted, true, weights)
        for name, kind in METHODS.items()
        if kind is not Isotonic or predicted.shape[1] <= MOST
    }


def chosen(calibrators: dict[str, Calibrator], method: Method) -> Calibrator:
    """A fitted method.

    Raises:
        UserError: there were no held-out rows to fit it on, or too many classes.
    """
    if method not in calibrators and calibrators:
        raise UserError(
            f"--calibration {method} is for {MOST} classes at most, {' and '.join(calibrators)} for any number"
        )
    if method not in calibrators:
        raise UserError(
            f"--calibration {method}: this run has no validation rows of two classes to calibrate on; "
            "fit it with some: --data.split 0.8,0.1,0.1, or --valid FILE"
        )
    return calibrators[method]


def _logs(predicted: np.ndarray, labels: bool) -> np.ndarray:
    """(N, C) log probabilities, or of labels (N, C, 2) of absence and presence."""
    if labels:
        predicted = np.stack([1 - predicted, predicted], axis=-1)
    return np.log(np.maximum(predicted, TINY))


def _softened(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Targets in the shape of `_logs`, with 1 / (M + 2) of each row for what it was not."""
    other = 1 / (len(true) + 2)
    if true.ndim == 2:
        there = np.where(true > 0.5, 1 - other, other)
        return np.stack([1 - there, there], axis=-1)
    soft = np.full(predicted.shape, other / (predicted.shape[1] - 1))
    soft[np.arange(len(true)), true] = 1 - other
    return soft


def _log_normalized(logs: np.ndarray) -> np.ndarray:
    from scipy.special import log_softmax

    return log_softmax(logs, axis=-1)
