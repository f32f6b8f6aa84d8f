"""Residual network: He, Zhang, Ren and Sun 2016, https://arxiv.org/abs/1512.03385; WaveMix: Jeevan et al. 2022.

    fourfold fit resnet cifar10 cifar10-test --depth 20
    fourfold fit resnet few/ --from runs/simclr-1    # of simclr --encoder resnet
    fourfold fit resnet photos/ --block wavemix
    fourfold fit cnn photos/ --teacher runs/resnet-1

Result: accuracy 0.989 on the 180 validation images of the embedded 8 x 8 digits (seed 0): fourfold fit resnet --epochs 4.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import PositiveInt, model_validator
from torch import nn

from fourfold.core.system import system
from fourfold.data.augmentation import Unchanged
from fourfold.data.labelled_images import LabelledImageData, LabelledImages
from fourfold.models.cnn import Norm
from fourfold.models.resnet import BLOCKS, ResNet, Shortcut
from fourfold.models.wavemix import WaveMix
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.recognition import Recognizer


@system("resnet", reads="images")
class ResidualNetwork(Recognizer):
    """Tell the class of an image by a deep network whose blocks add to their input."""

    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {"depth": 8},
        "medium": {"depth": 20},
        "large": {"depth": 56},
    }
    exempt: ClassVar[dict[str, str]] = {
        "accumulation": "batch normalization takes its moments over each micro-batch"
    }
    begins_from: ClassVar[str] = "mae or simclr with --encoder resnet, or of resnet"
    search_space: ClassVar[dict[str, str]] = {
        "optimizer.lr": "1e-3..1e-1:log",
        "depth": "8,14,20",
        "norm": "batch,layer,group",
    }

    block: Literal["residual", "wavemix"] = "residual"
    """residual: blocks of convolutions; wavemix: blocks that mix places by a wavelet transform."""
    depth: PositiveInt = 14
    """Layers: 6n + 2 (8, 14, 20, 32, 44, 56) in three stages for small images; 18, 34 or 50 in four stages. Of wavemix:
    its number of blocks."""
    width: PositiveInt | None = None
    """Channels of the first stage; None means 16 for depths 6n + 2 and 64 for the others and for wavemix."""
    norm: Norm = "batch"
    """Normalization after each convolution of residual blocks; those of wavemix are always normalized over the batch."""
    shortcut: Shortcut = "projection"
    """Round a block whose shape changes: a 1 x 1 convolution, the input padded with zeros (identity), or, round all
    blocks, none: a plain network."""
    optimizer: Gradient = Gradient(
        algorithm="sgd",
        arguments={"momentum": 0.9, "nesterov": True},
        lr=0.05,
        epochs=20,
        decay=5e-3,
        warmup=0.1,
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.block == "wavemix":
            if given := self.altered(("norm", "shortcut")):
                raise ValueError(f"{given[0]} is of residual blocks; wavemix has no such option")
            if self.width and self.width % 4:
                raise ValueError(f"width {self.width}: wavemix expects a multiple of 4")
        elif self.depth not in BLOCKS and (self.depth < 8 or self.depth % 6 != 2):
            others = ", ".join(map(str, BLOCKS))
            raise ValueError(
                f"depth {self.depth}: expected 6n + 2 (8, 14, 20, ...) or one of {others}"
            )
        return self

    def network(self, data: LabelledImageData, outputs: int) -> nn.Module:
        """See `Recognizer.network`."""
        if self.block == "wavemix":
            if (smaller := min(data.shape[1:])) < 2:
                raise ValueError(f"images of {smaller} pixels have no wavelet transform")
            return WaveMix(data.shape[0], outputs, width=self.width or 64, blocks=self.depth)
        return ResNet.suited(
            data.shape,
            outputs,
            self.depth,
            width=self.width,
            norm=self.norm,
            shortcut=self.shortcut,
        )

    @classmethod
    def toy(cls) -> tuple[Self, Any]:
        """The smallest one, narrow, on the embedded digits."""
        options = cls(
            data=LabelledImages(batch=32, augment=Unchanged()),
            depth=8,
            width=4,
            optimizer=Gradient(lr=1e-2, steps=12),
        )
        return options, None
