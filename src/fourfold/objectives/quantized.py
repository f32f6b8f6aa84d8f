"""What a codec with a codebook and the models of its codes want. Van den Oord et al. 2017, https://arxiv.org/abs/1711.00937.

The adversarial term is VQGAN's (Esser et al. 2021, https://arxiv.org/abs/2012.09841) with a fixed weight: theirs follows
the gradients of the decoder's last layer, which differ between micro-batches.

Shapes: B batch, C channels, H and W pixels, h and w of the grid, L levels, K codes of a level.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from fourfold.core.parts import Batch, Move, Objective
from fourfold.objectives.posterior import full


class Codes(Objective):
    """Squared error and commitment for the codec, then the codes' surprise for the models of them.

    The model has a `codec` that maps images (B, C, H, W) to their reconstruction and codes (B, h, w, L), a `prior`
    (or None) that gives the nats of whole grids, and `context_nats(codes, level)`. The codec's loss is, in the mean
    over pixels and features, |x - x'|^2 + commitment |z - e|^2; its codebook moves by averages, not by this. With an
    adversarial weight it has a `discriminator` of patches, whose mean logit of x' the codec raises and which then moves
    by the hinge loss.
    """

    commitment: NonNegativeFloat = 0.25
    """Weight of the distance between what the encoder says and its code; beta in the paper."""
    adversarial: NonNegativeFloat = 0.0
    """Weight of what a discriminator of patches says of what comes back: sharper, and less like each pixel; 0 for none."""
    train: Literal["all", "codec", "prior"] = "all"
    """What learns: all at once, the codec alone, or (with --from) what models its codes, which then stay as they are."""

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        """See `Objective.losses`."""
        players: Any = model
        images = batch["image"]
        if self.train == "prior":
            with torch.no_grad():
                codes = players.codec.encode(images)
        else:
            coded = players.codec(images)
            error = _error(coded.image, images)
            commitment = coded.grid.commitment.flatten(1).mean(1) / coded.grid.values.shape[-1]
            loss = (error + self.commitment * commitment).sum()
            logs = {
                "mse": error.detach().mean(),
                "commitment": commitment.detach().mean(),
                "perplexity": use(coded.grid.codes.flatten(0, -2), players.codec.quantizer.size)[0].mean(),
            }  # fmt: skip
            if self.adversarial:
                loss = loss - self.adversarial * _realness(players, coded.image).sum()
            yield Move("codec", loss, len(images), logs)
            if self.adversarial:
                yield self._told_apart(players, images, coded.image.detach())
            codes = coded.grid.codes
        if self.train == "codec":
            return
        level = int(torch.randint(codes.shape[-1], ()))  # one at a time: in the mean it is all
        nats = players.context_nats(codes, level)
        yield Move("context", nats.sum(), nats.numel())
        if players.prior is not None:
            yield Move("prior", players.prior(codes).sum(), codes.numel())

    def _told_apart(self, players: Any, images: Tensor, made: Tensor) -> Move:
        """The discriminator's move: the hinge loss of Lim and Ye 2017, in the mean over patches."""
        real, fake = (full(players.discriminator(x)) for x in (images, made))
        loss = F.relu(1 - real).flatten(1).mean(1) + F.relu(1 + fake).flatten(1).mean(1)
        logs = {"real_logit": real.detach().mean(), "fake_logit": fake.detach().mean()}
        return Move("discriminator", loss.sum(), len(images), logs)

    def measure(
        self, model: nn.Module, batch: Batch
    ) -> Mapping[str, tuple[Tensor, Tensor | float | None]]:
        """Squared error, nats of a code by either model, and the codes themselves for `conclude`."""
        players: Any = model
        coded = players.codec(batch["image"])
        codes = coded.grid.codes
        found: dict[str, tuple[Tensor, Tensor | float | None]] = {}
        if self.train != "codec":
            nats = sum(players.context_nats(codes, n).sum() for n in range(codes.shape[-1]))
            if players.prior is not None:
                found["prior_nats"] = players.prior(codes).sum(), codes.numel()
            found["context_nats"] = torch.as_tensor(nats), codes.numel()
        mse: dict[str, tuple[Tensor, Tensor | float | None]] = {
            "mse": (_error(coded.image, batch["image"]).sum(), len(codes))
        }
        found = {**found, **mse} if self.train == "prior" else {**mse, **found}
        size = torch.full((len(codes), 1), players.codec.quantizer.size, device=codes.device)
        levels = torch.full_like(size, codes.shape[-1])
        return {**found, "codes": (torch.cat([size, levels, codes.flatten(1)], 1), None)}

    def conclude(
        self, means: Mapping[str, float], kept: Mapping[str, Tensor]
    ) -> Mapping[str, float]:
        """The measures with the codebook's use over the whole split, in the mean over levels."""
        rows = kept["codes"]
        size, levels = int(rows[0, 0]), int(rows[0, 1])
        perplexity, share = use(rows[:, 2:].reshape(-1, levels), size)
        return {
            **means,
            "perplexity": float(perplexity.mean()),
            "codes_used": float(share.mean()),
        }

    def units(self) -> Mapping[str, str]:
        """See `Objective.units`."""
        return {"prior_nats": "nats/code", "context_nats": "nats/code", "perplexity": "codes"}


def _error(made: Tensor, images: Tensor) -> Tensor:
    """Mean squared difference of each image's values, (B,)."""
    return (made.float() - images).square().flatten(1).mean(1)


def _realness(players: Any, made: Tensor) -> Tensor:
    """Mean logit of each image's patches, (B,)."""
    return full(players.discriminator(made)).flatten(1).mean(1)


def use(codes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """How a codebook is used: perplexity of the codes and the share of codes that occur, level by level.

    Args:
        codes: (N, L) int64 below `size`.
        size: K.

    Returns:
        (L,) e to the entropy of the codes' shares, from 1 to K, and (L,) shares from 0 to 1.
    """
    shares = torch.stack([torch.bincount(c, minlength=size) for c in codes.T]).double()
    shares = shares / shares.sum(1, keepdim=True).clamp_min(1)
    entropy = -torch.special.xlogy(shares, shares).sum(1)
    return entropy.exp(), (shares > 0).double().mean(1)
