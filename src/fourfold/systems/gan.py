"""Generative adversarial network: Goodfellow et al. 2014; networks of DCGAN: Radford et al. 2016.

    fourfold fit gan
    fourfold fit gan faces/ --data.size 64 --objective hinge --minutes 30
    fourfold sample runs/gan-1 --count 64 --out grid.png

Objectives: non-saturating (Goodfellow et al. 2014), hinge (Lim and Ye 2017), wasserstein-gp
(Gulrajani et al. 2017). Samples are judged by a classifier two-sample test (Lopez-Paz and Oquab 2017)
and a kernel two-sample statistic (Gretton et al. 2012). Any other two modules play the same game:
`Players(generator, discriminator, noise_size)` with these objectives and `Gradient`.

Result: a classifier tells samples from held-out 8 x 8 digits with accuracy 0.66, 0.5 being chance (seed 0,
6,000 steps, 149 seconds beside another job on 2 cores of an EPYC): benchmarks/results/gan.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out
from fourfold.core.parts import Data
from fourfold.core.run import Run
from fourfold.core.system import system
from fourfold.core.types import Picture, Score, Source, Table
from fourfold.data.images import ImageData, Images
from fourfold.look.figures import grid
from fourfold.models.dcgan import Discriminator, Generator, Players
from fourfold.objectives.adversarial import Hinge, NonSaturating, WassersteinGP
from fourfold.objectives.two_sample import classifier_two_sample, mmd2
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.looking import Looking

Game = Annotated[NonSaturating | Hinge | WassersteinGP, Field(discriminator="kind")]

MOST = 2000  # images of each kind in a two-sample test
PIECE = 256  # images generated at once


@system("gan", reads="images")
class GAN(Looking):
    """Learn to make images like the given ones: a generator against a discriminator."""

    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "demo": {},
        "small": {"width": 64, "noise_size": 100},
        "base": {"width": 128, "noise_size": 128},
    }
    exempt: ClassVar[dict[str, str]] = {
        "accumulation": "the generator's batch normalization takes its moments over each micro-batch"
    }

    data: Images = Images(split=(0.7, 0.1, 0.2))
    noise: Literal["normal", "uniform"] = "normal"
    """Distribution of the noise that a sample starts from; uniform is over [-1, 1]."""
    noise_size: PositiveInt = 64
    """Numbers of noise for each sample."""
    width: PositiveInt = 32
    """Channels of the stage nearest to the image, in both networks; deeper ones have up to 8 times as many."""
    norm: Literal["spectral", "none"] = "none"
    """Normalization of the discriminator's weights; wasserstein-gp needs none."""
    objective: Game = NonSaturating()
    """What the players want."""
    optimizer: Gradient = Gradient(
        algorithm="adam", lr=1e-3, arguments={"betas": [0.5, 0.999]}, steps=6000, ema=0.999
    )

    def build(self, data: Data) -> Players:
        """Generator and discriminator for images of this shape.

        Raises:
            UserError: the images are smaller than 8 or larger than 256 pixels.
        """
        if not isinstance(data, ImageData):
            raise TypeError(f"gan expects ImageData, got {type(data).__name__}")
        try:
            generator = Generator(data.shape, self.noise_size, self.width)
            discriminator = Discriminator(data.shape, self.width, self.norm)
        except ValueError as error:
            raise UserError(f"{error}; --data.size scales them") from error
        return Players(generator, discriminator, (self.noise_size,), self.noise)

    def sample(self, run: Run, *, count: int = 64, seed: int | None = None) -> Picture:
        """New images, as a grid.

        Args:
            count: how many.
            seed: the same seed gives the same images; None gives others each time.
        """
        if count < 1:
            raise UserError(f"--count: expected at least 1, got {count}")
        generator = torch.Generator()
        number = generator.seed() if seed is None else generator.manual_seed(seed).initial_seed()
        return grid(
            _generate(run, count, generator), "Samples", caption=f"{count} samples, seed {number}"
        )

    def evaluate(self, run: Run, source: Source = None) -> Score:
        """Can a classifier tell samples from held-out images? 0.5 is chance: the best that can be."""
        data, split, sentence = held_out(run, source)
        values, notes = _judge(run, data, split)
        return Score(
            values, {"two_sample_accuracy": "(0.5 is best)"}, (*notes, f"measured {sentence}")
        )

    def preview(self, run: Run) -> Picture:
        """The same noise each time, so that one sees the samples change."""
        return grid(_generate(run, 36, run.generator("preview")), "Samples")

    def pictures(self, run: Run) -> Iterator[Picture]:
        """Samples, their nearest training images, and ways through the noise."""
        images = _generate(run, 64, run.generator("report"))
        yield grid(images, "Samples", caption="64 samples, not chosen.")
        data = run.examples()
        if isinstance(data, ImageData):
            yield _neighbours(images[:10], data)
        yield _paths(run, self.noise)

    def tables(self, run: Run) -> Iterator[Table]:
        """The two-sample test on the held-out split."""
        data, split, sentence = held_out(run)
        values, notes = _judge(run, data, split)
        rows = tuple((name.replace("_", " "), f"{value:.4f}") for name, value in values.items())
        yield Table(
            "Two-sample test",
            ("measure", "value"),
            rows,
            f"{'; '.join(notes)}; measured {sentence}.",
        )

    @classmethod
    def toy(cls) -> tuple[GAN, Any]:
        """Small players on the embedded digits."""
        return cls(
            data=Images(batch=32),
            noise_size=8,
            width=8,
            optimizer=Gradient(
                algorithm="adam", lr=1e-3, arguments={"betas": [0.5, 0.999]}, steps=12
            ),
        ), None


def _generate(run: Run, count: int, seed: torch.Generator) -> Tensor:
    """Samples, (count, C, H, W) in [0, 1], on the CPU."""
    players: Any = run.model
    noise = players.draw(count, seed=seed)
    with torch.no_grad():
        pieces = [players.generator(piece).float().cpu() for piece in noise.split(PIECE)]
    return torch.cat(pieces).add(1).div(2)


def _judge(run: Run, data: Data, split: Any) -> tuple[dict[str, float], tuple[str, ...]]:
    """Both two-sample statistics of as many samples as there are held-out images."""
    if not isinstance(data, ImageData):
        raise TypeError(f"gan expects ImageData, got {type(data).__name__}")
    real = data.pixels(split)
    if len(real) < 8:
        raise UserError(f"a two-sample test needs at least 8 held-out images, got {len(real)}")
    chosen = torch.randperm(len(real), generator=run.generator("judge"))[:MOST]
    real = real[chosen]
    fake = (
        _generate(run, len(real), run.generator("judge", 1)).mul(255).round()
    )  # 8 bits, as the real ones
    result = classifier_two_sample(real.float() / 255, fake / 255, seed=run.seed)
    values = {
        "two_sample_accuracy": result.accuracy,
        "interval_low": result.low,
        "interval_high": result.high,
        "mmd": float(mmd2(real.float() / 127.5 - 1, fake / 127.5 - 1)),
    }
    note = (
        f"a classifier trained on {len(real) * 2 - result.tested:,} images told samples from real ones on "
        f"{result.tested:,} others; 0.5 is chance, 1 is always; 95% interval"
    )
    return values, (note,)


def _neighbours(images: Tensor, data: ImageData) -> Picture:
    """Samples above the training images nearest to them: copies would show a memorized set."""
    train = data.pixels("train").float().div(255)
    own = _nearest(images, train)
    held = data.pixels("test") if data.size("test") else data.pixels("valid")
    usual = _nearest(held[:200].float().div(255), train)[1].median() if len(held) else None
    caption = (
        "Above: samples. Below each: the training image nearest to it. Median distance "
        f"{own[1].median():.3f} (root mean square of the pixels' differences, white is 1)"
    )
    if usual is not None:
        caption += f"; held-out images lie at {usual:.3f} from theirs, copies would lie at 0"
    both = torch.cat([images, train[own[0]]])
    return grid(both, "Nearest training images", columns=len(images), caption=caption + ".")


def _nearest(images: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Number and root-mean-square distance of the nearest of the others."""
    size = images[0].numel()
    rows = [
        torch.cdist(piece.flatten(1), others.flatten(1)).min(dim=1) for piece in images.split(64)
    ]
    found = torch.cat([row.indices for row in rows]), torch.cat([row.values for row in rows])
    return found[0], found[1] / size**0.5


def _paths(run: Run, noise: str, rows: int = 5, steps: int = 10) -> Picture:
    """Each row goes from one point of noise to another."""
    players: Any = run.model
    start, end = players.draw(2 * rows, seed=run.generator("paths")).chunk(2)
    share = torch.linspace(0, 1, steps, device=start.device)[None, :, None]  # (1, steps, 1)
    if noise == "normal":  # keeps the length that noise has, where a straight line would not
        between = (
            torch.cos(share * torch.pi / 2) * start[:, None]
            + torch.sin(share * torch.pi / 2) * end[:, None]
        )
    else:
        between = start[:, None] + share * (end - start)[:, None]
    with torch.no_grad():
        images = players.generator(between.flatten(0, 1)).float().cpu()
    caption = "Each row leads from one sample to another through the noise between them."
    return grid(images.add(1).div(2), "Ways through the noise", columns=steps, caption=caption)
