"""Recurrent language model with long short-term memory: Hochreiter and Schmidhuber 1997; Zaremba et al. 2014.

    fourfold fit lstm wiki.txt --minutes 5
    fourfold score last chapter.txt --per-token
    fourfold inspect last

Result: perplexity 282 on the last twentieth of WikiText-2's validation part after 158 steps at 2 layers x 200 with 10,000
words, trained on its first nine tenths (seed 0).
"""

from __future__ import annotations

from typing import ClassVar

from fourfold.core.system import system
from fourfold.models.recurrent import Cell
from fourfold.tasks.recurrent_language import RecurrentLanguageModel


@system("lstm", reads="text")
class LSTM(RecurrentLanguageModel):
    """Predict each word from a state that gates add to and forget: long short-term memory."""

    cell: ClassVar[Cell] = "lstm"
