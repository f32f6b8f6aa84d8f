"""Predicting what was hidden, in nats: the masked language model of BERT, Devlin et al. 2018.

It is a denoising autoencoder (Vincent et al. 2008): the noise hides tokens, the encoder is the model's body, the
decoder its head, and only what was hidden is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from torch import Tensor, nn

from fourfold.core.parts import Batch, Move, Objective
from fourfold.objectives.likelihood import cross_entropy


class MaskedTokens(Objective):
    """Cross-entropy of the hidden tokens: -log softmax(logits)[target] at their places, in nats.

    The model maps batch["tokens"], (B, T) int64, to logits (B, K, V) at batch["places"], (B, K) int64. Places whose
    batch["targets"], (B, K) int64, are `ignore` do not count. batch["segments"], (B, T) int64, may say which
    positions see one another.

    Raises:
        ValueError: logits and targets differ in (B, K).
    """

    higher: ClassVar[frozenset[str]] = frozenset({"accuracy"})

    ignore: int = -100
    """Target that does not count."""

    def units(self) -> Mapping[str, str]:
        """See `Objective.units`."""
        return {"loss": "nats per hidden token"}

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """One move of the whole model: nats, summed over the hidden tokens."""
        logits, targets = self._logits(model, batch)
        total = cross_entropy(logits.flatten(0, 1), targets.flatten(), self.ignore)
        yield Move("model", total, weight=(targets != self.ignore).sum())

    def measure(
        self, model: nn.Module, batch: Batch
    ) -> Mapping[str, tuple[Tensor, Tensor | float | None]]:
        """The loss, and the share of hidden tokens that the model finds the likeliest."""
        logits, targets = self._logits(model, batch)
        total = cross_entropy(logits.flatten(0, 1), targets.flatten(), self.ignore)
        counted = targets != self.ignore
        right = (logits.argmax(-1) == targets) & counted
        return {"loss": (total, counted.sum()), "accuracy": (right.sum(), counted.sum())}

    def _logits(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        places, targets = batch["places"], batch["targets"]
        logits = model(batch["tokens"], places=places, segments=batch.get("segments"))
        if logits.shape[:-1] != targets.shape:
            got = f"{tuple(logits.shape)} and {tuple(targets.shape)}"
            raise ValueError(f"MaskedTokens expects logits (B, K, V) and targets (B, K), got {got}")
        return logits, targets
