"""What the spelling of an unknown word costs: an adaptive model of bytes that both sides of a line can build.

The model predicts each bit of the word's UTF-8 bytes, and after each byte whether the word ends, from the
two bytes before, mixed with what follows one byte and any; it begins with the spellings of the vocabulary's
own words and learns from every word that it spells, and halves what it counted more than 1,000 times. A word that
the text itself writes as <unk> is the empty word.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fourfold.data.vocabulary import Vocabulary
from fourfold.kernels import coder


class Spelling:
    """The model, as far as it has learned; `counts` is what `kernels.coder` spells with."""

    def __init__(self, vocabulary: Vocabulary | None = None) -> None:
        self.counts = coder.spelling_counts()
        if vocabulary is not None and vocabulary.unknown is not None:
            self.bits(vocabulary.spellings())

    def bits(self, words: Sequence[str]) -> float:
        """What these words cost, one after the other."""
        if not words:
            return 0.0
        encoded = [word.encode("utf-8", "surrogatepass") for word in words]
        begins = np.cumsum([0, *map(len, encoded)])
        data = np.frombuffer(b"".join(encoded), np.uint8)
        return float(coder.spell_cost(self.counts, data, begins, True))
