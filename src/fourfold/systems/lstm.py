"""Recurrent language model with long short-term memory: Hochreiter and Schmidhuber 1997; Zaremba et al. 2014.

    fourfold fit lstm wiki.txt --minutes 5
    fourfold score last chapter.txt --per-token
    fourfold inspect last

Result: perplexity 123.2 on the last twentieth of WikiText-2's validation part after 120 steps (84,000 words) on its first nine
tenths, 10,000 words, the unknown one among them (fourfold fit lstm valid.txt --data.vocabulary 10000 --steps 120).
Training takes 2.4 times the tokens a second of the plain torch.nn.LSTM loop over all of 10,000 words, 4.6 with --objective
sampled, 5.0 with adaptive (processor time, one thread of an AMD EPYC); after two epochs of clipped SGD on the same
words perplexity 81.8 and 82.0 (adaptive 105.0) where the plain loop has 83.3: benchmarks/results/lstm.json.
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
