"""A variational autoencoder's two networks: Kingma and Welling 2014, https://arxiv.org/abs/1312.6114.

The posterior is normal with a diagonal covariance, the prior standard normal. The discriminator of latents is FactorVAE's
(Kim and Mnih 2018, https://arxiv.org/abs/1802.05983). Shapes: B batch, Z latents, C channels, H and W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Variational(nn.Module):
    """An encoder of posteriors, a decoder, and a scale of each channel's pixels where the likelihood learns one."""

    players = ("encoder", "decoder")
    """Children that are called by themselves."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, scales: int = 0) -> None:
        """Put them together.

        Args:
            encoder: images (B, C, H, W) to (B, 2 Z), means and logarithms of variances.
            decoder: latents (B, Z) to (B, C, H, W).
            scales: channels that have a scale of their own; 0 for none.
        """
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.log_scale = nn.Parameter(torch.full((scales, 1, 1), -1.0)) if scales else None

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance, each (B, Z), of images (B, C, H, W)."""
        mean, log_var = self.encoder(images).chunk(2, dim=1)
        return mean, log_var

    def encode(self, images: Tensor) -> Tensor:
        """The posterior's mean, (B, Z)."""
        return self.posterior(images)[0]

    def decode(self, latents: Tensor) -> Tensor:
        """What the likelihood takes, (B, C, H, W), of latents (B, Z)."""
        return self.decoder(latents)

    def forward(self, images: Tensor) -> Tensor:
        """Images and what comes back of the posterior's mean, both (B, C, H, W)."""
        return self.decode(self.encode(images))


class LatentDiscriminator(nn.Module):
    """Latents to one logit each: positive where they look drawn together, not latent by latent."""

    def __init__(self, latents: int, width: int = 256, layers: int = 4) -> None:
        """Build it; the paper has 6 layers of 1,000.

        Args:
            latents: Z.
            width: of each hidden layer.
            layers: hidden ones.
        """
        super().__init__()
        steps: list[nn.Module] = []
        for i in range(layers):
            steps += [nn.Linear(width if i else latents, width), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*steps, nn.Linear(width, 1))

    def forward(self, latents: Tensor) -> Tensor:
        """(B, Z) to (B,)."""
        return self.layers(latents).squeeze(1)


class Watched(nn.Module):
    """A variational autoencoder and the discriminator of its latents, which plays against it."""

    players = ("autoencoder", "discriminator")
    """Children that are called by themselves."""

    def __init__(self, autoencoder: Variational, discriminator: LatentDiscriminator) -> None:
        super().__init__()
        self.autoencoder, self.discriminator = autoencoder, discriminator

    @property
    def log_scale(self) -> Tensor | None:
        """See `Variational`."""
        return self.autoencoder.log_scale

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See `Variational.posterior`."""
        return self.autoencoder.posterior(images)

    def encode(self, images: Tensor) -> Tensor:
        """See `Variational.encode`."""
        return self.autoencoder.encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        """See `Variational.decode`."""
        return self.autoencoder.decode(latents)

    def forward(self, images: Tensor) -> Tensor:
        """See `Variational.forward`."""
        return self.autoencoder(images)
