"""The next word from a state that is carried on: truncated back-propagation through time.

Williams and Peng 1990; Mikolov et al. 2010. The gradient ends where a window begins; what the model remembers does
not. Every way to look at the vocabulary is that of objectives/vocabulary.py. Shapes: B rows, T window, D features.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self, cast

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor, nn

from fourfold.core.parts import Batch
from fourfold.core.run import Run
from fourfold.objectives.vocabulary import (
    Adaptive,
    Contrast,
    Hierarchical,
    NextWord,
    Sampled,
    Softmax,
)


class Carried(NextWord):
    """What is predicted from a state that goes on from batch to batch.

    The model maps batch["tokens"], (B, T) int64, and its states to features (B, T, D) and states: a list of tuples
    of tensors (B, ...), one tuple for each layer. Rows for which batch["begins"], (B,) bool, holds go on from nothing,
    all of them where the batch says nothing. Training and evaluation each carry their own states. Of several
    micro-batches in a step each goes on from the one before it.
    """

    carries: ClassVar[bool] = True

    _states: dict[bool, Any] = PrivateAttr(default_factory=dict)

    def prepare(self, run: Run) -> Self:
        """Remembers nothing yet."""
        fresh = cast(Self, super().prepare(run))
        fresh._states = {}
        return fresh

    def _counted(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features (N, D) and targets (N,) of the positions that count."""
        targets = batch["targets"]
        hidden, states = model(batch["tokens"], self._before(model.training, batch))
        if hidden.shape[:-1] != targets.shape:
            got = f"{tuple(hidden.shape)} and {tuple(targets.shape)}"
            raise ValueError(
                f"{type(self).__name__} expects features (B, T, D) and targets (B, T), got {got}"
            )
        self._states[model.training] = [tuple(s.detach() for s in layer) for layer in states]
        hidden, targets = hidden.flatten(0, 1), targets.flatten()
        counts = targets != self.ignore
        return (hidden, targets) if bool(counts.all()) else (hidden[counts], targets[counts])

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


class CarriedSoftmax(Carried, Softmax):
    """Cross-entropy over all words, from a state that is carried on."""


class CarriedSampled(Carried, Sampled):
    """Cross-entropy over the true word and drawn ones, from a state that is carried on."""


class CarriedAdaptive(Carried, Adaptive):
    """Cross-entropy over the frequent words and one cluster, from a state that is carried on."""


class CarriedHierarchical(Carried, Hierarchical):
    """Cross-entropy of decisions in a binary tree, from a state that is carried on."""


class CarriedContrast(Carried, Contrast):
    """Noise-contrastive estimation, from a state that is carried on."""


CarriedObjective = Annotated[
    CarriedSoftmax | CarriedSampled | CarriedAdaptive | CarriedHierarchical | CarriedContrast,
    Field(discriminator="kind"),
]
"""The choices for a system's `objective`."""
