"""Texts beyond a limit of tokens: split at the ends of their sentences, cut, or refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

from fourfold.core.errors import UserError
from fourfold.data.vocabulary import Vocabulary

Long = Literal["split", "cut", "error"]
Row = tuple[np.ndarray, np.ndarray, bool]
"""A source, a target, and whether the target is whole (it is then followed by the end token)."""

_SENTENCE = re.compile(r"(?<=[.!?\u2026])[\"'\u201d\u2019)]*\s+|(?<=[\u3002\uff01\uff1f\uff1b])")
_PHRASE = re.compile(r"(?<=[,;:])\s+|(?<=[\uff0c\u3001\uff1a])")
_WORD = re.compile(r"\s+")


def counted(pairs: int) -> str:
    """A number of pairs in words."""
    return f"{pairs:,} pair{'s' * (pairs != 1)}"


def sentences(text: str) -> list[str]:
    """A text cut after full stops, question and exclamation marks, those of Chinese too; nothing is lost but spaces."""
    return [part for part in _SENTENCE.split(text) if part]


def pieces(text: str, vocabulary: Vocabulary, longest: int) -> list[str]:
    """A text cut into pieces of at most so many tokens: at ends of sentences, else at commas, spaces, anywhere.

    Args:
        text: the text.
        vocabulary: whose tokens count.
        longest: most of them in a piece.
    """
    if len(vocabulary.encode(text)) <= longest:
        return [text]
    for pattern in (_SENTENCE, _PHRASE, _WORD):
        parts = [part for part in pattern.split(text) if part]
        if len(parts) > 1:
            return _packed(parts, vocabulary, longest, " " if _WORD.search(text) else "")
    half = len(text) // 2
    if not half:
        return [text]  # one character of more tokens than that
    return pieces(text[:half], vocabulary, longest) + pieces(text[half:], vocabulary, longest)


def _packed(parts: list[str], vocabulary: Vocabulary, longest: int, space: str) -> list[str]:
    """As few pieces as the order lets; parts that are too long by themselves are cut further."""
    found: list[str] = []
    for part in parts:
        together = f"{found[-1]}{space}{part}" if found else part
        if found and len(vocabulary.encode(together)) <= longest:
            found[-1] = together
        else:
            found += pieces(part, vocabulary, longest)
    return found


def shortened(
    sources: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    texts: tuple[Sequence[str], Sequence[str]],
    vocabularies: tuple[Vocabulary, Vocabulary],
    longest: int,
    how: Long,
) -> tuple[list[Row], list[str]]:
    """Pairs with no side beyond the limit, in order, and sentences on what was done to others.

    Args:
        sources, targets: tokens of each.
        texts: the same as text.
        vocabularies: of both sides.
        longest: most tokens of a side.
        how: split, cut or error.

    Raises:
        UserError: a pair is too long, and how is error.
    """
    rows: list[Row] = []
    made = split = left = cut = 0
    for number, (source, target) in enumerate(zip(sources, targets, strict=True)):
        size = max(len(source), len(target))
        if size <= longest:
            rows.append((source, target, True))
        elif how == "error":
            raise UserError(
                f"pair {number + 1:,} ({texts[0][number][:40]!r}) has {size:,} tokens on one side, expected {longest:,} at most; "
                f"--data.longest {size} takes it, --data.long split or cut shortens it"
            )
        elif how == "cut":
            rows.append((source[:longest], target[:longest], len(target) <= longest))
            cut += 1
        else:
            both = [sentences(side[number]) for side in texts]
            parts = [
                [v.encode(p) for p in some] for v, some in zip(vocabularies, both, strict=True)
            ]
            if len(parts[0]) == len(parts[1]) and all(len(p) <= longest for s in parts for p in s):
                rows += [(a, b, True) for a, b in zip(*parts, strict=True)]
                split, made = split + 1, made + len(parts[0])
            else:
                left += 1
    notes = []
    if cut:
        notes.append(f"{counted(cut)} with more than {longest} tokens on a side: cut to so many")
    if split:
        notes.append(
            f"{counted(split)} with more than {longest} tokens on a side: split into {made:,}, sentence by sentence"
        )
    if left:
        notes.append(
            f"{counted(left)} with more than {longest} tokens on a side left out: the sides do not have as many sentences; "
            "--data.long cut keeps their beginnings"
        )
    return rows, notes
