"""Bodies of autoencoders: images to numbers and back, dense or convolutional, of any size.

Hinton and Salakhutdinov 2006, https://doi.org/10.1126/science.1127647. Convolutional ones halve the image stage by
stage; odd sizes come back exactly (see `halving`). Codes that keep their place have networks of their own (`grids`). There is no normalization over a batch: what an image
is encoded to depends on no other. Shapes: B batch, Z latents, C channels, H and W pixels, F features, h and w of the map.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from fourfold.models.halving import kernel, sizes_down

Network = Literal["dense", "convolutional"]
Shape = tuple[int, int, int]
"""(C, H, W) of an image."""
SMALL = 4  # pixels: a side that is halved no further where the number of stages is left open
DEEPEST = 4  # most features of a stage, in units of `width`


def stages_of(shape: Shape, stages: int | None) -> int:
    """How many times an image is halved: as often as asked for, or until its smaller side is at most 4 pixels.

    Raises:
        ValueError: more often than there are pixels.
    """
    least = min(shape[1:])
    if stages is None:
        found = 0
        while math.ceil(least / 2**found) > SMALL:
            found += 1
        return found
    if least < 2**stages:
        most = int(math.log2(least))
        raise ValueError(
            f"images of {shape[1]} x {shape[2]} pixels are smaller than the stride of {2**stages} that {stages} stages "
            f"have; expected at most {most} stage{'s' * (most != 1)}"
        )
    return stages


def _features(width: int, stages: int) -> list[int]:
    return [width * min(2**i, DEEPEST) for i in range(max(1, stages))]


class Residual(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x)))), as in van den Oord et al. 2017."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(), nn.Conv2d(features, features, 3, padding=1), nn.ReLU(), nn.Conv2d(features, features, 1)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, h, w) to the same."""
        return x + self.layers(x)


class Maps(nn.Module):
    """Images to a map of features: strided convolutions."""

    def __init__(
        self, shape: Shape, outputs: int, *, width: int, stages: int | None = None
    ) -> None:
        """Build the stages downwards.

        Args:
            shape: (C, H, W) of an image.
            outputs: F, features at each place.
            width: features after the first stage; twice as many at each further one, up to 4 times.
            stages: how many times the image is halved; None until its smaller side is at most 4 pixels.

        Raises:
            ValueError: more stages than the image has pixels for.
        """
        super().__init__()
        stages = stages_of(shape, stages)
        sizes = sizes_down(shape[1:], stages)
        self.shape, self.size = tuple(shape), sizes[-1]
        deep = _features(width, stages)
        layers: list[nn.Module] = []
        if stages == 0:
            layers = [nn.Conv2d(shape[0], width, 3, padding=1), nn.ReLU()]
        for (inside, outside), large in zip(
            itertools.pairwise([shape[0], *deep]), sizes[:-1], strict=False
        ):
            layers += [nn.Conv2d(inside, outside, kernel(large), 2, 1), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(deep[-1], outputs, 1))

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, F, h, w).

        Raises:
            ValueError: images of another shape.
        """
        _check(self, images, self.shape)
        return self.layers(images)


class FromMaps(nn.Module):
    """A map of features to images: transposed convolutions; nothing bounds what comes out."""

    def __init__(self, inputs: int, shape: Shape, *, width: int, stages: int | None = None) -> None:
        """Build the stages upwards; the arguments are those of `Maps`.

        Raises:
            ValueError: more stages than the image has pixels for.
        """
        super().__init__()
        stages = stages_of(shape, stages)
        sizes = sizes_down(shape[1:], stages)
        self.shape = (inputs, *sizes[-1])
        deep = _features(width, stages)
        layers: list[nn.Module] = [nn.Conv2d(inputs, deep[-1], 3, padding=1)]
        layers.append(nn.ReLU())
        if stages == 0:
            layers.append(nn.Conv2d(width, shape[0], 3, padding=1))
        for i in reversed(range(stages)):
            out = deep[i - 1] if i else shape[0]
            layers.append(nn.ConvTranspose2d(deep[i], out, kernel(sizes[i]), 2, 1))
            layers += [nn.ReLU()] * (i > 0)
        self.layers = nn.Sequential(*layers)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, F, h, w) to (B, C, H, W).

        Raises:
            ValueError: a map of another shape.
        """
        _check(self, maps, self.shape)
        return self.layers(maps)


class Encoder(nn.Module):
    """Images to vectors."""

    def __init__(
        self,
        shape: Shape,
        outputs: int,
        *,
        network: Network = "convolutional",
        width: int = 32,
        hidden: Sequence[int] = (256,),
        stages: int | None = None,
    ) -> None:
        """Build it.

        Args:
            shape: (C, H, W) of an image.
            outputs: numbers that come out.
            network: dense sees pixels as so many numbers; convolutional halves the image stage by stage.
            width: features of the first stage, of a convolutional one.
            hidden: sizes of dense layers, after the stages; none makes a dense network linear.
            stages: see `Maps`; of a convolutional one.

        Raises:
            ValueError: more stages than the image has pixels for.
        """
        super().__init__()
        self.shape = tuple(shape)
        layers: list[nn.Module] = []
        inputs = math.prod(shape)
        if network == "convolutional":
            last = _features(width, stages_of(shape, stages))[-1]
            maps = Maps(shape, last, width=width, stages=stages)
            inputs = last * math.prod(maps.size)
            layers += [maps, nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Flatten(), *_dense([inputs, *hidden, outputs]))

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, outputs).

        Raises:
            ValueError: images of another shape.
        """
        _check(self, images, self.shape)
        return self.layers(images)


class Decoder(nn.Module):
    """Vectors to images; nothing bounds what comes out, as the likelihood says what it means."""

    def __init__(
        self,
        inputs: int,
        shape: Shape,
        *,
        network: Network = "convolutional",
        width: int = 32,
        hidden: Sequence[int] = (256,),
        stages: int | None = None,
    ) -> None:
        """Build it; the arguments are those of the `Encoder` that it mirrors, `hidden` in the encoder's order.

        Raises:
            ValueError: more stages than the image has pixels for.
        """
        super().__init__()
        self.inputs = inputs
        back = list(reversed(hidden))
        if network == "dense":
            outputs = math.prod(shape)
            rest: list[nn.Module] = [nn.Unflatten(1, shape)]
        else:
            count = stages_of(shape, stages)
            start = (_features(width, count)[-1], *sizes_down(shape[1:], count)[-1])
            outputs = math.prod(start)
            rest = [
                nn.ReLU(),
                nn.Unflatten(1, start),
                FromMaps(start[0], shape, width=width, stages=stages),
            ]
        self.layers = nn.Sequential(*_dense([inputs, *back, outputs]), *rest)

    def forward(self, latents: Tensor) -> Tensor:
        """(B, Z) to (B, C, H, W).

        Raises:
            ValueError: latents of another size.
        """
        _check(self, latents, (self.inputs,))
        return self.layers(latents)


class Autoencoder(nn.Module):
    """An encoder and the decoder that reads what it writes."""

    players = ("encoder", "decoder")
    """Children that are called by themselves."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def encode(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, Z)."""
        return self.encoder(images)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, Z) to (B, C, H, W)."""
        return self.decoder(latents)

    def forward(self, images: Tensor) -> Tensor:
        """Images and what comes back, both (B, C, H, W)."""
        return self.decode(self.encode(images))


def _dense(sizes: Sequence[int]) -> list[nn.Module]:
    """Linear layers with rectifiers between them."""
    layers: list[nn.Module] = []
    for inside, outside in itertools.pairwise(sizes):
        layers += [nn.Linear(inside, outside), nn.ReLU()]
    return layers[:-1]


def _check(module: nn.Module, values: Tensor, shape: tuple[int, ...]) -> None:
    if values.shape[1:] != shape:
        raise ValueError(
            f"{type(module).__name__} expects (B, {', '.join(map(str, shape))}), got {tuple(values.shape)}"
        )
