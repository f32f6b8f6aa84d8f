"""Recurrent language model with gated recurrent units: Cho et al. 2014, https://arxiv.org/abs/1406.1078.

    fourfold fit gru wiki.txt --minutes 5
    fourfold score last chapter.txt --per-token
    fourfold inspect last

Result: perplexity 106.9 on the last twentieth of WikiText-2's validation part after 120 steps (84,000 words) on its first nine
tenths, 10,000 words, the unknown one among them (fourfold fit gru valid.txt --data.vocabulary 10000 --steps 120).
"""

from __future__ import annotations

from typing import ClassVar

from fourfold.core.system import system
from fourfold.models.recurrent import Cell
from fourfold.tasks.recurrent_language import RecurrentLanguageModel


@system("gru", reads="text")
class GRU(RecurrentLanguageModel):
    """Predict each word from a state that gates write anew in part: gated recurrent units."""

    cell: ClassVar[Cell] = "gru"
