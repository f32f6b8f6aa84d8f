"""Words that often stand together, joined to one: new york to new_york (Mikolov et al. 2013b, section 4).

score(ab) = (count(ab) - min_count) N / (count(a) count(b)), with N the words of the text, so that the
threshold does not depend on its size (as gensim has it; the paper leaves N out). Shapes: N words, E entries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from fourfold.data.sentences import Sentences

JOIN = "_"


def join(
    numbers: np.ndarray, words: list[str], counts: np.ndarray, options: Sentences
) -> tuple[np.ndarray, list[str], np.ndarray, list[tuple[str, str]]]:
    """Join the pairs of words whose score passes the threshold, from left to right, once.

    Args:
        numbers: (N,) int32 entries, -1 at the end of a sentence.
        words: (E) of them.
        counts: (E,) int64.
        options: `min_count` and `phrase_score`.

    Returns:
        The same with the pairs as entries of their own, and the pairs that were joined.
    """
    first, second = numbers[:-1].astype(np.int64), numbers[1:].astype(np.int64)
    beside = (first >= 0) & (second >= 0)
    keys, often = np.unique((first * len(words) + second)[beside], return_counts=True)
    a, b = keys // len(words), keys % len(words)
    score = (often - options.min_count) * float(counts.sum()) / (counts[a] * counts[b])
    pairs = [
        (words[x], words[y])
        for x, y in zip(
            a[score > options.phrase_score], b[score > options.phrase_score], strict=True
        )
    ]
    if not pairs:
        return numbers, words, counts, []
    return *apply(numbers, words, counts, pairs), pairs


def apply(
    numbers: np.ndarray, words: list[str], counts: np.ndarray, pairs: list[tuple[str, str]]
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Join given pairs, as `join` found them in another text; those of several passes follow one another."""
    known = {word: number for number, word in enumerate(words)}
    words, done = list(words), 0
    while done < len(pairs):
        keys: dict[int, int] = {}
        base = len(known) + len(pairs)
        while done < len(pairs):
            a, b = pairs[done]
            joined = f"{a}{JOIN}{b}"
            if a in known and b in known:
                if known[a] in keys.values() or known[b] in keys.values():
                    break  # a pair of a later pass, made of phrases of this one
                if joined not in known:
                    known[joined] = len(words)
                    words.append(joined)
                keys[known[a] * base + known[b]] = known[joined]
            done += 1
        order = np.array(sorted(keys), np.int64)
        made = np.array([keys[k] for k in order.tolist()], np.int32)
        numbers = _joined(np.asarray(numbers), order, made, base)
    return numbers, words, np.bincount(numbers[numbers >= 0], minlength=len(words))


@njit(nogil=True, cache=True)
def _joined(numbers, keys, made, base):  # type: ignore[no-untyped-def]
    """Replace pairs from left to right; a word that was joined is not joined again."""
    out = np.empty(len(numbers), np.int32)
    count, at = 0, 0
    while at < len(numbers):
        out[count] = numbers[at]
        if at + 1 < len(numbers) and numbers[at] >= 0 and numbers[at + 1] >= 0 and len(keys):
            key = np.int64(numbers[at]) * base + numbers[at + 1]
            place = np.searchsorted(keys, key)
            if place < len(keys) and keys[place] == key:
                out[count] = made[place]
                at += 1
        count += 1
        at += 1
    return out[:count]
