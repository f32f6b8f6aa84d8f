"""The verbs of masked language models: fill, embed, evaluate, tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out, measure, to_device
from fourfold.core.parts import Data, Split
from fourfold.core.run import Run
from fourfold.core.types import Document, Picture, Score, Source, Table
from fourfold.data.masking import MaskedData
from fourfold.look.language import zipf
from fourfold.look.masked import by_frequency, restored
from fourfold.models.bert import Bert
from fourfold.tasks.embedding_texts import to_embed, vector_table
from fourfold.tasks.filling import (
    Pooling,
    blanks,
    fits,
    guesses,
    pseudo_surprises,
    text_vectors,
)
from fourfold.tasks.tokenized import Tokenized

if TYPE_CHECKING:
    import polars as pl

ROWS = 64
"""Held-out rows that the pictures are drawn from."""
PASSAGE = 120
"""Tokens of the passage that is filled in."""
EXAMPLES = 12
"""Hidden tokens in the report's table."""


class MaskedLanguage(Tokenized):
    """A system whose runs say what stands where a token of a text is hidden."""

    def fill(self, run: Run, text: Document, *, top: PositiveInt = 5) -> pl.DataFrame:
        """What may stand where a text has [MASK], with probabilities.

        Of several masks each is filled in for itself, the others hidden; the whole text takes the likeliest
        tokens for those.

        Args:
            text: with one or several [MASK].
            top: how many tokens for each.
        """
        import polars as pl

        data, model = parts(run)
        blank = blanks(data, text)
        _say_unknown(run, data, blank.tokens)
        found = guesses(data, model, blank, top)
        best = [some[0] for some in found]
        rows = [
            {
                "mask": guess.mask,
                "rank": guess.rank,
                "token": guess.piece.strip() or data.token_name(guess.token),
                "probability": guess.probability,
                "text": blank.filled([*best[: guess.mask - 1], guess, *best[guess.mask :]]),
            }
            for some in found
            for guess in some
        ]
        return pl.DataFrame(rows)

    def embed(
        self,
        run: Run,
        texts: Document | list[Document],
        *,
        pooling: Pooling = "mean",
        normalize: bool = True,
        lines: bool = False,
        cut: bool = False,
    ) -> pl.DataFrame:
        """A vector for each text, made by the body alone: what its positions' last states have in common.

        Args:
            texts: one or several.
            pooling: the mean of all positions, [CLS] and [SEP] among them, or the state of [CLS].
            normalize: to length 1, so that products are cosines.
            lines: whether each line is a text of its own; empty ones are none.
            cut: read only the beginning of a text that is longer than the model sees, instead of refusing it.
        """
        data, model = parts(run)
        given = to_embed(texts, lines)
        rows, shortened = [], 0
        for text in given:
            inner = data.vocabulary.encode(text).tolist()
            if cut and len(inner) > data.room:
                inner, shortened = inner[: data.room], shortened + 1
            rows.append([data.specials.cls, *inner, data.specials.sep])
            fits(data, len(rows[-1]), data.window)
        if shortened:
            run.console.say(
                f"{shortened} of {len(rows)} texts were cut to the {data.room} tokens that the model sees"
            )
        _say_unknown(run, data, [token for row in rows for token in row])
        vectors = text_vectors(model, rows, data.specials.pad, pooling=pooling, normalize=normalize)
        return vector_table(given, vectors)

    def evaluate(
        self, run: Run, source: Source = None, *, pseudo: PositiveInt | None = None
    ) -> Score:
        """Measure the run on its own test split, or on other texts, with hidden tokens that are the same each time.

        Args:
            source: other texts.
            pseudo: measure the pseudo-perplexity too (Salazar et al. 2020): so many tokens, one after the other,
                each hidden alone; slow.
        """
        found, split, sentence = held_out(run, source)
        data, (_, model) = masked_data(found), parts(run)
        values = measure(run.objective, model, data, split, run.device, run.seed)
        hidden = sum(int((b["targets"] >= 0).sum()) for b in data.batches(split))
        values["perplexity"] = math.exp(min(values["loss"], 700.0))
        notes = [
            f"{hidden:,} hidden tokens of {data.tokens(split).size - 1:,} {sentence}",
            *data.summary().get("notes", ()),
        ]
        if pseudo is not None:
            nats = _pseudo(data, model, split, pseudo)
            values["pseudo_perplexity"] = math.exp(min(float(nats.mean()), 700.0))
            notes.append(f"the pseudo-perplexity is of {len(nats):,} tokens, each hidden alone")
        return Score(values, {"loss": "nats/token"}, tuple(notes))

    def preview(self, run: Run) -> str:
        """A held-out passage with its hidden tokens filled in; what stood there follows where it was another."""
        data = masked_data(run.data)
        split: Split = "valid" if data.size("valid") else "train"
        row = next(iter(_answers(run, data, split)), None)
        return "" if row is None else "".join(_shown(row, data, 40)).strip()

    def pictures(self, run: Run) -> Iterator[Picture]:
        """Frequencies, a held-out passage with what was hidden filled in, and how often that is right."""
        vocabulary = masked_data(run.data).vocabulary
        if vocabulary.counts.any():
            yield zipf(vocabulary.counts, [vocabulary.token(i) for i in range(len(vocabulary))])
        rows = _held_out_answers(run)
        if not rows:
            return
        data = masked_data(run.data)
        shown = list(_passage(rows[0], data, PASSAGE))
        while len(shown) > 1 and not shown[-1][0].strip() and shown[-1][2] is None:
            shown.pop()  # the row's end, and lines without a letter
        pieces, bits, marks = zip(*shown, strict=True)
        yield restored(pieces, bits, marks)
        truth, guess = (
            np.concatenate([getattr(row, n) for row in rows]) for n in ("truth", "guess")
        )
        yield by_frequency(vocabulary.counts[truth], truth == guess)

    def tables(self, run: Run) -> Iterator[Table]:
        """The most frequent entries of the vocabulary, and some hidden tokens with what the model took them for."""
        yield from super().tables(run)
        data, rows = masked_data(run.data), _held_out_answers(run)
        lines = [
            (data.token_name(t), data.token_name(g), round(math.exp(-n), 4))
            for row in rows[:4]
            for t, g, n in zip(
                row.truth.tolist(), row.guess.tolist(), row.nats.tolist(), strict=True
            )
        ]
        if lines:
            columns = ("hidden", "likeliest to the model", "probability of the hidden one")
            yield Table("Hidden tokens of held-out texts", columns, tuple(lines[:EXAMPLES]))


def masked_data(data: Data) -> MaskedData:
    """Data that is masked text.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(data, MaskedData):
        raise TypeError(f"a masked language model expects MaskedData, got {type(data).__name__}")
    return data


def parts(run: Run) -> tuple[MaskedData, Bert]:
    """A run's data and model."""
    if not isinstance(run.model, Bert):
        raise TypeError(f"a masked language model expects Bert, got {type(run.model).__name__}")
    return masked_data(run.data), run.model


class _Answers:
    """A row with hidden tokens, and what the model says of them."""

    def __init__(self, tokens: Tensor, places: Tensor, targets: Tensor, logits: Tensor) -> None:
        counted = targets >= 0
        self.places, self.truth = (v[counted].numpy() for v in (places, targets))
        said = logits[counted].float().log_softmax(-1)
        self.guess = said.argmax(-1).numpy()
        self.nats = -said.gather(1, targets[counted][:, None])[:, 0].double().numpy()
        self.tokens = tokens.clone().numpy()
        self.tokens[self.places] = self.truth


def _answers(run: Run, data: MaskedData, split: Split) -> Iterator[_Answers]:
    """The rows of a split in stored order, answered."""
    for batch in data.batches(split):
        here = to_device(batch, run.device)
        with torch.no_grad():
            logits = run.model(here["tokens"], places=here["places"], segments=here.get("segments"))
        for row in zip(
            batch["tokens"], batch["places"], batch["targets"], logits.cpu(), strict=True
        ):
            yield _Answers(*row)


def _held_out_answers(run: Run) -> list[_Answers]:
    try:
        data, split, _ = held_out(run)
    except UserError:
        return []  # nothing is held out, or the source is gone: the report says so elsewhere
    answers = _answers(run, masked_data(data), split)
    return [row for row, _ in zip(answers, range(ROWS), strict=False) if len(row.truth)]


def _passage(
    row: _Answers, data: MaskedData, most: int
) -> Iterator[tuple[str, float, bool | None]]:
    """What each token adds to the text, its surprise in bits, and whether it was guessed; None where not hidden."""
    decoder, hidden = data.vocabulary.decoder(), {int(p): i for i, p in enumerate(row.places)}
    beyond = len(data.vocabulary)
    for place, token in enumerate(row.tokens[:most].tolist()):
        special = token in data.specials or token >= beyond
        piece = ("" if special else decoder.push(token)) if token != data.specials.sep else "\n"
        at = hidden.get(place)
        if at is None:
            yield piece, 0.0, None
        else:
            yield piece, float(row.nats[at] / math.log(2)), bool(row.guess[at] == token)


def _shown(row: _Answers, data: MaskedData, most: int) -> Iterator[str]:
    said = iter(row.guess.tolist())
    for piece, _, right in _passage(row, data, most):
        if right is None:
            yield piece
            continue
        guess = next(said)
        shown = data.vocabulary.decode([guess]).strip() if guess < len(data.vocabulary) else ""
        space = piece[: len(piece) - len(piece.lstrip())]
        yield f"{space}[{piece.strip()}]" if right else f"{space}[{shown}, not {piece.strip()}]"


def _pseudo(data: MaskedData, model: Bert, split: Split, most: int) -> np.ndarray:
    found: list[np.ndarray] = []
    left = most
    for row in data.texts(split):
        nats = pseudo_surprises(data, model, row)[:left]
        found.append(nats)
        left -= len(nats)
        if left <= 0:
            break
    return np.concatenate(found) if found else np.empty(0)


def _say_unknown(run: Run, data: MaskedData, tokens: list[int]) -> None:
    unknown = data.vocabulary.unknown
    if unknown is not None and (count := tokens.count(unknown)):
        run.console.say(
            f"{count} of {len(tokens)} tokens are not in the vocabulary and read as {data.token_name(unknown)}"
        )
