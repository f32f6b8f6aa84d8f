"""How likely an image is, given what a decoder says of it: Bernoulli, Gaussian, discretised logistic.

The logistic of 256 bins: Kingma et al. 2016, https://arxiv.org/abs/1606.04934, and Salimans et al. 2017,
https://arxiv.org/abs/1701.05517. Images are in [-1, 1], 0 of 8 bits being -1 and 255 being 1. A code length is that of
8-bit images, hence comparable between the Gaussian and the logistic: the Gaussian's bins are those of the logistic.
Shapes: B batch, C channels, H and W pixels. In nats.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat
from torch import Tensor

from fourfold.core.parts import Part
from fourfold.core.shares import drawn

HALF = 1 / 255  # half of a bin's width, where black is -1 and white is 1


class Pixels(Part):
    """A distribution of an image's pixels, each by itself, around what a decoder gives."""

    learns_scale: ClassVar[bool] = False
    """Whether the model has a scale for each channel, `log_scale`, (C, 1, 1)."""

    def observed(self, images: Tensor) -> Tensor:
        """The images that are described: those of the batch, or binary ones made of them, in [-1, 1]."""
        return images

    def expected(self, images: Tensor) -> Tensor:
        """Those images where nothing is drawn: in their place what is drawn in the mean."""
        return images

    @abstractmethod
    def nats(self, output: Tensor, log_scale: Tensor | None, images: Tensor) -> Tensor:
        """-log p(image) as it is trained, (B,); a density where pixels are continuous.

        Args:
            output: (B, C, H, W), of the decoder.
            log_scale: (C, 1, 1), of the model; None where it has none.
            images: (B, C, H, W) in [-1, 1].
        """

    def code_length(self, output: Tensor, log_scale: Tensor | None, images: Tensor) -> Tensor:
        """-log P(image of 8 bits, or binary one), (B,); the arguments are those of `nats`."""
        return self.nats(output, log_scale, images)

    def mean(self, output: Tensor) -> Tensor:
        """The image to show, in [-1, 1]."""
        return output.clamp(-1, 1)

    @abstractmethod
    def draw(self, output: Tensor, log_scale: Tensor | None, noise: Tensor) -> Tensor:
        """An image drawn from the distribution, in [-1, 1].

        Args:
            output, log_scale: as for `nats`.
            noise: (B, C, H, W), uniform in (0, 1).
        """


class Bernoulli(Pixels):
    """Each channel of each pixel is black or white; the decoder gives log-odds."""

    kind: Literal["bernoulli"] = "bernoulli"
    binarize: Literal["none", "threshold", "stochastic"] = "none"
    """Grey values: taken as probabilities of white; cut at the middle; or drawn anew each time (Salakhutdinov and Murray 2008)."""

    def observed(self, images: Tensor) -> Tensor:
        """See `Pixels.observed`."""
        if self.binarize == "threshold":
            return (images > 0).to(images.dtype) * 2 - 1
        if self.binarize == "stochastic":
            shape, like = images.shape[1:], images
            chance = drawn(len(images), lambda n: torch.rand(n, *shape, dtype=like.dtype, device=like.device))  # fmt: skip
            return (chance < (images + 1) / 2).to(images.dtype) * 2 - 1
        return images

    def expected(self, images: Tensor) -> Tensor:
        """See `Pixels.expected`."""
        return images if self.binarize == "stochastic" else self.observed(images)

    def nats(self, output: Tensor, log_scale: Tensor | None, images: Tensor) -> Tensor:
        """See `Pixels.nats`."""
        loss = F.binary_cross_entropy_with_logits(output, (images + 1) / 2, reduction="none")
        return loss.flatten(1).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        """See `Pixels.mean`."""
        return torch.sigmoid(output) * 2 - 1

    def draw(self, output: Tensor, log_scale: Tensor | None, noise: Tensor) -> Tensor:
        """See `Pixels.draw`."""
        return (noise < torch.sigmoid(output)).to(output.dtype) * 2 - 1


class Gaussian(Pixels):
    """Pixels are normal around what the decoder gives, with one deviation for each channel."""

    kind: Literal["gaussian"] = "gaussian"
    scale: PositiveFloat | None = None
    """Standard deviation, black being -1 and white 1; None learns one for each channel."""

    learns_scale: ClassVar[bool] = True

    def _log_scale(self, log_scale: Tensor | None, output: Tensor) -> Tensor:
        if self.scale is not None:
            return output.new_full((output.shape[1], 1, 1), math.log(self.scale))
        assert log_scale is not None  # noqa: S101
        return log_scale

    def nats(self, output: Tensor, log_scale: Tensor | None, images: Tensor) -> Tensor:
        """See `Pixels.nats`: a density of pixels in [-1, 1]."""
        log_scale = self._log_scale(log_scale, output)
        z = (images - output) * torch.exp(-log_scale)
        return (0.5 * z.square() + log_scale + 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)

    def code_length(self, output: Tensor, log_scale: Tensor | None, images: Tensor) -> Tensor:
        """See `Pixels.code_length`."""
        z, half = _scaled(output, self._log_scale(log_scale, output), images)
        z, half = z.double(), half.double()
        # a bin is looked at from the tail that is nearer, where nothing is cut off
        near = -z.abs()
        upper, lower = torch.special.log_ndtr(near + half), torch.special.log_ndtr(near - half)
        inside = upper + torch.log(-torch.expm1(lower - upper))
        whole = _with_open_ends(inside, images, lambda s: torch.special.log_ndtr(s * z + half))
        return -whole.flatten(1).sum(1).to(output.dtype)

    def draw(self, output: Tensor, log_scale: Tensor | None, noise: Tensor) -> Tensor:
        """See `Pixels.draw`."""
        scale = torch.exp(self._log_scale(log_scale, output))
        return (output + scale * torch.special.ndtri(noise.clamp(1e-6, 1 - 1e-6))).clamp(-1, 1)


class DiscretisedLogistic(Pixels):
    """The probability of each of 256 values under a logistic distribution, whose ends reach to infinity."""

    kind: Literal["discretised-logistic"] = "discretised-logistic"

    learns_scale: ClassVar[bool] = True

    def nats(self, output: Tensor, log_scale: Tensor | None, images: Tensor) -> Tensor:
        """See `Pixels.nats`."""
        assert log_scale is not None  # noqa: S101
        z, half = _scaled(output, log_scale, images)
        # s(b) - s(a) = s(b) s(-a) (1 - e^(a - b)), which nothing cancels in
        gap = torch.log(-torch.expm1(-2 * half))
        inside = F.logsigmoid(z + half) + F.logsigmoid(half - z) + gap
        whole = _with_open_ends(inside, images, lambda sign: F.logsigmoid(sign * z + half))
        return -whole.flatten(1).sum(1)

    def draw(self, output: Tensor, log_scale: Tensor | None, noise: Tensor) -> Tensor:
        """See `Pixels.draw`."""
        assert log_scale is not None  # noqa: S101
        return (output + torch.exp(log_scale) * torch.logit(noise, 1e-6)).clamp(-1, 1)


def _scaled(output: Tensor, log_scale: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """The middle of each pixel's bin and half its width, in units of the scale."""
    inverse = torch.exp(-log_scale)
    return (images - output) * inverse, HALF * inverse


def _with_open_ends(inside: Tensor, images: Tensor, tail: Callable[[int], Tensor]) -> Tensor:
    """Log-probabilities of bins, of which the first and the last reach to infinity."""
    ends = 1 - HALF
    found = torch.where(images < -ends, tail(1), inside)
    return torch.where(images > ends, tail(-1), found)


Likelihood = Annotated[Bernoulli | Gaussian | DiscretisedLogistic, Field(discriminator="kind")]
