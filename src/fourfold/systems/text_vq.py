"""Sentences through codes: vector quantization (van den Oord et al. 2017) of what a recurrent layer read (Bowman et al. 2016).

    fourfold fit text-vq sentences.txt
    fourfold traverse runs/text-vq-1 "the food was good" --end "the food was bad"
    fourfold sample runs/text-vq-1 --count 20
    fourfold encode runs/text-vq-1 sentences.txt --lines --out codes.parquet

Each sentence becomes a few codes of one codebook; a Transformer learns how likely they are, and `sample` draws from it.

Result: the bound on held-out made sentences is 1.12 nats a token (13.8 a sentence, 6.0 of them the prior's) after 70 steps,
10 seconds of processor time: `python -m benchmarks.text_latents --data made` goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Lt
from pydantic import PositiveInt
from torch import Tensor

from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out, measure
from fourfold.core.parts import Data
from fourfold.core.run import Run, model_of
from fourfold.core.system import system
from fourfold.core.types import Score, Source, Table
from fourfold.data.text_lines import TextLines
from fourfold.models.sentence_latents import CodedSentences, SentenceCodec
from fourfold.models.vqvae import CodePrior
from fourfold.objectives.quantized import use
from fourfold.objectives.sentences import SentenceCodes
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.sentence_verbs import SentenceLatents, lines_data, shown_samples


@system("text-vq", reads="text")
class TextVQ(SentenceLatents):
    """Sentences through a few codes: sampled, and what lies between two of them."""

    prefix: ClassVar[str] = "code"
    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "demo": {},
        "small": {"width": 512, "places": 16, "codes": 512},
    }
    exempt: ClassVar[dict[str, str]] = {
        "accumulation": "the codebook's averages move with every micro-batch"
    }

    data: TextLines = TextLines()
    width: PositiveInt = 192
    """Size of the word vectors and of the recurrent states."""
    places: PositiveInt = 8
    """Codes of a sentence."""
    codes: Annotated[int, Ge(2)] = 64
    """Codes of the codebook."""
    features: PositiveInt = 16
    """Size of a code's vector."""
    drop: Annotated[float, Ge(0), Lt(1)] = 0.3
    """Share of the words that the decoder reads which are dropped while training."""
    prior_width: PositiveInt = 96
    """Features of the Transformer over codes."""
    prior_layers: PositiveInt = 2
    """Its blocks."""
    objective: SentenceCodes = SentenceCodes()
    optimizer: Gradient = Gradient(lr=2e-3, clip=1.0, steps=2000, warmup=0.02)

    def build(self, data: Data) -> CodedSentences:
        """Codec over this vocabulary, and the prior of its codes."""
        vocabulary = lines_data(data).vocabulary
        blank = vocabulary.end if vocabulary.unknown is None else vocabulary.unknown
        codec = SentenceCodec(
            len(vocabulary), self.width, self.places, self.features, self.codes,
            end=vocabulary.end, blank=blank, drop=self.drop,
        )  # fmt: skip
        try:
            prior = CodePrior(
                self.codes,
                1,
                self.places,
                width=self.prior_width,
                layers=self.prior_layers,
                heads=4,
            )
        except ValueError as error:
            raise UserError(f"--prior-width: {error}") from error
        return CodedSentences(codec, prior)

    def _size(self) -> int:
        return self.places

    def _checked(self, found: np.ndarray) -> Tensor:
        whole = found.astype(np.int64)
        if found.min() < 0 or found.max() >= self.codes or (found != whole).any():
            raise UserError(
                f"expected codes from 0 to {self.codes - 1}, whole numbers; got from {found.min():g} to {found.max():g}"
            )
        return torch.from_numpy(whole)

    def _latents(self, run: Run, tokens: Tensor, lengths: Tensor) -> Tensor:
        return model_of(run, CodedSentences).codec.codes(tokens, lengths)

    def _drawn(self, run: Run, count: int, generator: torch.Generator) -> Tensor:
        return model_of(run, CodedSentences).prior.draw(count, generator)[..., 0]

    def _between(self, first: Tensor, last: Tensor, steps: int) -> Tensor:
        """Code after code is changed, those that differ alone, in the order in which they stand."""
        differ = (first != last).nonzero()[:, 0]
        rows = []
        for step in range(steps):
            row = first.clone()
            changed = differ[: round(len(differ) * step / (steps - 1))]
            row[changed] = last[changed]
            rows.append(row)
        return torch.stack(rows)

    def _said(self, run: Run, rows: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:  # fmt: skip
        codec = model_of(run, CodedSentences).codec
        most = lines_data(run.data).options.longest + 1
        return codec.writer.write(
            codec.latent(rows), most, temperature=temperature, generator=generator
        )

    def evaluate(self, run: Run, source: Source = None) -> Score:
        """A bound on the surprise of held-out sentences, its parts, the codebook's use, diversity."""
        data, split, sentence = held_out(run, source)
        values = measure(run.objective, run.model, data, split, run.device, run.seed)
        codes = self._rows(run, lines_data(data).sentences(split)).reshape(-1, 1).cpu()
        perplexity, share = use(codes, self.codes)
        values["perplexity_bound"] = float(torch.tensor(values["bound_per_token"]).exp())
        values |= {"code_perplexity": float(perplexity), "codes_used": float(share)}
        values |= self._diversity(run)[0]
        units = {
            **run.objective.units(),
            "code_perplexity": f"of {self.codes} codes",
            "codes_used": "share",
        }
        note = f"{data.size(split):,} sentences {sentence}; perplexity_bound is of a token, its sentence's end counted; diversity is of 200 samples"
        return Score(values, units, (note, *data.summary().get("notes", ())))

    def preview(self, run: Run) -> str:
        """A few sentences, of codes drawn alike each time."""
        return "\n".join(self._samples(run, 5, 0.0, run.generator("preview")))

    def tables(self, run: Run) -> Iterator[Table]:
        """Ways between held-out sentences, and samples."""
        data, split, _ = held_out(run)
        yield self._ways(run, lines_data(data).sentences(split))
        yield shown_samples(self._diversity(run)[1])

    @classmethod
    def toy(cls) -> tuple[TextVQ, Any]:
        """A small model of the made sentences."""
        return cls(
            data=TextLines(batch=32), width=8, places=3, codes=8, features=4, prior_width=16, prior_layers=1,
            optimizer=Gradient(lr=3e-3, steps=12),
        ), None  # fmt: skip
