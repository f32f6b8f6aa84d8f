"""The verbs of systems whose latents have a normal posterior: samples, bounds, how much each latent says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from fourfold.core.device import seeded
from fourfold.core.evaluation import held_out, to_device
from fourfold.core.parts import Data
from fourfold.core.run import Run
from fourfold.core.types import Picture, Rows, Score, Source, Table
from fourfold.data.images import ImageData
from fourfold.look.figures import grid
from fourfold.models.variational import LatentDiscriminator, Variational, Watched
from fourfold.objectives.disentanglement import MEASURES
from fourfold.objectives.elbo import Bound, Factor, bound_of_images
from fourfold.objectives.pixels import Bernoulli, Gaussian
from fourfold.objectives.posterior import active_units, gaussian_kl
from fourfold.tasks.image_latents import (
    PIECE,
    ImageLatents,
    codes_of,
    decoded,
    evenly,
    images_of,
)
from fourfold.tasks.latent_pictures import kl_bars

BOUNDED = 1000
"""Images at most that the importance-weighted bound is computed of."""


class VariationalLatents(ImageLatents):
    """A system whose latents are drawn from a normal posterior, under a standard normal prior."""

    def build(self, data: Data) -> Variational | Watched:
        """Encoder of posteriors and decoder for images of this shape; against a factor objective, their discriminator.

        Raises:
            UserError: the images are smaller than the network's stride.
        """
        likelihood = cast(Bound, self.objective).likelihood
        fixed = isinstance(likelihood, Gaussian) and likelihood.scale is not None
        scales = images_of(data).shape[0] if likelihood.learns_scale and not fixed else 0
        model = Variational(*self._networks(data, 2 * self.latents), scales)
        if isinstance(self.objective, Factor):
            return Watched(model, LatentDiscriminator(self.latents))
        return model

    def _shown(self, run: Run, output: Tensor) -> Tensor:
        return cast(Bound, run.objective).likelihood.mean(output)

    def _seen(self, run: Run, images: Tensor) -> Tensor:
        return cast(Bound, run.objective).likelihood.expected(images)

    def _spread(self, run: Run, codes: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(codes[0]), torch.ones_like(codes[0])

    def _order(self, run: Run, data: ImageData, split: Any) -> Tensor:
        return kl_of(run, data, split).argsort(descending=True)

    def sample(self, run: Run, *, count: PositiveInt = 64, seed: int | None = None) -> Picture:
        """New images, as a grid: latents drawn from the prior, decoded.

        Args:
            count: how many.
            seed: the same seed gives the same images; None gives others each time.
        """
        generator = torch.Generator()
        number = generator.seed() if seed is None else generator.manual_seed(seed).initial_seed()
        images = decoded(run, torch.randn(count, self.latents, generator=generator))
        return grid(images, "Samples", caption=f"{count} samples, seed {number}")

    def evaluate(
        self,
        run: Run,
        source: Source = None,
        *,
        factors: Rows = None,
        draws: NonNegativeInt = 64,
    ) -> Score:
        """Reconstruction, the bound and its parts, bits of a pixel's channel; with known factors MIG, DCI, SAP, FactorVAE score.

        Args:
            source: images; None takes the run's own test split.
            factors: a table with a row for each image of the source and a column for each factor; of shapes and
                dsprites they are known. They are measured on all of the source's images.
            draws: of each image's latents, for the importance-weighted bound; 0 leaves it out.
        """
        score = super().evaluate(run, source, factors=factors)
        data, split, _ = held_out(run, source)
        images = images_of(data)
        values, units, notes = dict(score.values), dict(score.units), list(score.notes)
        if draws:
            bound, count = _bound(run, images, split, draws)
            values["importance_bound"] = bound
            values["bits_per_dim_importance"] = bound / (math.log(2) * math.prod(images.shape))
            units |= {"importance_bound": f"nats per image ({draws} draws)", "bits_per_dim_importance": f"bits ({draws} draws)"}  # fmt: skip
            if count < images.size(split):
                notes.append(
                    f"the importance-weighted bound is of {count:,} of them, spread evenly"
                )
        kl = kl_of(run, images, split)
        means = codes_of(run, images, split)
        values["active_units"] = float(active_units(means).sum()) if len(means) > 1 else 0.0
        units["active_units"] = f"of {self.latents}"
        told = ", ".join(f"{k:.2f}" for k in sorted(kl.tolist(), reverse=True))
        notes.append(f"KL of each latent, nats, largest first: {told}")
        likelihood = cast(Bound, run.objective).likelihood
        if isinstance(likelihood, Bernoulli):
            notes.append(
                "bits_per_dim is of black and white, not of 256 values"
                + (
                    ", grey values being probabilities of white"
                    if likelihood.binarize == "none"
                    else ""
                )
            )
        elif isinstance(likelihood, Gaussian):
            notes.append(
                "bits_per_dim is of 256 values, importance_bound too; elbo is of a density of values in [-1, 1]"
            )
        # what the factors tell comes last
        last: dict[str, float] = {n: values.pop(n) for n in MEASURES if n in values}
        return Score({**values, **last}, units, tuple(notes))

    def pictures(self, run: Run) -> Iterator[Picture]:
        """What every autoencoder shows, samples, and how much each latent says."""
        yield from super().pictures(run)
        images = decoded(run, torch.randn(64, self.latents, generator=run.generator("report")))
        yield grid(images, "Samples", caption="64 samples from the prior, not chosen.")
        data, split, _ = held_out(run)
        yield kl_bars(kl_of(run, images_of(data), split).tolist())

    def tables(self, run: Run) -> Iterator[Table]:
        """The measures of `evaluate`, and how much each latent says."""
        yield from super().tables(run)
        data, split, _ = held_out(run)
        kl = kl_of(run, images_of(data), split)
        rows = tuple((int(i), f"{float(kl[i]):.4f}") for i in kl.argsort(descending=True)[:50])
        yield Table(
            "KL by latent", ("latent", "nats"), rows, "Means over held-out images, largest first."
        )


def kl_of(run: Run, data: ImageData, split: Any) -> Tensor:
    """Mean KL of each latent from the prior, (Z,), nats, on the CPU."""
    model: Any = run.model
    likelihood = cast(Bound, run.objective).likelihood
    total, count = torch.zeros(()), 0
    with torch.no_grad(), seeded(run.seed, run.device):
        for batch in data.batches(split):
            images = likelihood.observed(to_device(batch, run.device)["image"])
            kl = gaussian_kl(*model.posterior(images))
            total, count = total + kl.sum(0).double().cpu(), count + len(kl)
    return total / count


def _bound(run: Run, data: ImageData, split: Any, draws: int) -> tuple[float, int]:
    """Mean importance-weighted bound of images spread over the split, nats, and of how many."""
    generator = run.generator("bound")
    places = evenly(data, split, BOUNDED)
    total = 0.0
    with torch.no_grad(), seeded(run.seed, run.device):
        for begin in range(0, len(places), PIECE):
            batch = to_device(data.take(split, places[begin : begin + PIECE], None), run.device)
            found = bound_of_images(cast(Bound, run.objective), run.model, batch, draws, generator)
            total += float(found.sum())
    return total / len(places), len(places)
