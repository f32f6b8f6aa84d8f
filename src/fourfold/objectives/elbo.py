"""The evidence lower bound and its decompositions: Kingma and Welling 2014, https://arxiv.org/abs/1312.6114.

beta: Higgins et al. 2017, https://openreview.net/forum?id=Sy2fzU9gl; factor: Kim and Mnih 2018,
https://arxiv.org/abs/1802.05983; beta-tc: Chen et al. 2018, https://arxiv.org/abs/1802.04942; control: Shao et al. 2020,
https://arxiv.org/abs/2004.05988; free bits: Kingma et al. 2016, https://arxiv.org/abs/1606.04934; the importance-weighted
bound: Burda et al. 2016, https://arxiv.org/abs/1509.00519. Batches hold "image", (B, C, H, W) in [-1, 1]; the model is a
`Variational`. Shapes: B batch, Z latents. Everything is in nats per image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from fourfold.core.parts import Batch, Move, Objective
from fourfold.core.run import Run
from fourfold.objectives.pixels import Bernoulli, Likelihood
from fourfold.objectives.posterior import (
    drawn_latent,
    full,
    gaussian_kl,
    importance_bound,
    log_normal,
)
from fourfold.objectives.total_correlation import Sampling, aggregate, of_logits, permuted


class Seen(NamedTuple):
    """What a pass through both networks gives."""

    images: Tensor
    """(B, C, H, W) as the likelihood describes them."""
    mean: Tensor
    log_var: Tensor
    z: Tensor
    """(B, Z), drawn."""
    output: Tensor
    """(B, C, H, W), of the decoder."""
    nats: Tensor
    """(B,) of the pixels."""
    kl: Tensor
    """(B, Z)."""


class Bound(Objective):
    """What the bound and its variants have in common."""

    likelihood: Likelihood = Bernoulli()
    """What the decoder's numbers say of a pixel."""
    free_bits: NonNegativeFloat = 0.0
    """Nats of each latent, as a mean over the batch, below which its KL costs no less; 0 for none."""

    def prepare(self, run: Run) -> Self:
        """See `Objective.prepare`: free bits are of the batch's mean, so that its rows stay together."""
        mine = self.model_copy()
        mine.__dict__["compares"] = self.compares or self.free_bits > 0
        return mine

    def seen(self, model: nn.Module, batch: Batch) -> Seen:
        """A pass through both networks, z being drawn from torch's global generator."""
        networks: Any = model
        images = self.likelihood.observed(batch["image"])
        mean, log_var = (full(part) for part in networks.posterior(images))
        z = drawn_latent(mean, log_var)
        output = full(networks.decode(z))
        nats = self.likelihood.nats(output, networks.log_scale, images)
        return Seen(images, mean, log_var, z, output, nats, gaussian_kl(mean, log_var))

    def rate(self, kl: Tensor) -> Tensor:
        """What the KL costs, as a sum over the batch, (); kl is (B, Z)."""
        if self.free_bits:
            return kl.mean(0).clamp(min=self.free_bits).sum() * len(kl)
        return kl.sum()

    def cost(self, model: nn.Module, seen: Seen) -> Tensor:
        """The loss as a sum over the batch, ()."""
        return seen.nats.sum() + self.rate(seen.kl)

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """See `Objective.losses`."""
        seen = self.seen(model, batch)
        yield Move("model", self.cost(model, seen), len(seen.kl), _logs(seen))

    def measure(
        self, model: nn.Module, batch: Batch
    ) -> Mapping[str, tuple[Tensor, Tensor | float]]:
        """The loss, which decides what is kept; the bound, its parts, and the bits that a pixel's channel takes."""
        networks: Any = model
        seen = self.seen(model, batch)
        count = len(seen.kl)
        kl = seen.kl.sum(1)
        code = self.likelihood.code_length(seen.output, networks.log_scale, seen.images)
        numbers = seen.images[0].numel() * math.log(2)
        return {
            "loss": (self.cost(model, seen), count),
            "elbo": ((seen.nats + kl).sum(), count),
            "reconstruction": (seen.nats.sum(), count),
            "kl": (kl.sum(), count),
            "bits_per_dim": ((code + kl).sum() / numbers, count),
        }

    def units(self) -> Mapping[str, str]:
        """See `Objective.units`."""
        named = {n: "nats per image" for n in ("loss", "elbo", "reconstruction", "kl")}
        return {**named, "bits_per_dim": "bits"}


class Elbo(Bound):
    """-log p(x | z) + KL(q(z | x) | p(z)): a bound of -log p(x)."""

    kind: Literal["elbo"] = "elbo"


class Beta(Bound):
    """-log p(x | z) + beta KL: a dearer KL keeps less in the latents, and it apart."""

    kind: Literal["beta"] = "beta"
    beta: NonNegativeFloat = 4.0
    """Weight of the KL."""

    def cost(self, model: nn.Module, seen: Seen) -> Tensor:
        """See `Bound.cost`."""
        return seen.nats.sum() + self.beta * self.rate(seen.kl)


class Control(Bound):
    """-log p(x | z) + beta KL, beta being moved while it is learned, so that the KL comes to what was set."""

    beta: NonNegativeFloat = 0.0
    """Weight of the KL to begin with; a controller of the optimizer's moves it."""
    goal: NonNegativeFloat = 20.0
    """Nats that the KL is to have: what the controller steers to, and what evaluations count the distance from."""

    def cost(self, model: nn.Module, seen: Seen) -> Tensor:
        """See `Bound.cost`."""
        return seen.nats.sum() + self.beta * self.rate(seen.kl)

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """See `Objective.losses`."""
        seen = self.seen(model, batch)
        logs = {**_logs(seen), "beta": torch.tensor(float(self.beta))}
        yield Move("model", self.cost(model, seen), len(seen.kl), logs)

    def measure(
        self, model: nn.Module, batch: Batch
    ) -> Mapping[str, tuple[Tensor, Tensor | float]]:
        """As of the bound; the loss is the reconstruction with the distance of the KL from its goal, beta being 1.

        With a weight that moves losses of different times cannot be compared. Of the exact penalty the best
        weights are those of the best reconstruction at the KL that was set.
        """
        found = dict(super().measure(model, batch))
        count = found["kl"][1]
        away = (found["kl"][0] - self.goal * count).abs()
        return {**found, "loss": (found["reconstruction"][0] + away, count)}


class BetaTC(Bound):
    """-log p(x | z) + alpha I(x; z) + beta TC(z) + gamma sum_j KL(q(z_j) | p(z_j)).

    With weights of 1 the three are the KL. Free bits give back what it costs below them, so that those are the bound's.
    """

    kind: Literal["beta-tc"] = "beta-tc"
    compares: ClassVar[bool] = True
    alpha: NonNegativeFloat = 1.0
    """Weight of what latents and images have in common."""
    beta: NonNegativeFloat = 6.0
    """Weight of the total correlation."""
    gamma: NonNegativeFloat = 1.0
    """Weight of each latent's own distance from the prior."""
    sampling: Sampling = "stratified"
    """How the density of all latents is estimated from a batch's."""

    def prepare(self, run: Run) -> Self:
        """See `Objective.prepare`: how many examples there are."""
        mine = super().prepare(run)
        known = run.data.size("train") or run.data.summary().get("train", 0)
        mine.__dict__["examples"] = int(known)
        return mine

    def parts(self, seen: Seen, examples: int) -> tuple[Tensor, Tensor, Tensor]:
        """Estimates of I(x; z), of the total correlation and of the latents' distance from the prior, each (B,)."""
        joint, apart = aggregate(
            seen.z, seen.mean, seen.log_var, max(examples, len(seen.z)), self.sampling
        )
        own = log_normal(seen.z, seen.mean, seen.log_var).sum(1)
        prior = log_normal(seen.z, torch.zeros_like(seen.z), torch.zeros_like(seen.z)).sum(1)
        return own - joint, joint - apart, apart - prior

    def cost(self, model: nn.Module, seen: Seen) -> Tensor:
        """See `Bound.cost`; a lone example tells nothing of how latents go together, and pays its plain KL."""
        if len(seen.z) < 2:
            return super().cost(model, seen)
        common, correlation, distance = self.parts(seen, self.__dict__.get("examples", 0))
        apart = (self.alpha * common + self.beta * correlation + self.gamma * distance).sum()
        free = self.rate(seen.kl) - seen.kl.sum()
        return seen.nats.sum() + apart + free


class Factor(Bound):
    """-log p(x | z) + KL + gamma TC(z), which a discriminator tells from latents that are dealt anew. A game."""

    kind: Literal["factor"] = "factor"
    compares: ClassVar[bool] = True
    gamma: NonNegativeFloat = 10.0
    """Weight of the total correlation."""

    def cost(self, model: nn.Module, seen: Seen) -> Tensor:
        """See `Bound.cost`."""
        players: Any = model
        correlation = of_logits(full(players.discriminator(seen.z)))
        return super().cost(model, seen) + self.gamma * correlation * len(seen.z)

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """See `Objective.losses`: first the autoencoder moves, then the discriminator on the same latents."""
        players: Any = model
        seen = self.seen(model, batch)
        count = len(seen.z)
        logits = full(players.discriminator(seen.z))
        loss = super().cost(model, seen) + self.gamma * of_logits(logits) * count
        logs = {**_logs(seen), "total_correlation": of_logits(logits.detach())}
        yield Move("autoencoder", loss, count, logs)
        z = seen.z.detach()
        together, apart = players.discriminator(z), players.discriminator(permuted(z))
        loss = 0.5 * (F.softplus(-full(together)).sum() + F.softplus(full(apart)).sum())
        yield Move("discriminator", loss, count)


def bound_of_images(
    objective: Bound, model: nn.Module, batch: Batch, draws: int, generator: torch.Generator
) -> Tensor:
    """The importance-weighted bound of the code length of images, (B,).

    Args:
        objective: whose likelihood holds.
        model: as for the objective.
        batch: with "image".
        draws: of the latent of each image, each of which is decoded.
        generator: on the CPU.
    """
    networks: Any = model
    images = objective.likelihood.observed(batch["image"])

    def nats(latent: Tensor) -> Tensor:
        output = networks.decode(latent)
        return objective.likelihood.code_length(output, networks.log_scale, images).double()

    mean, log_var = networks.posterior(images)
    return importance_bound(mean, log_var, nats, draws, generator)


def _logs(seen: Seen) -> dict[str, Tensor]:
    return {
        "reconstruction": seen.nats.detach().mean(),
        "kl": seen.kl.detach().sum(1).mean(),
    }
