"""Sentences through a latent: the evidence lower bound with free bits, and codes with a prior.

ELBO: Kingma and Welling 2014, https://arxiv.org/abs/1312.6114; free bits: Kingma et al. 2016,
https://arxiv.org/abs/1606.04934; importance-weighted bound and active units: Burda et al. 2016,
https://arxiv.org/abs/1509.00519. All in nats. Shapes: B batch, Z numbers of the latent, P codes, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from fourfold.core.parts import Batch, Move, Objective
from fourfold.core.run import Run
from fourfold.objectives import posterior
from fourfold.objectives.posterior import drawn_latent, gaussian_kl


class SentenceELBO(Objective):
    """Surprise of a sentence given its latent, plus the KL of each latent number, which is free up to some nats.

    Under free bits a number whose mean KL over the batch is below `free_bits` is not pressed further, so that the
    latent does not collapse.
    """

    free_bits: NonNegativeFloat = 0.25
    """Nats of each latent number, in the mean over the batch, that cost nothing."""
    beta: NonNegativeFloat = 1.0
    """Weight of the KL."""

    def prepare(self, run: Run) -> Self:
        """See `Objective.prepare`: free bits are of the batch's mean, so that its rows stay together."""
        mine = self.model_copy()
        mine.__dict__["compares"] = self.free_bits > 0
        return mine

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """See `Objective.losses`."""
        nats, kl = _through(model, batch)
        held = kl.mean(0).clamp_min(self.free_bits).sum() * len(kl)
        logs = {"nats": nats.detach().mean(), "kl": kl.detach().sum(1).mean()}
        yield Move("model", nats.sum() + self.beta * held, len(nats), logs)

    def measure(
        self, model: nn.Module, batch: Batch
    ) -> Mapping[str, tuple[Tensor, Tensor | float | None]]:
        """The bound itself first, nothing free; its two parts; nats a token."""
        nats, kl = _through(model, batch)
        bound, count = nats.sum() + kl.sum(), len(nats)
        return {
            "bound": (bound, count),
            "nats": (nats.sum(), count),
            "kl": (kl.sum(), count),
            "bound_per_token": (bound, batch["lengths"].sum()),
        }

    def units(self) -> Mapping[str, str]:
        """See `Objective.units`."""
        return {"bound": "nats/sentence", "nats": "nats/sentence", "kl": "nats/sentence", "bound_per_token": "nats/token"}  # fmt: skip


def _through(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Surprise (B,) given one draw of the latent, and the KL (B, Z)."""
    sentences: Any = model
    mean, log_variance = sentences.posterior(batch["tokens"], batch["lengths"])
    latent = drawn_latent(mean, log_variance)
    nats = sentences.writer.nats(batch["tokens"], batch["lengths"], latent)
    return nats, gaussian_kl(mean, log_variance)


@torch.no_grad()
def importance_bound(
    model: nn.Module, batch: Batch, draws: int, generator: torch.Generator
) -> Tensor:
    """The bound of `posterior.importance_bound` on the surprise of sentences, (B,)."""
    sentences: Any = model
    tokens, lengths = batch["tokens"], batch["lengths"]

    def nats(latent: Tensor) -> Tensor:
        found: Tensor = sentences.writer.nats(tokens, lengths, latent)
        return found

    mean, log_variance = sentences.posterior(tokens, lengths)
    return posterior.importance_bound(mean, log_variance, nats, draws, generator)


class SentenceCodes(Objective):
    """Surprise of a sentence given its codes and commitment for the codec; the codes' surprise for the prior."""

    commitment: NonNegativeFloat = 0.25
    """Weight of the distance between what the reader says and its code."""

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """See `Objective.losses`."""
        players: Any = model
        codec = players.codec
        found = codec.read(batch["tokens"], batch["lengths"])
        nats = codec.writer.nats(batch["tokens"], batch["lengths"], found.values.flatten(1))
        commitment = found.commitment.sum()
        logs = {"nats": nats.detach().mean(), "commitment": commitment.detach() / len(nats)}
        yield Move("codec", nats.sum() + self.commitment * commitment, len(nats), logs)
        codes = found.codes[..., 0]
        yield Move("prior", players.prior_nats(codes).sum(), len(codes))

    def measure(
        self, model: nn.Module, batch: Batch
    ) -> Mapping[str, tuple[Tensor, Tensor | float | None]]:
        """The bound -log p(codes) - log p(sentence | codes) first; its parts; nats a token."""
        players: Any = model
        codes = players.codec.codes(batch["tokens"], batch["lengths"])
        nats = players.codec.writer.nats(
            batch["tokens"], batch["lengths"], players.codec.latent(codes)
        ).sum()
        prior, count = players.prior_nats(codes).sum(), len(codes)
        return {
            "bound": (nats + prior, count),
            "nats": (nats, count),
            "prior_nats": (prior, count),
            "bound_per_token": (nats + prior, batch["lengths"].sum()),
        }

    def units(self) -> Mapping[str, str]:
        """See `Objective.units`."""
        return {"bound": "nats/sentence", "nats": "nats/sentence", "prior_nats": "nats/sentence", "bound_per_token": "nats/token"}  # fmt: skip
