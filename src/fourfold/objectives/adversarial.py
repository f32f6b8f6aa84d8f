"""Adversarial games between a generator and a discriminator. Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661.

The model has children `generator` and `discriminator` and a method `draw(count)` for noise; the
discriminator maps examples to one logit each. First the discriminator moves, `critic_steps` times,
then the generator; each move is computed only when it is asked for, hence after the step before it.
Shapes: B batch. Losses in nats (non-saturating) or in the discriminator's own unit.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from fourfold.core.parts import Batch, Move, Objective
from fourfold.core.shares import drawn
from fourfold.objectives.posterior import full
from fourfold.objectives.two_sample import mmd2


class Adversarial(Objective):
    """A game for two players; subclasses say what each of them wants.

    Batches hold "image", (B, ...), of any shape that the discriminator takes, and may hold "noise",
    (B, ...), which every move then uses; otherwise each move draws its own from torch's global
    generator. All moves of a step see the same real images (Gulrajani et al. draw fresh ones for
    each critic step), so that micro-batches stay in step.
    """

    critic_steps: PositiveInt = 1
    """Moves of the discriminator before each of the generator."""

    @abstractmethod
    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Sum over the batch, (), from the logits of real and of generated examples, each (B,)."""

    @abstractmethod
    def generator_loss(self, fake: Tensor) -> Tensor:
        """Sum over the batch, (), from the logits of generated examples, (B,)."""

    def penalty(self, model: nn.Module, real: Tensor, fake: Tensor) -> Tensor | None:
        """What the discriminator pays besides, as a sum over the batch, (), or nothing."""
        return None

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """See `Objective.losses`."""
        players: Any = model
        real = batch["image"]
        count = len(real)
        for _ in range(self.critic_steps):
            with torch.no_grad():  # the generator does not move now: no graph through it
                fake = players.generator(_noise(players, batch))
            scores = _logits(players, real), _logits(players, fake)
            loss = self.discriminator_loss(*scores)
            penalty = self.penalty(model, real, fake)
            logs = {
                "real_logit": scores[0].detach().mean(),
                "fake_logit": scores[1].detach().mean(),
            }
            if penalty is not None:
                loss, logs["penalty"] = loss + penalty, penalty.detach() / count
            yield Move("discriminator", loss, count, logs)
        fake = players.generator(_noise(players, batch))
        yield Move("generator", self.generator_loss(_logits(players, fake)), count)

    def measure(
        self, model: nn.Module, batch: Batch
    ) -> Mapping[str, tuple[Tensor, Tensor | float]]:
        """Distance between generated and held-out examples first, as it decides which weights are kept.

        A player's loss says how it fares against the other, not how good the samples are; the kernel
        two-sample statistic compares the samples themselves (mean over batches of its unbiased
        estimate, hence at times below 0).
        """
        players: Any = model
        real = batch["image"]
        count = len(real)
        fake = players.generator(_noise(players, batch))
        scores = _logits(players, real), _logits(players, fake)
        pairs = count if count > 1 else 0  # a lone example has no distance to its own kind
        distance = mmd2(real, fake) * pairs if pairs else scores[0].new_zeros(())
        right = ((scores[0] > 0).sum() + (scores[1] <= 0).sum()) / 2
        return {
            "mmd": (distance, pairs),
            "discriminator_loss": (self.discriminator_loss(*scores), count),
            "generator_loss": (self.generator_loss(scores[1]), count),
            "discriminator_accuracy": (right, count),
        }


def _noise(players: Any, batch: Batch) -> Tensor:
    return batch["noise"] if "noise" in batch else players.draw(len(batch["image"]))


def _logits(players: Any, examples: Tensor) -> Tensor:
    logits = full(players.discriminator(examples))
    if logits.shape != (len(examples),):
        raise ValueError(
            f"an adversarial game expects one logit for each example, ({len(examples)},), "
            f"got {tuple(logits.shape)}"
        )
    return logits


class NonSaturating(Adversarial):
    """Discriminator: -log D(x) - log(1 - D(G(z))), generator: -log D(G(z)), D = sigmoid of the logit.

    At its optimum D = p / (p + q), p and q the densities of real and generated examples.
    """

    kind: Literal["non-saturating"] = "non-saturating"

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """See `Adversarial.discriminator_loss`."""
        return F.softplus(-real).sum() + F.softplus(fake).sum()

    def generator_loss(self, fake: Tensor) -> Tensor:
        """See `Adversarial.generator_loss`."""
        return F.softplus(-fake).sum()


class Hinge(Adversarial):
    """Discriminator: max(0, 1 - D(x)) + max(0, 1 + D(G(z))), generator: -D(G(z)). Lim and Ye 2017, https://arxiv.org/abs/1705.02894."""

    kind: Literal["hinge"] = "hinge"

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """See `Adversarial.discriminator_loss`."""
        return F.relu(1 - real).sum() + F.relu(1 + fake).sum()

    def generator_loss(self, fake: Tensor) -> Tensor:
        """See `Adversarial.generator_loss`."""
        return -fake.sum()


class WassersteinGP(Adversarial):
    """Critic: D(G(z)) - D(x) + weight * (|grad D| - 1)^2 between them, generator: -D(G(z)). Gulrajani et al. 2017, https://arxiv.org/abs/1704.00028.

    The gradient is taken at points drawn evenly on the lines between real and generated examples.
    """

    kind: Literal["wasserstein-gp"] = "wasserstein-gp"
    critic_steps: PositiveInt = 5
    """Moves of the discriminator (critic) before each of the generator."""
    penalty_weight: NonNegativeFloat = 10.0
    """Weight of the gradient penalty; lambda in the paper."""

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """See `Adversarial.discriminator_loss`."""
        return fake.sum() - real.sum()

    def generator_loss(self, fake: Tensor) -> Tensor:
        """See `Adversarial.generator_loss`."""
        return -fake.sum()

    def penalty(self, model: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        """See `Adversarial.penalty`."""
        players: Any = model
        ones = [1] * (real.ndim - 1)
        like: Any = {"device": real.device, "dtype": real.dtype}
        share = drawn(len(real), lambda n: torch.rand(n, *ones, **like))
        between = (fake.detach() + share * (real - fake.detach())).requires_grad_()
        (slope,) = torch.autograd.grad(_logits(players, between).sum(), between, create_graph=True)
        # the root has no gradient at 0, which a critic with dead rectifiers does reach
        norm = (full(slope).flatten(1).square().sum(dim=1) + 1e-12).sqrt()
        return self.penalty_weight * (norm - 1).square().sum()
