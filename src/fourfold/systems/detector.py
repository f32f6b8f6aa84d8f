"""Object detector without anchors, FCOS: Tian et al. 2019, https://arxiv.org/abs/1904.01355.

    fourfold fit detector boxes/            # VOC, COCO or YOLO annotations
    fourfold detect runs/detector-1 street.jpg --out boxes.png
    fourfold evaluate runs/detector-1 more/

Focal loss: Lin et al. 2017; GIoU: Rezatofighi et al. 2019. Digits of several sizes laid on a canvas when nothing is
given; `bccd` from the catalog has photographs of blood with boxes of its cells.

Result: mAP@0.5 of 0.859 on BCCD's 72 test photographs after 41 minutes (963 steps; 0.823 after 22) on one busy core of
an EPYC, from drawn weights, seed 0: benchmarks/results/detection.json.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import NonNegativeInt, PositiveInt

from fourfold.core.parts import Data
from fourfold.core.system import system
from fourfold.data.box_augment import BoxAugment
from fourfold.data.boxes import BoxData, Boxes
from fourfold.models.detector import Detector as Network
from fourfold.objectives.detection import Detection
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.detecting import Detecting

SMALL = 160
"""Pixels of a canvas's longer side up to which the finest level has a stride of 4."""


@system("detector", reads="boxes")
class Detector(Detecting):
    """Find and name things in images, learned from boxes."""

    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "demo": {},
        "small": {"width": 32, "blocks": 2, "features": 96},
        "base": {"width": 64, "blocks": 2, "features": 128, "convolutions": 3, "data.size": 512},
    }

    data: Boxes = Boxes()
    width: PositiveInt = 32
    """Channels of the backbone's first stage; the next have 2, 4 and 8 times as many."""
    blocks: PositiveInt = 1
    """Residual blocks of each stage."""
    features: PositiveInt = 64
    """Channels of the feature pyramid and the head."""
    convolutions: NonNegativeInt = 2
    """Convolutions of each of the head's two towers."""
    finest: Literal[4, 8] | None = None
    """Stride of the finest level in pixels; None means 8, or 4 for canvases up to 160 pixels."""
    objective: Detection = Detection()
    optimizer: Gradient = Gradient(lr=2e-3, decay=0.05, clip=5.0, steps=2000, warmup=0.05, ema=0.99)

    def build(self, data: Data) -> Network:
        """A detector for this canvas and these classes."""
        if not isinstance(data, BoxData):
            raise TypeError(f"detector expects BoxData, got {type(data).__name__}")
        finest = self.finest or (4 if max(data.shape[1:]) <= SMALL else 8)
        classes = len(data.classes)
        sizes = self.width, self.blocks, self.features, self.convolutions, finest
        return Network(data.shape, classes, *sizes)

    @classmethod
    def toy(cls) -> tuple[Detector, Any]:
        """A small network on the embedded digits."""
        return cls(
            data=Boxes(size=64, batch=32, augment=BoxAugment(scale=0.1)),
            width=8,
            features=8,
            convolutions=1,
            optimizer=Gradient(lr=2e-3, steps=6),
        ), None
