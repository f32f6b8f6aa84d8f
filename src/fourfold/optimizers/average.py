"""Exponential moving average of weights (Polyak & Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fourfold.core.shares import local


class Average:
    """Keeps `shadow = decay shadow + (1 - decay) weights` of every parameter that is searched, after each step."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        moving = {
            n: p for n, p in model.named_parameters() if p.is_floating_point() and p.requires_grad
        }
        self._names = list(moving)
        self._shadow = [p.detach().clone() for p in moving.values()]
        self._live = [local(p) for p in moving.values()]
        self._mine = [local(s) for s in self._shadow]

    @torch.no_grad()
    def update(self) -> None:
        """After a step. The decay grows as (1 + n) / (10 + n), so that the start is forgotten."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._mine, self._live, 1 - decay)

    @torch.no_grad()
    def restart(self, parameter: nn.Parameter) -> None:
        """The average of a parameter that begins anew is what it is now."""
        for live, shadow in zip(self._live, self._shadow, strict=True):
            if live is parameter:
                shadow.copy_(parameter)

    def weights(self) -> dict[str, Tensor]:
        """The averages by parameter name."""
        return dict(zip(self._names, self._shadow, strict=True))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model with the averages in place of its weights."""
        with torch.no_grad():
            kept = [p.detach().clone() for p in self._live]
            torch._foreach_copy_(self._live, self._mine)
            try:
                yield
            finally:
                torch._foreach_copy_(self._live, kept)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "shadow": self._shadow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        with torch.no_grad():
            torch._foreach_copy_(
                self._mine,
                [local(t).to(s.device) for t, s in zip(state["shadow"], self._mine, strict=True)],
            )
