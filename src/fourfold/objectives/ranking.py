"""Which passage answers a question, among others: by the nearness of vectors, or by scores of pairs.

In-batch negatives: Henderson et al. 2017, arXiv 1705.00652; InfoNCE: van den Oord et al. 2018. Shapes: B questions, C candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat
from torch import Tensor, nn

from fourfold.core.parts import Batch, Move, Objective


class InBatch(Objective):
    """Cross-entropy, in nats, of a question's own passage among all of the batch, and all negatives of it.

    The model maps tokens and where they are to vectors; their products, divided by `temperature`, are logits.
    """

    kind: Literal["in-batch"] = "in-batch"
    compares: ClassVar[bool] = True
    higher: ClassVar[frozenset[str]] = frozenset({"accuracy", "mrr"})
    temperature: PositiveFloat = 0.05
    """What products are divided by."""

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        names = [name for name in ("question", "passage", "negative") if name in batch]
        asked, *said = (model(batch[name], batch[f"{name}_keep"]) for name in names)
        return asked @ torch.cat(said).T / self.temperature

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """See `Objective.losses`."""
        yield _move(self._logits(model, batch), own=True)

    def measure(self, model: nn.Module, batch: Batch) -> Mapping[str, tuple[Tensor, float]]:
        """The loss, and how often and at which place the own passage is found in the batch."""
        return _measures(self._logits(model, batch), own=True)


class Listwise(Objective):
    """Cross-entropy, in nats, of the candidate that answers (the first) among a question's candidates."""

    kind: Literal["listwise"] = "listwise"
    higher: ClassVar[frozenset[str]] = frozenset({"accuracy", "mrr"})

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        shape = batch["tokens"].shape
        flat = (batch[name].flatten(0, 1) for name in ("tokens", "keep", "types"))
        found: Tensor = model(*flat)
        return found.view(shape[:2])

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """See `Objective.losses`."""
        yield _move(self._logits(model, batch), own=False)

    def measure(self, model: nn.Module, batch: Batch) -> Mapping[str, tuple[Tensor, float]]:
        """The loss, and how often and at which place the right candidate comes."""
        return _measures(self._logits(model, batch), own=False)


def _targets(logits: Tensor, own: bool) -> Tensor:
    many = torch.arange(len(logits), device=logits.device)
    return many if own else torch.zeros_like(many)


def _move(logits: Tensor, own: bool) -> Move:
    loss = F.cross_entropy(logits, _targets(logits, own), reduction="sum")
    return Move("model", loss, weight=float(len(logits)))


def _measures(logits: Tensor, own: bool) -> dict[str, tuple[Tensor, float]]:
    targets, many = _targets(logits, own), float(len(logits))
    right = logits.gather(1, targets[:, None])
    places = (logits > right).sum(1).double() + 1
    loss = F.cross_entropy(logits, targets, reduction="sum")
    return {
        "loss": (loss, many),
        "accuracy": ((places == 1).double().sum(), many),
        "mrr": ((1 / places).sum(), many),
    }
