"""SimCLR: Chen, Kornblith, Norouzi and Hinton 2020, https://arxiv.org/abs/2002.05709; with classes: Khosla et al. 2020.

    fourfold fit simclr photos/                             # images alone, no labels
    fourfold fit cnn few/ --from runs/simclr-1              # goes on from what was learned
    fourfold fit simclr photos/ --encoder resnet --depth 14
    fourfold fit simclr photos/ --objective supervised      # views of a class belong together too
    fourfold embed runs/simclr-1 photos/ --out features.npy

Two views of each image, changed by lot, have to find one another among those of all other
images of the batch.

Result: on held-out 8 x 8 digits the nearest training image by features is of the same digit in 0.956, never seeing a
label (13 seconds of a busy core, seed 0): fourfold fit simclr --epochs 40; fourfold evaluate last.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Self, cast

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out
from fourfold.core.parts import Data
from fourfold.core.run import Run
from fourfold.core.system import system
from fourfold.core.types import Picture
from fourfold.data.augmentation import scaled
from fourfold.data.views import ViewedImages
from fourfold.look.figures import grid
from fourfold.models.cnn import Norm
from fourfold.models.contrastive import ContrastiveNetwork
from fourfold.models.image_encoders import Kind, encoder
from fourfold.objectives.views import ClassViews, TwinViews
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.image_features import FeatureLearner, image_data

SHOWN = 8  # images in the picture of views


@system("simclr", reads="images")
class ContrastiveViews(FeatureLearner):
    """Learn what images are of by telling views of one from those of others."""

    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "demo": {},
        "small": {"width": 48, "data.batch": 256},
        "medium": {"width": 64, "data.batch": 512},
    }
    exempt: ClassVar[dict[str, str]] = {
        "accumulation": "an image is told from those of its micro-batch, over which normalization takes its moments too"
    }

    data: ViewedImages = ViewedImages(split=(0.9, 0.05, 0.05), batch=128)
    encoder: Kind = "cnn"
    """Which network is learned; that system begins from the run."""
    width: PositiveInt = 24
    """Channels of the first stage; each further one has twice as many."""
    stages: PositiveInt | None = None
    """Of a cnn: how often the size is halved; None leaves it to the images, 4 times at most."""
    depth: PositiveInt = 14
    """Of a resnet: layers, 6n + 2 (8, 14, 20, ...) for small images; 18, 34 or 50."""
    norm: Norm = "batch"
    """Normalization after each convolution."""
    projection: PositiveInt = 64
    """Numbers that are compared, after the projection; what is kept of the network is what lies before."""
    objective: Annotated[TwinViews | ClassViews, Field(discriminator="kind")] = TwinViews()
    """nt-xent: an image's two views belong together; supervised: all views of a class."""
    optimizer: Gradient = Gradient(lr=2e-3, epochs=100, decay=0.05, warmup=0.1)

    @property
    def prepares(self) -> str:
        """See `FeatureLearner.prepares`."""
        return self.encoder

    def build(self, data: Data) -> ContrastiveNetwork:
        """Encoder and projection for images of this shape.

        Raises:
            UserError: the images are too small for it.
        """
        shape = image_data(data).shape
        how: Any = {
            "width": self.width,
            "stages": self.stages,
            "depth": self.depth,
            "norm": self.norm,
        }
        try:
            network = encoder(self.encoder, shape, **how)
        except ValueError as error:
            raise UserError(f"{error}; --data.size scales the images") from error
        model = ContrastiveNetwork(network, self.projection)
        return cast(ContrastiveNetwork, model.to(memory_format=torch.channels_last))  # type: ignore[call-overload]

    def features(self, model: nn.Module, images: Tensor) -> Tensor:
        """The mean over the encoder's last maps."""
        network: Any = model
        return cast(Tensor, network.features(images))

    def pictures(self, run: Run) -> Iterator[Picture]:
        """Held-out images, and two views of each."""
        examples, split, _ = held_out(run)
        data, chosen = image_data(examples), slice(0, min(SHOWN, examples.size(split)))
        batch = data.take(split, chosen, None)
        images = scaled(data.some(split, chosen)[0])
        rows = torch.cat([images, batch["image"], batch["second"]]).add(1).div(2)
        caption = "Above: images. Below: the two views of each that have to find one another."
        yield grid(rows, "Two views of an image", columns=len(images), caption=caption)

    @classmethod
    def toy(cls) -> tuple[Self, Any]:
        """Two narrow stages on the embedded digits."""
        options = cls(
            data=ViewedImages(batch=32),
            width=4,
            stages=2,
            projection=8,
            optimizer=Gradient(lr=1e-2, steps=12),
        )
        return options, None
