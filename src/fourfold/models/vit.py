"""Vision Transformer: Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929; masked autoencoder: He et al. 2022,
https://arxiv.org/abs/2111.06377.

Variant: positions are fixed sinusoids of row and column, and the class is read from the mean over the patches instead
of a token of its own, as in Beyer et al. 2022, https://arxiv.org/abs/2205.01580; blocks are those of the
encoder-decoder Transformer with the norm before each sublayer. Shapes: B batch, C channels, H and W pixels, N patches,
P pixels of a patch in all channels, K patches that are seen, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fourfold.models.encoder_decoder import EncoderLayer
from fourfold.models.positions import Positions

EPS = 1e-6
DEVIATION = 0.02


def patchify(images: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) to (B, N, P): patches row by row, each its pixels row by row, a pixel's channels together.

    Raises:
        ValueError: the patch does not divide the image.
    """
    batch, channels, height, width = images.shape
    if height % patch or width % patch:
        raise ValueError(
            f"patchify expects sides that are multiples of {patch}, got {height} x {width}"
        )
    cut = images.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, patch: int, shape: tuple[int, int, int]) -> Tensor:
    """(B, N, P) to (B, C, H, W): the inverse of `patchify`."""
    channels, height, width = shape
    rows, columns = height // patch, width // patch
    cut = patches.reshape(len(patches), rows, columns, patch, patch, channels)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), channels, height, width)


def plane_positions(rows: int, columns: int, width: int) -> Tensor:
    """Sinusoids of the row in the first half of the features, of the column in the second: (rows * columns, width).

    Raises:
        ValueError: the width is no multiple of 4.
    """
    if width % 4:
        raise ValueError(f"plane_positions expects a width that is a multiple of 4, got {width}")
    rates = 10_000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))

    def waves(count: int) -> Tensor:
        angles = torch.arange(count, dtype=torch.float64)[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], dim=1)  # (count, width / 2)

    down = waves(rows)[:, None].expand(rows, columns, -1)
    across = waves(columns)[None].expand(rows, columns, -1)
    return torch.cat([down, across], dim=-1).flatten(0, 1).float()


def chosen(states: Tensor, index: Tensor) -> Tensor:
    """Of (B, N, D) the rows at index (B, K): (B, K, D)."""
    return states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))


class Blocks(nn.Module):
    """Blocks that see everything, and a norm after the last."""

    def __init__(self, width: int, layers: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(
                f"a width divisible by heads is expected, got width {width}, heads {heads}"
            )
        self.blocks = nn.ModuleList(
            EncoderLayer(width, heads, 4 * width, "gelu", "pre", dropout, EPS)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width, EPS)
        self.nowhere = Positions()  # they are added to the patches instead

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        for layer, block in enumerate(self.blocks):
            x = block(x, self.nowhere, layer, None)
        return self.norm(x)


class Encoder(nn.Module):
    """Images to a state for each patch.

    Args:
        shape: (C, H, W).
        patch: pixels of a patch's side; None takes what divides the images into about 8 x 8.
        width: D, a multiple of 4 and of `heads`.
        layers: blocks.
        heads: of attention.
        dropout: probability, on what each sublayer adds.

    Raises:
        ValueError: the sizes do not divide.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        patch: int | None,
        width: int,
        layers: int,
        heads: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        channels, height, wide = shape
        patch = dividing_patch(height, wide, patch)
        self.shape, self.patch, self.width = shape, patch, width
        self.sides = height // patch, wide // patch
        """Rows and columns of patches."""
        self.count = self.sides[0] * self.sides[1]
        """N."""
        self.project = nn.Linear(channels * patch * patch, width)
        self.layers = Blocks(width, layers, heads, dropout)
        self.register_buffer("places", plane_positions(*self.sides, width), persistent=False)
        initialize(self)

    def forward(self, images: Tensor, seen: Tensor | None = None) -> Tensor:
        """The states of patches.

        Args:
            images: (B, C, H, W) float in [-1, 1].
            seen: (B, K) int64, numbers of the patches that are seen; the others are not computed. None: all.

        Returns:
            (B, K or N, D).

        Raises:
            ValueError: images of another shape.
        """
        if images.shape[1:] != self.shape:
            raise ValueError(
                f"Encoder expects images (B, {', '.join(map(str, self.shape))}), got {tuple(images.shape)}"
            )
        x = self.project(patchify(images, self.patch)) + self.get_buffer("places")
        return self.layers(x if seen is None else chosen(x, seen))


class ViT(nn.Module):
    """Images to logits of classes: the encoder, the mean over its patches, a linear layer."""

    def __init__(self, encoder: Encoder, outputs: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.width, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def features(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to the patches' states as maps, (B, D, rows, columns)."""
        return self.encoder(images).transpose(1, 2).unflatten(2, self.encoder.sides)

    def classify(self, maps: Tensor) -> Tensor:
        """Logits (B, outputs) of maps (B, D, rows, columns)."""
        return self.head(maps.mean(dim=(2, 3)))

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to logits (B, outputs)."""
        return self.classify(self.features(images))


class MAE(nn.Module):
    """An encoder that sees some patches and a narrower decoder that says what the others were.

    Args:
        encoder: of images; the decoder says the same patches.
        width: features of a patch in the decoder, a multiple of 4 and of its heads.
        layers: the decoder's blocks.
        heads: of its attention.
    """

    def __init__(self, encoder: Encoder, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.between = nn.Linear(encoder.width, width)
        self.hidden = nn.Parameter(torch.zeros(width))
        self.decoder = Blocks(width, layers, heads)
        self.pixels = nn.Linear(width, encoder.project.in_features)
        self.register_buffer("places", plane_positions(*encoder.sides, width), persistent=False)
        for part in (self.between, self.decoder, self.pixels):
            initialize(part)
        nn.init.normal_(self.hidden, std=DEVIATION)

    def patches(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, N, P)."""
        return patchify(images, self.encoder.patch)

    @property
    def count(self) -> int:
        """N, patches of an image."""
        return self.encoder.count

    @property
    def patch(self) -> int:
        """Pixels of a patch's side."""
        return self.encoder.patch

    def forward(self, images: Tensor, seen: Tensor) -> Tensor:
        """What every patch is thought to be, from those that are seen.

        Args:
            images: (B, C, H, W) in [-1, 1]; of patches that are not seen nothing enters.
            seen: (B, K) int64.

        Returns:
            (B, N, P), each patch at its own place.
        """
        states = self.between(self.encoder(images, seen))  # (B, K, decoder width)
        x = self.hidden.to(states.dtype).expand(len(images), self.count, -1)
        x = x.scatter(1, seen[..., None].expand_as(states), states)
        return self.pixels(self.decoder(x + self.get_buffer("places")))


@torch.no_grad()
def initialize(module: nn.Module) -> None:
    """Xavier's uniform weights, biases 0, as the paper's implementation has them."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)


def dividing_patch(height: int, width: int, patch: int | None) -> int:
    """The patch that was asked for, or the one that suits.

    Raises:
        ValueError: it does not divide the images, or none does.
    """
    if (patch := patch or suited_patch(height, width)) is None:
        raise ValueError(f"no patch of 2 to 16 pixels divides images of {height} x {width}")
    if height % patch or width % patch:
        raise ValueError(f"patches of {patch} pixels do not divide images of {height} x {width}")
    return patch


def suited_patch(height: int, width: int) -> int | None:
    """A patch of 2 to 16 pixels that divides both sides, of which about 8 lie side by side; None where none divides."""
    fitting = [
        p for p in range(2, 17) if height % p == 0 and width % p == 0 and min(height, width) > p
    ]
    return min(fitting, key=lambda p: (abs(min(height, width) / p - 8), p), default=None)
