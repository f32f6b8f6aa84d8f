"""How likely each code of a grid is, given codes that are known: the entropy model of a codec.

Level after level (the sum of the levels before is seen everywhere), each in two halves like the squares of a
chessboard: the black ones from the levels before alone, the white ones from the black ones too (He et al. 2021,
https://arxiv.org/abs/2103.15306). A grid of any size is read and written in 2 L passes.
Shapes: B batch, h and w of the grid, D features, K codes of a level, L levels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.models.autoencoder import Residual


class CodeContext(nn.Module):
    """Logits of one level's codes.

    Args:
        features: D, of the codebooks' vectors.
        size: K.
        levels: L.
        width: features inside.
    """

    def __init__(self, features: int, size: int, levels: int, width: int) -> None:
        super().__init__()
        self.levels, self.size = levels, size
        self.level = nn.Embedding(levels, width)
        # what the levels before say, what is known of this one, and where that is
        self.into = nn.Conv2d(2 * features + 1, width, 5, padding=2)
        self.blocks = nn.Sequential(Residual(width), Residual(width), nn.ReLU())
        self.out = nn.Conv2d(width, size, 1)

    def forward(self, before: Tensor, here: Tensor, known: Tensor, level: int) -> Tensor:
        """Logits (B, h, w, K) of a level's codes.

        Args:
            before: (B, h, w, D) float, the sum of the levels before.
            here: (B, h, w, D) float, this level's vectors, read where they are known only.
            known: (h, w) bool.
            level: from 0 on.
        """
        seen = known[..., None].expand(*here.shape[:-1], 1)
        here = torch.where(seen, here, 0.0)  # the very zeros, as the reader of a file has them
        x = torch.cat([before, here, seen.to(here.dtype)], -1).movedim(-1, 1)
        x = self.into(x) + self.level.weight[level][:, None, None]
        return self.out(self.blocks(x)).movedim(1, -1)


def halves(height: int, width: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """The black and the white squares of a board, (h, w) bool each."""
    rows, columns = (torch.arange(n, device=device) for n in (height, width))
    black = (rows[:, None] + columns) % 2 == 0
    return black, ~black


def code_nats(context: CodeContext, parts: Tensor, codes: Tensor, level: int) -> Tensor:
    """What a level's codes cost, (B, h, w) nats: the black ones and, knowing these, the white ones.

    Args:
        context: the model.
        parts: (B, h, w, L, D) float, every level's vector.
        codes: (B, h, w, L) int64.
        level: which.
    """
    black, white = halves(codes.shape[1], codes.shape[2], codes.device)
    before, here = parts[..., :level, :].sum(-2), parts[..., level, :]
    nats = torch.zeros(codes.shape[:-1], device=codes.device)
    for half, known in ((black, torch.zeros_like(black)), (white, black)):
        logits = context(before, here, known, level).float()
        costs = F.cross_entropy(logits.movedim(-1, 1), codes[..., level], reduction="none")
        nats = torch.where(half, costs, nats)
    return nats
