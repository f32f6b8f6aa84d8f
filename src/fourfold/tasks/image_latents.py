"""The verbs of systems that take images through a vector of latents: encode, decode, traverse, and what evaluate adds.

A system says how what its decoder gives is shown, and how far a latent is moved. Shapes: N images, Z latents, C channels,
H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out, measure
from fourfold.core.parts import Data
from fourfold.core.run import Run
from fourfold.core.types import Picture, Rows, Score, Source, Table
from fourfold.data.changed_images import ChangedImages
from fourfold.data.images import ImageData
from fourfold.look.figures import grid
from fourfold.models.autoencoder import Decoder, Encoder, Network
from fourfold.tasks.factors import factor_measures
from fourfold.tasks.image_out import images_out
from fourfold.tasks.latent_pictures import between, latent_map
from fourfold.tasks.latent_tables import latent_table, read_latents
from fourfold.tasks.looking import Looking

if TYPE_CHECKING:
    import polars as pl

PIECE = 256
"""Images encoded or decoded at once."""
MAPPED = 400
"""Images on a map of latents."""


class ImageLatents(Looking):
    """A system whose runs hold images as vectors of latents."""

    data: ChangedImages = ChangedImages(batch=128)
    network: Network = "convolutional"
    """dense sees pixels as so many numbers; convolutional halves the image stage by stage."""
    latents: PositiveInt = 16
    """Numbers that an image becomes."""
    width: PositiveInt = 32
    """Features after the first stage, of a convolutional network; up to 4 times as many after later ones."""
    hidden: tuple[PositiveInt, ...] = (256,)
    """Sizes of dense layers between image, or last stage, and latents; none (--hidden "") makes a dense network linear."""
    stages: Annotated[int, Ge(0)] | None = None
    """How often a convolutional network halves the image; None until its smaller side is at most 4 pixels."""

    def _networks(self, data: Data, outputs: int) -> tuple[Encoder, Decoder]:
        """Encoder to so many numbers and decoder from the latents, for images of this shape."""
        shape = images_of(data).shape
        how: Any = {"network": self.network, "width": self.width, "hidden": self.hidden, "stages": self.stages}  # fmt: skip
        try:
            return Encoder(shape, outputs, **how), Decoder(self.latents, shape, **how)
        except ValueError as error:
            raise UserError(
                f"--stages {self.stages}: {error}; or --data.size scales them"
            ) from error

    def _shown(self, run: Run, output: Tensor) -> Tensor:
        """What the decoder gives as images in [-1, 1]."""
        return output.clamp(-1, 1)

    def _seen(self, run: Run, images: Tensor) -> Tensor:
        """What the encoder is given of images (B, C, H, W) in [-1, 1]."""
        return images

    def _spread(self, run: Run, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Where traversals of each latent go from and how far, (Z,) each, given codes (N, Z) of held-out images."""
        return codes.mean(0), codes.std(0) if len(codes) > 1 else torch.ones_like(codes[0])

    def _order(self, run: Run, data: ImageData, split: Any) -> Tensor:
        """Latents, those that say most first, (Z,) int64."""
        return codes_of(run, data, split).var(0, correction=0).argsort(descending=True)

    def encode(self, run: Run, source: Source = None) -> pl.DataFrame:
        """The latents of images, a row each, with its file, or place in an array, and its label where there is one.

        Args:
            source: images; None takes the run's held-out ones.
        """
        data, split, _ = held_out(run, source)
        images = images_of(data)
        for sentence in data.summary().get("notes", ()) if source is not None else ():
            run.console.say(sentence)
        labels = [images.classes[i] for i in images.labels(split).tolist()]
        codes = codes_of(run, images, split).numpy()
        return latent_table(codes, "z", labels or None, images.names[split])

    def decode(self, run: Run, source: Rows, *, out: Path | None = None) -> Picture | Path:
        """Images of latents: a sheet, or one file each where --out is a folder.

        Args:
            source: a table that `encode` made, or an array (N, Z).
            out: a picture's name, or a folder.
        """
        found = read_latents(source, "z", self.latents, "latents")
        return images_out(decoded(run, torch.from_numpy(found.astype(np.float32))), "Decoded", out)

    def traverse(
        self,
        run: Run,
        source: Source = None,
        *,
        steps: Annotated[int, Ge(2)] = 9,
        span: PositiveFloat = 3.0,
        rows: PositiveInt = 10,
        image: NonNegativeInt = 0,
    ) -> Picture:
        """One latent after the other moved through its range, the others as an image has them; a row each.

        Args:
            source: images to begin from; None takes the run's held-out ones.
            steps: images in a row.
            span: how far to each side, in standard deviations.
            rows: latents, those that say most first.
            image: which image of the source.
        """
        data, split, _ = held_out(run, source)
        images = images_of(data)
        if image >= images.size(split):
            raise UserError(
                f"--image {image}: expected below {images.size(split)}, as so many images there are"
            )
        codes = codes_of(run, images, split)
        order = self._order(run, images, split)[:rows]
        centre, far = self._spread(run, codes)
        moved = codes[image].repeat(len(order), steps, 1)  # (rows, steps, Z)
        for row, latent in zip(moved, order.tolist(), strict=True):
            reach = span * far[latent]
            row[:, latent] = torch.linspace(float(centre[latent] - reach), float(centre[latent] + reach), steps)  # fmt: skip
        made = decoded(run, moved.flatten(0, 1))
        named = ", ".join(str(i) for i in order.tolist())
        caption = f"Rows, from above: latents {named}, from {span:g} deviations below to {span:g} above; the others stay."  # fmt: skip
        return grid(made, "Traversal", columns=steps, caption=caption)

    def evaluate(self, run: Run, source: Source = None, *, factors: Rows = None) -> Score:
        """Reconstruction of held-out images; with known factors, how well latents tell them apart.

        Args:
            source: images; None takes the run's own test split.
            factors: a table with a row for each image of the source and a column for each factor; of shapes and
                dsprites they are known. They are measured on all of the source's images.
        """
        data, split, sentence = held_out(run, source)
        values = measure(run.objective, run.model, data, split, run.device, run.seed)
        values = {**_quality(self, run, images_of(data), split), **values}
        told, notes = factor_measures(run, source, factors, codes_of)
        count = f"{data.size(split):,} images {sentence}"
        units = {"psnr": "dB", **run.objective.units()}
        return Score({**values, **told}, units, (count, *notes))

    def preview(self, run: Run) -> Picture:
        """Images above what comes back of them."""
        return grid(pairs(run, 8), "Reconstructions", rows=2)

    def pictures(self, run: Run) -> Iterator[Picture]:
        """Reconstructions, traversals, ways between images, and maps of the latents."""
        caption = "Above: held-out images. Below each: what its latents say."
        yield grid(pairs(run, 10), "Reconstructions", rows=2, caption=caption)
        yield self.traverse(run)
        data, split, _ = held_out(run)
        images = images_of(data)
        codes = codes_of(run, images, split, MAPPED)
        if len(codes) > 1:
            caption = (
                "Each row leads from one held-out image to another, straight through the latents."
            )
            yield grid(decoded(run, between(codes)), "Between images", columns=10, caption=caption)
        if len(codes) >= 3:
            labels = labels_of(images, split, MAPPED)
            yield latent_map(codes.numpy(), labels, images.classes, "pca")
            yield latent_map(codes.numpy(), labels, images.classes, "tsne")

    def tables(self, run: Run) -> Iterator[Table]:
        """The measures of `evaluate`."""
        score = self.evaluate(run)
        rows = tuple(
            (n.replace("_", " "), f"{v:.4f} {score.units.get(n, '')}".strip())
            for n, v in score.values.items()
        )
        yield Table("Held-out images", ("measure", "value"), rows, "; ".join(score.notes) + ".")


def images_of(data: Data) -> ImageData:
    """The same data, known to be images."""
    if not isinstance(data, ImageData):
        raise TypeError(f"expected ImageData, got {type(data).__name__}")
    return data


def evenly(data: ImageData, split: Any, most: int | None) -> np.ndarray:
    """Places of at most so many images of a split, spread over it, (N,): it may hold one class after the other."""
    count = data.size(split)
    return np.linspace(0, count - 1, min(count, most or count)).astype(np.int64)


def pixels_of(data: ImageData, split: Any, most: int | None = None) -> Tensor:
    """Those images, (N, C, H, W) uint8."""
    return data.some(split, evenly(data, split, most))[0]


def codes_of(run: Run, data: ImageData, split: Any, most: int | None = None) -> Tensor:
    """Their latents (N, Z) float32, on the CPU."""
    model: Any = run.model
    system: Any = run.system
    found: list[Tensor] = []
    with torch.no_grad():
        for piece in pixels_of(data, split, most).split(PIECE):
            images = piece.to(run.device).float().mul_(2 / 255).sub_(1)
            found.append(model.encode(system._seen(run, images)).float().cpu())
    return torch.cat(found)


def decoded(run: Run, codes: Tensor) -> Tensor:
    """Images in [0, 1] of latents (N, Z), on the CPU."""
    model: Any = run.model
    system: Any = run.system
    with torch.no_grad():
        made = [system._shown(run, model.decode(piece.to(run.device)).float()).cpu() for piece in codes.split(PIECE)]  # fmt: skip
    return torch.cat(made).add(1).div(2).clamp(0, 1)


def pairs(run: Run, columns: int) -> Tensor:
    """Some held-out images, and after them what comes back of each, in [0, 1]."""
    data, split, _ = held_out(run)
    images = images_of(data)
    codes = codes_of(run, images, split, columns)
    return torch.cat([pixels_of(images, split, columns).float().div(255), decoded(run, codes)])


def labels_of(data: ImageData, split: Any, most: int) -> list[int] | None:
    """Numbers of the classes of those images; None where there are none."""
    labels = data.some(split, evenly(data, split, most))[1]
    return None if labels is None else labels.tolist()


def _quality(system: ImageLatents, run: Run, data: ImageData, split: Any) -> dict[str, float]:
    """Peak signal to noise ratio over all pixels, dB, of 8-bit images."""
    total, count = 0.0, 0
    pixels = data.pixels(split)
    codes = codes_of(run, data, split)
    for images, some in zip(pixels.split(PIECE), codes.split(PIECE), strict=True):
        difference = decoded(run, some) - images.float() / 255
        total += float(difference.double().square().sum())
        count += difference.numel()
    return {"psnr": float(-10 * np.log10(max(total / count, 1e-12)))}
