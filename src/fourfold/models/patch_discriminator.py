"""A discriminator of patches: Isola et al. 2017, https://arxiv.org/abs/1611.07004, as VQGAN has it (Esser et al. 2021).

Departure: spectral normalization (Miyato et al. 2018) in place of batch normalization, as that would make an image's score
depend on the others in its batch. Shapes: B batch, C channels, H and W pixels, h and w of the map.
"""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class PatchDiscriminator(nn.Module):
    """Images to one logit for each patch: positive where it looks real. Of any size.

    Args:
        channels: C.
        width: features after the first stage, twice as many after the second.
        stages: how often height and width are halved, 1 or 2; a patch is 7 or 15 pixels wide.
    """

    def __init__(self, channels: int, width: int, stages: int) -> None:
        super().__init__()
        deep = [channels, *(width * 2**i for i in range(stages))]
        layers: list[nn.Module] = []
        for inside, outside in itertools.pairwise(deep):
            layers += [spectral_norm(nn.Conv2d(inside, outside, 3, 2, 1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv2d(deep[-1], 1, 3, padding=1)))

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] to logits (B, h, w)."""
        return self.layers(images).squeeze(1)
