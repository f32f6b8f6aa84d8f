"""Images as grids of codes: VQ-VAE, van den Oord et al. 2017; residual levels: Zeghidour et al. 2021.

    fourfold fit vqvae
    fourfold fit vqvae photos/ --data.size 64 --levels 4 --codes 512 --prior false --minutes 30
    fourfold encode runs/vqvae-1 photos/ --out codes.parquet ; fourfold decode runs/vqvae-1 codes.parquet --out back/
    fourfold sample runs/vqvae-1 --count 64 --out sheet.png
    fourfold compress runs/vqvae-1 photo.png ; fourfold expand runs/vqvae-1 photo.png.ff --out again.png

Three players learn in one fit: the codec, a Transformer over whole grids of codes, from which `sample` draws, and a
context model, which says in `compress` what each code should cost. The codebook follows the vectors by moving
averages, codes that die begin anew, and the gradient is turned with the vector (Fifty et al. 2024) or passes straight
through.

Result: held-out 8 x 8 digits come back at 28.5 dB from 3.4 bits a pixel, 215 of 256 codes in use (perplexity), after 800
steps: benchmarks/results/codec.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import torch
from annotated_types import Ge, Le, Lt
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out, measure
from fourfold.core.parts import Data
from fourfold.core.run import Run, model_of
from fourfold.core.system import system
from fourfold.core.types import Picture, Rows, Score, Source, Table
from fourfold.data.changed_images import ChangedImages
from fourfold.look.figures import grid, picture, subplots
from fourfold.models.code_context import CodeContext
from fourfold.models.patch_discriminator import PatchDiscriminator
from fourfold.models.quantizer import Gradient as Passing
from fourfold.models.vqvae import VQVAE, CodePrior, GridCodec
from fourfold.objectives.quantized import Codes, use
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.image_latents import images_of, pixels_of
from fourfold.tasks.image_out import images_out
from fourfold.tasks.latent_tables import latent_table, read_latents
from fourfold.tasks.looking import Looking
from fourfold.tasks.picture_codec import compress_picture, expand_picture

if TYPE_CHECKING:
    import polars as pl

PIECE = 64
"""Images made at once."""
LEAST_GRID = 7
"""Places at a side of the grid, at least, where the stages are left to the data."""


@system("vqvae", reads="images")
class VectorQuantized(Looking):
    """Images as grids of codes from a learned codebook: reconstructed, sampled, compressed."""

    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "demo": {},
        "small": {"width": 128, "codes": 512, "prior_width": 256, "prior_layers": 6},
    }
    exempt: ClassVar[dict[str, str]] = {
        "accumulation": "the codebook's averages move with every micro-batch"
    }

    data: ChangedImages = ChangedImages(batch=64)
    width: PositiveInt = 64
    """Features inside the encoder and the decoder."""
    features: PositiveInt = 16
    """Size of a code's vector."""
    stages: Annotated[int, Ge(1), Le(6)] | None = None
    """How often height and width are halved; None takes 1 to 3 by the size of the images."""
    codes: Annotated[int, Ge(2)] = 256
    """Codes of a level."""
    levels: PositiveInt = 2
    """Levels of codes: each quantizes what the ones before left over."""
    drop: Annotated[float, Ge(0), Le(1)] = 0.25
    """Share of training images of which only the first few levels are kept, so that `compress --levels` may keep fewer."""
    restart: NonNegativeFloat = 0.1
    """A code taken less often than this share of the mean begins anew from a vector of the batch; 0 never."""
    passing: Passing = "rotation"
    """How the gradient passes the codebook."""
    context_width: PositiveInt = 64
    """Features of the model that says what codes cost in a file."""
    prior: bool = True
    """Learn how likely whole grids of codes are, for `sample`; needless for a codec."""
    prior_width: PositiveInt = 96
    """Features of that Transformer."""
    prior_layers: PositiveInt = 3
    """Its blocks."""
    prior_heads: PositiveInt = 4
    """Its attention heads."""
    prior_dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Its dropout."""
    objective: Codes = Codes()
    optimizer: Gradient = Gradient(lr=2e-3, clip=1.0, steps=1500, ema=0.995)

    def build(self, data: Data) -> VQVAE:
        """The players for images of this shape.

        Raises:
            UserError: the images are smaller than the network's stride.
        """
        channels, height, width = images_of(data).shape
        stages = self.stages or _stages(height, width)
        if min(height, width) < 2**stages:
            raise UserError(
                f"images of {height} x {width} pixels are smaller than the network's stride of {2**stages}: "
                f"--stages {max(1, min(height, width).bit_length() - 1)}, or --data.size scales them"
            )
        codec = GridCodec(
            channels, self.width, self.features, stages,
            size=self.codes, levels=self.levels, gradient=self.passing, drop=self.drop, restart=self.restart,
        )  # fmt: skip
        rows, columns = codec.grid_size((height, width))
        prior = None
        if self.prior:
            try:
                prior = CodePrior(
                    self.codes, self.levels, rows * columns,
                    width=self.prior_width, layers=self.prior_layers, heads=self.prior_heads, dropout=self.prior_dropout,
                )  # fmt: skip
            except ValueError as error:
                raise UserError(f"--prior-width, --prior-heads: {error}") from error
        context = CodeContext(self.features, self.codes, self.levels, self.context_width)
        judge = None
        if self.objective.adversarial:
            judge = PatchDiscriminator(channels, self.width, min(2, stages))
        return VQVAE(codec, context, prior, judge)

    def suited(self, run: Run) -> Self:
        """Refuses to learn how likely codes are before there are any.

        Raises:
            UserError: the prior alone is to learn, and no run is named whose codec has learned.
        """
        if self.objective.train == "prior" and not run.about.get("from"):
            raise UserError("--objective.train prior: models the codes of a codec that has learned; --from RUN names it")  # fmt: skip
        return super().suited(run)

    def begin(self, run: Run) -> None:
        """Say how small the images become, and what is left to learn."""
        model = model_of(run, VQVAE)
        channels, height, width = images_of(run.data).shape
        rows, columns = model.codec.grid_size((height, width))
        bits = rows * columns * self.levels * (self.codes - 1).bit_length()
        run.note(
            f"{height} x {width} pixels become {rows} x {columns} places of {self.levels} codes: "
            f"{bits:,} bits an image before they are compressed, {bits / (height * width):.2f} a pixel"
        )
        if self.objective.train == "codec":
            run.note("what codes cost in a file, and how likely they are, is learned after: fit vqvae --from this run --objective.train prior")  # fmt: skip

    def encode(self, run: Run, source: Source = None) -> pl.DataFrame:
        """The codes of images, a row each with its file: place after place, the levels of a place side by side.

        Args:
            source: images; None takes the run's held-out ones.
        """
        data, split, _ = held_out(run, source)
        images = images_of(data)
        for sentence in data.summary().get("notes", ()) if source is not None else ():
            run.console.say(sentence)
        found = [
            model_of(run, VQVAE).codec.encode(batch["image"].to(run.device)).flatten(1).cpu()
            for batch in data.batches(split)
        ]
        labels = [images.classes[i] for i in images.labels(split).tolist()]
        codes = torch.cat(found).numpy()
        return latent_table(codes, "code", labels or None, images.names[split])

    def decode(self, run: Run, source: Rows, *, out: Path | None = None) -> Picture | Path:
        """Images of codes: a sheet, or one file each where --out is a folder.

        Args:
            source: a table that `encode` made, or an array of codes.
            out: a picture's name, or a folder.
        """
        model = model_of(run, VQVAE)
        size = images_of(run.data).shape[1:]
        grid_size = model.codec.grid_size(size)
        count = grid_size[0] * grid_size[1] * self.levels
        found = read_latents(source, "code", count, "codes")
        if found.min() < 0 or found.max() >= self.codes or (found != found.astype(int)).any():
            raise UserError(
                f"expected codes from 0 to {self.codes - 1}, whole numbers; got from {found.min():g} to {found.max():g}"
            )
        codes = torch.from_numpy(found.astype("int64")).view(-1, *grid_size, self.levels)
        return images_out(_decoded(run, codes), "Decoded", out)

    def sample(
        self,
        run: Run,
        *,
        count: PositiveInt = 64,
        temperature: PositiveFloat = 1.0,
        seed: int | None = None,
    ) -> Picture:
        """New images: codes drawn from the prior, decoded.

        Args:
            count: how many.
            temperature: below 1 takes likelier codes.
            seed: the same seed gives the same images; None gives others each time.
        """
        generator = torch.Generator()
        number = generator.seed() if seed is None else generator.manual_seed(seed).initial_seed()
        images = _drawn(run, count, generator, temperature)
        return grid(images, "Samples", caption=f"{count} samples, seed {number}")

    def compress(
        self, run: Run, file: Path, *, levels: PositiveInt | None = None, out: Path | None = None
    ) -> Path:
        """Write a picture of any size as codes, to be expanded by the same run only; not all of it comes back.

        What comes back is fixed, and checked, to the last bit: on the same kind of processor with the same versions.

        Args:
            file: the picture; - reads standard input.
            levels: of codes that are kept: fewer make a smaller file; None keeps all.
            out: the compressed file, - for standard output; None adds .ff to the name.
        """
        return compress_picture(run, model_of(run, VQVAE), Path(file), levels, out)

    def expand(self, run: Run, file: Path, *, out: Path | None = None) -> Path:
        """Write the picture of a file that `compress` made with this run, here.

        Args:
            file: the compressed file; - reads standard input.
            out: the picture to write, - for standard output as PNG; None takes the name without .ff.
        """
        return expand_picture(run, model_of(run, VQVAE), Path(file), out)

    def evaluate(self, run: Run, source: Source = None) -> Score:
        """Reconstruction, use of the codebook and what the codes cost, on the run's test split or on other images."""
        data, split, sentence = held_out(run, source)
        found = measure(run.objective, run.model, data, split, run.device, run.seed)
        _, height, width = images_of(data).shape
        rows, columns = model_of(run, VQVAE).codec.grid_size((height, width))
        values = {"psnr": _decibels(found["mse"]), **found}
        if "context_nats" in found:
            nats = found["context_nats"] * rows * columns * self.levels
            values["bits_per_pixel"] = nats / torch.tensor(2.0).log().item() / (height * width)
        units = {"psnr": "dB", **run.objective.units(), "codes_used": f"of {self.codes}, share"}
        units |= {"perplexity": f"of {self.codes} codes"}
        return Score(values, units, (f"{data.size(split):,} images {sentence}", "bits_per_pixel is what compress writes, without a file's header"))  # fmt: skip

    def preview(self, run: Run) -> Picture:
        """Images above what comes back of them."""
        return grid(_pairs(run, 8), "Reconstructions", rows=2)

    def pictures(self, run: Run) -> Iterator[Picture]:
        """Reconstructions, samples, and how the codebook is used."""
        caption = "Above: held-out images. Below each: what its codes say."
        yield grid(_pairs(run, 10), "Reconstructions", rows=2, caption=caption)
        if model_of(run, VQVAE).prior is not None and self.objective.train != "codec":
            images = _drawn(run, 64, run.generator("report"), 1.0)
            yield grid(images, "Samples", caption="64 samples from the prior, not chosen.")
        yield _used(run)
        if self.levels > 1:
            yield _by_level(run)

    def tables(self, run: Run) -> Iterator[Table]:
        """The measures of `evaluate`."""
        score = self.evaluate(run)
        rows = tuple(
            (n.replace("_", " "), f"{v:.4f} {score.units.get(n, '')}".strip())
            for n, v in score.values.items()
        )
        yield Table("Held-out images", ("measure", "value"), rows, "; ".join(score.notes) + ".")

    @classmethod
    def toy(cls) -> tuple[VectorQuantized, Any]:
        """Small networks on the embedded digits."""
        return cls(
            data=ChangedImages(batch=32), width=8, features=4, codes=16, context_width=8, prior_width=16, prior_layers=1,
            prior_heads=2, optimizer=Gradient(lr=3e-3, steps=12),
        ), None  # fmt: skip


def _stages(height: int, width: int) -> int:
    stages = 1
    while stages < 3 and min(height, width) // 2 ** (stages + 1) >= LEAST_GRID:
        stages += 1
    return stages


def _decibels(mse: float) -> float:
    """Peak signal to noise ratio of a squared error of values in [-1, 1]."""
    return float(10 * torch.tensor(4 / max(mse, 1e-12)).log10())


def _decoded(run: Run, codes: Tensor) -> Tensor:
    """Images in [0, 1] of codes (N, h, w, L), on the CPU."""
    size = images_of(run.data).shape[1:]
    codec = model_of(run, VQVAE).codec
    with torch.no_grad():
        made = [
            codec.decode(piece.to(run.device), size).float().cpu() for piece in codes.split(PIECE)
        ]
    return torch.cat(made).add(1).div(2).clamp(0, 1)


def _drawn(run: Run, count: int, generator: torch.Generator, temperature: float) -> Tensor:
    model = model_of(run, VQVAE)
    if model.prior is None:
        raise UserError("this run has no prior to draw from: fit with --prior true")
    if run.system.model_dump()["objective"]["train"] == "codec":
        raise UserError("this run's prior has not learned: fit vqvae --from it --objective.train prior")  # fmt: skip
    size = model.codec.grid_size(images_of(run.data).shape[1:])
    pieces = [min(PIECE, count - done) for done in range(0, count, PIECE)]
    codes = torch.cat([model.prior.draw(piece, generator, temperature) for piece in pieces])
    return _decoded(run, codes.view(count, *size, -1))


def _held(run: Run, count: int) -> Tensor:
    """Some held-out images (at most count, C, H, W) uint8."""
    data, split, _ = held_out(run)
    return pixels_of(images_of(data), split, count)


def _pairs(run: Run, columns: int) -> Tensor:
    images = _held(run, columns).float().div(255)
    with torch.no_grad():
        codes = model_of(run, VQVAE).codec.encode(images.mul(2).sub(1).to(run.device))
    return torch.cat([images, _decoded(run, codes)])


def _used(run: Run) -> Picture:
    """How often each code is taken, most frequent first."""
    codec = model_of(run, VQVAE).codec
    images = _held(run, 1000).float().div(127.5).sub(1)
    with torch.no_grad():
        codes = (
            torch.cat([codec.encode(p.to(run.device)) for p in images.split(PIECE)])
            .flatten(0, -2)
            .cpu()
        )
    perplexity, share = use(codes, codec.quantizer.size)
    fig, axes = subplots()
    for level in range(codes.shape[-1]):
        counts = (
            torch.bincount(codes[:, level], minlength=codec.quantizer.size)
            .sort(descending=True)
            .values
        )
        axes.plot(
            (counts / counts.sum()).numpy(),
            label=f"level {level + 1}: perplexity {perplexity[level]:.0f}",
        )
    axes.set(xlabel="code, most frequent first", ylabel="share of places")
    axes.legend()
    caption = f"{len(images):,} held-out images; of {codec.quantizer.size} codes {share.mean():.0%} occur."
    return picture(fig, "Use of the codebook", caption)


def _by_level(run: Run) -> Picture:
    """The same images with one level of codes, two, and so on."""
    images = _held(run, 8).float().div(255)
    with torch.no_grad():
        codes = model_of(run, VQVAE).codec.encode(images.mul(2).sub(1).to(run.device))
    rows = [images, *(_decoded(run, codes[..., : n + 1]) for n in range(codes.shape[-1]))]
    caption = (
        "Above: held-out images. Below: with one level of codes, then with one more in each row."
    )
    return grid(torch.cat(rows), "Level by level", columns=len(images), caption=caption)
