"""Likelihoods of models that remember: truncated back-propagation through time, the state carried on.

Williams and Peng 1990; Mikolov et al. 2010. The gradient ends where a window begins; what the model remembers does
not. Shapes: B rows, T window, D features, V vocabulary.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, Literal, Self

import torch
from pydantic import PrivateAttr
from torch import Tensor, nn

from fourfold.core.parts import Batch, Move, Objective
from fourfold.core.run import Run
from fourfold.objectives.likelihood import linear_cross_entropy


class Carried(Objective):
    """What is predicted from a state that goes on from batch to batch; subclasses say the loss.

    The model maps batch["tokens"], (B, T) int64, and its states to features (B, T, D) and states: a list of tuples
    of tensors (B, ...), one tuple for each layer. Rows for which batch["begins"], (B,) bool, holds go on from nothing,
    all of them where the batch says nothing. Training and evaluation each carry their own states. Of several
    micro-batches in a step each goes on from the one before it.
    """

    ignore: int = -100
    """Target that does not count."""
    _states: dict[bool, Any] = PrivateAttr(default_factory=dict)

    def prepare(self, run: Run) -> Self:
        """Remembers nothing yet."""
        fresh = self.model_copy()
        fresh._states = {}
        return fresh

    @abstractmethod
    def loss(self, model: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
        """Sum over what counts, () in nats, from features (N, D) and targets (N,) int64."""

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """One move of the whole model: nats, summed over the tokens that count."""
        targets = batch["targets"]
        hidden, states = model(batch["tokens"], self._before(model.training, batch))
        if hidden.shape[:-1] != targets.shape:
            got = f"{tuple(hidden.shape)} and {tuple(targets.shape)}"
            raise ValueError(f"expected features (B, T, D) and targets (B, T), got {got}")
        self._states[model.training] = [tuple(s.detach() for s in layer) for layer in states]
        total = self.loss(model, hidden.flatten(0, 1), targets.flatten())
        yield Move("model", total, weight=(targets != self.ignore).sum())

    def _before(self, training: bool, batch: Batch) -> Any:
        """The states that a batch's rows go on from; None for nothing."""
        begins, states = batch.get("begins"), self._states.get(training)
        if begins is None or bool(begins.all()):
            return None
        rows = len(batch["tokens"])
        if states is None or len(states[0][0]) != rows:
            held = "none" if states is None else str(len(states[0][0]))
            raise ValueError(
                f"a batch of {rows} rows goes on from the batch before, of which {held} are held: batches must "
                "come in order, from the first one of a pass on"
            )
        if not bool(begins.any()):
            return states
        return [
            tuple(torch.where(begins.view(-1, *[1] * (s.ndim - 1)), 0, s) for s in layer)
            for layer in states
        ]

    def state_dict(self) -> dict[str, Any]:
        """What training carries; an evaluation begins from nothing."""
        return {"states": self._states.get(True)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Objective.load_state_dict`."""
        self._states = {} if state["states"] is None else {True: state["states"]}


class CarriedNextToken(Carried):
    """Cross-entropy of the next token over the whole vocabulary: -log softmax(head(hidden))[target], in nats.

    The model's `head` is a linear layer, whose product is fused with the loss and its gradient.
    """

    kind: Literal["softmax"] = "softmax"

    def loss(self, model: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
        """See `Carried.loss`."""
        head: Any = model.head
        return linear_cross_entropy(hidden, head.weight, head.bias, targets, self.ignore)
