"""LeNet-5: LeCun, Bottou, Bengio and Haffner 1998, https://doi.org/10.1109/5.726791.

Variant as it is taught today: every map of the second convolution sees all maps of the first, the last layer is
linear with softmax instead of radial basis functions, and down-sampling is plain averaging without a weight of
its own. At 32 x 32 grey pixels and 10 outputs it has the layers and the 61,706 parameters of that variant.
Shapes: B batch, C channels, H and W pixels, K outputs.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fourfold.models.cnn import Staged

MEANT = 32
"""Pixels of the images it is meant for; smaller ones stand in the middle of so many."""


class LeNet(Staged):
    """Two convolutions of 5 x 5 with averaging, three dense layers, hyperbolic tangents."""

    def __init__(self, shape: tuple[int, int, int], outputs: int) -> None:
        """Build it.

        Args:
            shape: (C, H, W) of the images; sides below 32 are padded with black to 32.
            outputs: K.
        """
        super().__init__()
        channels, *sides = shape
        self.sides = [max(side, MEANT) for side in sides]
        height, wide = (((side - 4) // 2 - 4) // 2 for side in self.sides)
        self.grid = height, wide
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 5), nn.Tanh(), nn.AvgPool2d(2))
            for before, after in ((channels, 6), (6, 16))
        )
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16 * height * wide, 120),
            nn.Tanh(),
            nn.Linear(120, 84),
            nn.Tanh(),
            nn.Linear(84, outputs),
        )

    def features(self, images: Tensor) -> Tensor:
        """The last feature maps, (B, 16, H', W')."""
        missing = [max(0, MEANT - side) for side in images.shape[2:]]
        if any(missing):
            sides = [part for m in reversed(missing) for part in (m // 2, m - m // 2)]
            images = F.pad(images, sides, value=-1.0)  # black
        return super().features(images)
