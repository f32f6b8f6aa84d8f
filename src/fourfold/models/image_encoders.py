"""Convolutional networks without their classifiers, which learn from images alone what the networks begin from.

Shapes: B batch, C channels, H and W pixels, D features, N patches, P pixels of a patch in all channels, K seen patches.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourfold.models.cnn import ConvNet, Norm, fitting_stages
from fourfold.models.resnet import ResNet
from fourfold.models.vit import dividing_patch, patchify

Kind = Literal["cnn", "resnet"]


def encoder(
    kind: Kind,
    shape: tuple[int, int, int],
    *,
    width: int,
    stages: int | None,
    depth: int,
    norm: Norm,
) -> ConvNet | ResNet:
    """A network for images (C, H, W), without its classifier.

    Args:
        kind: which.
        shape: (C, H, W).
        width: channels of the first stage.
        stages: of a cnn; None leaves it to the images.
        depth: of a resnet.
        norm: after each convolution.

    Raises:
        ValueError: the images are too small for it.
    """
    network: ConvNet | ResNet
    if kind == "cnn":
        stages = stages or fitting_stages(shape)
        network = ConvNet(shape, 1, width=width, stages=stages, dense=0, norm=norm)
        network.head = nn.Identity()
        return network
    network = ResNet.suited(shape, 1, depth, width=width, norm=norm)
    network.fc = nn.Identity()
    return network


class MaskedImages(nn.Module):
    """A convolutional network that sees an image with patches hidden, and one layer that says what the image is.

    After Xie et al. 2022 (SimMIM), https://arxiv.org/abs/2111.09886: hidden pixels are one learned colour, as
    convolutions cannot leave them out, and the decoder is a single 1 x 1 convolution, so that the encoder does the work.
    """

    def __init__(
        self, encoder: ConvNet | ResNet, shape: tuple[int, int, int], patch: int | None
    ) -> None:
        """Build it.

        Args:
            encoder: without its classifier.
            shape: (C, H, W) of the images.
            patch: pixels of a patch's side; None takes what divides the images into about 8 x 8.

        Raises:
            ValueError: no such patch divides the images.
        """
        super().__init__()
        channels, height, width = shape
        patch = dividing_patch(height, width, patch)
        self.shape, self.patch = shape, patch
        self.count = (height // patch) * (width // patch)
        """N."""
        self.encoder = encoder
        self.hidden = nn.Parameter(torch.zeros(channels))
        with torch.no_grad():
            rows, columns = encoder.eval().features(torch.zeros(1, *shape)).shape[2:]
        encoder.train()
        self.stride = max(math.ceil(height / rows), math.ceil(width / columns))
        """Pixels that a place of the last maps stands for."""
        self.pixels = nn.Conv2d(encoder.width, channels * self.stride**2, 1)

    def features(self, images: Tensor) -> Tensor:
        """(B, D): the mean over the last maps of images (B, C, H, W)."""
        return self.encoder.features(images).mean(dim=(2, 3))

    def patches(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, N, P)."""
        return patchify(images, self.patch)

    def forward(self, images: Tensor, seen: Tensor) -> Tensor:
        """What every patch is thought to be, from those that are seen.

        Args:
            images: (B, C, H, W) in [-1, 1]; of patches that are not seen nothing enters.
            seen: (B, K) int64.

        Returns:
            (B, N, P), each patch at its own place.
        """
        _, height, width = self.shape
        shown = images.new_zeros(len(images), self.count).scatter(1, seen, 1.0).bool()
        sides = height // self.patch, width // self.patch
        pixels = shown.view(-1, 1, *sides).repeat_interleave(self.patch, 2)
        pixels = pixels.repeat_interleave(self.patch, 3)
        hidden = self.hidden.to(images.dtype)[:, None, None].expand_as(images)
        maps = self.encoder.features(torch.where(pixels, images, hidden))
        said = F.pixel_shuffle(self.pixels(maps), self.stride)
        if said.shape[2:] != (height, width):  # sides that the stride does not divide
            said = F.interpolate(said.float(), (height, width), mode="bilinear")
        return patchify(said, self.patch)
