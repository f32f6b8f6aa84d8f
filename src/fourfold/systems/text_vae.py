"""Sentences through a normal latent: Bowman et al. 2016, with free bits (Kingma et al. 2016) against its collapse.

    fourfold fit text-vae sentences.txt
    fourfold traverse runs/text-vae-1 "the food was good" --end "the food was bad"
    fourfold sample runs/text-vae-1 --count 20
    fourfold encode runs/text-vae-1 sentences.txt --lines --out z.parquet ; fourfold decode runs/text-vae-1 z.parquet

Result: on held-out made sentences the bound is 11.8 nats a sentence (0.95 a token, 4.3 of the 11.8 KL), 9.2 with 32 draws,
all 24 numbers of the latent in use, after 100 steps, 9 seconds of processor time: benchmarks/results/text_latents.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Lt
from pydantic import PositiveInt
from torch import Tensor

from fourfold.core.evaluation import held_out, measure, to_device
from fourfold.core.parts import Data
from fourfold.core.run import Run, model_of
from fourfold.core.system import system
from fourfold.core.types import Picture, Score, Source, Table
from fourfold.data.text_lines import TextLines
from fourfold.look.figures import picture, subplots
from fourfold.models.sentence_latents import GaussianSentences
from fourfold.objectives.posterior import active_units, gaussian_kl
from fourfold.objectives.sentences import SentenceELBO, importance_bound
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.sentence_verbs import SentenceLatents, lines_data, shown_samples

DRAWS = 32
"""Of the importance-weighted bound."""


@system("text-vae", reads="text")
class TextVAE(SentenceLatents):
    """Sentences through a normal latent: sampled, and what lies between two of them."""

    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "demo": {},
        "small": {"width": 512, "latents": 64},
    }
    exempt: ClassVar[dict[str, str]] = {
        "accumulation": "latents and dropped words are drawn, and free bits counted, for every micro-batch by itself"
    }

    data: TextLines = TextLines()
    width: PositiveInt = 192
    """Size of the word vectors and of the recurrent states."""
    latents: PositiveInt = 24
    """Numbers of the latent."""
    drop: Annotated[float, Ge(0), Lt(1)] = 0.3
    """Share of the words that the decoder reads which are dropped while training."""
    objective: SentenceELBO = SentenceELBO()
    optimizer: Gradient = Gradient(lr=2e-3, clip=1.0, steps=2000, warmup=0.02)

    def build(self, data: Data) -> GaussianSentences:
        """Reader and writer over this vocabulary."""
        vocabulary = lines_data(data).vocabulary
        blank = vocabulary.end if vocabulary.unknown is None else vocabulary.unknown
        return GaussianSentences(
            len(vocabulary), self.width, self.latents, end=vocabulary.end, blank=blank, drop=self.drop
        )  # fmt: skip

    def _size(self) -> int:
        return self.latents

    def _latents(self, run: Run, tokens: Tensor, lengths: Tensor) -> Tensor:
        return model_of(run, GaussianSentences).posterior(tokens, lengths)[0]

    def _drawn(self, run: Run, count: int, generator: torch.Generator) -> Tensor:
        return torch.randn(count, self.latents, generator=generator)

    def _between(self, first: Tensor, last: Tensor, steps: int) -> Tensor:
        share = torch.linspace(0, 1, steps, device=first.device)[:, None]
        return first + share * (last - first)

    def _said(self, run: Run, rows: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:  # fmt: skip
        most = lines_data(run.data).options.longest + 1
        return model_of(run, GaussianSentences).writer.write(
            rows, most, temperature=temperature, generator=generator
        )

    def evaluate(self, run: Run, source: Source = None) -> Score:
        """Bounds on the surprise of held-out sentences, the KL, how many numbers of the latent say something, diversity."""
        data, split, sentence = held_out(run, source)
        values = measure(run.objective, run.model, data, split, run.device, run.seed)
        closer, tokens, means = 0.0, 0, []
        generator = run.generator("evaluate")
        for batch in data.batches(split):
            batch = to_device(batch, run.device)
            closer += float(importance_bound(run.model, batch, DRAWS, generator).sum())
            tokens += int(batch["lengths"].sum())
            means.append(self._latents(run, batch["tokens"], batch["lengths"]).cpu())
        rows = torch.cat(means)
        values["importance_bound"] = closer / len(rows)
        values["perplexity_bound"] = float(torch.tensor(closer / tokens).exp())
        values["active_units"] = float(active_units(rows).sum()) if len(rows) > 1 else 0.0
        values |= self._diversity(run)[0]
        units = {
            **run.objective.units(),
            "importance_bound": f"nats/sentence ({DRAWS} draws)",
            "active_units": f"of {self.latents}",
        }
        note = f"{len(rows):,} sentences {sentence}; perplexity_bound is of a token, its sentence's end counted, by the importance-weighted bound; diversity is of 200 samples"
        return Score(values, units, (note, *data.summary().get("notes", ())))

    def preview(self, run: Run) -> str:
        """A few sentences, of the same latents each time."""
        return "\n".join(self._samples(run, 5, 0.0, run.generator("preview")))

    def pictures(self, run: Run) -> Iterator[Picture]:
        """How much each number of the latent says."""
        data, split, sentence = held_out(run)
        found = []
        with torch.no_grad():
            for batch in data.batches(split):
                batch = to_device(batch, run.device)
                posterior = model_of(run, GaussianSentences).posterior(
                    batch["tokens"], batch["lengths"]
                )
                found.append(gaussian_kl(*posterior).cpu())
        kl = torch.cat(found).mean(0).sort(descending=True).values
        fig, axes = subplots()
        axes.bar(range(1, len(kl) + 1), kl.numpy())
        axes.set(xlabel="number of the latent, most telling first", ylabel="KL (nats)")
        yield picture(
            fig,
            "KL by number of the latent",
            f"Mean over the sentences {sentence}; together {float(kl.sum()):.1f} nats.",
        )

    def tables(self, run: Run) -> Iterator[Table]:
        """Ways between held-out sentences, and samples."""
        data, split, _ = held_out(run)
        yield self._ways(run, lines_data(data).sentences(split))
        yield shown_samples(self._diversity(run)[1])

    @classmethod
    def toy(cls) -> tuple[TextVAE, Any]:
        """A small model of the made sentences."""
        return cls(
            data=TextLines(batch=32), width=8, latents=4, optimizer=Gradient(lr=3e-3, steps=12)
        ), None
