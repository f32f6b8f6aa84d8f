"""Pairs of texts as tokens: one array for each side, and where each text begins in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fourfold.core.parts import Split
from fourfold.data.pair_lengths import Long, shortened
from fourfold.data.vocabulary import Vocabulary

FOREIGN = 1.6
"""How many times the usual number of tokens a character of a text may take before it seems to be another language's."""
Texts = tuple[list[str], list[str]]
"""Sources and targets."""
Both = tuple[Vocabulary, Vocabulary]
"""Of sources and of targets; the same object where they share one."""


@dataclass
class Encoded:
    """The pairs of a split: tokens one after the other, where each begins, and the texts."""

    tokens: tuple[np.ndarray, np.ndarray]
    begins: tuple[np.ndarray, np.ndarray]
    """(N + 1,) int64 for each side."""
    texts: Texts
    """As they were read. Where long pairs were split there are fewer than pairs."""
    unknown: tuple[int, int] = (0, 0)

    @property
    def lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """(N,) int64 tokens of each source and of each target, end tokens among them."""
        return np.diff(self.begins[0]), np.diff(self.begins[1])

    @property
    def ratio(self) -> float:
        """Tokens of a target for one of its source; 0 where there is no pair."""
        return float(self.begins[1][-1] / max(1, self.begins[0][-1]))

    def density(self, side: int) -> float:
        """Tokens for a character of the sources (0) or the targets (1)."""
        characters = sum(len(text) for text in self.texts[side])
        return float((self.begins[side][-1] - len(self.texts[side])) / max(1, characters))


def encode(
    vocabularies: Both,
    texts: Texts,
    split: Split,
    notes: list[str],
    longest: int,
    long: Long,
) -> Encoded:
    """A split's texts as tokens; what happens to long ones is noted.

    Args:
        vocabularies: of both sides.
        texts: of both sides.
        split: its name, for notes.
        notes: to add to.
        longest: most tokens of a side.
        long: what becomes of longer pairs.

    Raises:
        UserError: a pair is too long, and that is an error.
    """
    sides, unknown = [], []
    for vocabulary, some in zip(vocabularies, texts, strict=True):
        tokens, lengths = vocabulary.encode_many(some)
        sides.append(np.split(tokens.astype(np.int64), np.cumsum(lengths)[:-1]) if some else [])
        unknown.append(
            int((tokens == vocabulary.unknown).sum()) if vocabulary.unknown is not None else 0
        )
    rows, said = shortened(sides[0], sides[1], texts, vocabularies, longest, long)
    notes += [f"{split}: {sentence}" for sentence in said]
    first, second = vocabularies
    # a source always ends; a target that was cut does not
    all_ended = (
        [np.append(source, first.end) for source, _, _ in rows],
        [np.append(target, second.end) if closed else target for _, target, closed in rows],
    )
    flat, begins = [], []
    for vocabulary, ended in zip(vocabularies, all_ended, strict=True):
        small = np.uint16 if len(vocabulary) < 1 << 16 else np.uint32
        flat.append(np.concatenate(ended).astype(small) if ended else np.zeros(1, small))
        begins.append(np.cumsum([0, *(len(row) for row in ended)], dtype=np.int64))
    return Encoded(
        (flat[0], flat[1]),
        (begins[0], begins[1]),
        (list(texts[0]), list(texts[1])),
        (unknown[0], unknown[1]),
    )


def count_entries(vocabularies: Both, train: Encoded) -> None:
    """How often each entry occurs in the training split; one vocabulary counts both sides."""
    for vocabulary in vocabularies:
        vocabulary.counts = np.zeros(len(vocabulary), np.int64)
    for vocabulary, tokens, begins in zip(vocabularies, train.tokens, train.begins, strict=True):
        vocabulary.counts += np.bincount(tokens[: begins[-1]], minlength=len(vocabulary))


def padded(
    tokens: np.ndarray, begins: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of different lengths as one array, (B, longest) int64, and their lengths; what is beyond is arbitrary."""
    lengths = begins[rows + 1] - begins[rows]
    places = begins[rows][:, None] + np.arange(max(1, int(lengths.max(initial=1))))
    return tokens[np.minimum(places, len(tokens) - 1)].astype(np.int64), lengths.astype(np.int64)


def unknown_notes(vocabularies: Both, splits: Mapping[Split, Encoded]) -> Iterator[str]:
    """How many tokens are not in a vocabulary."""
    for split, some in splits.items():
        for side in (0, 1):
            count, total, vocabulary = (
                some.unknown[side],
                int(some.begins[side][-1]),
                vocabularies[side],
            )
            if count:
                yield (
                    f"{split}: {count:,} of {total:,} {('source', 'target')[side]} tokens ({count / total:.2%}) are not in the "
                    f"vocabulary and read as {vocabulary.token(vocabulary.unknown or 0)}"
                )


def foreign_notes(some: Encoded, usual: Sequence[float]) -> Iterator[str]:
    """Whether texts seem to be in another language than those learned from, by the tokens that a character takes."""
    for side in (0, 1):
        long_enough = sum(len(t) for t in some.texts[side]) > 200
        if long_enough and some.density(side) > FOREIGN * usual[side]:
            yield (
                f"the {('sources', 'targets')[side]} take {some.density(side) / usual[side]:.1f} times the tokens a character of "
                "those learned from: are they in another language?"
            )
