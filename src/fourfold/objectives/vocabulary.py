"""The next word out of a large vocabulary: how training looks at the output layer. Always measured exactly.

softmax: over all words. sampled: over the true word and drawn ones, each score less the logarithm of how likely it
is to be drawn (Jean et al. 2015; Bengio and Senecal 2008). adaptive: a softmax over the frequent words and clusters
of rare ones (Grave et al. 2017). hierarchical: decisions in a binary tree (Morin and Bengio 2005; Mnih and Hinton
2008). contrast: noise-contrastive estimation, which learns to tell true words from drawn ones with the normalizing
constant fixed at one (Gutmann and Hyvarinen 2010; Mnih and Teh 2012). In nats.
Shapes: B batch, T time, N positions that count, H hidden, V words, k drawn words.

A model for these has `states(tokens)`, (B, C - 1 + T) int64 to (B, T, H), and the output layer `head`, of the kind
that `layer` names. A model that reads more of a batch names what: `reads = ("tokens", "begins")`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveInt, PrivateAttr
from torch import Tensor, nn

from fourfold.core.parts import Batch, Move, Objective
from fourfold.core.run import Run
from fourfold.objectives.likelihood import cross_entropy, linear_cross_entropy
from fourfold.objectives.words import alias_cells

Layer = Literal["full", "adaptive", "tree"]


class NextWord(Objective):
    """Negative log-likelihood of the next word, or what stands for it while learning."""

    layer: ClassVar[Layer] = "full"
    """The output layer that the model needs: models/output.py."""
    ignore: int = -100
    """Target that does not count."""

    def units(self) -> Mapping[str, str]:
        """See `Objective.units`."""
        return {"loss": "nats per token"}

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """One move of the whole model: summed over the words that count."""
        hidden, targets = self._counted(model, batch)
        yield Move("model", self.total(model.head, hidden, targets), weight=len(targets))

    def measure(self, model: nn.Module, batch: Batch) -> Mapping[str, tuple[Tensor, float]]:
        """The exact negative log-likelihood, normalized over all words, however it is learned."""
        hidden, targets = self._counted(model, batch)
        head: Any = model.head
        if self.layer == "full":
            total = linear_cross_entropy(hidden, head.weight, head.bias, targets, self.ignore)
        else:
            total = head.negative_log(hidden, targets).sum()
        return {"loss": (total, float(len(targets)))}

    @abstractmethod
    def total(self, head: Any, hidden: Tensor, targets: Tensor) -> Tensor:
        """What is minimized, () summed over positions, from states (N, H) and true words (N,) int64."""

    def _counted(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """States (N, H) and targets (N,) of the positions that count."""
        reads: tuple[str, ...] = getattr(model, "reads", ("tokens",))
        hidden: Tensor = model.states(*(batch[name] for name in reads))  # type: ignore[operator]
        targets = batch["targets"]
        if hidden.shape[:-1] != targets.shape:
            got = f"{tuple(hidden.shape)} and {tuple(targets.shape)}"
            raise ValueError(
                f"{type(self).__name__} expects states (B, T, H) and targets (B, T), got {got}"
            )
        hidden, targets = hidden.flatten(0, 1), targets.flatten()
        counts = targets != self.ignore
        return (hidden, targets) if bool(counts.all()) else (hidden[counts], targets[counts])


class Softmax(NextWord):
    """Cross-entropy over all words."""

    kind: Literal["softmax"] = "softmax"

    def total(self, head: Any, hidden: Tensor, targets: Tensor) -> Tensor:
        """See `NextWord.total`."""
        return linear_cross_entropy(hidden, head.weight, head.bias, targets, self.ignore)


class Drawn(NextWord):
    """Objectives that look at the true word and at drawn ones, the same for all positions of a batch."""

    power: NonNegativeFloat = 0.75
    """Words are drawn in proportion to count^power."""
    _noise: Any = PrivateAttr(None)
    _alias: Any = PrivateAttr(None)

    def prepare(self, run: Run) -> Self:
        """Takes how often each word occurs."""
        fresh = self.model_copy()
        fresh.know(np.asarray(run.data.vocabulary.counts))  # type: ignore[attr-defined]
        return fresh

    def know(self, counts: np.ndarray) -> None:
        """Draw by these counts, (V,); one is added to each, so that every word can be drawn."""
        weights = (np.asarray(counts, np.float64) + 1) ** self.power
        noise = weights / weights.sum()
        self._noise = torch.from_numpy(noise)
        self._alias = tuple(torch.from_numpy(cells) for cells in alias_cells(noise))

    def draw(self, count: int, device: torch.device) -> Tensor:
        """Words, (count,) int64, each drawn independently, from torch's generator of the CPU."""
        share, alias = self._alias
        cell = torch.randint(len(share), (count,))
        return torch.where(torch.rand(count) < share[cell], cell, alias[cell].long()).to(device)


class Sampled(Drawn):
    """Cross-entropy over the true word and drawn ones, each score less the logarithm of its chance to be drawn."""

    kind: Literal["sampled"] = "sampled"
    samples: PositiveInt = 1024
    """Draws for a batch; where they are as many as the words, all words are taken."""

    def total(self, head: Any, hidden: Tensor, targets: Tensor) -> Tensor:
        """See `NextWord.total`."""
        words = len(self._noise)
        if self.samples >= words:
            drawn = torch.arange(words, device=hidden.device)
            chance = torch.zeros(words, device=hidden.device)
        else:
            drawn = self.draw(self.samples, hidden.device).unique()
            # that a word is among the draws at all: 1 - (1 - q)^k
            chance = torch.log(-torch.expm1(self.samples * torch.log1p(-self._noise)))
            chance = chance.to(hidden.device)
        return sampled_total(head, hidden, targets, drawn, chance)


class Contrast(Drawn):
    """Noise-contrastive estimation: true words against drawn ones, with scores as log-probabilities."""

    kind: Literal["contrast"] = "contrast"
    power: NonNegativeFloat = 1.0
    """Words are drawn in proportion to count^power."""
    samples: PositiveInt = 256
    """Draws for a batch: each true word is told from all of them."""

    def total(self, head: Any, hidden: Tensor, targets: Tensor) -> Tensor:
        """See `NextWord.total`."""
        drawn = self.draw(self.samples, hidden.device)
        return contrast_total(head, hidden, targets, drawn, self._noise.to(hidden.device))


class Adaptive(NextWord):
    """Cross-entropy over the frequent words and, where the word is rarer, over its cluster."""

    layer: ClassVar[Layer] = "adaptive"
    kind: Literal["adaptive"] = "adaptive"
    cutoffs: tuple[PositiveInt, ...] | None = None
    """Words, by frequency, up to which the frequent ones and each cluster but the last go; None takes two cutoffs
    where multiplications are fewest."""

    def total(self, head: Any, hidden: Tensor, targets: Tensor) -> Tensor:
        """See `NextWord.total`."""
        pieces = head.pieces(hidden, targets)
        return torch.stack(
            [cross_entropy(logits, chosen, self.ignore) for _, logits, chosen in pieces]
        ).sum()


class Hierarchical(NextWord):
    """Cross-entropy of the decisions on the way to a word in a binary tree."""

    layer: ClassVar[Layer] = "tree"
    kind: Literal["hierarchical"] = "hierarchical"

    def total(self, head: Any, hidden: Tensor, targets: Tensor) -> Tensor:
        """See `NextWord.total`."""
        scores, signs = head.decisions(hidden, targets)
        return (F.softplus(-signs * scores) * signs.abs()).sum()


VocabularyObjective = Annotated[
    Softmax | Sampled | Adaptive | Hierarchical | Contrast, Field(discriminator="kind")
]
"""The choices for a system's `objective`."""


def sampled_total(
    head: Any, hidden: Tensor, targets: Tensor, drawn: Tensor, chance: Tensor
) -> Tensor:
    """Softmax over the true word and drawn ones.

    Args:
        head: with `weight` (V, H) and `bias` (V,).
        hidden: (N, H).
        targets: (N,) int64.
        drawn: (k,) int64, different words; a position's own true word among them does not count twice.
        chance: (V,) log of each word's chance to be among them.

    Returns:
        () float, summed over positions.
    """
    correction = head.bias - chance.to(head.bias.dtype)
    others = F.linear(hidden, head.weight[drawn]) + correction[drawn]  # (N, k)
    place = torch.full((len(chance),), -1, device=drawn.device)
    place[drawn] = torch.arange(len(drawn), device=drawn.device)
    column = place[targets]
    rows = (column >= 0).nonzero()[:, 0]
    others = others.index_put((rows, column[rows]), others.new_tensor(-torch.inf))
    true = (hidden * head.weight[targets]).sum(-1) + correction[targets]
    scores = torch.cat([true.unsqueeze(-1), others.to(true.dtype)], -1)
    return cross_entropy(scores, torch.zeros_like(targets))


def contrast_total(
    head: Any, hidden: Tensor, targets: Tensor, drawn: Tensor, noise: Tensor
) -> Tensor:
    """Binary cross-entropies of true against drawn words, whose log-odds are score - log(k q).

    Args:
        head: with `weight` (V, H) and `bias` (V,).
        hidden: (N, H).
        targets: (N,) int64.
        drawn: (k,) int64, drawn independently from the noise, one and the same word more than once too.
        noise: (V,) the distribution q.

    Returns:
        () float, summed over positions.
    """
    correction = head.bias - torch.log(len(drawn) * noise).to(head.bias.dtype)
    others = F.linear(hidden, head.weight[drawn]) + correction[drawn]  # (N, k)
    true = (hidden * head.weight[targets]).sum(-1) + correction[targets]
    return F.softplus(-true).sum() + F.softplus(others).sum()
