"""What every system that reads text in tokens shows of them: the verb tokens, and tables for the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fourfold.core.errors import UserError
from fourfold.core.parts import Data
from fourfold.core.run import Run
from fourfold.core.types import Document, Table
from fourfold.data.text import TextData
from fourfold.data.vocabulary import Vocabulary
from fourfold.tasks.looking import Looking

if TYPE_CHECKING:
    import polars as pl

TOP = 20
"""Entries in the report's table."""


class Tokenized(Looking):
    """A system whose data has a vocabulary."""

    def tokens(
        self, run: Run, text: Document = "", *, numbers: tuple[int, ...] = ()
    ) -> pl.DataFrame | str:
        """A text as the model sees it: its tokens with their numbers and counts in the training text; or back.

        Args:
            text: the text.
            numbers: tokens to turn into text again, instead of a text.
        """
        vocabulary = vocabulary_of(run.data)
        if numbers:
            if text:
                raise UserError(f"tokens: expected a text or numbers, got both ({text[:20]!r})")
            return _back(vocabulary, numbers)
        found, _, spelled = vocabulary.encode_spelled([text])
        if not len(found):
            raise UserError("text: is empty; there are no tokens in it")
        again = vocabulary.decode(found)
        same = "the same text" if again == text else "another text, as not all of it is known"
        run.console.say(f"{len(found)} tokens; back again they are {same}: {again[:200]}")
        import polars as pl

        shown = named(vocabulary, found, spelled)
        return pl.DataFrame({**shown, "count": vocabulary.counts[found.astype(np.int64)]})

    def tables(self, run: Run) -> Iterator[Table]:
        """The most frequent entries of the vocabulary, and the most frequent words outside it."""
        yield from super().tables(run)
        vocabulary = vocabulary_of(run.data)
        counts, total = vocabulary.counts, int(vocabulary.counts.sum())
        if total:
            order = np.argsort(-counts, kind="stable")[:TOP].tolist()
            rows = tuple(
                (vocabulary.token(i), i, int(counts[i]), round(float(counts[i]) / total, 6))
                for i in order
                if counts[i]
            )
            title = f"The {len(rows)} most frequent of {len(vocabulary):,} entries"
            yield Table(title, ("token", "number", "count", "share"), rows)
        if unknown := getattr(run.data, "unknown_words", None):
            yield Table("What became unknown", ("word", "count"), tuple(unknown.items()))


def text_data(data: Data) -> TextData:
    """Data that is text.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(data, TextData):
        raise TypeError(f"a language model expects TextData, got {type(data).__name__}")
    return data


def vocabulary_of(data: Data) -> Vocabulary:
    """The vocabulary of a run's data, which is text or else made of it, as conversations are.

    Raises:
        TypeError: it has none.
    """
    vocabulary = getattr(data, "vocabulary", None)
    if not isinstance(vocabulary, Vocabulary):
        raise TypeError(
            f"a language model expects data with a vocabulary, got {type(data).__name__}"
        )
    return vocabulary


def _back(vocabulary: Vocabulary, numbers: Sequence[int]) -> str:
    for number in numbers:
        if not 0 <= number < len(vocabulary):
            raise UserError(
                f"--numbers {number}: expected 0 to {len(vocabulary) - 1}, the vocabulary's entries"
            )
    return vocabulary.decode(list(numbers))


def pieces(
    vocabulary: Vocabulary, tokens: np.ndarray, spelled: Sequence[str] = ()
) -> Iterator[str]:
    """What each token adds to the text."""
    decoder, words = vocabulary.decoder(), iter(spelled)
    for token in tokens.tolist():
        word = next(words, "") if token == vocabulary.unknown else ""
        yield decoder.spell(word) if word else decoder.push(token)


def named(vocabulary: Vocabulary, tokens: np.ndarray, spelled: Sequence[str]) -> dict[str, Any]:
    """Columns that say what tokens are."""
    return {
        "text": list(pieces(vocabulary, tokens, spelled)),
        "token": [vocabulary.token(token) for token in tokens.tolist()],
        "number": tokens.astype(np.int64),
    }
