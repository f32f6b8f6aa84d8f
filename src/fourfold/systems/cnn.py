"""Convolutional network: LeCun et al. 1998, https://doi.org/10.1109/5.726791; stages of 3 x 3 convolutions as Simonyan
and Zisserman 2015 have them, with batch normalization; or the network that learns CIFAR-10 fastest, Jordan 2024,
https://arxiv.org/abs/2404.00498.

    fourfold fit cnn photos/ --size small
    fourfold fit cnn mnist mnist-test --minutes 5
    fourfold fit cnn cifar10 cifar10-test --size fast
    fourfold predict runs/cnn-1 new.jpg --top 3 --out labels.csv
    fourfold explain runs/cnn-1 cat.jpg --out why.png

Result: accuracy 0.972 on the 180 test images of the embedded 8 x 8 digits (seed 0): fourfold fit cnn --epochs 4; 0.983
averaged over views: fourfold evaluate last --average shift. Of CIFAR-10's test images --size fast tells 89.2%, 89.7% averaged
over flips, after 9 epochs (28 processor minutes of one thread): benchmarks/results/recognition.json.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from annotated_types import Ge, Lt
from pydantic import NonNegativeInt, PositiveInt, model_validator
from torch import nn

from fourfold.core.system import system
from fourfold.data.augmentation import Unchanged, scaled
from fourfold.data.labelled_images import LabelledImageData, LabelledImages
from fourfold.models.cnn import ConvNet, Norm, Pooling, fitting_stages
from fourfold.models.lenet import LeNet
from fourfold.models.whitened import WhitenedNet, sampled
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.recognition import Recognizer

NEEDS = {
    "lenet": (),
    "whitened": ("width", "stages", "dropout"),
    "plain": ("width", "stages", "dropout", "convolutions", "dense", "norm", "pooling"),
}
"""Options of each kind of network."""
FAST = {
    "algorithm": "muon",
    "arguments": {"momentum": 0.6},
    "lr": 0.24,
    "other_lr": 0.005,
    "decay": 0.1,
    "warmup": 0.05,
    "schedule": "linear",
    "epochs": 8,
}
"""How the whitened network learns in few passes."""


@system("cnn", reads="images")
class ConvolutionalNetwork(Recognizer):
    """Tell the class of an image by convolutions, down-sampling and a dense classifier."""

    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "lenet": {"network_kind": "lenet"},
        "small": {},
        "medium": {"width": 64, "dense": 256, "dropout": 0.3},
        "fast": {
            "network_kind": "whitened",
            "width": 64,
            "dropout": 0.0,
            "optimizer": FAST,
            "objective": {"label_smoothing": 0.2},
            "data": {"batch": 500, "augment": {"shift": 2}},
        },
    }
    exempt: ClassVar[dict[str, str]] = {
        "accumulation": "batch normalization takes its moments over each micro-batch"
    }
    begins_from: ClassVar[str] = "mae or simclr with --encoder cnn, or of cnn"
    search_space: ClassVar[dict[str, str]] = {
        "optimizer.lr": "5e-4..2e-2:log",
        "width": "8..64:log",
        "dropout": "0..0.5",
    }

    network_kind: Literal["plain", "lenet", "whitened"] = "plain"
    """plain: stages of 3 x 3 convolutions; whitened: the same behind a layer that whitens, with half the size from the
    first convolution of a stage on; lenet: LeNet-5. The latter has none of the options below, whitened has width,
    stages and dropout."""
    width: PositiveInt = 24
    """Channels of the first stage; each further one has twice as many; whitened, all further ones four times."""
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

    @model_validator(mode="after")
    def _all_count(self) -> Self:
        used = NEEDS[self.network_kind]
        if unused := self.altered(name for name in NEEDS["plain"] if name not in used):
            raise ValueError(
                f"{unused[0]} is of the plain network; {self.network_kind} has no such option"
            )
        return self

    def network(self, data: LabelledImageData, outputs: int) -> nn.Module:
        """See `Recognizer.network`."""
        if self.network_kind == "lenet":
            return LeNet(data.shape, outputs)
        stages = self.stages or fitting_stages(data.shape)
        if self.network_kind == "whitened":
            images = (
                scaled(data.pixels("train")[: sampled(data.shape)]) if data.size("train") else None
            )
            return WhitenedNet(
                data.shape,
                outputs,
                width=self.width,
                stages=stages,
                images=images,
                dropout=self.dropout,
            )
        return ConvNet(
            data.shape,
            outputs,
            width=self.width,
            stages=stages,
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
