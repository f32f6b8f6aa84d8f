"""The next token of a target, given its source: maximum likelihood with label smoothing (Szegedy et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

from fourfold.core.parts import Batch, Move, Objective
from fourfold.objectives.likelihood import linear_cross_entropy


class TargetToken(Objective):
    """Cross-entropy of each token of the target given the source and the tokens before it, in nats.

    The model maps batch["source"], (B, S) int64, batch["source_lengths"], (B,) int64, and batch["tokens"], (B, T) int64,
    to features (B, T, W); its `head`, a Linear, makes logits of them. Positions whose batch["targets"], (B, T) int64,
    equals `ignore` do not count, and no logits are computed there.

    Raises:
        ValueError: features and targets differ in (B, T).
    """

    smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the target's probability that is spread evenly over the vocabulary while learning; what is measured
    is the plain likelihood."""
    ignore: int = -100
    """Target that does not count."""

    def units(self) -> Mapping[str, str]:
        """See `Objective.units`."""
        return {"loss": "nats per token"}

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """One move of the whole model: nats, summed over the tokens that count."""
        hidden, targets = self._counted(model, batch)
        head: Any = model.head
        total = linear_cross_entropy(hidden, head.weight, head.bias, targets)
        if self.smoothing and len(targets):
            total = total + self.smoothing * smoothed(hidden, head.weight, head.bias, targets)
        yield Move("model", total, weight=float(len(targets)))

    def measure(
        self, model: nn.Module, batch: Batch
    ) -> Mapping[str, tuple[Tensor, Tensor | float | None]]:
        """See `Objective.measure`: without smoothing."""
        hidden, targets = self._counted(model, batch)
        head: Any = model.head
        total = linear_cross_entropy(hidden, head.weight, head.bias, targets)
        return {"loss": (total, float(len(targets)))}

    def _counted(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features (N, W) and targets (N,) of the positions that count."""
        features = model(batch["source"], batch["source_lengths"], batch["tokens"])
        targets = batch["targets"]
        if features.shape[:-1] != targets.shape:
            got = f"{tuple(features.shape)} and {tuple(targets.shape)}"
            raise ValueError(
                f"TargetToken expects features (B, T, W) and targets (B, T), got {got}"
            )
        counts = targets != self.ignore
        return features[counts], targets[counts]


def smoothed(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """What label smoothing adds to the summed cross-entropy, for each unit of its share.

    With p the softmax of the logits z, (1 - e) (-log p_y) + e mean_v (-log p_v) = -log p_y + e (z_y - mean_v z_v):
    of the V logits only their mean is needed, which is the product with the mean row.

    Args:
        hidden: (N, W) float.
        weight: (V, W) float.
        bias: (V,) float, or none.
        targets: (N,) int64.

    Returns:
        () float32, or float64 where hidden is.
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    with torch.autocast(hidden.device.type, enabled=False):
        hidden, rows = hidden.to(wide), weight[targets].to(wide) - weight.to(wide).mean(0)
        found = (hidden * rows).sum()
        if bias is not None:
            found = found + (bias[targets] - bias.mean()).sum()
    return found
