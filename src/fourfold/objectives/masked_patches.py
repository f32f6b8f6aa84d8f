"""Masked patches are restored from those that are seen: He et al. 2022, https://arxiv.org/abs/2111.06377.

The model has `count`, N patches of an image, `patches(images)` that cuts them, (B, N, P), and maps images and the
numbers of the patches it sees (B, K) to what every patch is thought to be, (B, N, P).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt, Lt
from torch import Tensor, nn

from fourfold.core.parts import Batch, Move, Objective
from fourfold.core.shares import drawn

EPS = 1e-6


def split_patches(
    count: int, patches: int, ratio: float, *, seed: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Which patches of each image are seen and which are masked, drawn anew for each.

    Args:
        count: images, B.
        patches: N of each.
        ratio: share that is masked; at least one is seen and one masked.
        seed: a generator on the CPU; None means torch's global one.

    Returns:
        Numbers of the seen (B, K) and of the masked (B, N - K), int64, each in rising order.
    """
    masked = min(max(1, round(ratio * patches)), patches - 1)

    def rows(count: int) -> Tensor:
        return torch.rand(count, patches, generator=seed)

    order = (drawn(count, rows) if seed is None else rows(count)).argsort(dim=1)
    parts = order[:, masked:], order[:, :masked]
    return parts[0].sort(dim=1).values, parts[1].sort(dim=1).values


def normalized(patches: Tensor) -> Tensor:
    """Each patch (..., P) with its mean taken off, in units of its deviation (over P - 1)."""
    mean = patches.mean(dim=-1, keepdim=True)
    return (patches - mean) / (patches.var(dim=-1, keepdim=True) + EPS).sqrt()


class MaskedPatches(Objective):
    """Mean squared error of a masked patch's pixels; patches that are seen do not count."""

    kind: Literal["masked-patches"] = "masked-patches"

    ratio: Annotated[float, Gt(0), Lt(1)] = 0.75
    """Share of the patches that is masked."""
    normalize: bool = True
    """Whether a patch is to be said relative to its own mean and deviation, which makes better features, or as it is,
    which makes restored images."""

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """See `Objective.losses`."""
        network: Any = model
        images = batch["image"]
        seen, masked = (
            part.to(images.device) for part in split_patches(len(images), network.count, self.ratio)
        )
        thought = network(images, seen)
        wanted = network.patches(images)
        if self.normalize:
            wanted = normalized(wanted)
        where = masked[..., None].expand(-1, -1, wanted.shape[-1])
        error = (thought.gather(1, where).float() - wanted.gather(1, where)).square()
        yield Move("model", error.mean(dim=-1).sum(), masked.numel())

    def units(self) -> Mapping[str, str]:
        """See `Objective.units`."""
        return {"loss": "of a patch's variance, 1 says nothing"} if self.normalize else {}
