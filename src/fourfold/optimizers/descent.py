"""Stochastic gradient descent as linear models want it (Robbins and Monro 1951)."""

from __future__ import annotations

from pydantic import PositiveFloat

from fourfold.optimizers.gradient import Gradient


class Descent(Gradient):
    """Stochastic gradient descent at a rate that suits standardized columns."""

    algorithm: str = "sgd"
    """A torch optimizer by name: sgd, adamw, adam, rmsprop, adagrad, ..."""
    lr: PositiveFloat = 0.03
    """Peak learning rate."""
