"""The verbs of systems that take sentences through a latent: encode, decode, sample, traverse, and what evaluate adds.

A system says how sentences become rows of numbers (`latents`), what rows are drawn (`drawn`), what lies between two
(`between`), and the sentences of rows (`said`). Shapes: N sentences, Z numbers of each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from fourfold.core.errors import UserError
from fourfold.core.parts import Data
from fourfold.core.run import Run
from fourfold.core.types import Document, Rows, Table
from fourfold.data.text_lines import TextLinesData
from fourfold.objectives.diversity import self_bleu
from fourfold.tasks.comparing import distinct
from fourfold.tasks.latent_tables import latent_table, read_latents
from fourfold.tasks.looking import Looking

if TYPE_CHECKING:
    import polars as pl

JUDGED = 200
"""Samples whose diversity is measured."""
PIECE = 128
"""Sentences at once."""


class SentenceLatents(Looking):
    """A system whose runs hold sentences as rows of numbers."""

    prefix: ClassVar[str] = "z"
    """Of the columns that `encode` writes."""

    def _latents(self, run: Run, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Rows (B, Z) of sentences (B, T)."""
        raise NotImplementedError

    def _drawn(self, run: Run, count: int, generator: torch.Generator) -> Tensor:
        """New rows (count, Z)."""
        raise NotImplementedError

    def _between(self, first: Tensor, last: Tensor, steps: int) -> Tensor:
        """Rows (steps, Z) from one row (Z,) to another."""
        raise NotImplementedError

    def _said(self, run: Run, rows: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:  # fmt: skip
        """Tokens (N, T) of rows (N, Z)."""
        raise NotImplementedError

    def _size(self) -> int:
        """Z."""
        raise NotImplementedError

    def _checked(self, found: np.ndarray) -> Tensor:
        """Rows that a user gives, judged."""
        return torch.from_numpy(found.astype(np.float32))

    def encode(
        self, run: Run, texts: Document | list[Document], *, lines: bool = False
    ) -> pl.DataFrame:
        """The latent of each sentence, a row each, with the sentence.

        Args:
            texts: one or several sentences.
            lines: whether each line is a sentence of its own.
        """
        import polars as pl

        given = [texts] if isinstance(texts, str) else list(texts)
        if lines:
            given = [line for text in given for line in text.splitlines() if line.strip()]
        rows = self._rows(run, _read(run, given))
        table = latent_table(rows.cpu().numpy(), self.prefix)
        return table.with_columns(pl.Series("text", given))

    def decode(self, run: Run, source: Rows) -> str:
        """The likeliest sentence of each latent, a line each.

        Args:
            source: a table that `encode` made, or an array (N, Z).
        """
        rows = self._checked(
            read_latents(source, self.prefix, self._size(), "numbers of the latent")
        )
        return "".join(f"{text}\n" for text in self._texts(run, rows))

    def sample(
        self,
        run: Run,
        *,
        count: PositiveInt = 10,
        temperature: NonNegativeFloat = 1.0,
        seed: int | None = None,
    ) -> str:
        """New sentences, a line each.

        Args:
            count: how many.
            temperature: of the words given a latent; 0 takes the likeliest.
            seed: the same seed gives the same sentences; None gives others each time.
        """
        generator = torch.Generator()
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        made = self._samples(run, count, temperature, generator)
        return "".join(f"{text}\n" for text in made)

    def traverse(self, run: Run, text: Document, *, end: Document, steps: PositiveInt = 7) -> str:
        """Sentences on the way from one to another, a line each: the likeliest of every latent between theirs.

        Args:
            text: where it begins.
            end: where it ends.
            steps: lines, from 2 on.
        """
        if steps < 2:
            raise UserError(f"--steps: expected at least 2, got {steps}")
        first, last = _read(run, [text, end])
        return "".join(f"{line}\n" for line in self._way(run, first, last, steps))

    def _way(self, run: Run, first: np.ndarray, last: np.ndarray, steps: int) -> list[str]:
        begin, end = self._rows(run, [first, last])
        return self._texts(run, self._between(begin, end, steps))

    def _rows(self, run: Run, sentences: list[np.ndarray]) -> Tensor:
        data, made = lines_data(run.data), []
        for begin in range(0, len(sentences), PIECE):
            batch = data.batch_of(sentences[begin : begin + PIECE])
            made.append(
                self._latents(run, batch["tokens"].to(run.device), batch["lengths"].to(run.device))
            )
        return torch.cat(made)

    def _texts(
        self, run: Run, rows: Tensor, temperature: float = 0.0, generator: torch.Generator | None = None
    ) -> list[str]:  # fmt: skip
        data = lines_data(run.data)
        pieces = [
            self._said(run, p.to(run.device), temperature, generator) for p in rows.split(PIECE)
        ]
        return [data.text(row.cpu()) for piece in pieces for row in piece]

    def _samples(
        self, run: Run, count: int, temperature: float, generator: torch.Generator
    ) -> list[str]:
        return self._texts(run, self._drawn(run, count, generator), temperature, generator)

    def _diversity(self, run: Run) -> tuple[dict[str, float], list[str]]:
        """distinct-1, distinct-2 and self-BLEU of samples, by words; and a few of the samples."""
        texts = self._samples(run, JUDGED, 1.0, run.generator("diversity"))
        vocabulary = lines_data(run.data).vocabulary
        tokens: list[Any] = [vocabulary.encode(text).tolist() for text in texts]
        values = {
            "distinct_1": distinct(texts, 1) or 0.0,
            "distinct_2": distinct(texts, 2) or 0.0,
            "self_bleu": self_bleu(tokens),
        }
        return values, texts

    def _ways(self, run: Run, sentences: list[np.ndarray], count: int = 3, steps: int = 6) -> Table:
        """For the report: ways between held-out sentences."""
        pairs = zip(sentences[: 2 * count : 2], sentences[1 : 2 * count : 2], strict=False)
        rows = tuple(
            (number, step, line)
            for number, (first, last) in enumerate(pairs, 1)
            for step, line in enumerate(self._way(run, first, last, steps), 1)
        )
        caption = "Each way leads from one held-out sentence to another, by latents between theirs; the likeliest words."
        return Table("Ways between sentences", ("way", "step", "sentence"), rows, caption)


def lines_data(data: Data) -> TextLinesData:
    """Data as what they are."""
    if not isinstance(data, TextLinesData):
        raise TypeError(f"expected TextLinesData, got {type(data).__name__}")
    return data


def _read(run: Run, texts: list[str]) -> list[np.ndarray]:
    """Tokens of sentences, each (N,); what the run does not know is said."""
    data = lines_data(run.data)
    found = [data.encode(text) for text in texts]
    unknown = sum(int((one == data.vocabulary.unknown).sum()) for one in found)
    if unknown:
        run.console.say(f"{unknown:,} of {sum(map(len, found)):,} tokens are not in the vocabulary.")  # fmt: skip
    return found


def shown_samples(texts: list[str], count: int = 12) -> Table:
    """A few samples for the report."""
    rows = tuple((text,) for text in texts[:count])
    return Table("Samples", ("sentence",), rows, "Not chosen.")
