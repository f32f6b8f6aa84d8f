"""The verbs of every language model: tokens, score, generate, evaluate.

A system subclasses `LanguageModel` and supplies `reader`; the rest follows from what a `Reader` says. The
measures are those of the field: perplexity is e to the mean surprise of a token, the unknown token counted
as one entry like any other. Bits per byte divide all bits by the bytes of the text in UTF-8, and there an
unknown word costs its spelling too (`data.spelling`), so that a small vocabulary makes no text shorter: they
are what `compress` writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, cast

import numpy as np
import torch
from annotated_types import Ge, Le
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out
from fourfold.core.run import Run
from fourfold.core.system import batchable
from fourfold.core.types import Document, Picture, Score, Source
from fourfold.data.spelling import Spelling
from fourfold.data.vocabulary import Vocabulary
from fourfold.look.language import passage, zipf
from fourfold.models.generation import Voice, spoken
from fourfold.tasks.compressing import compress_file, expand_file
from fourfold.tasks.drawing import drawing
from fourfold.tasks.grammar import say_unfinished
from fourfold.tasks.reader import Reader as Reader
from fourfold.tasks.tokenized import Tokenized, named
from fourfold.tasks.tokenized import pieces as pieces
from fourfold.tasks.tokenized import text_data as text_data
from fourfold.tasks.tokenized import vocabulary_of as vocabulary_of

if TYPE_CHECKING:
    import polars as pl

ROWS = 32
"""Continuations made at once."""
PASSAGE = 160
"""Tokens of the held-out passage in the report."""
Probability = Annotated[float, Ge(0), Le(1)]
Stream = Callable[[list[list[int]], list[torch.Generator]], Iterator[tuple[int, int]]]
"""Continues rows of tokens: yields (row, token); sending True back ends that row."""


class LanguageModel(Tokenized):
    """A system whose runs say how likely each next token of a text is."""

    masks_documents: ClassVar[bool] = False
    """Whether the model can be kept from seeing other documents (`Text.document_mask`)."""
    counts_once: ClassVar[bool] = False
    """Whether the search reads the whole text once, so that sources have no weights (`Text.mixture`)."""

    def reader(self, run: Run) -> Reader:
        """The trained model as something that reads."""
        raise NotImplementedError

    def suited(self, run: Run) -> Self:
        """Refuses options of the text that this model would ignore."""
        if getattr(self.data, "document_mask", False) and not self.masks_documents:
            raise UserError(
                f"--data.document-mask: {self.name} reads on over the ends of documents; gpt has such a mask"
            )
        if getattr(self.data, "mixture", None) and self.counts_once:
            raise UserError(
                f"--data.mixture: {self.name} counts all of the text once; sources have no weights for it"
            )
        return super().suited(run)

    def score(self, run: Run, text: Document, *, per_token: bool = False) -> Score | pl.DataFrame:
        """How likely a text is: each token given all that precedes it, as far as the model looks back.

        Args:
            text: the text; its first token is predicted as that of a new document.
            per_token: each token with its surprise, as a table, instead of the sums.
        """
        vocabulary = vocabulary_of(run.data)
        found, _, spelled = vocabulary.encode_spelled([text])
        if not len(found):
            raise UserError("text: is empty; there is nothing to score")
        nats = self.reader(run).surprises(
            np.concatenate([[vocabulary.opening], found.astype(np.int64)])
        )
        if per_token:
            return _per_token(vocabulary, found, spelled, nats)
        bits = Spelling(vocabulary).bits(spelled) if spelled else 0.0
        notes = [_unknown_note(len(spelled), len(found), bits)] if spelled else []
        if not vocabulary.lossless and vocabulary.decode(found, spelled) != text:
            notes.append(
                "the text's white space is not all kept by its tokens, and not all counted"
            )
        size = len(text.encode())
        return language_score(float(nats.sum()), len(found), size, tuple(notes), spelling=bits)

    def evaluate(self, run: Run, source: Source = None) -> Score:
        """Measure the run on its own test split, or on other texts, from the first token to the last."""
        found, split, sentence = held_out(run, source)
        data = text_data(found)
        tokens = data.tokens(split)
        if len(tokens) < 2:
            raise UserError(f"there is no token {sentence} to measure on")
        nats = self.reader(run).surprises(np.asarray(tokens, np.int64))
        if (begin := data.vocabulary.begin) is not None:  # it is given, never guessed
            nats = nats[tokens[1:] != begin]
        notes = (
            f"{len(nats):,} tokens {sentence}, each given what precedes it",
            *data.summary().get("notes", ()),
        )
        bits = data.spelling(split)
        if bits:
            notes = (*notes, f"spelling the unknown ones takes {bits:,.0f} of the bits")
        size = data.bytes(split)
        score = language_score(float(nats.sum()), len(nats), size, notes, spelling=bits)
        values, units = {"loss": float(nats.mean()), **score.values}, dict(score.units)
        for name, places, size, bits in data.held(split):
            if size:
                column = f"bits_per_byte ({name})"
                values[column] = (float(nats[places].sum()) / math.log(2) + bits) / size
                units[column] = "bits"
        return Score(values, {"loss": "nats/token", **units}, notes)

    def compress(
        self, run: Run, file: Path, *, rows: PositiveInt | None = None, out: Path | None = None
    ) -> Path:
        """Write a file with as few bits as this model's surprise, to be expanded by the same run only.

        Any bytes come back: what is no text, or not in the vocabulary, is spelled by an adaptive model of bytes.

        Args:
            file: the file; - reads standard input.
            rows: texts read at once, from 1 on; more is faster, but each begins without context. None takes one
                for every 4,096 tokens, 64 at most.
            out: the compressed file, - for standard output; None adds .ff to the name.
        """
        return compress_file(run, self.reader(run), Path(file), rows, out)

    def expand(self, run: Run, file: Path, *, out: Path | None = None) -> Path:
        """Write the original of a file that `compress` made with this run, here.

        Args:
            file: the compressed file; - reads standard input.
            out: the file to write, - for standard output; None takes the name without .ff.
        """
        return expand_file(run, self.reader(run), Path(file), out)

    @batchable("prompt", when=lambda _, given: given.get("count", 1) == 1)
    def generate(
        self,
        run: Run,
        prompt: str | list[str] = "",
        *,
        tokens: PositiveInt = 200,
        temperature: NonNegativeFloat = 0.8,
        top_k: PositiveInt | None = None,
        top_p: Probability | None = None,
        min_p: Probability | None = None,
        repetition_penalty: PositiveFloat = 1.0,
        logit_bias: tuple[str, ...] = (),
        regex: str | None = None,
        schema: Document | None = None,
        stop: tuple[str, ...] = (),
        count: PositiveInt = 1,
        seed: int | None = None,
    ) -> Iterator[str]:
        """Continue a prompt. A single continuation comes in pieces, as it is made.

        Several (more prompts, or a count) come whole, in order, each ended by a newline. What one
        prompt is answered does not depend on the others. The unknown token is never drawn.

        Args:
            prompt: one text or several; an empty one starts a new document.
            tokens: most tokens to add.
            temperature: 0 always takes the most likely token; higher is more surprising.
            top_k: draw from the k most likely tokens only.
            top_p: draw from the most likely tokens that together have this probability.
            min_p: draw from tokens at least this share as likely as the most likely one.
            repetition_penalty: above 1, tokens that the text has already become less likely.
            logit_bias: what is added to a token's logit, as " the=-2.5" or #17=100; minus 100 and less rules it out.
            regex: what is added matches this expression (Rust's syntax), to its end.
            schema: what is added is JSON, valid by this JSON Schema.
            stop: texts before which to end.
            count: continuations of each prompt.
            seed: the same seed gives the same continuations; None gives others each time.
        """
        yield from continued(
            run, self.reader(run), prompt, tokens=tokens, temperature=temperature, top_k=top_k, top_p=top_p,
            min_p=min_p, repetition_penalty=repetition_penalty, logit_bias=logit_bias, regex=regex, schema=schema,
            stop=stop, count=count, seed=seed,
        )  # fmt: skip

    def preview(self, run: Run) -> str:
        """A short continuation of nothing, always from the same seed."""
        return "".join(self.generate(run, tokens=60, seed=0)).strip()

    def pictures(self, run: Run) -> Iterator[Picture]:
        """How often each entry occurs, and a held-out passage with each token's surprise."""
        vocabulary = vocabulary_of(run.data)
        if vocabulary.counts.any():
            yield zipf(vocabulary.counts, [vocabulary.token(i) for i in range(len(vocabulary))])
        try:
            data, split, _ = held_out(run)
        except UserError:
            return  # nothing is held out, or the source is gone: the report says so elsewhere
        tokens = np.asarray(text_data(data).tokens(split)[: PASSAGE + 1], np.int64)
        if len(tokens) > 1:
            bits = self.reader(run).surprises(tokens) / math.log(2)
            yield passage(list(pieces(vocabulary, tokens[1:])), bits.tolist())


# --- what systems with ways of their own share ------------------------------------------------------


def continued(
    run: Run,
    reader: Reader,
    prompt: str | list[str],
    *,
    tokens: int,
    stop: Sequence[str],
    count: int,
    seed: int | None,
    **drawn: Any,
) -> Iterator[str]:
    """What `generate` says, by a reader of one's own: see there, and `drawing` for the rest."""
    sampling, rules = drawing(reader.vocabulary, **drawn)

    def stream(
        starts: list[list[int]], generators: list[torch.Generator]
    ) -> Iterator[tuple[int, int]]:
        guides = [rules.guide() for _ in starts] if rules else None
        yield from reader.read_on(
            starts,
            tokens=tokens,
            sampling=sampling,
            generators=generators,
            never=reader.vocabulary.never,
            guides=guides,
        )
        if guides:
            say_unfinished(run, guides)

    yield from continuations(run, stream, prompt, stop=stop, count=count, seed=seed)


def continuations(
    run: Run,
    stream: Stream,
    prompt: str | list[str],
    *,
    stop: Sequence[str],
    count: int,
    seed: int | None,
) -> Iterator[str]:
    """The texts of `generate`, from a stream of tokens: see there."""
    vocabulary = vocabulary_of(run.data)
    prompts = [prompt] if isinstance(prompt, str) else list(prompt) or [""]
    base = torch.seed() % 2**31 if seed is None else seed
    wanted = [(text, number) for text in prompts for number in range(count)]
    single = len(wanted) == 1
    for begin in range(0, len(wanted), ROWS):
        some = wanted[begin : begin + ROWS]
        said = ["" for _ in some]
        starts = [_prompt(run, vocabulary, text) for text, _ in some]
        generators = [noise(run, base, number) for _, number in some]
        voices = [_voice(vocabulary, known, stop) for known in starts]
        for row, piece in spoken(stream(starts, generators), voices):
            if single:
                yield piece
            said[row] += piece
        if not single:
            yield from (f"{text}\n" for text in said)


def language_score(
    nats: float, tokens: int, size: int, notes: tuple[str, ...], *, spelling: float = 0.0
) -> Score:
    """A text's surprise in the field's measures.

    Args:
        nats: of all tokens together.
        tokens: how many there are.
        size: bytes of the text in UTF-8.
        notes: sentences beside the numbers.
        spelling: bits for the spelling of unknown words, which count per byte only.
    """
    each = nats / tokens
    values = {
        "nats_per_token": each,
        "bits_per_token": each / math.log(2),
        "bits_per_byte": (nats / math.log(2) + spelling) / size,
        "perplexity": math.exp(min(each, 700.0)),
        "tokens": float(tokens),
    }
    units = {"nats_per_token": "nats", "bits_per_token": "bits", "bits_per_byte": "bits"}
    return Score(values, units, notes)


def noise(run: Run, seed: int, number: int) -> torch.Generator:
    """Noise of a prompt's n-th continuation, the same for every prompt: no prompt depends on the others."""
    return torch.Generator(run.device).manual_seed((seed * 1_000_003 + number) % 2**63)


# --- private ----------------------------------------------------------------------------------------


def _unknown_note(unknown: int, tokens: int, bits: float = 0.0) -> str:
    said = f"{unknown} of {tokens} tokens are not in the vocabulary"
    return said + (f"; spelling them takes {bits:,.0f} of the bits" if bits else "")


def _prompt(run: Run, vocabulary: Vocabulary, text: str) -> list[int]:
    tokens = cast(list[int], vocabulary.encode(text).tolist())
    if unknown := tokens.count(-1 if vocabulary.unknown is None else vocabulary.unknown):
        run.console.say(_unknown_note(unknown, len(tokens)))
    return tokens


def _voice(vocabulary: Vocabulary, known: Sequence[int], stop: Sequence[str]) -> Voice:
    decoder = vocabulary.decoder()
    for token in known[-16:]:  # what precedes decides about spaces and half characters
        if token != vocabulary.end:
            decoder.push(token)
    return Voice(decoder, stop)


def _per_token(
    vocabulary: Vocabulary, tokens: np.ndarray, spelled: Sequence[str], nats: np.ndarray
) -> pl.DataFrame:
    import polars as pl

    measured = {"bits": nats / math.log(2), "nats": nats, "probability": np.exp(-nats)}
    return pl.DataFrame({**named(vocabulary, tokens, spelled), **measured})
