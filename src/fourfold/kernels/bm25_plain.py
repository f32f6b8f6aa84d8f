"""What `terms` and `bm25` do for words between spaces, said plainly; a test holds the one to the other."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence


def scores(
    passages: Sequence[Sequence[str]], question: Sequence[str], k1: float, b: float
) -> list[float]:
    """BM25 of each passage for a question, both given as terms."""
    total = len(passages)
    mean = sum(map(len, passages)) / total
    found = [0.0] * total
    for term in question:
        having = sum(term in passage for passage in passages)
        idf = math.log(1 + (total - having + 0.5) / (having + 0.5))
        for n, passage in enumerate(passages):
            tf = Counter(passage)[term]
            if tf == 0:
                continue
            found[n] += idf * (1 + k1) * tf / (tf + k1 * (1 - b + b * len(passage) / mean))
    return found
