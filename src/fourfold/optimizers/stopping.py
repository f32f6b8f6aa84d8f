"""The best so far, and when to give up hoping for better."""

from __future__ import annotations

import math
from typing import Any


class Stopping:
    """Remembers the best evaluation; patience counts evaluations without a better one."""

    def __init__(self, patience: int | None) -> None:
        self.patience = patience
        self.best, self.best_step, self.waited = math.inf, 0, 0

    def improved(self, value: float, step: int) -> bool:
        """Take in an evaluation; whether it is the best so far (lower is better)."""
        if value < self.best:
            self.best, self.best_step, self.waited = value, step, 0
            return True
        self.waited += 1
        return False

    @property
    def stop(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.best_step = state["best"], state["best_step"]
        self.waited = state["waited"]
