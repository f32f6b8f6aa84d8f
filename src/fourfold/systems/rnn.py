"""Recurrent language model with Elman's cell: Elman 1990; as a language model Mikolov et al. 2010.

    fourfold fit rnn wiki.txt --minutes 5
    fourfold score last chapter.txt --per-token
    fourfold inspect last

Result: perplexity 117.2 on the last twentieth of WikiText-2's validation part after 120 steps (84,000 words) on its first nine
tenths, 10,000 words, the unknown one among them (fourfold fit rnn valid.txt --data.vocabulary 10000 --steps 120).
"""

from __future__ import annotations

from typing import ClassVar

from fourfold.core.system import system
from fourfold.models.recurrent import Cell
from fourfold.tasks.recurrent_language import RecurrentLanguageModel


@system("rnn", reads="text")
class RNN(RecurrentLanguageModel):
    """Predict each word from a state that every word changes: Elman's recurrent network."""

    cell: ClassVar[Cell] = "rnn"
