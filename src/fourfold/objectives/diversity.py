"""How alike texts are to one another: self-BLEU, Zhu et al. 2018, https://arxiv.org/abs/1802.01886."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence


def _grams(tokens: Sequence[Hashable], n: int) -> Counter[tuple[Hashable, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def self_bleu(texts: Sequence[Sequence[Hashable]], most: int = 4) -> float:
    """Mean BLEU of each text with all others as its references, from 0 (nothing in common) to 1 (all the same).

    Precisions of 1 to `most` tokens, clipped by the largest count in one reference; those that find nothing count as
    1 in twice as many (smoothing by halves for each such order, as in NIST's mteval). Texts shorter than `most` use
    the orders that they have.
    """
    if len(texts) < 2:
        return 0.0
    found = []
    # the largest and the second largest count of each n-gram say what the others have
    tables = [_largest([_grams(text, n) for text in texts]) for n in range(1, most + 1)]
    lengths = sorted(len(text) for text in texts)
    for number, text in enumerate(texts):
        logs, halves, orders = 0.0, 1.0, 0
        for n in range(1, most + 1):
            own = _grams(text, n)
            if not own:
                break
            orders += 1
            first, second, holder = tables[n - 1]
            kept = sum(
                min(count, (second if holder[g] == number else first).get(g, 0))
                for g, count in own.items()
            )
            if not kept:
                halves /= 2
            logs += math.log((kept or halves) / own.total())
        others = lengths.copy()
        others.remove(len(text))
        nearest = min(others, key=lambda length: (abs(length - len(text)), length))
        brevity = min(0.0, 1 - nearest / len(text)) if text else 0.0
        found.append(math.exp(logs / orders + brevity) if orders else 0.0)
    return sum(found) / len(found)


def _largest(
    grams: list[Counter[tuple[Hashable, ...]]],
) -> tuple[
    dict[tuple[Hashable, ...], int],
    dict[tuple[Hashable, ...], int],
    dict[tuple[Hashable, ...], int],
]:
    """Of each n-gram its largest count in one text, the largest in any other, and which text has the former."""
    first: dict[tuple[Hashable, ...], int] = {}
    second: dict[tuple[Hashable, ...], int] = {}
    holder: dict[tuple[Hashable, ...], int] = {}
    for number, counts in enumerate(grams):
        for gram, count in counts.items():
            if count > first.get(gram, 0):
                second[gram] = first.get(gram, 0)
                first[gram], holder[gram] = count, number
            elif count > second.get(gram, 0):
                second[gram] = count
    return first, second, holder
