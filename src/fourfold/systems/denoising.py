"""Denoising autoencoder: Vincent et al. 2008 and 2010.

    fourfold fit denoising photos/ --noise gaussian --deviation 0.4
    fourfold convert runs/denoising-1 noisy/ --out clean/
    fourfold fit denoising mnist --noise masking --latents 64 --out runs/dae
    fourfold fit softmax few-labels.csv --features runs/dae --target digit

Images are spoiled anew each time by normal noise, masked pixels, or salt and pepper; the loss asks for the images before.
Without a source, the embedded 8 x 8 digits.

Result: held-out 8 x 8 digits under normal noise go from 14.2 to 18.2 dB (dense, 16 latents, 1,500 steps, 3 seconds of
processor time): `python -m benchmarks.latent digits`, benchmarks/results/latent.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from fourfold.core.device import seeded
from fourfold.core.evaluation import held_out
from fourfold.core.parts import Data
from fourfold.core.run import Run
from fourfold.core.system import system
from fourfold.core.types import Picture, Rows, Score, Source
from fourfold.data.changed_images import ChangedImages
from fourfold.data.images import ImageData
from fourfold.look.figures import grid
from fourfold.models.autoencoder import Autoencoder
from fourfold.objectives.reconstruction import Denoising
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.image_latents import (
    PIECE,
    ImageLatents,
    codes_of,
    decoded,
    images_of,
    pixels_of,
)
from fourfold.tasks.image_out import images_out


@system("denoising", reads="images")
class DenoisingSystem(ImageLatents):
    """Images out of their spoiled copies; what that takes serves as features."""

    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "demo": {},
        "small": {"latents": 128, "width": 64, "hidden": (512,)},
    }

    latents: int = 64
    """Numbers that an image becomes."""
    objective: Denoising = Denoising()
    optimizer: Gradient = Gradient(lr=2e-3, steps=2000, warmup=0.02)

    def build(self, data: Data) -> Autoencoder:
        """Encoder and decoder for images of this shape.

        Raises:
            UserError: the images are smaller than the network's stride.
        """
        return Autoencoder(*self._networks(data, self.latents))

    def convert(self, run: Run, source: Source, *, out: Path | None = None) -> Picture | Path:
        """Noisy images without their noise: a sheet, or one file each where --out is a folder.

        Args:
            source: images that are noisy already.
            out: a picture's name, or a folder.
        """
        data = images_of(run.data.reopen(source, seed=run.seed, whole=True))
        return images_out(decoded(run, codes_of(run, data, "test")), "Without noise", out)

    def evaluate(self, run: Run, source: Source = None, *, factors: Rows = None) -> Score:
        """Error of images that were spoiled, before and after, and of clean ones; with known factors as `vae` has it.

        Args:
            source: clean images; None takes the run's own test split.
            factors: a table with a row for each image of the source and a column for each factor.
        """
        score = super().evaluate(run, source, factors=factors)
        data, split, _ = held_out(run, source)
        before, after = _decibels(run, images_of(data), split)
        values = {"denoised_psnr": after, "noisy_psnr": before, "gain": after - before}
        named = {n: "dB" for n in values}
        return Score({**values, **score.values}, {**named, **score.units}, score.notes)

    def preview(self, run: Run) -> Picture:
        """Images, below them as they were spoiled, below that what comes back."""
        return grid(_rows(run, 8), "Denoised", rows=3)

    def pictures(self, run: Run) -> Iterator[Picture]:
        """Denoised images, and what every autoencoder shows."""
        caption = (
            "Above: held-out images. Then: spoiled. Below: what comes back of the spoiled ones."
        )
        yield grid(_rows(run, 10), "Denoised", rows=3, caption=caption)
        yield from super().pictures(run)

    @classmethod
    def toy(cls) -> tuple[DenoisingSystem, Any]:
        """Small networks on the embedded digits."""
        return cls(
            data=ChangedImages(batch=32), latents=4, width=4, hidden=(16,), optimizer=Gradient(lr=3e-3, steps=12)
        ), None  # fmt: skip


def _spoiled(run: Run, pixels: Tensor) -> Tensor:
    """Images (N, C, H, W) uint8 as they are spoiled, in [-1, 1] and beyond; the same each time."""
    objective: Any = run.objective
    with seeded(run.seed, torch.device("cpu")):
        spoiled: Tensor = objective.given(pixels.float().mul(2 / 255).sub(1))
    return spoiled


def _restored(run: Run, spoiled: Tensor) -> Tensor:
    """What comes back, in [0, 1], on the CPU."""
    model: Any = run.model
    with torch.no_grad():
        codes = torch.cat([model.encode(p.to(run.device)).float().cpu() for p in spoiled.split(PIECE)])  # fmt: skip
    return decoded(run, codes)


def _decibels(run: Run, data: ImageData, split: Any) -> tuple[float, float]:
    """Peak signal to noise ratio of spoiled images, kept within black and white, and of what comes back of them."""
    pixels = data.pixels(split)
    spoiled = _spoiled(run, pixels)
    clean = pixels.float() / 255
    errors = [(made - clean).square().mean() for made in (spoiled.clamp(-1, 1).add(1).div(2), _restored(run, spoiled))]  # fmt: skip
    before, after = (float(-10 * e.clamp_min(1e-12).log10()) for e in errors)
    return before, after


def _rows(run: Run, columns: int) -> Tensor:
    data, split, _ = held_out(run)
    pixels = pixels_of(images_of(data), split, columns)
    spoiled = _spoiled(run, pixels)
    return torch.cat([pixels.float() / 255, spoiled.add(1).div(2).clamp(0, 1), _restored(run, spoiled)])  # fmt: skip
