"""Convolutional network: LeCun et al. 1998, https://doi.org/10.1109/5.726791; stages of 3 x 3 convolutions as Simonyan
and Zisserman 2015 have them, with batch normalization.

    fourfold fit cnn photos/ --size small
    fourfold fit cnn mnist mnist-test --minutes 5
    fourfold predict runs/cnn-1 new.jpg --top 3 --out labels.csv
    fourfold explain runs/cnn-1 cat.jpg --out why.png

Result: accuracy 0.972 on the 180 test images of the embedded 8 x 8 digits (seed 0): fourfold fit cnn --epochs 4; 0.983
averaged over views: fourfold evaluate last --average shift.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from annotated_types import Ge, Lt
from pydantic import NonNegativeInt, PositiveInt
from torch import nn

from fourfold.core.system import system
from fourfold.data.augmentation import Unchanged
from fourfold.data.labelled_images import LabelledImageData, LabelledImages
from fourfold.models.cnn import ConvNet, Norm, Pooling, fitting_stages
from fourfold.models.lenet import LeNet
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.recognition import Recognizer


@system("cnn", reads="images")
class ConvolutionalNetwork(Recognizer):
    """Tell the class of an image by convolutions, down-sampling and a dense classifier."""

    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "lenet": {"network_kind": "lenet"},
        "small": {},
        "medium": {"width": 64, "dense": 256, "dropout": 0.3},
    }
    exempt: ClassVar[dict[str, str]] = {
        "accumulation": "batch normalization takes its moments over each micro-batch"
    }
    begins_from: ClassVar[str] = "simclr --encoder cnn or of cnn"
    search_space: ClassVar[dict[str, str]] = {
        "optimizer.lr": "5e-4..2e-2:log",
        "width": "8..64:log",
        "dropout": "0..0.5",
    }

    network_kind: Literal["plain", "lenet"] = "plain"
    """plain: stages of 3 x 3 convolutions; lenet: LeNet-5, for which the options below do not count."""
    width: PositiveInt = 24
    """Channels of the first stage; each further one has twice as many."""
    stages: PositiveInt | None = None
    """How often the size is halved; None means until the smaller side would be below 3 pixels, 4 times at most."""
    convolutions: PositiveInt = 2
    """Convolutions of a stage."""
    dense: NonNegativeInt = 128
    """Width of the hidden dense layer; 0 leaves it out."""
    norm: Norm = "batch"
    """Normalization after each convolution."""
    pooling: Pooling = "max"
    """How the size is halved: the largest or the mean of 2 x 2 pixels, or a convolution of stride 2."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.2
    """Chance that a number before the last layer is left out in training."""
    optimizer: Gradient = Gradient(lr=4e-3, epochs=15, decay=0.05, warmup=0.1)

    def network(self, data: LabelledImageData, outputs: int) -> nn.Module:
        """See `Recognizer.network`."""
        if self.network_kind == "lenet":
            return LeNet(data.shape, outputs)
        return ConvNet(
            data.shape,
            outputs,
            width=self.width,
            stages=self.stages or fitting_stages(data.shape),
            convolutions=self.convolutions,
            dense=self.dense,
            norm=self.norm,
            pooling=self.pooling,
            dropout=self.dropout,
        )

    @classmethod
    def toy(cls) -> tuple[Self, Any]:
        """Two narrow stages on the embedded digits."""
        options = cls(
            data=LabelledImages(batch=32, augment=Unchanged()),
            width=4,
            stages=2,
            convolutions=1,
            dense=8,
            dropout=0.0,
            optimizer=Gradient(lr=1e-2, steps=12),
        )
        return options, None
