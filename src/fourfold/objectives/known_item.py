"""How well an index finds a passage again by one of its sentences: known-item search, Azzopardi et al. 2007."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from fourfold.core.parts import Batch, Move, Objective


class KnownItem(Objective):
    """The place at which a passage is found.

    The model maps batch["terms"], (B, Q) int64, to scores (B, N); batch["row"], (B,) int64, is the passage that is
    looked for. Passages with as high a score count as before it.
    """

    kind: Literal["known-item"] = "known-item"
    higher: ClassVar[frozenset[str]] = frozenset({"mrr", "recall@1", "recall@5"})

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """One minus the reciprocal of the place, without a gradient."""
        places = _places(model, batch)
        yield Move("model", (1 - 1 / places).sum(), weight=float(len(places)))

    def measure(self, model: nn.Module, batch: Batch) -> Mapping[str, tuple[Tensor, float]]:
        """Mean reciprocal place, and the share found first and among the first five."""
        places = _places(model, batch)
        many = float(len(places))
        return {
            "mrr": ((1 / places).sum(), many),
            "recall@1": ((places <= 1).double().sum(), many),
            "recall@5": ((places <= 5).double().sum(), many),
        }


def _places(model: nn.Module, batch: Batch) -> Tensor:
    """(B,) float64 places, from 1."""
    scores, rows = model(batch["terms"]), batch["row"]
    own = scores.gather(1, rows[:, None].to(scores.device))
    return (scores >= own).sum(1).to(torch.float64).clamp(min=1)
