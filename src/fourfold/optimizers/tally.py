"""Sums of losses and weights between two lines of the log."""

from __future__ import annotations

from typing import Any


class Tally:
    """Sums of losses and weights since the last line of the log."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.weights: dict[str, float] = {}
        self.counted = 0.0
        self.since = 0.0

    def add(self, name: str, loss: float, weight: float) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + loss
        self.weights[name] = self.weights.get(name, 0.0) + weight

    def take(self, seconds: float) -> dict[str, float]:
        """Means and the rate since the last time, and a new beginning."""
        means = {name: self.sums[name] / self.weights[name] for name in self.sums}
        if self.counted and seconds > self.since:
            means["rate"] = self.counted / (seconds - self.since)
        self.sums, self.weights, self.counted, self.since = {}, {}, 0.0, seconds
        return means

    def state_dict(self) -> dict[str, Any]:
        return {
            "sums": self.sums,
            "weights": self.weights,
            "counted": self.counted,
            "since": self.since,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums, self.weights = dict(state["sums"]), dict(state["weights"])
        self.counted, self.since = state["counted"], state["since"]
