"""Losses that bring embeddings of alike examples together and drive those of others apart.

SimCLR's NT-Xent: Chen et al. 2020, https://arxiv.org/abs/2002.05709; supervised contrastive: Khosla et al. 2020,
https://arxiv.org/abs/2004.11362 (its L_out); Siamese pairs: Hadsell et al. 2006; triplets: Schroff et al. 2015,
https://arxiv.org/abs/1503.03832. Shapes: B examples, D features. All are sums; each says what it weighs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _likeness(embeddings: Tensor, temperature: float) -> Tensor:
    """(B, B) cosines over the temperature, -inf of each with itself."""
    unit = F.normalize(
        embeddings.float() if embeddings.dtype in (torch.bfloat16, torch.float16) else embeddings,
        dim=1,
    )
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    return (unit @ unit.T / temperature).masked_fill(itself, -torch.inf)


def nt_xent(first: Tensor, second: Tensor, temperature: float = 0.5) -> Tensor:
    """Each of 2 B views has to tell its twin from the other 2 B - 2.

    Args:
        first, second: (B, D) embeddings of two views of the same examples; their lengths do not matter.
        temperature: of the cosines.

    Returns:
        () sum over 2 B cross-entropies, nats.

    Raises:
        ValueError: another shape, or fewer than 2 examples, for which there is nothing to tell apart.
    """
    if first.shape != second.shape or first.ndim != 2 or len(first) < 2:
        raise ValueError(
            f"nt_xent expects two (B >= 2, D), got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    logits = _likeness(torch.cat([first, second]), temperature)
    count = len(first)
    twins = torch.arange(2 * count, device=first.device).roll(count)
    return F.cross_entropy(logits, twins, reduction="sum")


def supervised_contrastive(
    embeddings: Tensor, labels: Tensor, temperature: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Each example has to tell those of its class from all others: the mean of -log softmax over them.

    Args:
        embeddings: (B, D); their lengths do not matter.
        labels: (B,) int64.
        temperature: of the cosines.

    Returns:
        () sum over the examples that have another of their class in the batch, nats, and () how many they are.

    Raises:
        ValueError: not one label for each embedding.
    """
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise ValueError(
            f"supervised_contrastive expects (B, D) and (B,), got {tuple(embeddings.shape)} and {tuple(labels.shape)}"
        )
    shares = _likeness(embeddings, temperature).log_softmax(dim=1)
    alike = labels[:, None] == labels[None]
    alike.fill_diagonal_(False)
    others = alike.sum(dim=1)
    total = shares.masked_fill(~alike, 0.0).sum(dim=1) / others.clamp(min=1)
    return -total.sum(), (others > 0).sum()


def siamese(first: Tensor, second: Tensor, alike: Tensor, margin: float = 1.0) -> Tensor:
    """Pairs: half the squared distance of what is alike, half the squared shortfall from the margin of what is not.

    Args:
        first, second: (B, D).
        alike: (B,) bool.
        margin: Euclidean distance from which unlike ones are left in peace.

    Returns:
        () sum over B pairs.
    """
    # the root has no gradient at 0, which equal embeddings of unlike examples have
    distance = ((first - second).square().sum(dim=1) + 1e-12).sqrt()
    apart = F.relu(margin - distance).square()
    return torch.where(alike, distance.square(), apart).sum() / 2


def triplet(anchor: Tensor, alike: Tensor, other: Tensor, margin: float = 0.2) -> Tensor:
    """The squared distance to an alike example has to be less, by a margin, than that to another.

    Args:
        anchor, alike, other: (B, D).
        margin: in squared distance.

    Returns:
        () sum over B triplets.
    """
    near, far = (anchor - alike).square().sum(dim=1), (anchor - other).square().sum(dim=1)
    return F.relu(near - far + margin).sum()


def semi_hard(
    embeddings: Tensor, labels: Tensor, margin: float = 0.2
) -> tuple[Tensor, Tensor, Tensor]:
    """Triplets of a batch: every pair of a class, with the nearest other that lies farther than the pair, within the
    margin; where there is none with the farthest of the others (Schroff et al. 2015, section 3.2).

    Args:
        embeddings: (B, D).
        labels: (B,) int64.
        margin: in squared distance.

    Returns:
        Numbers of anchors, of alike examples and of others, each (T,) int64.
    """
    with torch.no_grad():
        distances = torch.cdist(embeddings.float(), embeddings.float()).square()
        same = labels[:, None] == labels[None]
        pairs = (same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)).nonzero()
        anchors, alike = pairs.unbind(1)
        rows, near = distances[anchors], distances[anchors, alike][:, None]
        unlike = ~same[anchors]
        within = unlike & (rows > near) & (rows < near + margin)
        nearest = rows.masked_fill(~within, torch.inf).argmin(dim=1)
        farthest = rows.masked_fill(~unlike, -torch.inf).argmax(dim=1)
        others = torch.where(within.any(dim=1), nearest, farthest)
        kept = unlike.any(dim=1)
    return anchors[kept], alike[kept], others[kept]
