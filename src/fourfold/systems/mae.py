"""Masked autoencoder: He et al. 2022, https://arxiv.org/abs/2111.06377; Vision Transformer: Dosovitskiy et al. 2021.

    fourfold fit mae photos/                       # images alone, no labels
    fourfold fit vit few/ --from runs/mae-1        # goes on from what was learned
    fourfold fit mae photos/ --encoder resnet --depth 18 ; fourfold fit resnet few/ --from runs/mae-2
    fourfold embed runs/mae-1 photos/ --out features.npy

Three quarters of an image's patches are hidden; the encoder sees the rest, a narrow decoder says what the others were.
Convolutional encoders, which cannot leave patches out, see one colour in their place: Xie et al. 2022,
https://arxiv.org/abs/2111.09886.

Result: on held-out 8 x 8 digits hidden patches cost 0.32 of their variance, and the nearest training image by features
is of the same digit in 0.922 (0.544 by weights that were only drawn, 0.989 by the pixels), seed 0, 1,500 steps, never
seeing a label: benchmarks/results/mae.json. A resnet says all but 0.23, its features
find the digit in 0.978 (0.967 by drawn weights).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal, Self, cast

import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor, nn

from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out
from fourfold.core.parts import Data, Split
from fourfold.core.run import Run
from fourfold.core.system import system
from fourfold.core.types import Picture
from fourfold.data.images import ImageData, Images
from fourfold.look.figures import grid
from fourfold.models.cnn import Norm
from fourfold.models.image_encoders import MaskedImages, encoder
from fourfold.models.vit import MAE, Encoder, unpatchify
from fourfold.objectives.masked_patches import MaskedPatches, split_patches
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.image_features import FeatureLearner, image_data

NEEDS = {
    "vit": ("patch", "width", "layers", "heads", "decoder_width", "decoder_layers"),
    "cnn": ("patch", "channels", "stages", "norm"),
    "resnet": ("patch", "channels", "depth", "norm"),
}
"""Options of each encoder."""
SHOWN = 8  # images in a picture of restored ones


@system("mae", reads="images")
class MaskedAutoencoder(FeatureLearner):
    """Learn what images are made of by restoring hidden patches."""

    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "demo": {},
        "small": {"width": 192, "layers": 6, "heads": 6, "decoder_width": 96},
        "base": {"width": 384, "layers": 12, "heads": 6, "decoder_width": 192, "decoder_layers": 4},
    }

    data: Images = Images(split=(0.9, 0.05, 0.05))
    patch: PositiveInt | None = None
    """Pixels of a patch's side; None takes what divides the images into about 8 x 8."""
    encoder: Literal["vit", "cnn", "resnet"] = "vit"
    """Which network is learned; that system begins from the run."""
    width: PositiveInt = 128
    """Of a vit: features of a patch in the encoder; a multiple of 4 and of the heads."""
    layers: PositiveInt = 4
    """Of a vit: blocks of the encoder."""
    heads: PositiveInt = 4
    """Of a vit: attention heads of the encoder."""
    decoder_width: PositiveInt = 64
    """Of a vit: features of a patch in the decoder; a multiple of 16."""
    decoder_layers: PositiveInt = 2
    """Of a vit: blocks of the decoder."""
    channels: PositiveInt = 24
    """Of a cnn or resnet: channels of the first stage."""
    stages: PositiveInt | None = None
    """Of a cnn: how often the size is halved; None leaves it to the images, 4 times at most."""
    depth: PositiveInt = 14
    """Of a resnet: layers, 6n + 2 (8, 14, 20, ...) for small images; 18, 34 or 50."""
    norm: Norm = "batch"
    """Of a cnn or resnet: normalization after each convolution."""
    objective: MaskedPatches = MaskedPatches()
    optimizer: Gradient = Gradient(
        lr=1.5e-3, arguments={"betas": [0.9, 0.95]}, decay=0.05, warmup=0.1, steps=1500
    )

    @model_validator(mode="after")
    def _all_count(self) -> Self:
        every = {name for names in NEEDS.values() for name in names}
        if unused := self.altered(sorted(every - set(NEEDS[self.encoder]))):
            raise ValueError(
                f"{unused[0]} is of another encoder; {self.encoder} has no such option"
            )
        return self

    def build(self, data: Data) -> MAE | MaskedImages:
        """Encoder and decoder for images of this shape.

        Raises:
            UserError: no patch divides the images, the widths do not divide, or the images are too small.
        """
        shape = image_data(data).shape
        if self.encoder != "vit":
            how: Any = {
                "width": self.channels,
                "stages": self.stages,
                "depth": self.depth,
                "norm": self.norm,
            }
            try:
                model = MaskedImages(encoder(self.encoder, shape, **how), shape, self.patch)
            except ValueError as error:
                raise UserError(f"{error}; --data.size scales the images") from error
            return cast(MaskedImages, model.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
        decoder = self.decoder_width, self.decoder_layers, self.decoder_width // 16 or 1
        try:
            return MAE(Encoder(shape, self.patch, self.width, self.layers, self.heads), *decoder)
        except ValueError as error:
            raise UserError(
                f"{error}; --data.size scales the images, see --patch, --width and --heads too"
            ) from error

    @property
    def prepares(self) -> str:
        """See `FeatureLearner.prepares`."""
        return self.encoder

    def encoder_options(self) -> dict[str, Any]:
        """See `FeatureLearner.encoder_options`: what are channels here is the width there."""
        named = {name: getattr(self, name) for name in NEEDS[self.encoder] if name != "channels"}
        return named if self.encoder == "vit" else {**named, "width": self.channels}

    def features(self, model: nn.Module, images: Tensor) -> Tensor:
        """The mean over the states of all patches, or over the last maps."""
        network: Any = model
        if self.encoder != "vit":
            return cast(Tensor, network.features(images))
        return cast(Tensor, network.encoder(images).mean(dim=1))

    def preview(self, run: Run) -> Picture | None:
        """The first validation images masked and restored, with the same masks each time."""
        data = run.examples()
        return _restored(run, image_data(data), "valid") if data.size("valid") else None

    def pictures(self, run: Run) -> Iterator[Picture]:
        """Held-out images masked, restored and as they are."""
        data, split, _ = held_out(run)
        yield _restored(run, image_data(data), split)

    @classmethod
    def toy(cls) -> tuple[MaskedAutoencoder, Any]:
        """Narrow blocks on the embedded digits."""
        return cls(
            data=Images(batch=32),
            width=16,
            layers=1,
            heads=2,
            decoder_width=16,
            decoder_layers=1,
            optimizer=Gradient(lr=2e-3, steps=12),
        ), None


@torch.no_grad()
def _restored(run: Run, data: ImageData, split: Split) -> Picture:
    """Rows of images: what the network sees, what it makes of it, what is there."""
    network: Any = run.model
    objective: Any = run.objective
    images = data.take(split, slice(0, min(SHOWN, data.size(split))), None)["image"]
    seen, _ = split_patches(
        len(images), network.count, objective.ratio, seed=run.generator("masks")
    )
    patches = network.patches(images)
    thought = network(images.to(run.device), seen.to(run.device)).float().cpu()
    if (
        objective.normalize
    ):  # said relative to each patch, whose mean and deviation are taken from the truth
        mean, deviation = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True).sqrt()
        thought = thought * deviation + mean
    where = torch.zeros(patches.shape[:2]).scatter(1, seen, 1.0)[..., None].bool()
    patch = network.patch
    rows = [
        unpatchify(torch.where(where, patches, torch.zeros_like(patches)), patch, data.shape),
        unpatchify(torch.where(where, patches, thought), patch, data.shape),
        images,
    ]
    caption = f"Above: what is seen, {1 - objective.ratio:.0%} of the patches. Middle: restored. Below: what is there."
    if objective.normalize:
        caption += " The mean and contrast of restored patches are the true ones, as only the rest is learned."
    both = torch.cat(rows).add(1).div(2)
    return grid(both, "Masked, restored, true", columns=len(images), caption=caption)
