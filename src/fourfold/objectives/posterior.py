"""Normal posteriors of latents under a standard normal prior: drawn from, compared, weighted.

Kingma and Welling 2014, https://arxiv.org/abs/1312.6114; importance-weighted bound and active units: Burda et al. 2016,
https://arxiv.org/abs/1509.00519. All in nats. Shapes: B batch, Z numbers of the latent.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fourfold.core.shares import drawn


def full(values: Tensor) -> Tensor:
    """In float32 at least, whatever autocast made of them."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of each N(mean, variance) from N(0, 1), elementwise."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def log_normal(z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log N(z | mean, variance), elementwise; the shapes are broadcast."""
    squared = (z - mean).square() * torch.exp(-log_variance)
    return -0.5 * (math.log(2 * math.pi) + log_variance + squared)


def drawn_latent(mean: Tensor, log_variance: Tensor) -> Tensor:
    """A latent of each posterior, (B, Z), from torch's global generator; gradients pass."""

    def noise(count: int) -> Tensor:
        return torch.randn(count, mean.shape[1], dtype=mean.dtype, device=mean.device)

    return mean + drawn(len(mean), noise) * (log_variance / 2).exp()


def importance_bound(
    mean: Tensor,
    log_variance: Tensor,
    nats: Callable[[Tensor], Tensor],
    draws: int,
    generator: torch.Generator,
) -> Tensor:
    """-log of the mean over draws of p(x, z) / q(z | x), (B,): an upper bound on -log p(x) that closes with more draws.

    Args:
        mean, log_variance: (B, Z), of the posteriors.
        nats: -log p(x | z), (B,), of latents (B, Z).
        draws: of the latent of each example.
        generator: on the CPU.
    """
    weights = []
    for _ in range(draws):
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype).to(mean.device)
        latent = mean + noise * (log_variance / 2).exp()
        # log p(z) - log q(z | x); the constants are the same
        ratio = 0.5 * (noise.square() + log_variance - latent.square()).sum(1)
        weights.append(ratio - nats(latent))
    return math.log(draws) - torch.stack(weights).logsumexp(0)


def active_units(means: Tensor, least: float = 0.01) -> Tensor:
    """Which numbers of the latent say something, (Z,) bool: their posterior mean (N, Z) varies over examples."""
    return means.var(0) > least
