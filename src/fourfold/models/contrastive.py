"""SimCLR's network: an encoder without its classifier, and a projection that the loss is taken of.

Chen, Kornblith, Norouzi and Hinton 2020, https://arxiv.org/abs/2002.05709. What is kept for later is what the encoder
knows, before the projection. Shapes: B batch, C channels, H and W pixels, D features, P projected ones.
"""

from __future__ import annotations

from torch import Tensor, nn

from fourfold.models.cnn import ConvNet
from fourfold.models.resnet import ResNet


class ContrastiveNetwork(nn.Module):
    """Images to what is compared, (B, P)."""

    def __init__(self, encoder: ConvNet | ResNet, projection: int) -> None:
        """Build it.

        Args:
            encoder: without its classifier.
            projection: P; the hidden layer before it has the encoder's width.
        """
        super().__init__()
        self.encoder = encoder
        self.projection = nn.Sequential(
            nn.Linear(encoder.width, encoder.width),
            nn.ReLU(),
            nn.Linear(encoder.width, projection),
        )

    def features(self, images: Tensor) -> Tensor:
        """(B, D): the mean over the last maps of images (B, C, H, W)."""
        return self.encoder.features(images).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, P)."""
        projected: Tensor = self.projection(self.features(images))
        return projected
