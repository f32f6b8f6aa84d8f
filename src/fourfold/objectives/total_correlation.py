"""Total correlation of latents, KL(q(z) | prod_j q(z_j)), where q(z) is the mean of many posteriors.

Estimators: minibatch-weighted and minibatch-stratified sampling (Chen et al. 2018, https://arxiv.org/abs/1802.04942),
the density ratio of a discriminator (Kim and Mnih 2018, https://arxiv.org/abs/1802.05983), and the closed form of a
normal distribution (Watanabe 1960). Shapes: B batch, Z latents. In nats.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from fourfold.objectives.posterior import log_normal

Sampling = Literal["stratified", "weighted"]


def of_normal(covariance: Tensor) -> Tensor:
    """Total correlation of a normal distribution, (): half of the diagonal's log-product less the log-determinant.

    Args:
        covariance: (Z, Z), positive definite.
    """
    return 0.5 * (covariance.diagonal().log().sum() - torch.linalg.slogdet(covariance).logabsdet)


def aggregate(
    z: Tensor, mean: Tensor, log_var: Tensor, examples: int, sampling: Sampling = "stratified"
) -> tuple[Tensor, Tensor]:
    """log q(z) and log prod_j q(z_j) of each of a batch's latents, as estimated from the batch's posteriors.

    Args:
        z: (B, Z), z[i] drawn from posterior i; B at least 2.
        mean, log_var: (B, Z), of the posteriors.
        examples: N in all, of which the batch is a sample.
        sampling: weighted takes q(z) / N as the mean over the batch and is biased; stratified counts the
            posterior that z came from by its own share 1 / N and the others for the rest.

    Returns:
        Two tensors (B,). Of a batch of all N examples stratified is exact up to the last other example, which
        stands for one more.

    Raises:
        ValueError: a batch of one, or larger than the examples.
    """
    count = len(z)
    if not 2 <= count <= examples:
        raise ValueError(f"expected 2 to {examples} posteriors in a batch, got {count}")
    each = log_normal(z[:, None], mean[None], log_var[None])  # (B, B, Z): z[i] under posterior j
    if sampling == "weighted":
        weights = z.new_full((count, count), -math.log(count * examples))
    else:
        weights = _stratified(z, examples)
    joint = torch.logsumexp(each.sum(2) + weights, dim=1)
    apart = torch.logsumexp(each + weights[..., None], dim=1).sum(1)
    return joint, apart


def _stratified(z: Tensor, examples: int) -> Tensor:
    """Logarithms of the weights of Chen et al., appendix C.2: (B, B), with M = B - 1."""
    count = len(z)
    others = count - 1
    weights = z.new_full((count, count), 1 / others)
    rest = (examples - others) / (examples * others)
    rows = torch.arange(count, device=z.device)
    weights[rows, rows] = 1 / examples
    weights[rows, (rows + 1) % count] = rest
    return weights.log()


def permuted(z: Tensor) -> Tensor:
    """Each latent's values dealt anew over the batch: a sample of prod_j q(z_j), (B, Z)."""
    order = torch.rand(z.shape, device=z.device).argsort(dim=0)
    return z.gather(0, order)


def of_logits(logits: Tensor) -> Tensor:
    """Total correlation, (), where logits (B,) tell how much likelier each z is of q(z) than of prod_j q(z_j)."""
    return logits.mean()
