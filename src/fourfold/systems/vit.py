"""Vision Transformer: Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929; in the plain form of Beyer et al. 2022.

    fourfold fit vit photos/
    fourfold fit vit few/ --from runs/mae-1        # goes on from features learned without labels

Result: accuracy 0.633 on held-out 8 x 8 digits after only 20 epochs from drawn weights (`--epochs 20`, 110 seconds on a
busy core, seed 0), still rising; a convolutional network learns such images sooner.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from annotated_types import Ge, Lt
from pydantic import PositiveInt
from torch import nn

from fourfold.core.system import system
from fourfold.data.augmentation import Unchanged
from fourfold.data.labelled_images import LabelledImageData, LabelledImages
from fourfold.models.vit import Encoder, ViT
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.recognition import Recognizer


@system("vit", reads="images")
class VisionTransformer(Recognizer):
    """Tell the class of an image by attention over its patches."""

    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "demo": {},
        "small": {"width": 192, "layers": 6, "heads": 6},
        "base": {"width": 384, "layers": 12, "heads": 6},
    }
    begins_from: ClassVar[str] = "mae or of vit"
    search_space: ClassVar[dict[str, str]] = {
        "optimizer.lr": "2e-4..5e-3:log",
        "layers": "2..8",
        "dropout": "0..0.3",
    }

    patch: PositiveInt | None = None
    """Pixels of a patch's side; None takes what divides the images into about 8 x 8."""
    width: PositiveInt = 128
    """Features of a patch; a multiple of 4 and of the heads."""
    layers: PositiveInt = 4
    """Blocks."""
    heads: PositiveInt = 4
    """Attention heads."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Chance that a number that a sublayer adds is left out in training."""
    optimizer: Gradient = Gradient(lr=1e-3, epochs=100, decay=0.05, warmup=0.1, clip=1.0)

    def network(self, data: LabelledImageData, outputs: int) -> nn.Module:
        """See `Recognizer.network`."""
        encoder = Encoder(data.shape, self.patch, self.width, self.layers, self.heads, self.dropout)
        return ViT(encoder, outputs)

    @classmethod
    def toy(cls) -> tuple[Self, Any]:
        """Narrow blocks on the embedded digits."""
        options = cls(
            data=LabelledImages(batch=32, augment=Unchanged()),
            width=16,
            layers=1,
            heads=2,
            optimizer=Gradient(lr=1e-2, steps=12),
        )
        return options, None
